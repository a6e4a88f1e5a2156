import torch

from kvlab.view import head_figures

TOKENS = ["The", " a", "\n", " is"]


def test_weights_are_drawn_with_the_token_looked_at_most():
    weights_ST = torch.tensor([[0.2, 0.7, 0.1, 0.0], [0.1, 0.1, 0.2, 0.6]])
    figure = head_figures.weights_of_heads({"one": weights_ST, "other": weights_ST.flip(0)}, TOKENS)
    one, other = figure.axes[:2]
    assert [axes.get_title() for axes in (one, other)] == ["one", "other"]
    assert list(one.lines[0].get_xdata()) == [1, 3] and list(other.lines[0].get_xdata()) == [3, 1]
    assert [label.get_text() for label in one.get_yticklabels()] == ["\\n", " is"]
    assert [label.get_text() for label in other.get_xticklabels()] == ["The", " a", "\\n", " is"]
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_what_is_left_without_each_head_is_written_down_and_losses_are_bold():
    figure = head_figures.right_without({"words": [[24, 3], [22, 21]], "codes": [[0, 24]]}, 24)
    words, codes = figure.axes
    assert [(t.get_text(), t.get_fontweight()) for t in words.texts] == [
        ("24", "normal"), ("3", "bold"), ("22", "normal"), ("21", "bold"),
    ]  # fmt: skip
    assert [t.get_text() for t in codes.texts] == ["0", "24"]
    assert codes.get_title() == "codes" and figure._repr_png_().startswith(b"\x89PNG")
