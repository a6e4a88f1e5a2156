"""What did not work of the claims about pruning: chapters 10, 11 and 13."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.filling import RECORDS, Result, Table, where
from benchmarks.orderings.beside import named
from benchmarks.orderings.report import COLUMNS, DENSE_ENOUGH, table
from kvlab import quality

Claim = dict[str, Any]
LOST = ("the opposite holds", "differs between models", "no difference", "not decided")
ABOUT_TOKENS = ("evicting", "elements beat")
ABOUT_BITS = ("2 bits", "4 bits", "8 bits")


# ---- claims and their verdicts
def about(result: Result, topics: Sequence[str], *, others: bool = False) -> list[Claim]:
    """The claims whose text begins with one of these, or with none of them."""
    return [c for c in result["claims"] if c["claim"].startswith(tuple(topics)) != others]


def cell(row: dict[str, Any]) -> tuple[str, str, int | None]:
    """Where something was asked: task, question, tokens of the text if there are several."""
    return row["task"], row["question"], row.get("tokens")


def name_of(place: tuple[str, str, int | None]) -> str:
    """A column's head."""
    task, question, tokens = place
    return f"{task}, question {question}" if tokens is None else named((task, question, tokens))


def said(claims: Iterable[Claim]) -> str:
    """The verdicts of one claim in one place, each with its sparsities and one of its counts."""
    by: dict[str, list[Claim]] = {}
    for c in claims:
        by.setdefault(c["verdict"], []).append(c)
    every = [c["sparsity"] for its in by.values() for c in its]
    return "; ".join(
        f"{verdict} at {percents([c['sparsity'] for c in its], every)} ({counts(its[-1])})"
        for verdict, its in by.items()
    )


def percents(shares: Sequence[float], every: Iterable[float]) -> str:
    """Shares one after the other; the first and the last where none of `every` lies between."""
    each = [f"{100 * share:g}" for share in shares]
    between = [share for share in every if shares[0] <= share <= shares[-1]]
    if len(each) > 2 and sorted(between) == sorted(shares):
        return f"{each[0]} to {each[-1]} %"
    return f"{', '.join(each)} %"


def counts(claim: Claim) -> str:
    """Right answers of both methods, or for a text their divergences."""
    if claim["task"] == "text":
        return f"{claim['better_kl']:.3g} : {claim['worse_kl']:.3g} nats"
    return f"{claim['better_right']} : {claim['worse_right']}"


def not_held(result: Result, claims: Sequence[Claim]) -> list[str]:
    """Each claim that does not hold everywhere, and what was found where."""
    places = list(dict.fromkeys(map(cell, claims)))
    lines = []
    for text in dict.fromkeys(c["claim"] for c in claims):
        its = [c for c in claims if c["claim"] == text]
        if any(c["verdict"] in LOST for c in its):
            found = [said(c for c in its if cell(c) == place) for place in places]
            lines.append([text, its[0]["source"], *found])
    return table(["claim", "source", *map(name_of, places)], lines).splitlines()


def how(result: Result) -> list[str]:
    """What the numbers of a record are, and where they were measured."""
    models = len({row["model"] for row in result["rows"]})
    seeds = f"{models} models trained from different seeds" if models > 1 else "one model"
    of = sorted({c["of"] for c in result["claims"]})
    each = f"{of[0]}" if len(of) == 1 else f"{of[0]} to {of[-1]}"
    return [
        "A verdict takes a sign test at 1 % over the same prompts, and that no model leans the "
        "other way. After it stands how many percent of the elements or tokens are gone, and for "
        "the last of these the right answers of the first method : those of the second (for a "
        f"text, their divergences from the dense cache). {each} prompts for each, {seeds}. "
        f"{where(result)}"
    ]


def elements(result: Result) -> list[str]:
    """Chapter 10: claims about elements."""
    return not_held(result, about(result, (*ABOUT_TOKENS, *ABOUT_BITS), others=True))


def tokens(result: Result) -> list[str]:
    """Chapter 11: claims about evicted tokens."""
    return not_held(result, about(result, ABOUT_TOKENS))


