"""Chapter 10, "What can we throw away?": its exercises and how they are judged.

G key/value heads, H query heads, R = H / G, T tokens, S new tokens, W latest queries, D head width.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kvlab.course import ch10_answers as given
from kvlab.course.author.compare import AtMost
from kvlab.course.author.spec import (
    Case,
    Exercise,
    Law,
    Outcome,
    Wrong,
    claims,
    named,
    raised_by,
)
from kvlab.course.sandbox.answer import Answer, NotData


def _normal(rng: random.Random, *shape: int) -> Tensor:
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    return torch.randn(shape, generator=torch_rng, dtype=torch.float64)


def _with_ties(rng: random.Random, *shape: int) -> Tensor:
    """Few different numbers, so that every row has equal ones."""
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    return torch.randint(3, shape, generator=torch_rng).double()


def _first_best(scores: list[float], n: int) -> list[int]:
    """Places of the n largest; of equal ones the first."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:n]


# --- 10.1 two directions, an exact count --------------------------------------------------------


def _fraction(m: int, sparsity: float) -> float:
    return m * (1 - sparsity) % 1


# A row's count is one that rounding raises, a group's one that rounding lowers.
_SIZES = [
    (width, group, sparsity)
    for width in range(6, 12)
    for group in range(5, 10)
    for sparsity in (0.3, 0.4, 0.6, 0.7)
    if width != group
    and 0.55 < _fraction(width, sparsity) < 0.95
    and 0.05 < _fraction(group, sparsity) < 0.45
]


def _directions_case(rng: random.Random) -> Case:
    """A text of two or three groups, and one that is not complete."""
    width, group, sparsity = rng.choice(_SIZES)
    n_tokens = group * rng.randint(2, 3) + rng.randint(2, group - 1)
    return {
        "score_TD": _normal(rng, n_tokens, width),
        "sparsity": sparsity,
        "group": group,
        "_ties": _with_ties(rng, n_tokens, width),
    }


def _kept(score_TD: Tensor, sparsity: float, direction: str, group: int) -> Tensor:
    """A loop over rows, or over the columns of each complete group."""
    n_tokens, width = score_TD.shape
    keep = torch.zeros(n_tokens, width, dtype=torch.bool)
    if direction == "per token":
        for t in range(n_tokens):
            n = max(1, round(width * (1 - sparsity)))
            keep[t, _first_best(score_TD[t].tolist(), n)] = True
        return keep
    n = max(1, round(group * (1 - sparsity)))
    for start in range(0, n_tokens, group):
        if start + group > n_tokens:
            keep[start:] = True
            break
        for d in range(width):
            column = score_TD[start : start + group, d].tolist()
            for i in _first_best(column, n):
                keep[start + i, d] = True
    return keep


DIRECTIONS = ("per token", "per channel")


def _in_direction(name: str, direction: str) -> Law:
    def run(answer: Answer, case: Case) -> Outcome:
        kept = answer(case["score_TD"], case["sparsity"], direction, case["group"])
        return {"keep_TD": kept}

    def expect(case: Case, _: Outcome) -> Outcome:
        return {"keep_TD": _kept(case["score_TD"], case["sparsity"], direction, case["group"])}

    return Law(name, run, expect)


def _both(answer, score_TD: Tensor, case: Case, what: str) -> Outcome:
    return {
        f"{direction}{what}, keep_TD": answer(score_TD, case["sparsity"], direction, case["group"])
        for direction in DIRECTIONS
    }


def _run_order_only(answer: Answer, case: Case) -> Outcome:
    """The same order of scores, in other numbers."""
    return _both(answer, case["score_TD"], case, "") | _both(
        answer, case["score_TD"].exp(), case, " of exp(score)"
    )


def _expect_order_only(case: Case, outcome: Outcome) -> Outcome:
    return {f"{d} of exp(score), keep_TD": outcome[f"{d}, keep_TD"] for d in DIRECTIONS}


