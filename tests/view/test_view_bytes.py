import xml.etree.ElementTree as ElementTree

import pytest
import torch
import traitlets

from kvlab.cache import KVCache
from kvlab.pack import PackedKVCache, PerToken, rows
from kvlab.view import StepBytes, figures


def drawn(panel):
    """Widths of the boxes by class."""
    root = ElementTree.fromstring(panel.svg)
    found = root.iter("{http://www.w3.org/2000/svg}rect")
    return {r.get("class"): float(r.get("width")) for r in found if r.get("class")}


def test_its_bytes_are_those_of_real_caches():
    panel = StepBytes(tokens=256, sparsity=70, window=32, width=64)
    n = rows.n_kept(0.7, 64)
    dense = KVCache(1, 1, 1, 256, 64, dtype=torch.float16)
    dense.append(0, *torch.randn(2, 1, 1, 256, 64).half())
    packed = PackedKVCache.of(
        dense, k=PerToken(n, marks="bitmap"), v=PerToken(n, marks="bitmap"), at_once=32
    )
    assert panel.totals["dense"] == panel.totals["masked"] == dense.live_bytes
    assert panel.totals["packed"] == packed.live_bytes
    keep = torch.zeros(1, 1, 256, dtype=torch.bool)
    keep[..., -32 - round(224 * n / 64) :] = True
    dense.keep(0, keep)
    assert panel.totals["compacted"] == dense.live_bytes


def test_the_words_give_percent_and_break_even():
    panel = StepBytes(tokens=4096, sparsity=70, window=0, width=128)
    assert "38 of 128 numbers kept: dense 2,097,152 bytes of float16;" in panel.status
    assert "masked 100.0%, compacted 29.7%, packed 35.9%" in panel.status
    assert "from 7.0% sparsity on" in panel.status
    panel.marks = False
    assert "packed 29.7%" in panel.status and "from 0.8% sparsity on" in panel.status


@pytest.mark.parametrize("width", [32, 64, 128, 256])
def test_the_break_even_is_where_a_row_becomes_smaller(width):
    panel = StepBytes(width=width)
    n = round(width * (1 - panel.break_even))
    sizes = [rows.row_bytes(width, m, torch.float16, marks="bitmap") for m in (n, n + 1)]
    assert sizes[0] < 2 * width <= sizes[1]


def test_the_bars_are_as_long_as_their_bytes():
    panel = StepBytes(tokens=1024, sparsity=50, window=128, width=128)
    boxes = drawn(panel)
    full = boxes["dense-window"] + boxes["dense-kept"]
    assert boxes["masked-zeros"] == pytest.approx(full * 7 / 16, rel=1e-3)
    assert boxes["packed-marks"] == pytest.approx(full * 7 / 8 / 16, rel=1e-3)
    panel.marks = False
    assert "packed-marks" not in drawn(panel)
    panel.window = 0
    assert "dense-window" not in drawn(panel)


def test_without_zeros_nothing_is_marked():
    panel = StepBytes(sparsity=0)
    assert len(set(panel.totals.values())) == 1


def test_a_text_shorter_than_the_window_stays_dense():
    panel = StepBytes(tokens=64, window=512, sparsity=90)
    assert len(set(panel.totals.values())) == 1


def test_sizes_that_a_bitmap_cannot_hold_are_refused():
    panel = StepBytes()
    with pytest.raises(traitlets.TraitError, match="width is 100"):
        panel.width = 100
    with pytest.raises(traitlets.TraitError):
        panel.sparsity = 96


def test_the_chapters_figures_have_labels_and_lines_that_differ():
    three = {"a": [1, 2], "b": [2, 4], "c": [1, 1]}
    for figure, n_lines in (
        (figures.gain([1, 2], three, "share", as_text=["all", "1/2"], dashed=("b",)), 3),
        (figures.packed_bytes([0.1, 0.9], three), 3),
        (figures.since_the_start(three, "steps", "ms", {"predicted": 1}), 4),
    ):
        axes = figure.axes[0]
        assert axes.get_xlabel() and axes.get_ylabel()
        named = [a for a in axes.lines if not a.get_label().startswith("_")]
        looks = {(a.get_color(), a.get_marker(), str(a.get_linestyle())) for a in named}
        assert len(named) == len(looks) == n_lines
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_prediction_has_the_colour_of_what_it_predicts():
    figure = figures.gain([1, 2], {"a": [1, 2], "b": [1, 3], "c": [1, 1]}, "x", dashed=("b",))
    a, b, c = figure.axes[0].lines[:3]
    assert a.get_color() == b.get_color() != c.get_color() and b.get_marker() == "None"


@pytest.mark.parametrize(
    "figure",
    [
        lambda curves: figures.gain([1, 2], curves, "x"),
        lambda curves: figures.packed_bytes([0, 1], curves),
    ],
)
def test_more_curves_than_can_be_told_apart_are_refused_and_none_is_left_out(figure):
    curves = {name: [1, 2] for name in "abcdef"}
    with pytest.raises(ValueError, match="6 curves; expected at most 5"):
        figure(curves)
    assert (
        len(figure({name: curves[name] for name in "abcde"}).axes[0].get_legend_handles_labels()[1])
        == 5
    )