def bits(result: Result) -> list[str]:
    """Chapter 11: claims about numbers of fewer bits."""
    return not_held(result, about(result, ABOUT_BITS))


def identities(result: Result) -> list[str]:
    """Chapter 10: where output-aware and magnitude choose the same elements."""
    models = len({row["model"] for row in result["rows"]})
    lines = [[what, f"{n} of {models}"] for what, n in result["identities"].items()]
    head = ["70 % of the elements go", "the same elements stay, in models"]
    return table(head, lines).splitlines()


# ---- against chance
def totals(result: Result) -> dict[tuple, tuple[int, int]]:
    """Right answers and prompts of all models together, by method, sparsity, task and question."""
    found: dict[tuple, tuple[int, int]] = {}
    for r in result["rows"]:
        key = r["method"], r["sparsity"], r["task"], r["question"]
        right, of = found.get(key, (0, 0))
        found[key] = right + r["right"], of + r["of"]
    return found


def behind(found: dict[tuple, tuple[int, int]], method: str, rival: str, place: tuple) -> str:
    """At which sparsities a method's interval lies below its rival's."""
    lost = []
    for (name, sparsity, *at), mine in found.items():
        theirs = found.get((rival, sparsity, *place))
        asked = name == method and tuple(at) == place and theirs
        if asked and quality.wilson(*mine)[1] < quality.wilson(*theirs)[0]:
            lost.append((sparsity, mine[0], theirs[0]))
    if not lost:
        return ""
    every = {sparsity for name, sparsity, *_ in found if name == method}
    at = percents([sparsity for sparsity, _, _ in lost], every)
    _, mine, theirs = max(lost, key=lambda one: one[2] - one[1])
    return f"{at} ({mine} : {theirs})"


def losing_to(result: Result, rival: str) -> list[str]:
    """The scores of tokens that a rival which knows nothing of them beats."""
    found = totals(result)
    names = [n for n in dict.fromkeys(key[0] for key in found) if n.startswith("evict: ")]
    lines = []
    for name in names:
        cells = [behind(found, name, f"evict: {rival}", place) for place in COLUMNS]
        if any(cells) and name not in ("evict: random", "evict: recency"):
            lines.append([name.removeprefix("evict: "), *cells])
    shown = table(["score", *(name_of((*place, None)) for place in COLUMNS)], lines)
    of = max(of for _, of in found.values())
    text = (
        f"How many percent of the tokens are gone where the score's 95 % interval lies below that "
        f"of `{rival}` and, where the two are furthest apart, right answers of both, of {of}."
    )
    return [*shown.splitlines(), "", text]


def behind_random(result: Result) -> list[str]:
    """Scores that chance beats."""
    return losing_to(result, "random")


def behind_recency(result: Result) -> list[str]:
    """Scores that the newest tokens beat."""
    return losing_to(result, "recency")


# ---- at equal bytes
def equal_bytes(result: Result) -> list[str]:
    """Right answers of bits, elements and the best evicted tokens at about as many bytes."""
    found, bytes_of = totals(result), {}
    for r in result["rows"]:
        bytes_of.setdefault((r["method"], r["sparsity"]), []).append(r["bytes"])
    share = {key: sum(all_) / len(all_) for key, all_ in bytes_of.items()}
    lines = []
    for bits_of in ("KV in 8 bits", "KV in 4 bits", "KV in 2 bits"):
        key = next(key for key in share if key[0] == bits_of)
        rivals = [key, *nearest(share, share[key])]
        for method, sparsity in rivals:
            right = [found[method, sparsity, *place][0] for place in COLUMNS]
            gone = "" if method == bits_of else f", {100 * sparsity:g} % gone"
            lines.append([f"{share[method, sparsity]:.0%}", method + gone, *right])
    head = ["bytes of dense", "what stays", *(name_of((*place, None)) for place in COLUMNS)]
    of = max(of for _, of in found.values())
    text = f"Right answers of {of}; bytes with marks, scales and the window of 32 tokens."
    return [*table(head, lines).splitlines(), "", text]


