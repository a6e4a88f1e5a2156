import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode

import pytest
import torch
import traitlets

from kvlab.view import CacheGrid, Panel, figures, svg

TOKENS = ["<eos>", " What", " is", " this", "?", " A", " test"]


def count(svg, state):
    root = ElementTree.fromstring(svg)
    return sum(rect.get("class") == state for rect in root.iter("{http://www.w3.org/2000/svg}rect"))


def test_the_grid_counts_what_a_cache_computes():
    grid = CacheGrid(TOKENS, 5)
    assert grid.n_steps == 2 and grid.computed == [5]
    grid.step = 2
    assert grid.computed == [5, 1, 1]
    grid.cached = False
    assert grid.computed == [5, 6, 7]


def test_the_picture_shows_those_counts():
    grid = CacheGrid(TOKENS, 5, step=2)
    # one more of each stands in the legend
    assert count(grid.svg, "computed") == 5 + 1 + 1 + 1
    assert count(grid.svg, "reused") == 5 + 6 + 1
    grid.cached = False
    assert count(grid.svg, "computed") == 5 + 1 + 1 + 1 and count(grid.svg, "reused") == 1
    assert count(grid.svg, "again") == 5 + 6 + 1
    grid.step = 0
    assert count(grid.svg, "empty") == 2 + 7 + 7


def test_a_reader_without_a_kernel_sees_a_picture_and_words():
    grid = CacheGrid(TOKENS, 5, step=1)
    data, _ = grid._repr_mimebundle_()
    image = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', data["text/html"])[1]
    assert b64decode(image).decode() == grid.svg
    assert 'alt="With a cache, step 1: 1 of 6 rows computed, 5 reused.' in data["text/html"]
    assert data["text/plain"] == repr(grid) == repr(CacheGrid(TOKENS, 5, step=1))
    assert "application/vnd.jupyter.widget-view+json" in data


def test_text_from_a_model_cannot_break_the_picture():
    assert "&lt;b&gt;" in CacheGrid(["<b>", "&", "x"], 2).svg
    ElementTree.fromstring(CacheGrid(["<b>", "&", "\n", " "], 2).svg)


def test_steps_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="n_prompt is 9"):
        CacheGrid(TOKENS, 9)
    grid = CacheGrid(TOKENS, 5, step=1)
    for step in (-1, 3):
        with pytest.raises(traitlets.TraitError, match=f"step is {step}"):
            grid.step = step
    assert grid.step == 1


class Dial(Panel):
    """All kinds of controls."""

    n_tokens = traitlets.Int(7).tag(sync=True)
    turn = traitlets.Float(0.5, min=-1, max=1).tag(sync=True, label="turn", by=0.05)
    token = traitlets.Int(3).tag(sync=True, label="token", max="n_tokens")
    scaled = traitlets.Bool(True).tag(sync=True, label="scaled")
    of = traitlets.Enum(["keys", "values"], "keys").tag(sync=True, label="of")

    def words(self):
        return f"{self.of} {self.token} {self.turn} {self.scaled}"

    def picture(self):
        return svg.page(9, 9, self.words(), [svg.box(1, 1, 2, 2, "red", pick={"token": 4})])


def test_a_panels_controls_are_its_labelled_traits():
    dial = Dial(token=2)
    kinds = {c["name"]: c["kind"] for c in dial.controls}
    assert kinds == {"turn": "slider", "token": "slider", "scaled": "tick", "of": "choice"}
    by_name = {c["name"]: c for c in dial.controls}
    assert (by_name["turn"]["min"], by_name["turn"]["max"], by_name["turn"]["by"]) == (-1, 1, 0.05)
    assert by_name["token"]["max"] == "n_tokens"
    assert by_name["of"]["options"] == ["keys", "values"]


def test_moving_a_control_draws_again():
    dial = Dial(token=2)
    assert repr(dial) == "Dial(keys 2 0.5 True)" and "keys 2" in dial.svg
    dial.of, dial.turn = "values", -0.5
    assert dial.status == "values 2 -0.5 True" and "values 2 -0.5" in dial.svg
    with pytest.raises(traitlets.TraitError):
        dial.of = "queries"
    root = ElementTree.fromstring(dial.svg)
    picked = [e.get("data-pick") for e in root.iter() if e.get("data-pick")]
    assert picked == ['{"token": 4}']


def test_shades_run_from_orange_over_white_to_blue():
    assert [svg.shade(v) for v in (-2, -1, 0, 1, 2)] == [
        svg.ORANGE, svg.ORANGE, "#FFFFFF", svg.BLUE, svg.BLUE,
    ]  # fmt: skip