TWO_DIRECTIONS = Exercise(
    number="10.1",
    title="Two directions, an exact count",
    name="keep_elements",
    points=4,
    minutes=20,
    difficulty=2,
    cases=_directions_case,
    laws=(
        _in_direction("per token: each row keeps its best", "per token"),
        _in_direction("per channel: each column keeps its best in each group", "per channel"),
        Law("equal scores: the count stays exact, and the first stay",
            lambda answer, case: _both(answer, case["_ties"], case, ""),
            lambda case, _: _both(_kept, case["_ties"], case, "")),
        Law("only the order of the scores counts", _run_order_only, _expect_order_only),
    ),
    hints=(
        "One of the two directions is the other one on the turned matrix. And how many of a row of "
        "10 stay at a sparsity of 0.7?",
        "order = score.argsort(dim=-1, descending=True, stable=True) lists the best places of each "
        "row first; stable keeps the first of equal ones first. The first n of each row of `order` "
        "are the places to mark: torch.zeros_like(score, dtype=torch.bool).scatter(-1, "
        "order[..., :n], True).",
        "n = max(1, round(M * (1 - sparsity))) with M = D per token and M = group per channel. Per "
        "channel: start with keep = all True; for each start in range(0, T - group + 1, group) "
        "take rows = score_TD[start:start + group], and set keep[start:start + group] = "
        "best(rows.T, n).T.",
    ),
    wrong=(
        Wrong(given.axes_swapped, "the two directions are swapped. Per token, each row (a token) "
              "keeps n of its D channels; per channel, each column keeps n of a group of tokens."),
        Wrong(given.by_threshold, "everything that is at least as large as the n-th stays, so rows "
              "with equal scores keep more than n. Count places, do not compare values."),
        Wrong(given.count_cut_off, "the count is cut off (int) and not rounded: 7 elements at a "
              "sparsity of 0.6 are 2.8, so 3 stay."),
        Wrong(given.count_rounded_up, "the count is rounded up (ceil) and not to the nearest whole "
              "number."),
        Wrong(given.keeps_what_should_go, "the sparsity is used as the share that stays. It is the "
              "share that goes."),
        Wrong(given.smallest_kept, "the smallest scores stay, and the best go."),
        Wrong(given.size_of_the_score, "the score's absolute value is taken. A score says by "
              "itself what is better, below 0 too."),
        Wrong(given.no_groups, "each column is one contest over the whole text. The count holds in "
              "each group of consecutive tokens."),
        Wrong(given.rest_pruned_too, "the last group is pruned although it is not complete. It "
              "stays whole until it is."),
        Wrong(given.last_of_equals, "of equal scores the last one stays. The first should: a "
              "stable sort keeps it."),
        Wrong(given.any_of_equals, "of equal scores any one stays: topk promises no order among "
              "equals. The first should stay: sort with argsort(..., stable=True)."),
    ),
    second=given.SECOND_DIRECTIONS,
)  # fmt: skip


# --- 10.2 what an element is worth --------------------------------------------------------------


def _scores_case(rng: random.Random) -> Case:
    n_groups, share, n_queries, width = rng.sample([2, 3, 4, 5], 4)
    n_tokens = n_queries + rng.randint(3, 6) + 5
    return {
        "k_GTD": _normal(rng, n_groups, n_tokens, width),
        "v_GTD": _normal(rng, n_groups, n_tokens, width),
        "q_HWD": _normal(rng, n_groups * share, n_queries, width),
        "_channel": rng.randrange(width),
    }


def _scores(k_GTD: Tensor, v_GTD: Tensor, q_HWD: Tensor) -> tuple[Tensor, Tensor]:
    """A loop over heads and queries, which look at their own past and nothing else."""
    n_groups, n_tokens, width = k_GTD.shape
    n_heads, n_queries, _ = q_HWD.shape
    k_score, v_score = torch.zeros_like(k_GTD), torch.zeros_like(v_GTD)
    for h in range(n_heads):
        g = h * n_groups // n_heads
        for w in range(n_queries):
            n_seen = n_tokens - n_queries + w + 1
            weights_T = (k_GTD[g, :n_seen] @ q_HWD[h, w] / width**0.5).softmax(0)
            k_score[g] += k_GTD[g].abs() * q_HWD[h, w].abs() / n_queries
            v_score[g, :n_seen] += v_GTD[g, :n_seen].abs() * weights_T[:, None] / n_queries
    return k_score, v_score


_SCORES = ("k_score_GTD", "v_score_GTD")


def _score_of(name: str, half: int) -> Law:
    """One half by itself, so that a mistake in it is named whatever the other half is."""
    gives = _SCORES[half]

    def run(answer: Answer, case: Case) -> Outcome:
        scores = named(answer(case["k_GTD"], case["v_GTD"], case["q_HWD"]), *_SCORES)
        return {gives: scores[gives]}

    def expect(case: Case, _: Outcome) -> Outcome:
        return {gives: _scores(case["k_GTD"], case["v_GTD"], case["q_HWD"])[half]}

    return Law(name, run, expect)


