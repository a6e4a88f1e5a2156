"""The analysis of a class as one page with two plots in it (needs matplotlib)."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence

from kvlab.course.grading.analysis import FEW, Item, items, some_names
from kvlab.course.grading.marks import Klass
from kvlab.course.grading.tables import number, printable
from kvlab.view.colours import BLUE, GREY, INK, ORANGE

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h2 { margin-top: 2.2rem; border-bottom: 1px solid #ccc; } h3 { margin: 1.6rem 0 .3rem; }
pre { white-space: pre-wrap; background: #f2f2f2; padding: .6rem; margin: .3rem 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .15rem 1rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } svg { max-width: 100%; height: auto; }
"""


def page(klass: Klass) -> str:
    """The whole page, complete in itself.

    Raises: ValueError where nothing was graded, or matplotlib is not installed.
    """
    found = items(klass)
    if not found:
        raise ValueError("No question was graded, so there is nothing to draw.")
    handed_in = [s for s in klass.students if s.chapters]
    points = [s.points(klass.scheme) for s in handed_in]
    parts = [
        "<h1>What the class found hard</h1>",
        f"<p>{len(handed_in)} of {len(klass.students)} students handed something in; "
        f"the mean is {number(sum(points) / len(points))} of {number(klass.total)} points.</p>",
        _rates(found),
        _points(points, klass.total),
        "<h2>Questions</h2>",
        _table(found),
        "<p>“With the rest” tells how passing a question goes with the points of all others: "
        "near 0, or below, the question sorts students in another way than the rest does.</p>",
        "<h2>Mistakes</h2>",
        *(_mistakes(i) for i in found if i.mistakes or i.unnamed),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>What the class found hard</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _figure(columns: float, rows: float):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(
            "A page with plots needs matplotlib: pip install matplotlib. "
            "--analysis alone prints the same as text."
        ) from None
    return Figure(figsize=(columns, rows), layout="constrained")


def _svg(figure, says: str) -> str:
    """A figure as SVG to stand in a page, with a text for who cannot see it."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "kvlab", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    label = html.escape(says, quote=True)
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', drawn, count=1)


def _rates(found: Sequence[Item]) -> str:
    """Bars per question: passed, failed, not answered, in shares of who handed it in."""
    figure = _figure(8.5, 1.1 + 0.3 * len(found))
    axes = figure.subplots()
    labels = [f"{i.number}  {i.title}" for i in found]
    left = [0.0] * len(found)
    for state, colour in (("passed", BLUE), ("failed", ORANGE), ("not answered", GREY)):
        shares = [i.states.get(state, 0) / i.tried for i in found]
        axes.barh(labels, shares, left=left, color=colour, label=state, height=0.7)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.set_xlabel("share of the notebooks that have the question")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure, "Shares of each question that passed, failed or were not answered")


def _points(points: Sequence[float], total: float) -> str:
    """How many students have how many points."""
    figure = _figure(8.5, 2.6)
    axes = figure.subplots()
    axes.hist(points, bins=12, range=(0, max(total, 1)), color=BLUE, edgecolor="white")
    axes.axvline(sum(points) / len(points), color=INK, linestyle="--")
    axes.set_xlabel(f"points of {number(total)}; the broken line is the mean")
    axes.set_ylabel("students")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure, "How many students have how many points")


def _text(said: str) -> str:
    return "\n".join(html.escape(printable(line)) for line in said.splitlines())


def _table(found: Sequence[Item]) -> str:
    head = ("question", "passed", "failed", "not answered", "other", "rate", "with the rest")
    lines = ["<table><tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>"]
    for i in found:
        counts = [i.states.get(state, 0) for state in ("passed", "failed", "not answered")]
        rest = "" if i.rest is None else f"{i.rest:+.2f}"
        cells = [_text(f"{i.number} {i.title}"), *counts, i.tried - sum(counts), f"{i.rate:.0%}"]
        lines.append("<tr>" + "".join(f"<td>{c}</td>" for c in [*cells, rest]) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _mistakes(item: Item) -> str:
    parts = [f"<h3>{_text(f'{item.number} {item.title}')}</h3>"]
    for says, n in list(item.mistakes.items())[:FEW]:
        parts.append(f"<p><b>{n} ×</b> {_text(says)}</p>")
    for group in item.unnamed[:FEW]:
        who = _text(some_names(group))
        parts.append(f"<p><b>{len(group.students)} ×</b> without a name ({who}):</p>")
        parts.append(f"<pre>{_text(group.example)}</pre>")
    return "\n".join(parts)