def test_each_figure_has_labels_and_shows_itself():
    for figure in (
        figures.seconds_at_token([0.1, 0.2], [0.1, 0.4]),
        figures.rows_per_step(5, 3),
        figures.speedup([8, 16], [2.0, 3.0], {"rows, counted": [5.0, 9.0]}, [(1, 3), (2, 4)]),
        figures.lines([4, 8], {"a": [2.0, 3.0], "b": [2.0, 2.8]}, "x", "y", doubling=True),
        figures.lines([0, 1], {"a": [2.0, 3.0]}, "x", "y"),
    ):
        axes = figure.axes[0]
        assert axes.get_xlabel() and axes.get_ylabel()
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_arrivals_lie_on_lines_of_their_own_and_begin_with_a_bar():
    figure = figures.arrivals({"one": [0.5, 0.6, 0.7], "two": [0.9, 1.0]})
    axes = figure.axes[0]
    assert axes.get_xlabel() and [t.get_text() for t in axes.get_yticklabels()] == ["one", "two"]
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.5, 0.6, 0.7], [0.9, 1.0]]
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0.9]
    assert len({line.get_color() for line in axes.lines}) == 2
    named = {t.get_text() for t in figure.legends[0].get_texts()}
    assert named == {"a token", "time to the first token"}


def test_rows_are_counted_once_where_they_are_computed_for_the_first_time():
    axes = figures.rows_per_step(5, 3).axes[0]
    labels = [t.get_text() for t in axes.get_legend().get_texts()]
    assert labels == ["again, without a cache: 11", "for the first time, with or without: 7"]
    assert [bar.get_height() for bar in axes.patches] == [0, 5, 6, 5, 1, 1]


def test_quality_over_bytes_tells_all_methods_apart():
    names = ["dense", *(f"method {i}" for i in range(24))]
    recall = {n: [(0.3, 0.5, 0.4, 0.6), (0.6, 0.9, 0.8, 1.0)] for n in names}
    kl = {n: [(1.0, 0.0, 0.0, 0.0)] if n == "dense" else [(0.3, 0.1, 0.05, 0.2)] for n in names}
    panels = {("Recall", "right answers"): recall, ("Text", "KL (nats)"): kl}
    figure = figures.pareto(panels, muted=("dense",))
    first, second = figure.axes
    looks = {(a.get_color(), a.get_marker(), a.get_linestyle()) for a in first.lines}
    assert len(looks) == len(first.lines) == 25
    assert len(second.lines) == 24 and second.get_yscale() == "log"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == names
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_figures_of_pruning_have_labels_and_tell_methods_apart():
    x_TD = torch.randn(3, 4)
    maps = figures.heatmaps({"keys": x_TD, "values": -x_TD}, ["a", "\n", "c"])
    assert [a.get_title() for a in maps.axes[:2]] == ["keys", "values"]
    curves = {name: [0.1, 0.2] for name in ("a", "b", "random")}
    lines = figures.over_sparsity({"K": curves, "V": curves}, [0.5, 0.7], "error", ("random",))
    looks = [[(a.get_color(), a.get_marker()) for a in axes.lines] for axes in lines.axes]
    assert len(set(looks[0])) == 3 and looks[0] == looks[1]
    assert len({marker for _, marker in looks[0]}) == 3
    assert lines.axes[0].get_xlabel() and lines.axes[0].get_ylabel()
    assert [t.get_text() for t in lines.axes[0].get_xticklabels()] == ["50", "70"]
    one = figures.over_sparsity({"K": {"b": [0.1, 0.2]}}, [0.5, 0.7], "error", looks=list(curves))
    assert [(a.get_color(), a.get_marker()) for a in one.axes[0].lines] == looks[0][1:2]
    bars = figures.beside(["x", "y"], {"share": [0.5, 0.5], "nats": [1.0, 2.0]})
    assert [a.get_xlabel() for a in bars.axes] == ["share", "nats"]
    for figure in (maps, lines, bars):
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_what_rounding_moves_is_not_drawn():
    """A sum may be added up in another order; a picture stored in a chapter must stay the same."""
    third = 100 / 3
    assert svg.box(third, -1e-12, third, 4, svg.BLUE) == svg.box(
        third + 1e-6, 0, third - 1e-6, 4, svg.BLUE
    )
    assert 'x="33.33"' in svg.box(third, 0, third, 4, svg.BLUE)
