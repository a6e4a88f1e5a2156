"""Chapter 11, "Zeros are not free": its exercises and how they are judged.

B rows of the batch, G key/value heads, R query heads that share one, T slots, D head width, N kept
tokens, channels or numbers, X bytes of a row's bitmap.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from kvlab.course import ch11_answers as answers
from kvlab.course.author.compare import AtMost
from kvlab.course.author.spec import Case, Exercise, Law, Outcome, Wrong, agrees, claims, named
from kvlab.course.sandbox.answer import Answer, Lent


def _normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    torch_rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=torch_rng, dtype=torch.float64).to(dtype)


# --- 11.1 measure it --------------------------------------------------------------------------


class Race(Lent):
    """Two workloads on a made-up machine: `run("slow")` and `run("fast")` give seconds.

    Only what the kind says happens to the times, so the truth is known.
    """

    lends = ("run",)

    def __init__(self, kind: str, seed: int) -> None:
        self._kind, self._rng = kind, random.Random(seed)
        self.runs = {"slow": 0, "fast": 0}
        self.order: list[str] = []

    def run(self, name: str) -> float:
        if name not in self.runs:
            raise ValueError(f'run("slow") and run("fast") are there; not {name!r}')
        index = sum(self.runs.values())
        seconds = self._base(name, index) * self._rng.uniform(0.98, 1.02)
        self.runs[name] += 1
        self.order.append(name)
        return seconds

    def plan(self, pairs: int) -> str:
        """What was run before the pairs, and what went first in them.

        Verdicts alone do not tell two mistakes apart; how somebody measured does.
        """
        n_before = max(0, len(self.order) - 2 * pairs)
        before = ", ".join(sorted(set(self.order[:n_before])))
        timed = self.order[n_before:]
        made = [timed[i : i + 2] for i in range(0, len(timed), 2)]
        if any(len(set(pair)) < 2 for pair in made):
            return f"{before}; no pairs"
        if all(a == b for a, b in pairwise(made)):
            return f"{before}; same order"
        turned = all(a == b[::-1] for a, b in pairwise(made))
        return f"{before}; {'in turn' if turned else 'in some order'}"

    def _base(self, name: str, index: int) -> float:
        first = self.runs[name] == 0
        gain = RATIOS[self._kind]
        seconds = 0.01 if name == "fast" else 0.01 * gain
        if self._kind == "compiles when it is first run" and first and name == "fast":
            seconds *= 500
        if self._kind == "no faster, on a machine that speeds up":
            seconds *= 0.8**index
        if self._kind == "no faster, every other run is disturbed":
            seconds *= 1 + 2 * (index % 2 == 0)
        if self._kind.endswith("stopped once") and self.runs[name] == 2:
            seconds *= 100 if (name == "fast") == (gain > 1) else 1
        if self._kind == "three times as fast, but only every other time" and name == "fast":
            seconds *= 1 + 8 * (self.runs[name] % 2)
        return seconds


# what the second is worth, undisturbed; at least 1.5 times as fast is asked for
RATIOS = {
    "three times as fast": 3.0,
    "no faster": 1.0,
    "a little faster": 1.25,
    "slower": 0.5,
    "compiles when it is first run": 3.0,
    "no faster, on a machine that speeds up": 1.0,
    "no faster, every other run is disturbed": 1.0,
    "three times as fast, but only every other time": 3.0,
    "three times as fast, stopped once": 3.0,
    "no faster, stopped once": 1.0,
}


def _truth(kind: str, pairs: int, at_least: float) -> str:
    fast = RATIOS[kind] >= at_least
    agree = (pairs - 1) / pairs if "once" in kind else 0.5 if "every other" in kind else 1.0
    if agree < 0.8:
        return "too noisy"
    return "faster" if fast else "not faster"


def _race_case(rng: random.Random) -> Case:
    return {
        "pairs": rng.choice([3, 4]),
        "at_least": 1.5,
        "_kinds": rng.sample(list(RATIOS), len(RATIOS)),
        "_seed": rng.randrange(2**31),
    }


def _races(answer: Answer, case: Case, kinds: Sequence[str], pairs: int) -> Outcome:
    seen: Outcome = {}
    for i, kind in enumerate(kinds):
        race = Race(kind, case["_seed"] + i)
        seen[f"verdict of {pairs} pairs on: {kind}"] = answer(race, pairs, case["at_least"])
        seen["_plan"] = race.plan(pairs)
    return seen


def _run_races(answer: Answer, case: Case) -> Outcome:
    return _races(answer, case, case["_kinds"], case["pairs"])


def _expect_races(case: Case, _outcome: Outcome) -> Outcome:
    return {
        f"verdict of {case['pairs']} pairs on: {kind}": _truth(
            kind, case["pairs"], case["at_least"]
        )
        for kind in case["_kinds"]
    }


# Four of five pairs are 80 %, one of five is 20 %.
_AT_THE_BOUNDS = ("three times as fast, stopped once", "no faster, stopped once")


def _run_bounds_of_share(answer: Answer, case: Case) -> Outcome:
    return _races(answer, case, _AT_THE_BOUNDS, 5)


def _expect_bounds_of_share(case: Case, _outcome: Outcome) -> Outcome:
    return {f"verdict of 5 pairs on: {k}": _truth(k, 5, case["at_least"]) for k in _AT_THE_BOUNDS}


def _run_count(answer: Answer, case: Case) -> Outcome:
    race = Race("no faster", case["_seed"])
    answer(race, case["pairs"], case["at_least"])
    return {f"runs of {name}": n for name, n in race.runs.items()}


def _expect_count(case: Case, _outcome: Outcome) -> Outcome:
    return {f"runs of {name}": AtMost(case["pairs"] + 1) for name in ("slow", "fast")}


MEASURE = Exercise(
    number="11.1",
    title="Measure it",
    name="compare",
    points=4,
    minutes=20,
    difficulty=2,
    cases=_race_case,
    size=lambda case: case["pairs"],
    laws=(
        Law("each workload gets the right verdict", _run_races, _expect_races),
        Law("80 % of 5 pairs is enough, and so is 20 %", _run_bounds_of_share,
            _expect_bounds_of_share),
        Law("one run to warm up and one in each pair", _run_count, _expect_count),
    ),
    hints=(
        "What happens to times that are taken first, and to those that are taken last? Who goes "
        "first in each pair?",
        "Run both once and forget the times. Then, in every other pair, run the fast one first. "
        "Make one ratio of each pair, and count the ratios that reach at_least.",
        'race.run("slow"); race.run("fast"). For i in range(pairs): order = ("slow", "fast") if i '
        '% 2 == 0 else ("fast", "slow"); seconds = {name: race.run(name) for name in order}; held '
        '+= seconds["slow"] / seconds["fast"] >= at_least. Then compare held / pairs with 0.8 and '
        "0.2.",
    ),
    wrong=(
        Wrong(answers.compare_in_blocks, "all runs of one come before all runs of the other, so a "
              "machine that gets quicker on the way makes the second look faster. Run in pairs."),
        Wrong(answers.compare_cold, "nothing is run before the clock starts, so whoever compiles "
              "at the first run pays for it in a pair."),
        Wrong(answers.compare_warms_one, "only one of the two is run before the clock starts. The "
              "other one may compile at its first run, and pays for it in a pair."),
        Wrong(answers.compare_same_order, "the same one goes first in every pair, so whatever "
              "disturbs every other run always disturbs the same one. Turn the order round."),
        Wrong(answers.compare_totals, "times are added up and divided once, which leaves one "
              "ratio, and a single ratio never says that it cannot tell."),
        Wrong(answers.compare_median, "the median is compared with the bound, and nobody asks "
              "whether the pairs agree: the verdict can never be \"too noisy\"."),
        Wrong(answers.compare_never_noisy, "the function never says \"too noisy\": what is not "
              "faster need not be \"not faster\" either."),
        Wrong(answers.compare_cut_off, "the number of pairs is cut off: int(0.8 * 3) is 2, and 2 "
              "of 3 pairs are less than 80 %. Compare with 0.8 * pairs as it is."),
        Wrong(answers.compare_more_than, "exactly 80 %, or exactly 20 %, counts as too noisy. \"At "
              "least\" is >=, \"at most\" is <=."),
        Wrong(answers.compare_upside_down, "the ratio is upside down: seconds of the slow one over "
              "seconds of the fast one says how many times as fast."),
        Wrong(answers.compare_any_gain, "any ratio above 1 counts as faster. at_least times as "
              "fast was asked for."),
    ),
    second=answers.SECOND_COMPARE,
)  # fmt: skip


# --- 11.2 compact evicted tokens --------------------------------------------------------------


def _compact_case(rng: random.Random) -> Case:
    """Heads keep different numbers of tokens; slot 0 goes everywhere, so slots must move."""
    batch, n_groups = rng.sample([2, 3], 2)
    n_slots, width = rng.randint(7, 12), rng.choice([4, 5, 6])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    counts = [2, 3, 4, 5, 6]
    keep_BGT = torch.zeros(batch, n_groups, n_slots, dtype=torch.bool)
    for b in range(batch):
        for g in range(n_groups):
            n = counts[(b * n_groups + g) % len(counts)]
            keep_BGT[b, g, 1 + torch.randperm(n_slots - 1, generator=torch_rng)[:n]] = True
    step_BGT = torch.randint(1, 3, (batch, n_groups, n_slots), generator=torch_rng)
    shape = (batch, n_groups, n_slots, width)
    return {
        "k_BGTD": _normal(rng.randrange(2**31), *shape),
        "v_BGTD": _normal(rng.randrange(2**31), *shape),
        "pos_BGT": step_BGT.cumsum(-1) - 1,  # something was evicted before
        "keep_BGT": keep_BGT,
        "_q_seed": rng.randrange(2**31),
    }


_COMPACT = ("k_BGTD", "v_BGTD", "pos_BGT", "keep_BGT")


def compact_reference(k_BGTD: Tensor, v_BGTD: Tensor, pos_BGT: Tensor, keep_BGT: Tensor):
    """One token after the other."""
    batch, n_groups, _, width = k_BGTD.shape
    most = int(keep_BGT.sum(-1).max())
    k_new, v_new = k_BGTD.new_zeros(2, batch, n_groups, most, width)
    pos_new = torch.full((batch, n_groups, most), -1)
    for b in range(batch):
        for g in range(n_groups):
            for to, t in enumerate(keep_BGT[b, g].nonzero().flatten().tolist()):
                k_new[b, g, to], v_new[b, g, to] = k_BGTD[b, g, t], v_BGTD[b, g, t]
                pos_new[b, g, to] = pos_BGT[b, g, t]
    return k_new, v_new, pos_new


def _attend(q_BGD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, seen_BGT: Tensor) -> Tensor:
    scores_BGT = (k_BGTD @ q_BGD[..., None])[..., 0] * q_BGD.shape[-1] ** -0.5
    weights_BGT = scores_BGT.masked_fill(~seen_BGT, float("-inf")).softmax(-1)
    return (weights_BGT[:, :, None] @ v_BGTD)[:, :, 0]


def _run_attention(answer: Answer, case: Case) -> Outcome:
    got = named(answer(*(case[name] for name in _COMPACT)), "k_BGTD", "v_BGTD", "pos_BGT")
    k, v, pos = got.values()
    batch, n_groups, _, width = case["k_BGTD"].shape
    q_BGD = _normal(case["_q_seed"], batch, n_groups, width)
    return {"attention over what is left, out_BGD": _attend(q_BGD, k, v, pos >= 0)}


def _expect_attention(case: Case, _outcome: Outcome) -> Outcome:
    batch, n_groups, _, width = case["k_BGTD"].shape
    q_BGD = _normal(case["_q_seed"], batch, n_groups, width)
    out_BGD = _attend(q_BGD, case["k_BGTD"], case["v_BGTD"], case["keep_BGT"])
    return {"attention over what is left, out_BGD": out_BGD}


COMPACT = Exercise(
    number="11.2",
    title="Compact evicted tokens",
    name="compact",
    points=4,
    minutes=20,
    difficulty=2,
    cases=_compact_case,
    laws=(
        agrees(
            "slots move to the front, positions and order stay", compact_reference, *_COMPACT,
            gives=("k_BGTD", "v_BGTD", "pos_BGT"),
        ),
        Law("attention is that of a mask over all slots", _run_attention, _expect_attention),
    ),
    hints=(
        "How many slots does the result need, when heads keep different numbers of tokens? And "
        "which order do the kept ones have to be in?",
        "A stable argsort of ~keep_BGT puts the kept slots first, in the order they had. The "
        "result is as long as the fullest head; a head that keeps fewer has empty slots.",
        "order = (~keep_BGT).byte().argsort(dim=-1, stable=True)[..., :most]; stays = "
        "torch.arange(most) < keep_BGT.sum(-1, keepdim=True). Positions: pos_BGT.gather(-1, "
        "order).where(stays, -1). Keys: k_BGTD.gather(2, order[..., None].expand(-1, -1, -1, D)), "
        "times stays[..., None] for the zeros.",
    ),
    wrong=(
        Wrong(answers.compact_by_view, "heads keep different numbers of tokens, so what is kept is "
              "no rectangle. The chapter's x[keep].view(B, G, -1, D) works only when all keep "
              "equally many."),
        Wrong(answers.compact_leftovers, "empty slots still hold evicted tokens, with their "
              "positions. Put 0 into their keys and values and -1 into their positions."),
        Wrong(answers.compact_leftover_keys, "empty slots still hold keys and values of evicted "
              "tokens. They should be 0."),
        Wrong(answers.compact_slot_for_position, "pos_BGT is not moved: each position is the slot "
              "that the token had. Something was evicted before, so slot and position differ."),
        Wrong(answers.compact_keeps_what_should_go, "the tokens that should go are kept. True in "
              "keep_BGT means that a token stays."),
        Wrong(answers.compact_no_shorter, "the result is as long as before, with empty slots at "
              "the end. It needs as many as the fullest head keeps."),
        Wrong(answers.compact_renumbers, "positions are counted anew. A key was turned by the "
              "position it had, and keeps it; only its slot changes."),
        Wrong(answers.compact_loses_order, "the kept tokens are in another order than they were: "
              "sort what stays by slot."),
        Wrong(answers.compact_keys_only, "keys move and values do not, so weights meet the values "
              "of other tokens."),
        Wrong(answers.compact_one_head_for_all, "the first head's choice is used for all heads. "
              "Each head keeps tokens of its own."),
        Wrong(answers.compact_masks_only, "evicted tokens are zeroed where they stand. Nothing is "
              "smaller, and a zero key still takes part in the softmax."),
        Wrong(answers.compact_empty_at_zero, "empty slots claim position 0, so a mask made from "
              "positions lets them be seen. Empty is -1."),
        Wrong(answers.compact_cuts_to_fewest, "the result is as short as the head that keeps the "
              "fewest, and the others lose tokens they wanted to keep."),
    ),
    second=answers.SECOND_COMPACT,
)  # fmt: skip


# --- 11.3 narrow keys ---------------------------------------------------------------------------


def _narrow_case(rng: random.Random) -> Case:
    batch, n_groups, n_shared = rng.sample([2, 3, 4], 3)
    n_slots, width = rng.randint(5, 7), rng.choice([8, 10, 12])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    score_BGD = torch.stack(
        [torch.randperm(width, generator=torch_rng) for _ in range(batch * n_groups)]
    ).view(batch, n_groups, width)
    return {
        "q_BGRD": _normal(rng.randrange(2**31), batch, n_groups, n_shared, width),
        "k_BGTD": _normal(rng.randrange(2**31), batch, n_groups, n_slots, width),
        "v_BGTD": _normal(rng.randrange(2**31), batch, n_groups, n_slots, width),
        "score_BGD": score_BGD + _normal(rng.randrange(2**31), *score_BGD.shape).sigmoid(),
        "n": width // 2 - 1,
    }


_NARROW = ("q_BGRD", "k_BGTD", "v_BGTD", "score_BGD")


def narrow_reference(q_BGRD, k_BGTD, v_BGTD, score_BGD, n):
    """Head by head; the output is attention over keys with zeros in the channels that go."""
    batch, n_groups, n_slots, width = k_BGTD.shape
    narrow_BGTN = k_BGTD.new_zeros(batch, n_groups, n_slots, n)
    zeroed_BGTD = torch.zeros_like(k_BGTD)
    for b in range(batch):
        for g in range(n_groups):
            ranked = sorted(range(width), key=lambda d: -float(score_BGD[b, g, d]))
            for place, d in enumerate(sorted(ranked[:n])):
                narrow_BGTN[b, g, :, place] = k_BGTD[b, g, :, d]
                zeroed_BGTD[b, g, :, d] = k_BGTD[b, g, :, d]
    out_BGRD = torch.nn.functional.scaled_dot_product_attention(q_BGRD, zeroed_BGTD, v_BGTD)
    return narrow_BGTN, out_BGRD


def _run_all_channels(answer: Answer, case: Case) -> Outcome:
    width = case["k_BGTD"].shape[-1]
    got = answer(*(case[name] for name in _NARROW), width)
    k, out = named(got, "narrow_BGTN", "out_BGRD").values()
    return {"all channels kept, k_BGTD": k, "all channels kept, out_BGRD": out}


def _expect_all_channels(case: Case, _outcome: Outcome) -> Outcome:
    q, k, v = (case[name] for name in _NARROW[:3])
    return {
        "all channels kept, k_BGTD": k,
        "all channels kept, out_BGRD": torch.nn.functional.scaled_dot_product_attention(q, k, v),
    }


NARROW = Exercise(
    number="11.3",
    title="Narrow keys",
    name="narrow_attention",
    points=3,
    minutes=15,
    difficulty=2,
    cases=_narrow_case,
    laws=(
        agrees(
            "narrower keys, and the output of zeroed ones", narrow_reference, *_NARROW, "n",
            gives=("narrow keys, k_BGTD", "out_BGRD"),
        ),
        Law("with all channels kept it is plain attention", _run_all_channels,
            _expect_all_channels),
    ),
    hints=(
        "A product of a query and a key adds up over channels. If a key has fewer channels, what "
        "must the query have?",
        "channels = score_BGD.topk(n).indices.sort().values, then gather along the last axis, of "
        "keys and of queries. The values stay as they are.",
        "index = channels[:, :, None]; narrow = k_BGTD.gather(-1, index.expand(-1, -1, T, -1)); q "
        "= q_BGRD.gather(-1, index.expand(-1, -1, R, -1)); scores = q @ narrow.mT / D**0.5, with D "
        "the full width; softmax, then @ v_BGTD.",
    ),
    wrong=(
        Wrong(answers.narrow_query_not_gathered, "the query is cut to its first n channels, so it "
              "meets other channels of the key than its own."),
        Wrong(answers.narrow_scale_by_kept, "scores are divided by the root of the kept width. The "
              "scale belongs to the model, which was trained with all D channels."),
        Wrong(answers.narrow_not_scaled, "scores are not divided by the root of D."),
        Wrong(answers.narrow_by_score, "the channels are in the order of their scores, as topk "
              "gives them. Sort them: ascending order was asked for."),
        Wrong(answers.narrow_heads_together, "all heads of a row keep the same channels, those "
              "with the highest scores in all. Each head has a choice of its own."),
        Wrong(answers.narrow_all_together, "all rows and heads keep the same channels, those with "
              "the highest scores in all. Each head of each row has a choice of its own."),
        Wrong(answers.narrow_values_too, "the values lose channels as well. They are the output: "
              "only keys and queries get narrower."),
        Wrong(answers.narrow_one_head_for_all, "the first head's channels are used for all heads."),
        Wrong(answers.narrow_keeps_lowest, "the channels with the lowest scores are kept."),
        Wrong(answers.narrow_only_zeroes, "channels are zeroed, not dropped: the keys are as wide "
              "as before, and nothing is saved."),
        Wrong(answers.narrow_order_differs, "keys hold their channels in the order of the scores "
              "and queries in ascending order, so channels meet strangers."),
        Wrong(answers.narrow_first_row_for_all, "the first row's channels are used for the whole "
              "batch."),
    ),
    second=answers.SECOND_NARROW,
)  # fmt: skip


# --- 11.4 packed rows -----------------------------------------------------------------------------


def _pack_case(rng: random.Random) -> Case:
    width, dtype = rng.choice([(32, torch.float32), (64, torch.float32), (64, torch.float64)])
    n_tokens = rng.randint(2, 6)
    return {
        "x_TD": _normal(rng.randrange(2**31), n_tokens, width, dtype=dtype),
        "n": rng.randint(3, width // 2 - 1),
        "_other": rng.randrange(2**31),
    }


def _packed(answer: Answer, case: Case):
    return answer.make(case["x_TD"], case["n"])


def _kept_TN(case: Case) -> Tensor:
    return case["x_TD"].abs().topk(case["n"], -1).indices.sort(-1).values


def _run_stored(answer: Answer, case: Case) -> Outcome:
    packed = _packed(answer, case)
    return {"values, x_TM": packed.call("values"), "marks, x_TX": packed.call("marks")}


def _expect_stored(case: Case, _outcome: Outcome) -> Outcome:
    marks_TX = torch.zeros(len(case["x_TD"]), case["x_TD"].shape[1] // 8, dtype=torch.uint8)
    for t, row in enumerate(_kept_TN(case).tolist()):
        for d in row:
            marks_TX[t, d // 8] += 2 ** (d % 8)
    return {"values, x_TM": case["x_TD"].gather(-1, _kept_TN(case)), "marks, x_TX": marks_TX}


def _other(case: Case) -> Case:
    """Other rows of the same width and type: more of them, and more numbers kept."""
    n_tokens, width = case["x_TD"].shape
    x_TD = _normal(case["_other"], n_tokens + 1, width, dtype=case["x_TD"].dtype)
    return {"x_TD": x_TD, "n": case["n"] + 1}


def _run_unpack(answer: Answer, case: Case) -> Outcome:
    """Only from values and marks: those of other rows tell whether the dense ones were kept."""
    packed, seen = _packed(answer, case), {}
    for whose, rows in (("its own", case), ("other", _other(case))):
        x_TD = packed.call("unpack", *_expect_stored(rows, {}).values())
        seen[f"{whose} rows unpacked, x_TD"] = x_TD
        seen[f"type of {whose} rows unpacked"] = str(getattr(x_TD, "dtype", type(x_TD).__name__))
    return seen


def _expect_unpack(case: Case, _outcome: Outcome) -> Outcome:
    want: Outcome = {}
    for whose, rows in (("its own", case), ("other", _other(case))):
        x_TD = rows["x_TD"]
        kept_TD = torch.zeros_like(x_TD, dtype=torch.bool).scatter_(-1, _kept_TN(rows), True)
        want[f"{whose} rows unpacked, x_TD"] = x_TD.where(kept_TD, 0)
        want[f"type of {whose} rows unpacked"] = str(x_TD.dtype)
    return want


def _run_again(answer: Answer, case: Case) -> Outcome:
    """Packing what was unpacked."""
    first = _packed(answer, case)
    values_TN, marks_TX = first.call("values"), first.call("marks")
    second = answer.make(first.call("unpack", values_TN, marks_TX), case["n"])
    return {
        "packed again, values x_TM": second.call("values"),
        "packed again, marks x_TX": second.call("marks"),
        "_values": values_TN,
        "_marks": marks_TX,
    }


def _expect_again(case: Case, outcome: Outcome) -> Outcome:
    return {
        "packed again, values x_TM": outcome["_values"],
        "packed again, marks x_TX": outcome["_marks"],
    }


def _expect_bytes(case: Case, _outcome: Outcome) -> Outcome:
    n_tokens, width = case["x_TD"].shape
    return {"nbytes": n_tokens * (case["n"] * case["x_TD"].itemsize + width // 8)}


def _expect_most(case: Case, _outcome: Outcome) -> Outcome:
    width, size = case["x_TD"].shape[1], case["x_TD"].itemsize
    return {"most_kept": max(n for n in range(width) if n * size + width // 8 < width * size)}


PACKED = Exercise(
    number="11.4",
    title="Packed rows",
    name="PackedRows",
    points=5,
    minutes=30,
    difficulty=3,
    cases=_pack_case,
    laws=(
        Law("values in the row's order, marks bit by bit", _run_stored, _expect_stored),
        Law("unpack gives the rows of any values and marks, with zeros", _run_unpack,
            _expect_unpack),
        Law("packing again changes nothing", _run_again, _expect_again),
        Law("bytes, marks included",
            lambda answer, case: {"nbytes": _packed(answer, case).call("nbytes")}, _expect_bytes),
        Law("how many may stay, for a row to be smaller than a dense one",
            lambda answer, case: {"most_kept": _packed(answer, case).call("most_kept")},
            _expect_most),
    ),
    hints=(
        "Three things are to be known of a row: which numbers stay, what they are, and where. "
        "Which of them must be in the row's order, so that unpacking can find its way?",
        "kept = x_TD.abs().topk(n).indices.sort().values gives the places in order. Number j is "
        "bit j % 8 of byte j // 8: build (T, D / 8, 8) booleans, and add them up with weights 1, "
        "2, 4, ... 128. To unpack, take the bits apart the same way; the cumulative sum of a "
        "row's bits says which value belongs there.",
        "bits = zeros(T, D).scatter_(-1, kept, 1).view(T, -1, 8); marks = (bits * 2 ** "
        "torch.arange(8)).sum(-1).to(torch.uint8). unpack: values.new_zeros(T, D).scatter_(-1, "
        "places, values), places from the marks. nbytes: T * (n * x_TD.itemsize + D // 8). "
        "most_kept: the greatest N with N * itemsize + D // 8 < D * itemsize.",
    ),
    wrong=(
        Wrong(answers.MarksReversed, "bits are reversed within each byte: number j is bit j % 8, "
              "counted from the low end."),
        Wrong(answers.ValuesInScoreOrder, "values are in the order of their size. The marks only "
              "say which places are filled, so values must come in the row's order."),
        Wrong(answers.KeepsLargestNotAbsolute, "the largest numbers stay, not the largest in "
              "absolute value: a strong negative one is lost."),
        Wrong(answers.MarksAsNumbers, "each mark takes a whole byte. A byte holds eight of them."),
        Wrong(answers.MarksNotBytes, "the marks are in a wider type: a sum of bits is int64. Turn "
              "them into torch.uint8, or each byte takes eight."),
        Wrong(answers.UnpacksItsOwn, "unpack gives the rows that the object was made of, whatever "
              "values and marks it gets. The dense rows are gone: values and marks are all there "
              "is."),
        Wrong(answers.UnpacksToDouble, "unpack gives another type than that of the values. Make "
              "the zeros with values.new_zeros(...)."),
        Wrong(answers.UnpacksToFloat, "unpack starts with torch.zeros, which is float32 whatever "
              "the values are. Make the zeros with values.new_zeros(...)."),
        Wrong(answers.UnpacksBitsReversed, "unpack takes each byte's bits from the high end. "
              "Number j is bit j % 8, counted from the low end."),
        Wrong(answers.UnpacksToTheFront, "unpack puts the values into a row's first places and "
              "does not look at the marks."),
        Wrong(answers.MarksCountedAsBytes, "the marks are counted as a byte for each number. They "
              "are a bit: D / 8 bytes for a row."),
        Wrong(answers.TwoBytes, "a number is counted as two bytes, as in the chapter's float16. "
              "Here it takes x_TD.itemsize."),
        Wrong(answers.MarksNotCounted, "nbytes counts the values alone. The marks are stored, "
              "too."),
        Wrong(answers.OneRowCounted, "nbytes is that of one row; there are T."),
        Wrong(answers.EqualIsNotSmaller, "most_kept names a row that is just as large as a dense "
              "one. It has to be smaller."),
        Wrong(answers.MarksInNumbers, "nbytes counts the marks as D / 8 numbers. They are D / 8 "
              "bytes."),
    ),
    second=answers.SECOND_PACKED,
)  # fmt: skip


# --- 11.5 evict in blocks -------------------------------------------------------------------------


class Slots(Lent):
    """A cache's memory: `put(slot, token)` writes, `move(start, stop, to)` copies tokens.

    Every token moved is counted; a slot that is not there is refused.
    """

    lends = ("put", "move")

    def __init__(self, capacity: int) -> None:
        self._held: list[int | None] = [None] * capacity
        self.moved = self.written = 0

    def put(self, slot: int, token: int) -> None:
        self._check(slot, slot + 1)
        self._held[slot] = token
        self.written += 1

    def move(self, start: int, stop: int, to: int) -> None:
        self._check(start, stop)
        self._check(to, to + stop - start)
        self._held[to : to + stop - start] = self._held[start:stop]
        self.moved += stop - start

    def first(self, length: int) -> list[int | None]:
        """What the first slots hold."""
        return self._held[: max(0, length)] if type(length) is int else []

    def _check(self, start: int, stop: int) -> None:
        if not all(type(x) is int for x in (start, stop)) or not 0 <= start <= stop:
            raise ValueError(f"slots {start} to {stop} came; expected whole numbers in order")
        if stop > len(self._held):
            raise ValueError(f"slot {stop - 1} came; there are slots 0 to {len(self._held) - 1}")


def _block_case(rng: random.Random) -> Case:
    sinks = rng.randint(1, 3)
    budget, every = sinks + rng.randint(3, 6), rng.randint(2, 5)
    return {
        "budget": budget,
        "sinks": sinks,
        "every": every,
        "n_tokens": budget + every * rng.randint(2, 3) + rng.randint(1, every - 1),
        "_first": 100 * rng.randint(1, 9),
    }


def _run_blocks(answer: Answer, case: Case) -> Outcome:
    slots = Slots(case["budget"] + case["every"])
    cache = answer.make(slots, case["budget"], case["sinks"], case["every"])
    seen: Outcome = {}
    for i in range(case["n_tokens"]):
        length = cache.call("append", case["_first"] + i)
        seen |= _after(i, length, slots.first(length))
    return seen | {"tokens written": slots.written, "tokens moved": slots.moved}


def _after(i: int, length: int, held: Sequence[int | None]) -> Outcome:
    """What an append returned and left behind, entry by entry, so that a message says which."""
    return {f"append number {i + 1} returned": length} | {
        f"after append number {i + 1}, slot {slot} holds token": token
        for slot, token in enumerate(held)
    }


def _expect_blocks(case: Case, _outcome: Outcome) -> Outcome:
    budget, sinks, every = case["budget"], case["sinks"], case["every"]
    held: list[int] = []
    want: Outcome = {}
    moved = 0
    for i in range(case["n_tokens"]):
        held.append(case["_first"] + i)
        if len(held) == budget + every:
            del held[sinks : sinks + every]
            moved += budget - sinks
        want |= _after(i, len(held), held)
    return want | {"tokens written": AtMost(case["n_tokens"]), "tokens moved": AtMost(moved)}


def _run_bounds(answer: Answer, case: Case) -> Outcome:
    """What must hold whichever tokens were chosen: the budget, the sinks, the newest token."""
    slots = Slots(case["budget"] + case["every"])
    cache = answer.make(slots, case["budget"], case["sinks"], case["every"])
    most, kept = 0, True
    for i in range(case["n_tokens"]):
        length = cache.call("append", case["_first"] + i)
        held = slots.first(length)
        most = max(most, len(held))
        early = range(case["_first"], case["_first"] + min(i + 1, case["sinks"]))
        kept = kept and held[-1:] == [case["_first"] + i] and all(token in held for token in early)
    return {"most slots used after a token": most, "sinks and newest are always there": kept}


def _expect_bounds(case: Case, _outcome: Outcome) -> Outcome:
    return {
        "most slots used after a token": AtMost(case["budget"] + case["every"] - 1),
        "sinks and newest are always there": True,
    }


BLOCKS = Exercise(
    number="11.5",
    title="Evict in blocks",
    name="BlockCache",
    points=4,
    minutes=20,
    difficulty=2,
    cases=_block_case,
    laws=(
        Law("the right tokens in the right slots, few of them moved", _run_blocks, _expect_blocks),
        Law("never beyond budget and block; sinks and newest stay", _run_bounds, _expect_bounds),
    ),
    hints=(
        "When is it time to evict? At that moment, which slots are free to go, and which must move "
        "to close the gap?",
        "Evict when budget + every slots are used. The oldest after the sinks go: slots sinks to "
        "sinks + every. What lies behind them moves to slot sinks, in one move.",
        "append: slots.put(self.length, token); self.length += 1; if self.length == budget + "
        "every: slots.move(sinks + every, budget + every, sinks); self.length = budget. Return "
        "self.length.",
    ),
    wrong=(
        Wrong(answers.EveryStep, "a token is evicted at every step once the budget is reached, so "
              "all that is kept moves at every step."),
        Wrong(answers.RecentLost, "the newest tokens go. The oldest ones after the sinks should."),
        Wrong(answers.SinksLost, "the sinks go with the oldest tokens. The first ones stay."),
        Wrong(answers.OneAtATime, "the block is evicted token by token: all that is kept moves "
              "once for each of them, and once is enough."),
        Wrong(answers.SinksMovedToo, "everything is written again, the sinks too, which stay where "
              "they are."),
        Wrong(answers.BeforeTheNext, "a full cache waits for the next token before it evicts. The "
              "append that fills the last slot should evict."),
        Wrong(answers.TooEarly, "eviction comes one token too early: the last slot is never used."),
        Wrong(answers.NewestNotMoved, "the newest token stays behind: the stop of a move is the "
              "slot after the last one."),
        Wrong(answers.OneOfTheBlock, "one token goes and not `every`, so the cache is full again "
              "at once."),
        Wrong(answers.OldLength, "what is returned is the count before eviction. Return how many "
              "slots are used after it."),
        Wrong(answers.TooLate, "eviction starts one token too late, when there is no slot left."),
        Wrong(answers.CutsTooDeep, "a whole budget's tokens go at once, and the cache is left "
              "with fewer tokens than it may keep."),
    ),
    second=answers.SECOND_BLOCKS,
)  # fmt: skip


# --- 11.6 quiz ------------------------------------------------------------------------------------

QUIZ = claims(
    number="11.6",
    title="What is free?",
    name="what_is_true",
    points=4,
    minutes=10,
    difficulty=1,
    right=(False, True, False, False, True, False, True, False),
    wrong=(
        "A product fetches and multiplies every number; it cannot know which are zero.",
        "Minus infinity in the scores changes the weights. Every key is still read to get them.",
        "A zero key has the score 0, and e to the 0 is 1: the token still takes its part of the "
        "softmax.",
        "The marks are stored, too: one bit per number, 1/16 of the dense bytes in float16.",
        "It keeps 122 of 128: 244 bytes and 16 bytes of marks, against 256.",
        "Keys were turned by their positions in the text. The next token stands behind all that "
        "was read, evicted or not.",
        "The other half of the step stays as it is, so the whole takes at least half of its time.",
        "Unpacking writes the dense rows to memory, and they are read again from there: more "
        "traffic than before.",
    ),
    hints=(
        "Ask of each claim: which bytes are read, and which are still there?",
        "Three of the eight are true. One of these is about masks, one about a short row, one "
        "about half of a step.",
        "Run the chapter's cells: \"Zero it, and time it\", the table of row bytes, and \"A whole "
        "step gains less\".",
    ),
    because="All eight are right: only what is no longer read, or no longer there, saves time or "
    "bytes, and only in the part of the step that reads it.",
)  # fmt: skip

EXERCISES = (MEASURE, COMPACT, NARROW, PACKED, BLOCKS, QUIZ)
