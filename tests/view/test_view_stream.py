"""Figures of the stream, of guesses on the way and of draws."""

import pytest
import torch

from kvlab.view import stream_figures

KINDS = ["embedding", "attention", "MLP", "attention", "MLP"]


def png(figure):
    drawn = figure._repr_png_()
    assert drawn.startswith(b"\x89PNG")
    return drawn


def test_a_ribbon_is_as_wide_as_the_vector_is_long_and_bears_its_guesses():
    guesses = [(" is", 1.0), ("a", 0.5), ("b", 0.25), ("c", 0.1), (" Paris", 0.99)]
    figure = stream_figures.ribbon([2.0, 3.0, 5.0, 8.0, 13.0], KINDS, guesses, "see")
    (axes,) = figure.axes
    texts = [t.get_text() for t in axes.texts]
    assert texts[-4:-2] == [" Paris\n99%", "13"] and axes.get_title() == "see"
    ticks = [t.get_text() for t in axes.get_xticklabels()]
    assert ticks == ["embedding", "attention 0", "MLP 0", "attention 1", "MLP 1"]
    widest = max(p[:, 1].max() for band in axes.collections for p in [band.get_paths()[0].vertices])
    assert widest == pytest.approx(6.5)
    png(figure)


def test_a_guess_that_stays_to_the_end_is_bold():
    said = [["x", "b"], ["a", "b"], ["a", "b"]]
    figure = stream_figures.guesses(
        ["t", "u"], said, torch.rand(3, 2), ["one", "two", "three"], "see"
    )
    weights = [text.get_weight() for text in figure.axes[0].texts]
    assert weights == ["normal", "bold", "bold", "bold", "bold", "bold"]
    png(figure)


def test_what_does_not_move_is_crossed():
    panels = {"own": torch.eye(3), "before": torch.ones(3, 3).tril(), "none": torch.zeros(3, 3)}
    figure = stream_figures.reached(panels, ["a", "b", "c"], "see")
    crosses = [len(axes.lines[0].get_xdata()) for axes in figure.axes]
    assert crosses == [6, 3, 9]
    assert [figure.get_suptitle(), figure.axes[0].get_title()] == ["see", "own"]
    png(figure)
    assert not stream_figures.reached({"all": torch.ones(2, 2)}, ["a", "b"], "see").axes[0].lines


def test_bars_bear_their_values():
    figure = stream_figures.bars(
        ["a", "b"], [3, -2], "points", "see", as_text=["three", "minus two"]
    )
    assert [t.get_text().strip() for t in figure.axes[0].texts] == ["three", "minus two"]
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]  # the first is at the top
    assert figure.get_suptitle() == "see"
    png(stream_figures.bars(["a"], [0.5], "points", "see", ["#000000"]))


def test_a_token_that_cannot_be_drawn_is_out():
    panels = {f"way {i}": [0.5, 0.002, 0.0] for i in range(4)}
    figure = stream_figures.draws(["a", "b", "c"], panels, "see")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 4 and shown[0].get_title() == "way 0" and figure.get_suptitle() == "see"
    assert [t.get_text().strip() for t in shown[0].texts] == ["50%", "under 1%", "out"]
    png(figure)
