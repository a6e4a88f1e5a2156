"""The report as numbers, and as a page where the pocket model's seeds were measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.orderings.methods import RECENT
from kvlab import quality

DENSE_ENOUGH = 0.8  # where the model itself answers fewer, a loss says little
COLUMNS = [(task, question) for task in ("words", "codes") for question in ("visible", "unseen")]


def summed(found: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each row with counts, means and their intervals in place of the single answers."""
    for row in found:
        right, kl, nats = (row[name] for name in ("right", "kl_nats", "nats"))
        low, high = quality.wilson(sum(right), len(right))
        kl_low, kl_high = quality.bootstrap(kl)
        yield {k: v for k, v in row.items() if k not in ("right", "kl_nats", "nats")} | {
            "kl_nats": round(sum(kl) / len(kl), 5),
            "kl_low": round(kl_low, 5),
            "kl_high": round(kl_high, 5),
            "nats": round(sum(nats) / len(nats), 4),
            "right": sum(right),
            "of": len(right),
            "low": round(low, 4),
            "high": round(high, 4),
        }


def table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    every = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in every) + "\n"


IDENTITIES = (
    "The first two hold for every model. Output-aware multiplies an element's size by what it "
    "will meet. A row of V per token is one token: all its elements meet the same attention "
    "weight. A column of K per channel is one channel: all its elements meet the same channel "
    "of the query. A positive factor that a whole contest shares changes no rank. The other "
    "two have a factor for each element of the contest.\n"
)


# --------------------------------------------------------------------------------- the pocket model
def in_words(result: dict[str, Any]) -> str:
    """The report of the pocket model's seeds as a page."""
    models = sorted({r["model"] for r in result["rows"]})
    names = [f"{task}, question {question}" for task, question in COLUMNS]
    return "\n".join(
        [
            "# Which published orderings hold on the pocket model\n",
            f"Made by `{result['command']}` on {result['machine'].get('cpu', 'this machine')}, "
            f"torch {result['machine']['torch']}. {result['prompts']} prompts a cell and model, "
            f"{len(models)} models trained from different seeds: {', '.join(models)}. Texts of "
            f"about {result['tokens']} tokens with five relations; the latest {RECENT} tokens stay "
            f"dense. Measuring took {sum(result['seconds'].values()) / 60:.0f} minutes.\n",
            "## Output-aware against magnitude, mask by mask (70 %)\n",
            table(
                ["what", "the same elements stay, in models"],
                [[name, f"{n} of {len(models)}"] for name, n in result["identities"].items()],
            ),
            IDENTITIES,
            "## Claims\n",
            "A verdict takes a sign test over the same prompts at 1 %, and that no model leans the "
            "other way. Numbers are right answers of the first method against the second's.\n",
            table(["claim", "source", "sparsity", *names], _claims(result["claims"], COLUMNS)),
            "## Every method: right answers, all models together\n",
            "\"Left\" are the shares of keys' and of values' numbers that stayed, window included; "
            "bytes are those of the packed form in float16.\n",
            table(
                ["method", "sparsity", "left of K, V", "bytes of dense", *names],
                _methods(result["rows"]),
            ),
        ]
    )


def _claims(claims: Sequence[dict[str, Any]], columns: Sequence[tuple]) -> list[list[str]]:
    found: dict[tuple[str, str, str], dict[tuple, str]] = {}
    for c in claims:
        cell = f"{c['verdict']} ({c['better_right']} : {c['worse_right']} of {c['of']})"
        line = c["claim"], c["source"], f"{c['sparsity']:.1%}"
        found.setdefault(line, {})[c["task"], c["question"]] = cell
    return [[*line, *(cells.get(c, "") for c in columns)] for line, cells in found.items()]


def left(row: dict[str, Any]) -> tuple[float, float]:
    """Shares of keys' and of values' numbers that stayed, evicted tokens counted as gone."""
    tokens, k, v = (row.get(name, 1.0) for name in ("tokens_left", "k_left", "v_left"))
    return tokens * k, tokens * v


def _methods(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    cells: dict[tuple, dict[tuple, list[dict]]] = {}
    for r in rows:
        line = cells.setdefault((r["method"], r["sparsity"]), {})
        line.setdefault((r["task"], r["question"]), []).append(r)
    lines = []
    for (method, s), by_column in cells.items():
        every = [r for some in by_column.values() for r in some]
        k, v = (sum(side) / len(every) for side in zip(*map(left, every), strict=True))
        shown = [f"{k:.0%}, {v:.0%}", f"{every[0]['bytes']:.0%}"]
        for column in COLUMNS:
            right = sum(r["right"] for r in by_column[column])
            of = sum(r["of"] for r in by_column[column])
            low, high = quality.wilson(right, of)
            shown.append(f"{right / of:.0%} ({low:.0%} to {high:.0%})")
        lines.append([method, f"{s:.1%}", *shown])
    return lines