def _run_signs(answer: Answer, case: Case) -> Outcome:
    """Turn one channel's sign in keys and queries, and all values': no product gets larger."""
    sign_D = torch.ones(case["k_GTD"].shape[2], dtype=torch.float64)
    sign_D[case["_channel"]] = -1
    k, v, q = case["k_GTD"], case["v_GTD"], case["q_HWD"]
    turned = named(answer(k * sign_D, -v, q * sign_D), *_SCORES)
    return named(answer(k, v, q), *_SCORES) | {f"turned {n}": x for n, x in turned.items()}


def _run_sums(answer: Answer, case: Case) -> Outcome:
    """With values of 1 the score is the attention itself, which adds up to 1 in each head."""
    ones_GTD = torch.ones_like(case["v_GTD"])
    _, v_score = named(answer(case["k_GTD"], ones_GTD, case["q_HWD"]), *_SCORES).values()
    if not isinstance(v_score, Tensor) or v_score.shape != ones_GTD.shape:
        raise NotData(f"your v_score is no tensor of shape {tuple(ones_GTD.shape)}.")
    return {"v_score added up over tokens, sum_GD": v_score.sum(1)}


def _expect_sums(case: Case, _: Outcome) -> Outcome:
    n_groups, _, width = case["k_GTD"].shape
    share = float(case["q_HWD"].shape[0] // n_groups)
    sums_GD = torch.full((n_groups, width), share, dtype=torch.float64)
    return {"v_score added up over tokens, sum_GD": sums_GD}


WORTH = Exercise(
    number="10.2",
    title="What an element is worth",
    name="output_aware",
    points=5,
    minutes=25,
    difficulty=3,
    cases=_scores_case,
    laws=(
        _score_of("keys: same as a loop over heads and queries", 0),
        _score_of("values: same as a loop over heads and queries", 1),
        Law("turning signs in keys and queries, or in values, changes no score", _run_signs,
            lambda _, outcome: {f"turned {n}": outcome[n] for n in _SCORES}),
        Law("with values of 1 the scores of a head's tokens add up to 1", _run_sums, _expect_sums),
    ),
    hints=(
        "Which input does a key's element meet, one per token or one per channel? And a value's?",
        "q_GRWD = q_HWD.unflatten(0, (G, -1)) puts the R query heads beside the keys they share. "
        "The key's input is q_GRWD.abs().mean(2).sum(1), of shape (G, D). For the values you need "
        "attention weights of shape (G, R, W, T), with a mask: query w is token T - W + w.",
        "logits = q_GRWD @ k_GTD[:, None].transpose(-1, -2) / D**0.5; hide slots t > T - W + w "
        "with masked_fill(..., -inf); a_GT = logits.softmax(-1).mean(2).sum(1). Return "
        "k_GTD.abs() * q_GD[:, None] and v_GTD.abs() * a_GT[..., None].",
    ),
    wrong=(
        Wrong(given.no_absolute_values, "the elements keep their sign, so a large negative product "
              "counts as worthless. Take the absolute value."),
        Wrong(given.queries_keep_sign, "the queries keep their sign, so inputs of opposite signs "
              "cancel. The input is the mean of the queries' sizes."),
        Wrong(given.signs_cancel, "neither keys nor queries are taken by their size: opposite "
              "signs cancel, and large negative products count as worthless."),
        Wrong(given.mean_before_size, "queries and heads are added up before their absolute value "
              "is taken, so inputs of opposite signs cancel."),
        Wrong(given.size_of_each_mean, "the absolute value is taken of each head's mean query. "
              "Take it of each query first, and then the mean."),
        Wrong(given.heads_interleaved, "query heads are put beside the wrong KV heads: neighbours "
              "share one (unflatten(0, (G, R))), not every G-th."),
        Wrong(given.inputs_swapped, "the inputs are swapped: keys are weighed by attention and "
              "values by the query."),
        Wrong(given.scores_swapped, "the two results are in the other order: the keys' scores come "
              "first."),
        Wrong(given.no_mask, "attention has no causal mask: the earlier ones of the W queries see "
              "tokens that came after them."),
        Wrong(given.sees_the_next, "the mask is off by one: each query sees the token after it."),
        Wrong(given.does_not_see_itself, "the mask is off by one: a query does not see its own "
              "token. Query w sees the tokens up to T - W + w, that one included."),
        Wrong(given.mask_from_the_start, "the mask takes query w for that of token w. The W "
              "queries are the latest: query w stands at token T - W + w."),
        Wrong(given.not_scaled, "logits are not divided by the square root of D."),
        Wrong(given.last_query_only, "only the last query is asked, not all W."),
        Wrong(given.sum_over_queries, "the W queries are added up. Over queries it is the mean, "
              "over the heads of a group the sum."),
        Wrong(given.mean_over_heads, "the heads of a group are averaged and not added."),
        Wrong(given.first_head_only, "only the first query head of each group is asked. All R of "
              "them read the same key."),
    ),
    second=given.SECOND_SCORES,
)  # fmt: skip


# --- 10.3 a window that stays dense -------------------------------------------------------------


def _window_case(rng: random.Random) -> Case:
    """Two chunks that are longer than the window, and single tokens."""
    width, window = rng.sample([5, 6, 7, 8], 2)
    window -= 3
    chunks = [window + rng.randint(2, 4), 1, window + rng.randint(1, 3), 1, 1]
    return {
        "window": window,
        "n_keep": rng.randint(2, width - 2),
        "chunks": chunks,
        "x_TD": _normal(rng, sum(chunks), width),
        "_ties": 1 + _with_ties(rng, sum(chunks), width),
    }


def _windowed(x_TD: Tensor, window: int, n_keep: int) -> Tensor:
    out_TD = x_TD.clone()
    for t in range(len(x_TD) - window):
        best = _first_best(x_TD[t].abs().tolist(), n_keep)
        out_TD[t] = 0
        out_TD[t, best] = x_TD[t, best]
    return out_TD


def _after(answer: Answer, window: int, n_keep: int, parts) -> object:
    made = answer.make(window, n_keep)
    for part in parts:
        made.call("append", part)
    return made.call("read")


def _run_once(answer: Answer, case: Case) -> Outcome:
    return {"x_TD": _after(answer, case["window"], case["n_keep"], [case["x_TD"]])}


def _expect_once(case: Case, _: Outcome) -> Outcome:
    return {"x_TD": _windowed(case["x_TD"], case["window"], case["n_keep"])}


def _run_chunks(answer: Answer, case: Case) -> Outcome:
    """What is there after each chunk."""
    made, seen, n = answer.make(case["window"], case["n_keep"]), {}, 0
    for i, part in enumerate(case["x_TD"].split(case["chunks"])):
        made.call("append", part)
        n += len(part)
        seen[f"after chunk {i} ({n} tokens), x_TD"] = made.call("read")
    return seen


def _expect_chunks(case: Case, _: Outcome) -> Outcome:
    seen, n = {}, 0
    for i, size in enumerate(case["chunks"]):
        n += size
        name = f"after chunk {i} ({n} tokens), x_TD"
        seen[name] = _windowed(case["x_TD"][:n], case["window"], case["n_keep"])
    return seen


def _run_short(answer: Answer, case: Case) -> Outcome:
    """A text that the window covers, and one with no window at all."""
    n_short, x_TD = len(case["x_TD"]) - 2, case["x_TD"]
    return {
        "of a text shorter than the window, x_TD": _after(
            answer, len(x_TD), case["n_keep"], [x_TD[:n_short]]
        ),
        "with a window of 0, x_TD": _after(answer, 0, case["n_keep"], [x_TD]),
    }


def _expect_short(case: Case, _: Outcome) -> Outcome:
    x_TD = case["x_TD"]
    return {
        "of a text shorter than the window, x_TD": x_TD[: len(x_TD) - 2],
        "with a window of 0, x_TD": _windowed(x_TD, 0, case["n_keep"]),
    }


def _run_one_by_one(answer: Answer, case: Case) -> Outcome:
    once, x_TD = _run_once(answer, case), case["x_TD"]
    slow = _after(answer, case["window"], case["n_keep"], x_TD.split(1))
    return {"at once, x_TD": once["x_TD"], "token by token, x_TD": slow}


def _run_ties(answer: Answer, case: Case) -> Outcome:
    """Rows of 1, 2 and 3, with a sign by place: which of equals stayed can be seen."""
    return {"of rows with equal sizes, x_TD": _after(answer, 0, case["n_keep"], [_equals(case)])}


def _expect_ties(case: Case, _: Outcome) -> Outcome:
    return {"of rows with equal sizes, x_TD": _windowed(_equals(case), 0, case["n_keep"])}


def _equals(case: Case) -> Tensor:
    return case["_ties"] * (1 - 2 * (torch.arange(case["_ties"].shape[1]) % 2))


WINDOW = Exercise(
    number="10.3",
    title="A window that stays dense",
    name="DenseWindow",
    points=4,
    minutes=20,
    difficulty=2,
    cases=_window_case,
    laws=(
        Law("a text that comes at once", _run_once, _expect_once),
        Law("rows are pruned as they leave the window", _run_chunks, _expect_chunks),
        Law("a short text stays whole; a window of 0 protects nothing", _run_short, _expect_short),
        Law("token by token is as at once", _run_one_by_one,
            lambda _, outcome: {"token by token, x_TD": outcome["at once, x_TD"]}),
        Law("of equal sizes the first stays, and n_keep do", _run_ties, _expect_ties),
    ),
    hints=(
        "After an append the text has T tokens. How many of them are outside the window, and what "
        "is that number when T is small?",
        "stop = max(0, T - window): the rows 0 to stop - 1 have left. Pruning a row again that is "
        "pruned already changes nothing, so you may prune all of them each time.",
        "append: self.x = x_SD.clone(), or torch.cat((self.x, x_SD)); then rows = self.x[:stop]; "
        "order = rows.abs().argsort(dim=-1, descending=True, stable=True); keep = "
        "torch.zeros_like(rows, dtype=torch.bool).scatter(-1, order[:, :n_keep], True); "
        "self.x[:stop] = rows * keep.",
    ),
    wrong=(
        Wrong(given.NothingBeforeZero, "x[:-window] is empty when the window is 0, so nothing is "
              "pruned. Count from the front: x[:len(x) - window]."),
        Wrong(given.ShortTextPruned, "len(x) - window is below 0 for a short text, and a negative "
              "stop counts from the end: rows inside the window are pruned. Use max(0, ...)."),
        Wrong(given.NoWindow, "there is no window: the latest tokens are pruned as well."),
        Wrong(given.OneTooFew, "the window is one token too short."),
        Wrong(given.OneTooMany, "the window is one token too long."),
        Wrong(given.OneRowLeaves, "only one row is pruned in each append. When S tokens come at "
              "once, S leave."),
        Wrong(given.PromptOnly, "pruning happens once, after the first append. Tokens that leave "
              "the window later stay dense for ever."),
        Wrong(given.WindowOfEachChunk, "each chunk has a window of its own, so tokens that an "
              "earlier chunk protected are never pruned. The window is at the end of the text."),
        Wrong(given.SignedSize, "the largest elements stay, and not the largest in size: -5 goes "
              "before 0.1."),
        Wrong(given.PerColumn, "each column keeps its n_keep largest. Here each row does: a row is "
              "a token."),
        Wrong(given.AnyOfEquals, "of equal sizes any one stays: topk promises no order among "
              "equals. The first should stay: sort with argsort(..., stable=True)."),
        Wrong(given.AllOfEquals, "everything that is as large as the n_keep-th stays, so a row "
              "with equal sizes keeps more. Count places, do not compare values."),
    ),
    second=given.SECOND_WINDOW,
)  # fmt: skip


# --- 10.4 which tokens stay ---------------------------------------------------------------------


def _tokens_case(rng: random.Random) -> Case:
    n_groups, sinks, recent = rng.sample([2, 3, 4], 3)
    heavy = rng.randint(2, 4)
    n_tokens = sinks + recent + recent + heavy + rng.randint(1, 3)
    ties_GT = _with_ties(rng, n_groups, n_tokens)
    ties_GT[0] = 0  # a head in which nobody got any attention
    ties_GT[1, :sinks] = 3  # and one in which the sinks got most
    return {
        "mass_GT": _normal(rng, n_groups, n_tokens).abs(),
        "budget": sinks + recent + heavy,
        "sinks": sinks,
        "recent": recent,
        "_ties": ties_GT,
    }


def _chosen(mass_GT: Tensor, budget: int, sinks: int, recent: int) -> Tensor:
    """Protected tokens, then the heaviest of the others one after the other."""
    n_groups, n_tokens = mass_GT.shape
    keep = torch.zeros(n_groups, n_tokens, dtype=torch.bool)
    for g in range(n_groups):
        safe = [t for t in range(n_tokens) if t < sinks or t >= n_tokens - recent]
        others = [t for t in range(n_tokens) if t not in safe]
        best = _first_best([float(mass_GT[g, t]) for t in others], budget - len(safe))
        keep[g, safe + [others[i] for i in best]] = True
    return keep


def _on(mass: Callable[[Case], Tensor]) -> tuple[Callable, Callable]:
    """Run and expectation on another mass than the case's."""

    def run(answer: Answer, case: Case) -> Outcome:
        return {"keep_GT": answer(mass(case), case["budget"], case["sinks"], case["recent"])}

    def expect(case: Case, _: Outcome) -> Outcome:
        return {"keep_GT": _chosen(mass(case), case["budget"], case["sinks"], case["recent"])}

    return run, expect


def _endless(case: Case) -> Tensor:
    """Mass without end on every token that is not protected."""
    mass_GT = case["mass_GT"].clone()
    mass_GT[:, case["sinks"] : mass_GT.shape[1] - case["recent"]] = float("inf")
    return mass_GT


def _run_edges(answer: Answer, case: Case) -> Outcome:
    mass_GT, budget = case["mass_GT"], case["budget"]
    n_tokens, too_small = mass_GT.shape[1], case["sinks"] + case["recent"] - 1
    return {
        "with no recent tokens protected, keep_GT": answer(mass_GT, budget, case["sinks"], 0),
        "with no sinks, keep_GT": answer(mass_GT, budget, 0, case["recent"]),
        "with room for all, keep_GT": answer(
            mass_GT, mass_GT.shape[1] + 1, case["sinks"], case["recent"]
        ),
        "raised for a budget of T, and sinks + recent above it": raised_by(
            answer, mass_GT, n_tokens, n_tokens, case["recent"]
        ),
        "raised for a budget under sinks + recent": raised_by(
            answer, mass_GT, too_small, case["sinks"], case["recent"]
        ),
    }


def _expect_edges(case: Case, _: Outcome) -> Outcome:
    mass_GT, budget = case["mass_GT"], case["budget"]
    return {
        "with no recent tokens protected, keep_GT": _chosen(mass_GT, budget, case["sinks"], 0),
        "with no sinks, keep_GT": _chosen(mass_GT, budget, 0, case["recent"]),
        "with room for all, keep_GT": torch.ones_like(mass_GT, dtype=torch.bool),
        "raised for a budget of T, and sinks + recent above it": "nothing",
        "raised for a budget under sinks + recent": "ValueError",
    }


def _run_counts(answer: Answer, case: Case) -> Outcome:
    keep = answer(case["_ties"], case["budget"], case["sinks"], case["recent"])
    shape = tuple(case["_ties"].shape)
    if not isinstance(keep, Tensor) or tuple(keep.shape) != shape:
        raise NotData(f"your code returned no tensor of shape {shape}.")
    return {
        "kept in each head": keep.sum(1).tolist(),
        "sinks kept": keep[:, : case["sinks"]].sum().item(),
        "recent kept": keep[:, -case["recent"] :].sum().item(),
    }


def _expect_counts(case: Case, _: Outcome) -> Outcome:
    n_groups = case["mass_GT"].shape[0]
    return {
        "kept in each head": [case["budget"]] * n_groups,
        "sinks kept": n_groups * case["sinks"],
        "recent kept": n_groups * case["recent"],
    }


TOKENS = Exercise(
    number="10.4",
    title="Which tokens stay",
    name="choose_tokens",
    points=4,
    minutes=20,
    difficulty=2,
    cases=_tokens_case,
    laws=(
        Law("sinks, the recent, and the heaviest of the rest", *_on(lambda case: case["mass_GT"])),
        Law("equal masses: exactly the budget, and the protected are in it", _run_counts,
            _expect_counts),
        Law("equal masses: the older token stays", *_on(lambda case: case["_ties"])),
        Law("no mass is so large that a protected token goes", *_on(_endless)),
        Law("no sinks, nothing recent, room for all, too little room", _run_edges, _expect_edges),
    ),
    hints=(
        "Two kinds of tokens stay for different reasons. Which of them needs a contest, and over "
        "how many places?",
        "safe_T = (place < sinks) | (place >= T - recent), with place = torch.arange(T). The "
        "others compete for budget - safe_T.sum() places: give the safe ones -inf in the "
        "contest, so that they take no place, and join the two masks with |.",
        "order = mass_GT.masked_fill(safe_T, -inf).argsort(dim=-1, descending=True, stable=True); "
        "heavy = zeros.scatter(-1, order[:, :budget - safe_T.sum()], True); return heavy | safe_T. "
        "Before that: all True if budget >= T; ValueError if budget < sinks + recent.",
    ),
    wrong=(
        Wrong(given.large_score, "protected tokens get a large number added to their mass. A mass "
              "that is larger still evicts them: protect by a mask, not by a score."),
        Wrong(given.fixed_large_score, "protected tokens get one large number for a mass. An "
              "infinite mass still evicts them: protect by a mask, not by a score."),
        Wrong(given.above_the_largest, "protected tokens win by a score, infinity or the largest "
              "mass + 1. When another mass is infinite that is no more: a tie decides. Protect by "
              "a mask."),
        Wrong(given.nothing_protected, "nothing is protected: the heaviest tokens of all stay."),
        Wrong(given.budget_without_protected, "the budget counts the heavy ones alone, and the "
              "protected ones come on top. It counts everything that a head keeps."),
        Wrong(given.protected_compete, "protected tokens take part in the contest, and a place "
              "that one of them wins is lost: heads keep less than the budget. Take them out of "
              "it first."),
        Wrong(given.hidden_by_zero, "protected tokens get mass 0 in the contest, and so may others "
              "have: of equals the older wins, which can be a sink. Hide them with -inf."),
        Wrong(given.protected_on_top, "the heaviest of all tokens are chosen first and the "
              "protected ones added: heads keep more than the budget. Choose among the others."),
        Wrong(given.heads_together, "all heads keep the same tokens, those with the most mass in "
              "all. Each head has a choice of its own."),
        Wrong(given.minus_zero, "keep[:, -recent:] is everything when recent is 0."),
        Wrong(given.small_budget_taken, "a budget smaller than sinks + recent is accepted. It "
              "cannot be kept, so raise ValueError."),
        Wrong(given.refuses_too_early, "a budget of at least T raises when sinks + recent are more "
              "than that. With room for all, everything stays: ask for that first."),
        Wrong(given.heavy_by_threshold, "everything as heavy as the last that fits stays, so equal "
              "masses exceed the budget."),
        Wrong(given.newer_of_equals, "of equal masses the newer token stays. The older should."),
        Wrong(given.any_heavy_of_equals, "of equal masses any one stays: topk promises no order "
              "among equals. The older should: sort with argsort(..., stable=True)."),
    ),
    second=given.SECOND_TOKENS,
)  # fmt: skip


# --- 10.5 beat magnitude ------------------------------------------------------------------------

_BAR, _CLEAR = 0.5, 0.3
_BASELINES = (given.by_magnitude, given.by_chance)


def _beat_case(rng: random.Random) -> Case:
    """A head on which inputs tell clearly: in one draw of twenty chance hides it, and it is left.

    Without this, one right answer of forty was above the bar on one of its cases.
    """
    while True:
        case = _head_with_outliers(rng)
        losses = (_loss(case, *choose(*_seen(case))) for choose in _BASELINES)
        if _loss(case, *given.by_product(*_seen(case))) <= _CLEAR * min(losses):
            return case


def _seen(case: Case) -> tuple[Any, ...]:
    return case["k_TD"], case["v_TD"], case["q_RWD"], case["n"]


def _head_with_outliers(rng: random.Random) -> Case:
    """A head with outlier channels that no query asks for, and loud values that nobody looks at.

    Later queries are drawn as the latest were: around one direction, with a turn for each head.
    """
    n_heads, n_queries = rng.choice([2, 3]), rng.choice([6, 8])
    n_tokens, width = rng.choice([36, 44]), rng.choice([12, 16])
    k_TD, v_TD = _normal(rng, n_tokens, width), _normal(rng, n_tokens, width)
    channels = rng.sample(range(width), width // 2)
    loud = rng.sample(range(n_tokens), n_tokens // 2)
    want_RD = 2.5 * _normal(rng, 1, width) + 0.5 * _normal(rng, n_heads, width)
    want_RD[:, channels] = 0
    spread_D = torch.full((width,), 0.5, dtype=torch.float64)
    spread_D[channels] = 0.05
    k_TD[:, channels] *= 4
    k_TD[loud] -= 0.4 * want_RD.mean(0)
    v_TD[loud] *= 2.5
    queries = want_RD[:, None] + spread_D * _normal(rng, n_heads, 2 * n_queries, width)
    return {
        "k_TD": k_TD,
        "v_TD": v_TD,
        "q_RWD": queries[:, :n_queries],
        "n": round(0.4 * n_tokens * width),
        "_later": queries[:, n_queries:],
    }


def _outputs(k_TD: Tensor, v_TD: Tensor, q_RWD: Tensor) -> Tensor:
    return (q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5).softmax(-1) @ v_TD


def _loss(case: Case, keep_k: Tensor, keep_v: Tensor) -> float:
    """Relative error of attention's output for the later queries."""
    k_TD, v_TD, later = case["k_TD"], case["v_TD"], case["_later"]
    dense = _outputs(k_TD, v_TD, later)
    return float((_outputs(k_TD * keep_k, v_TD * keep_v, later) - dense).norm() / dense.norm())


def _masks(answer: Answer, case: Case) -> list[Tensor]:
    masks = answer(case["k_TD"], case["v_TD"], case["q_RWD"], case["n"])
    shape = tuple(case["k_TD"].shape)
    well_formed = isinstance(masks, list) and len(masks) == 2
    if not well_formed or not all(
        isinstance(m, Tensor) and tuple(m.shape) == shape and m.dtype == torch.bool for m in masks
    ):
        raise NotData(f"your code returned something else than two masks (True, False) of {shape}.")
    return masks


def _run_exact(answer: Answer, case: Case) -> Outcome:
    keep_k, keep_v = _masks(answer, case)
    return {"kept of the keys": int(keep_k.sum()), "kept of the values": int(keep_v.sum())}


def _beats(what: str, baseline) -> Law:
    name = f"error for later queries, as a share of that of {what}"

    def run(answer: Answer, case: Case) -> Outcome:
        theirs = _loss(case, *baseline(*_seen(case)))
        return {name: _loss(case, *_masks(answer, case)) / theirs}

    return Law(f"better than {what}", run, lambda case, _: {name: AtMost(_BAR)})


BEAT = Exercise(
    number="10.5",
    title="Beat magnitude",
    name="choose",
    points=6,
    minutes=30,
    difficulty=3,
    cases=_beat_case,
    laws=(
        Law("exactly n elements of each half stay", _run_exact,
            lambda case, _: {"kept of the keys": case["n"], "kept of the values": case["n"]}),
        _beats("random elements", given.by_chance),
        _beats("magnitude", given.by_magnitude),
    ),
    hints=(
        "In these caches some channels of K are large, and no query asks for them. What do you "
        "have that says so?",
        "Nothing says that each row must keep equally many, or each column. One contest over the "
        "whole matrix, by |element x input|, uses the n best wherever they are.",
        "q_D = q_RWD.abs().mean((0, 1)) and a_T = (q_RWD @ k_TD.T / D**0.5).softmax(-1).mean((0, "
        "1)). Scores: k_TD.abs() * q_D and v_TD.abs() * a_T[:, None]. Mark the n largest of each: "
        "score.flatten().argsort(descending=True, stable=True)[:n], then view_as.",
    ),
    wrong=(
        Wrong(given.by_magnitude, "this is magnitude: the element alone. The channels of K that "
              "are large here are those that no query asks for."),
        Wrong(given.by_chance, "this is chance; nothing is looked at."),
        Wrong(given.only_keys_aware, "only the keys are weighed by their input; the values go by "
              "size, and the loud ones here are those that nobody looks at."),
        Wrong(given.only_values_aware, "only the values are weighed by their input; the keys go by "
              "size."),
        Wrong(given.wrong_inputs, "the inputs are swapped: a key meets the query's channel, a "
              "value meets its token's attention."),
        Wrong(given.masks_swapped, "the two masks are in the other order: the one for the keys "
              "comes first."),
        Wrong(given.same_in_each_row, "each row keeps equally many, which makes fewer than n in "
              "all. Let all elements of the matrix compete for the n places."),
        Wrong(given.signed_products, "products keep their sign, so the large negative ones go "
              "first."),
        Wrong(given.keeps_too_much, "everything stays. Exactly n elements of each half may."),
    ),
    second=given.SECOND_BEAT,
)  # fmt: skip


# --- 10.6 claims --------------------------------------------------------------------------------

CLAIMS = claims(
    number="10.6",
    title="Nine claims about pruning",
    name="claims_about_pruning",
    points=3,
    minutes=5,
    difficulty=1,
    right=(True, False, True, False, True, True, False, False, False),
    wrong=(
        "claim 1: 0.8 x 0.1 = 0.08 is less than 0.3 x 0.9 = 0.27, so the 0.8 goes.",
        "claim 2: magnitude looks at the element alone, and 0.3 is smaller than 0.8.",
        "claim 3: inside a token's row of V all elements have the same input, its attention "
        "weight.",
        "claim 4: inside a token's row of K each channel has an input of its own, so the order can "
        "change.",
        "claim 5: inside a channel of K all tokens have the same input, the query's channel.",
        "claim 6: the products of a key's row are added up to its logit; the softmax comes after.",
        "claim 7: -0.9 is large in size. Dropping it moves the sum by 0.9.",
        "claim 8: its logit becomes 0, and the softmax of 0 is not 0. Only a token that is taken "
        "out, or hidden, gets none.",
        "claim 9: in some of the chapter's twenty sentences the most attended token was not the "
        "most missed one. One such sentence is enough.",
    ),
    hints=(
        "The first five are about inputs: is there one for the whole row, or column, that "
        "competes?",
        "For 7, drop each product from a sum and look at what is left. For 8, put a zero key into "
        "q . k.",
        "Claims 2, 4 and three of the last four are false.",
    ),
    because="All nine are right: the first five follow from which input a row or column shares.",
)

EXERCISES = (TWO_DIRECTIONS, WORTH, WINDOW, TOKENS, BEAT, CLAIMS)
