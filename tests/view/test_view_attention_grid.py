import xml.etree.ElementTree as ElementTree

import pytest
import torch
import traitlets

from kvlab.view import AttentionGrid, figures

TOKENS = ["<eos>", "Today", "'s", " weather"]


@pytest.fixture
def scores_LHST():
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))


def cells(grid, name):
    root = ElementTree.fromstring(grid.svg)
    return [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("class") == name]


def test_the_weights_are_the_softmax_of_what_may_be_used(scores_LHST):
    grid = AttentionGrid(TOKENS, scores_LHST, layer=1, head=2, query=1)
    scores_ST = scores_LHST[1, 2].double()
    assert torch.allclose(grid.weights_ST[1, :2], scores_ST[1, :2].softmax(-1))
    assert torch.equal(grid.weights_ST.triu(1), torch.zeros(4, 4).double())
    grid.masked = False
    assert torch.allclose(grid.weights_ST, scores_ST.softmax(-1))


def test_the_picture_shows_what_is_hidden(scores_LHST):
    grid = AttentionGrid(TOKENS, scores_LHST)
    assert len(cells(grid, "seen")) == 10 and len(cells(grid, "hidden")) == 6
    grid.masked = False
    assert len(cells(grid, "seen")) == 16 and not cells(grid, "hidden")


def test_a_cell_takes_its_query_and_key(scores_LHST):
    grid = AttentionGrid(TOKENS, scores_LHST)
    picks = [c.get("data-pick") for c in cells(grid, "seen") + cells(grid, "hidden")]
    assert '{"query": 1, "key": 3}' in picks and len(set(picks)) == 16


def test_the_words_say_what_may_be_used(scores_LHST):
    grid = AttentionGrid(TOKENS, scores_LHST, query=1, key=3)
    assert "positions 0 to 1." in grid.status and "may not look at weather" in grid.status
    grid.key = 0
    assert f"a weight of {grid.weights_ST[1, 0]:.2f}." in grid.status
    grid.key, grid.masked = 3, False
    assert "positions 0 to 3." in grid.status and "comes later." in grid.status
    assert repr(grid) == f"AttentionGrid({grid.status})"


def test_what_is_not_there_is_refused(scores_LHST):
    with pytest.raises(ValueError, match="with 3 tokens"):
        AttentionGrid(TOKENS[:3], scores_LHST)
    grid = AttentionGrid(TOKENS, scores_LHST)
    for name, value in (("query", 4), ("key", -1), ("layer", 2), ("head", 3)):
        with pytest.raises(traitlets.TraitError, match=f"{name} is {value}"):
            setattr(grid, name, value)


def test_its_figures_have_labels_and_tell_zero_from_small():
    weights_LHT = torch.rand(2, 3, 4).softmax(-1)
    moved_ST = torch.tensor([[0.5, 0.0, 0.0], [1e-6, 0.3, 0.0], [0.1, 0.2, 0.4]])
    by_head = figures.attention_by_head(weights_LHT, TOKENS)
    moved = figures.influence(moved_ST, TOKENS[:3], "how far")
    for figure in (by_head, moved):
        assert figure.axes[0].get_xlabel() and figure.axes[0].get_ylabel()
        assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(by_head.axes[0].texts) == 24
    (crosses,) = moved.axes[0].lines
    assert sorted(zip(*crosses.get_data(), strict=True)) == [(1, 0), (2, 0), (2, 1)]