def nearest(share: dict[tuple[str, float], float], bytes_: float) -> list[tuple[str, float]]:
    """Of elements and of the two best scores of tokens, what takes about as many bytes."""
    found = []
    for name in ("KV per token", "evict: keydiff", "evict: expected attention"):
        keys = [key for key in share if key[0] == name]
        found.append(min(keys, key=lambda key: abs(share[key] - bytes_)))
    return found


# ---- the real model
REASONS = (
    "*Why not:* SmolLM2 has what the pocket model lacks. Some of its heads park most of their "
    "attention on the first token, so that sinks and a window are another thing than a window "
    "alone. Some channels of its keys are large for every token, and since all tokens have them, "
    "they cancel in the softmax: dropping them for some tokens and not for others, as keys per "
    "channel do, changes all logits. And a text that is to be continued asks for something else "
    "than a fact does. Its score counts every next word, and a method that forgets a single name "
    "loses hardly anything by it. A verdict counts texts, so the mean may lean the other way where "
    "a few texts are far off. The lines about 8 and 4 bits are a difference of the measure and not "
    "of the models: the pocket model answers nearly all questions either way, and in nats bits win "
    "there as well. And `knorm` and `keydiff` beat chance on SmolLM2 only as long as chance may "
    "drop the first token.",
    "*When it does work:* a law carries over where its reason does. The two identities of chapter "
    "10 are arithmetic. That the question has to be there when a score looks at queries is a "
    "matter of what is asked and not of the model. What rests on the absence of sinks and outlier "
    "channels does not carry over.",
)


def real_model(result: Result) -> list[str]:
    """Chapter 13: the verdicts that are not those of the pocket model."""
    pocket = json.loads((RECORDS / "orderings.json").read_text("utf-8"))
    dense = {cell(r): r for r in result["rows"] if r["method"] == "dense"}
    able = [
        place for place, r in dense.items()
        if place[0] == "text" or r["right"] >= DENSE_ENOUGH * r["of"]
    ]  # fmt: skip
    lines = []
    for text in dict.fromkeys(c["claim"] for c in result["claims"]):
        for place in able:
            its = [c for c in result["claims"] if c["claim"] == text and cell(c) == place]
            ours = beside(pocket, text, place)
            if its and ours and differ(its, ours):
                lines.append([text, name_of(place), said(ours), said(its)])
    name = result["model"]
    head = ["claim", f"asked of {name}", "the pocket model's seeds", name]
    left_out = [name_of(place) for place in dense if place not in able]
    shown = table(head, lines).splitlines()
    if left_out:
        shown += ["", f"Left out, as {name} itself answers too few: {'; '.join(left_out)}."]
    return [*shown, "", *how(result), "", REASONS[0], "", REASONS[1]]


def beside(pocket: Result, text: str, place: tuple) -> list[Claim]:
    """The pocket model's verdicts on a claim: in the same task, or for a text on words unseen."""
    at = place[:2] if place[:2] in COLUMNS else ("words", "unseen")
    return [c for c in pocket["claims"] if c["claim"] == text and cell(c)[:2] == at]


def differ(its: Sequence[Claim], ours: Sequence[Claim]) -> bool:
    """Whether two models part at a sparsity at which both have decided."""
    by = {c["sparsity"]: c["verdict"] for c in ours}
    decided = [c for c in its if "not decided" not in (c["verdict"], by.get(c["sparsity"]))]
    return any(by.get(c["sparsity"], c["verdict"]) != c["verdict"] for c in decided)


TABLES: dict[str, Table] = {
    "orderings: how": how,
    "orderings: the same elements": identities,
    "orderings: elements": elements,
    "orderings: tokens": tokens,
    "orderings: behind chance": behind_random,
    "orderings: behind the newest": behind_recency,
    "orderings: bits": bits,
    "orderings: equal bytes": equal_bytes,
    "orderings-smollm2: other than the pocket model": real_model,
}
