"""The bars that the pocket model has to pass."""

from __future__ import annotations

from typing import Any

from kvlab.pocket.question_sets import BARRED_TOKENS, GRID, needle_row

IN_SENTENCES = "the first sample prompts, answered in a sentence"
LEAST = {
    "facts": 0.98,
    "facts, on one line": 0.98,
    "facts, held-out phrasings": 0.90,
    IN_SENTENCES: 1.0,
    **{needle_row("password", n): 0.98 for n in (128, 256, 512)},
    **{needle_row("code", n): 0.95 for n in (128, 256, 512)},
    **{needle_row(kind, 1000): 0.90 for kind in GRID},
}
CELL_LEAST = 0.85  # no cell of the grid up to BARRED_TOKENS is below
MASS_LEAST = 0.80  # of the answering query's attention, on the needle's sentence
ABLATED_MOST = 0.10  # recall without the retrieval layer's attention
LOOPS_MOST = 0.05  # of sampled texts
COMPRESSORS = ("gzip -9", "5-gram of bytes", "5-gram of its tokens")


def bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold a result against every bar: what was measured, the bar, and whether it is passed."""
    found = [
        _bar(name, result["scores"][name]["share"], ">=", least) for name, least in LEAST.items()
    ]
    for kind, rows in result["grid"].items():
        cells = [
            score["share"]
            for n, row in rows.items()
            for score in row.values()
            if int(n) <= BARRED_TOKENS
        ]
        name = f"{kind} of 5, weakest depth and length up to {BARRED_TOKENS} tokens"
        found.append(_bar(name, min(cells), ">=", CELL_LEAST))
    bits = result["documentation"]["bits_per_byte"]["together"]
    ours = min(value for what, value in bits.items() if what.startswith("the model"))
    found += [
        _bar(f"held-out documentation, bits a byte, against {other}", ours, "<", bits[other])
        for other in COMPRESSORS
    ]
    seen = result["retrieval"]
    best = seen["best_layer"]
    found += [
        _bar(
            f"attention on the needle in layer {best}", seen["mass_on_sentence"], ">=", MASS_LEAST
        ),
        _bar(
            f"recall without attention in layer {best}",
            seen["recall_without_layer"][str(best)]["share"],
            "<=",
            ABLATED_MOST,
        ),
    ]
    for name, prose in result["prose"].items():
        if name.startswith("temperature"):
            looped = round(prose["loop"] / prose["texts"], 4)
            found.append(_bar(f"free prose that loops, {name}", looped, "<=", LOOPS_MOST))
    return found


def _bar(what: str, measured: float, sign: str, bar: float) -> dict[str, Any]:
    holds = {">=": measured >= bar, "<=": measured <= bar, "<": measured < bar}[sign]
    return {"what": what, "measured": measured, "bar": f"{sign} {bar:g}", "passed": holds}
