"""Chapter 5, "Two phases, one prompt": its exercises and how they are judged.

L layers, S prompt tokens, D head width, C model width, V vocabulary; P prompt tokens and N new
tokens in formulas. Cases are in float64.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kvlab.course import ch05_answers as given
from kvlab.course.author.compare import AtLeast, AtMost, Near, brief
from kvlab.course.author.lending import tiny_model
from kvlab.course.author.spec import (
    Case,
    Exercise,
    Law,
    Outcome,
    Wrong,
    agrees,
    choice,
    claims,
    named,
    one_number,
)
from kvlab.course.sandbox.answer import Answer, Lent, NotData
from kvlab.generation import decode, prefill, stream
from kvlab.measure.probe import Probe
from kvlab.model import Transformer

# --- 5.1 prefill ------------------------------------------------------------------------------


_WEIGHTS = ("embed_VC", "w_q_LDC", "w_k_LDC", "w_v_LDC", "w_o_LCD")


def _prefill_case(rng: random.Random) -> Case:
    """A small model whose first row guesses another token than its last."""
    n_layers, n_tokens, head_dim, width, vocab = (
        rng.choice([2, 3]),
        *rng.sample([4, 5, 6, 7, 8, 9], 3),
        rng.choice([13, 17, 19]),
    )
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    while True:
        case = {
            "tokens_S": torch.randint(vocab, (n_tokens,), generator=torch_rng),
            "embed_VC": normal(vocab, width),
            "w_q_LDC": normal(n_layers, head_dim, width) * width**-0.5 * 2,
            "w_k_LDC": normal(n_layers, head_dim, width) * width**-0.5 * 2,
            "w_v_LDC": normal(n_layers, head_dim, width) * width**-0.5 * 2,
            "w_o_LCD": normal(n_layers, width, head_dim) * head_dim**-0.5 * 2,
        }
        logits_SV = _loop(*case.values())[1]
        if int(logits_SV[0].argmax()) != int(logits_SV[-1].argmax()):
            return case


def _loop(
    tokens_S: Tensor, embed_VC: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token by token and layer by layer: the last outputs, logits, and all keys and values."""
    n_layers, head_dim, _ = w_k.shape
    k_LSD = torch.zeros(n_layers, len(tokens_S), head_dim, dtype=torch.float64)
    v_LSD, last = torch.zeros_like(k_LSD), []
    for s, token in enumerate(tokens_S.tolist()):
        x_C = embed_VC[token]
        for layer in range(n_layers):
            k_LSD[layer, s], v_LSD[layer, s] = w_k[layer] @ x_C, w_v[layer] @ x_C
            scores = k_LSD[layer, : s + 1] @ (w_q[layer] @ x_C) / head_dim**0.5
            x_C = x_C + w_o[layer] @ (scores.softmax(0) @ v_LSD[layer, : s + 1])
        last.append(x_C)
    x_SC = torch.stack(last)
    return x_SC, x_SC @ embed_VC.T, k_LSD, v_LSD


def _reference_prefill(tokens_S: Tensor, *weights: Tensor) -> tuple[int, Tensor, Tensor]:
    _, logits_SV, k_LSD, v_LSD = _loop(tokens_S, *weights)
    return int(logits_SV[-1].argmax()), k_LSD, v_LSD


def _call_prefill(answer: Answer, case: Case, tokens_S: Tensor) -> Outcome:
    got = answer(tokens_S, *(case[name] for name in _WEIGHTS))
    return named(got, "the first new token", "k_LSD", "v_LSD")


def _run_prefix(answer: Answer, case: Case) -> Outcome:
    """What is kept of a prompt without its last token, and the same part of the whole prompt's."""
    whole = _call_prefill(answer, case, case["tokens_S"])
    part = _call_prefill(answer, case, case["tokens_S"][:-1])
    n = len(case["tokens_S"]) - 1
    return {
        "keys of all tokens but the last, k_LSD": whole["k_LSD"][:, :n],
        "values of all tokens but the last, v_LSD": whole["v_LSD"][:, :n],
        "_part": part,
    }


def _expect_prefix(_case: Case, outcome: Outcome) -> Outcome:
    part = outcome["_part"]
    return {
        "keys of all tokens but the last, k_LSD": part["k_LSD"],
        "values of all tokens but the last, v_LSD": part["v_LSD"],
    }


def _run_goes_on(answer: Answer, case: Case) -> Outcome:
    """One decode step of ours on what was kept, and the answer's own reading of the longer text."""
    kept = _call_prefill(answer, case, case["tokens_S"])
    first = kept["the first new token"]
    embed_VC, w_q, w_k, w_v, w_o = (case[name] for name in _WEIGHTS)
    x_C = embed_VC[first]
    for layer in range(len(w_k)):
        k_TD = torch.cat((kept["k_LSD"][layer], (w_k[layer] @ x_C)[None]))
        v_TD = torch.cat((kept["v_LSD"][layer], (w_v[layer] @ x_C)[None]))
        weights_T = (k_TD @ (w_q[layer] @ x_C) / w_k.shape[1] ** 0.5).softmax(0)
        x_C = x_C + w_o[layer] @ (weights_T @ v_TD)
    longer = torch.cat((case["tokens_S"], torch.tensor([first])))
    again = _call_prefill(answer, case, longer)["the first new token"]
    return {"the second new token": again, "_decoded": int((embed_VC @ x_C).argmax())}


PREFILL = Exercise(
    number="5.1",
    title="Prefill",
    name="prefill",
    points=4,
    minutes=20,
    difficulty=2,
    cases=_prefill_case,
    size=lambda case: len(case["tokens_S"]) * len(case["w_k_LDC"]),
    laws=(
        agrees(
            "the same as token by token",
            _reference_prefill,
            "tokens_S",
            *_WEIGHTS,
            gives=("the first new token", "k_LSD", "v_LSD"),
        ),
        Law("one token more changes nothing that was kept before", _run_prefix, _expect_prefix),
        Law(
            "decode can go on from what was kept",
            _run_goes_on,
            lambda _, outcome: {"the second new token": outcome["_decoded"]},
        ),
    ),
    second=given.SECOND_PREFILL,
    hints=(
        "Which rows go into the first layer, and which into the second? Which of the last layer's "
        "rows knows the whole prompt? And which two of q, k, v does a later token look at?",
        "x_SC = embed_VC[tokens_S]. In each layer: project x_SC, keep keys and values, attend "
        "causally with all S queries at once, and add the mixture through w_o to x_SC. The next "
        "layer projects the new x_SC.",
        "scores_SS = q_SD @ k_SD.T / D**0.5, masked where column > row: "
        "masked_fill(torch.ones(S, S).triu(1).bool(), -inf). x_SC = x_SC + "
        "(scores_SS.softmax(-1) @ v_SD) @ w_o_LCD[layer].T. At the end int((embed_VC @ "
        "x_SC[-1]).argmax()), and torch.stack of the keys and values.",
    ),
    wrong=(
        Wrong(given.first_row, "the token comes from the first row's logits. That row saw one "
              "token; the last row saw the whole prompt."),
        Wrong(given.keeps_queries, "queries are kept in the place of keys. A query is used once, "
              "by its own token; later tokens look at keys and values."),
        Wrong(given.forgets_last, "the last prompt token's key and value are not kept, as if "
              "decode were to read it. Decode reads the first new token."),
        Wrong(given.stores_first_new, "the first new token's key and value are kept as well, but "
              "nobody has read it yet: decode does, and would then find it twice."),
        Wrong(given.masked_to_zero, "hidden scores are 0. A score of 0 still has a weight; "
              "only one of -inf, before the softmax, has none."),
        Wrong(given.masks_itself, "a token does not see itself. The first one then sees nothing at "
              "all, and its softmax is nan: hide column > row, which is triu(1)."),
        Wrong(given.sees_later_only, "the mask hides the past and shows the future: hide column > "
              "row."),
        Wrong(given.softmax_over_queries, "softmax goes down the columns. Each query shares its "
              "attention among keys: the last axis of scores_SS."),
        Wrong(given.wrong_root, "scores are divided by the root of the model width C. It is the "
              "root of the head width D."),
        Wrong(given.swapped, "keys and values are handed over in each other's place."),
        Wrong(given.no_mask, "every query sees the whole prompt, so from the second layer on keys "
              "know tokens that come after them."),
        Wrong(given.last_layer_for_all, "the last layer's keys and values stand for all layers. "
              "Each layer has its own."),
        Wrong(given.all_from_embedding, "every layer projects the embeddings. A layer's input "
              "is what the layer before it put out."),
        Wrong(given.not_scaled, "scores are not divided by the root of the head width D."),
        Wrong(given.no_residual, "a layer's output replaces its input; it has to be added."),
    ),
)  # fmt: skip

# --- 5.2 the length of the cache ----------------------------------------------------------------


def _trace_case(rng: random.Random) -> Case:
    """An answer that would go on past the limit, and an ending token that comes before it."""
    n_prompt, n_new = rng.randint(2, 20), rng.randint(4, 8)
    would_write = rng.sample(range(5, 60), n_new + 2)  # 0 is kept for a scenario of its own
    return {
        "n_prompt": n_prompt,
        "would_write": would_write,
        "n_new": n_new,
        "eos": would_write[rng.randint(1, n_new - 3)],
    }


_Call = tuple[int, list[int], int, int | None]


def _without_end(case: Case) -> _Call:
    return case["n_prompt"], case["would_write"], case["n_new"], None


def _with_end(case: Case) -> _Call:
    return case["n_prompt"], case["would_write"], case["n_new"], case["eos"]


def _end_beyond_limit(case: Case) -> _Call:
    return case["n_prompt"], case["would_write"], case["n_new"], case["would_write"][-1]


def _one_new(case: Case) -> _Call:
    return case["n_prompt"], case["would_write"], 1, None


def _end_is_zero(case: Case) -> _Call:
    zeroed = [0 if token == case["eos"] else token for token in case["would_write"]]
    return case["n_prompt"], zeroed, case["n_new"], 0


def _grows(name: str, arguments: Callable[[Case], _Call]) -> Law:
    """The law that an answer's lists are those of a real cache, for one kind of call."""
    return Law(
        f"as a real cache grows, {name}",
        lambda answer, case: named(answer(*arguments(case)), "fed", "lengths"),
        lambda case, _: _grown(*arguments(case)),
        shows=lambda case: f"trace{arguments(case)}",
    )


def _grown(n_prompt: int, would_write: list[int], n_new: int, eos: int | None) -> Outcome:
    """A real model with a real cache, whose words are put into its mouth."""
    model, script = tiny_model(1), iter(would_write)
    cache = model.new_cache(1, n_prompt + n_new)
    with Probe(model) as probe:
        steps = stream(
            model,
            [i % 50 + 1 for i in range(n_prompt)],
            n_new,
            cache=cache,
            pick=lambda _: torch.tensor([next(script)]),
            eos=() if eos is None else (eos,),
        )
        lengths = [cache.length for _ in steps]
    return {"fed": [forward.new for forward in probe.forwards], "lengths": lengths}


TRACE = Exercise(
    number="5.2",
    title="The length of the cache",
    name="trace",
    points=3,
    minutes=15,
    difficulty=2,
    cases=_trace_case,
    laws=(
        _grows("no ending token", _without_end),
        _grows("with an ending token", _with_end),
        _grows("an ending token beyond the limit", _end_beyond_limit),
        _grows("one new token", _one_new),
        _grows("the ending token 0", _end_is_zero),
    ),
    second=given.SECOND_TRACE,
    hints=(
        "There is one entry for each new token: how was that token's row of logits made? Which "
        "call, of how many tokens, and how long was the cache after it?",
        "The first entry is prefill: P tokens, length P. Each later new token needs one call that "
        "feeds the token before it. The last new token is never fed, whether the limit ended the "
        "answer or the ending token did.",
        "n = n_new; if eos is in would_write[:n_new]: n = would_write.index(eos) + 1. Then fed is "
        "[n_prompt] + [1] * (n - 1) and lengths is [n_prompt + i for i in range(n)].",
    ),
    wrong=(
        Wrong(given.first_token_counted, "the first new token is counted as if it were in the "
              "cache after prefill. It is known there, but nothing has read it."),
        Wrong(given.last_token_stored, "the last new token is fed as well. Nobody needs the logits "
              "behind it, so it is returned and not read."),
        Wrong(given.ignores_eos, "the ending token does not end the answer."),
        Wrong(given.searches_beyond_limit, "an ending token that comes after n_new tokens is found "
              "and followed. The limit ends the answer first: look in would_write[:n_new]."),
        Wrong(given.zero_is_no_eos, "the ending token 0 is taken for none: `if eos` is false for "
              "0. Ask whether eos is None."),
        Wrong(given.feeds_eos, "the ending token is fed before the loop stops: one call too many, "
              "and a token in the cache that does not belong to the text."),
        Wrong(given.swallows_eos, "the loop stops before the ending token is written. It is chosen "
              "from logits like any other, and those need a call."),
        Wrong(given.reads_all_again, "each call feeds the whole text again: that is the loop "
              "without a cache."),
        Wrong(given.prompt_one_by_one, "the prompt is fed token by token. Prefill reads it in one "
              "call."),
        Wrong(given.starts_again, "the cache is counted from 0 when decode begins. It goes on "
              "behind the prompt."),
    ),
)  # fmt: skip

# --- 5.3 rows and FLOP by formula ---------------------------------------------------------------


def _work_case(rng: random.Random) -> Case:
    """Sizes of a model, and lengths. No share of the work is half of it by chance: a mistake that
    halves attention is told from one that leaves out layers or heads.
    """
    n_prompt, n_new = rng.randint(3, 9), rng.randint(3, 5)
    n_kv_heads = rng.choice([2, 3, 4])
    sizes = {
        "n_layers": rng.choice([3, 5]),
        "n_heads": 2 * n_kv_heads,
        "n_kv_heads": n_kv_heads,
        "head_dim": rng.choice([4, 6, 8]),
        "hidden_size": rng.choice([10, 14, 22]),
        "intermediate_size": rng.choice([15, 25, 35]),
        "vocab_size": rng.choice([41, 53, 61]),
    }
    return {"n_prompt": n_prompt, "n_new": n_new, "sizes": _sizes(tiny_model(0, **sizes)),
            "_model": sizes}  # fmt: skip


def _sizes(model: Transformer) -> dict[str, int]:
    config = model.config
    matrices = sum(p.numel() for p in model.model.layers.parameters() if p.dim() == 2)
    return {
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "head_dim": config.head_dim,
        "matrices": matrices,
        "head": config.hidden_size * config.vocab_size,
    }


_COUNTS = ("naive_rows", "cached_rows", "naive_flops", "cached_flops")


def _asked(answer: Answer, case: Case, n_prompt: int, n_new: int) -> dict[str, Any]:
    got = answer(n_prompt, n_new, dict(case["sizes"]))
    if not isinstance(got, dict) or set(got) != set(_COUNTS):
        raise NotData(
            f"your code returned {brief(got)}; expected a dict with {', '.join(_COUNTS)}."
        )
    for name in _COUNTS:
        if type(got[name]) is float:
            raise NotData(
                f"your code returned {name} as {got[name]}, a float; expected a whole number (int)."
            )
    return got


def _counts(name: str) -> Law:
    """The law that one of the four numbers is what counters count."""
    return Law(
        f"{name}, as counters count in a real model",
        lambda answer, case: {name: _asked(answer, case, case["n_prompt"], case["n_new"])[name]},
        lambda case, _: {
            name: _counted(tuple(case["_model"].items()), case["n_prompt"], case["n_new"])[name]
        },
    )


@lru_cache(64)
def _counted(sizes: tuple[tuple[str, int], ...], n_prompt: int, n_new: int) -> dict[str, int]:
    """The same by counters, of a real model that writes token 1 again and again."""
    model = tiny_model(0, **dict(sizes))
    prompt_BS, token_B = torch.ones(1, n_prompt, dtype=torch.int64), torch.ones(1).long()
    with torch.inference_mode(), Probe(model) as naive, _flops() as naive_flops:
        for i in range(n_new):
            text_BS = torch.cat((prompt_BS, token_B.expand(1, i)), dim=1)
            model.head(model.hidden(text_BS, backend="reference")[:, -1])
    cache = model.new_cache(1, n_prompt + n_new)
    with Probe(model) as cached, _flops() as cached_flops:
        prefill(model, prompt_BS, cache, backend="reference")
        for _ in range(n_new - 1):
            decode(model, token_B, cache, backend="reference")
    return {
        "naive_rows": naive.rows_projected,
        "cached_rows": cached.rows_projected,
        "naive_flops": naive_flops.get_total_flops(),
        "cached_flops": cached_flops.get_total_flops(),
    }


def _flops() -> FlopCounterMode:
    return FlopCounterMode(display=False)


def _run_a_step_is_a_prefill(answer: Answer, case: Case) -> Outcome:
    n_prompt, n_new = case["n_prompt"], case["n_new"]
    whole = _asked(answer, case, n_prompt, n_new)
    steps = [_asked(answer, case, n_prompt + i, 1) for i in range(n_new)]
    return {
        "naive_rows": whole["naive_rows"],
        "naive_flops": whole["naive_flops"],
        "_rows": sum(step["cached_rows"] for step in steps),
        "_flops": sum(step["cached_flops"] for step in steps),
    }


WORK = Exercise(
    number="5.3",
    title="Rows and FLOP by formula",
    name="count_work",
    points=4,
    minutes=20,
    difficulty=2,
    cases=_work_case,
    size=lambda case: case["n_prompt"] * case["n_new"],
    laws=(
        *(_counts(name) for name in _COUNTS),
        Law(
            "a step without a cache is a prefill",
            _run_a_step_is_a_prefill,
            lambda _, seen: {"naive_rows": seen["_rows"], "naive_flops": seen["_flops"]},
        ),
    ),
    second=given.SECOND_WORK,
    hints=(
        "Write a small function for one call: S new tokens, T slots in all. Then ask which "
        "calls each way makes: with which S and which T?",
        "One call: 2 (S x matrices + head) + 4 S T x n_heads x head_dim x n_layers. Without a "
        "cache the calls are S = T = P, P + 1, ... With one: S = T = P once, then S = 1.",
        "Call i of decode (i from 1 to N - 1) has T = P + i: the new token is among the slots. "
        "naive_rows = N P + N (N - 1) // 2, cached_rows = P + N - 1, and FLOP are the sums of one "
        "call's formula over the calls.",
    ),
    wrong=(
        Wrong(given.rows_do_not_grow, "each step without a cache reads P tokens, as if the text "
              "did not grow."),
        Wrong(given.last_token_read, "one token too many is read: the last new token is written "
              "and never fed, with a cache or without."),
        Wrong(given.each_token_once, "P + N is the length of the finished text. Without a cache "
              "each step reads all there is again."),
        Wrong(given.rows_of_all_layers, "the rows of all layers are added up. A row counts once, "
              "in each layer."),
        Wrong(given.divides_with_slash, "/ makes a float. Whole numbers are divided with //."),
        Wrong(given.triangle, "only the pairs that the causal mask leaves are counted. The counter "
              "counts the whole rectangle, S x T."),
        Wrong(given.matrices_per_layer, "`matrices` is taken times the number of layers. It holds "
              "all of them together."),
        Wrong(given.head_left_out, "the head is left out: each call makes logits for one row."),
        Wrong(given.one_head, "attention is counted for one head. Each layer has n_heads."),
        Wrong(given.head_for_every_row, "every row gets logits. Only the last row of a call is "
              "asked for: the head counts once per call."),
        Wrong(given.scores_only, "attention counts half: queries meet keys, and then values are "
              "mixed. Both are products."),
        Wrong(given.decode_sees_itself_only, "a decoded token is taken to look at itself only. "
              "There is one new query, but it looks at every slot."),
        Wrong(given.decode_misses_itself, "a decoded token does not look at itself: T counts "
              "the new token as well."),
        Wrong(given.multiplications_only, "only multiplications are counted. Each comes with an "
              "addition."),
        Wrong(given.one_layer_of_attention, "attention is counted for one layer. `matrices` "
              "holds all layers, the attention term has to be multiplied."),
    ),
)  # fmt: skip

# --- 5.4 a stopwatch ------------------------------------------------------------------------------


class Device(Lent):
    """A device with its own clock, whose truth is known.

    `cold` seconds come on top of each work's first run. With `queues`, `run` returns before the
    work is done. With `disturbed`, some runs of each work take eight times as long and some a
    fifth. With `drift`, each run takes that much longer than the one before it; with `drops_after`,
    every run behind that many takes three times as long.
    """

    lends = ("now", "run", "synchronize")

    def __init__(
        self,
        seconds: dict[str, float],
        *,
        cold: float = 0.0,
        queues: bool = False,
        disturbed: bool = False,
        drift: float = 0.0,
        drops_after: int | None = None,
    ) -> None:
        self._seconds, self._cold, self._queues = seconds, cold, queues
        self._disturbed, self._drift, self._drops_after = disturbed, drift, drops_after
        self._time, self._free_at, self._pace = 1000.0, 0.0, 1.0
        self.runs = dict.fromkeys(seconds, 0)
        self.looks, self.longest_row, self._row = 0, 0, ("", 0)  # a row: runs of one work, at once

    def now(self) -> float:
        self.looks += 1
        return self._time

    def run(self, work: str) -> None:
        if work not in self.runs:
            raise ValueError(f"there is no work {work!r}; expected one of {', '.join(self.runs)}")
        self._time += 1e-6
        self._free_at = max(self._free_at, self._time) + self._takes(work)
        self.runs[work] += 1
        self._row = (work, self._row[1] + 1 if self._row[0] == work else 1)
        self.longest_row = max(self.longest_row, self._row[1])
        self._pace *= 1 + self._drift
        if sum(self.runs.values()) == self._drops_after:
            self._pace *= 3
        if not self._queues:
            self.synchronize()

    def synchronize(self) -> None:
        self._time = max(self._time, self._free_at)

    def _takes(self, work: str) -> float:
        seconds = self._seconds[work] * self._pace
        count, phase = self.runs[work], list(self.runs).index(work)
        if count == 0:
            return seconds + self._cold
        if self._disturbed and (count + 2 * phase) % 6 == 3:
            return seconds * 8
        if self._disturbed and (count + 4 * phase) % 9 == 5:
            return seconds / 5
        return seconds


_RESULTS = ("slow_seconds", "fast_seconds", "ratio")


def _watch_case(rng: random.Random) -> Case:
    fast = rng.uniform(0.002, 0.02)
    return {
        "slow": rng.choice(["naive", "dense", "plain"]),
        "fast": rng.choice(["cached", "packed", "compiled"]),
        "n": rng.choice([13, 15, 17]),
        "_seconds": (fast * rng.uniform(1.5, 6.0), fast),
        "_cold": rng.uniform(0.2, 0.9),
        "_drift": rng.uniform(0.008, 0.012),
    }


def _times(answer: Answer, case: Case, n: int, **kind: Any) -> tuple[Outcome, Device]:
    device = Device(dict(zip((case["slow"], case["fast"]), case["_seconds"], strict=True)), **kind)
    got = answer(device, case["slow"], case["fast"], n)
    return named(got, *_RESULTS), device


def _looks(answer: Answer, case: Case) -> Outcome:
    return {"calls of device.now()": _times(answer, case, 1)[1].looks}


def _on_cold(answer: Answer, case: Case) -> Outcome:
    return _times(answer, case, 1, cold=case["_cold"])[0]


def _on_cold_queue(answer: Answer, case: Case) -> Outcome:
    return _times(answer, case, 1, cold=case["_cold"], queues=True)[0]


def _on_queued(answer: Answer, case: Case) -> Outcome:
    return _times(answer, case, case["n"], queues=True)[0]


def _on_disturbed(answer: Answer, case: Case) -> Outcome:
    return _times(answer, case, case["n"], queues=True, disturbed=True)[0]


def _on_drift(answer: Answer, case: Case) -> Outcome:
    return _times(answer, case, case["n"], queues=True, drift=case["_drift"])[0]


def _in_turn(answer: Answer, case: Case) -> Outcome:
    _, device = _times(answer, case, case["n"], queues=True)
    return {"the order of the runs": "in turn" if device.longest_row <= 4 else "not in turn"}


DROP_PAIRS, DROPS = 5, range(5, 13)


def _on_drop(answer: Answer, case: Case) -> Outcome:
    """The pace drops once, in the middle of a pair for one of these places at least.

    The median of slow readings and that of fast ones may then come from before and behind the drop;
    of the pairs at most one is split, which a median of ratios does not notice.
    """
    return {
        f"ratio, with a drop after run {run}": _times(
            answer, case, DROP_PAIRS, queues=True, drops_after=run
        )[0]["ratio"]
        for run in DROPS
    }


def _expect_drop(case: Case, _outcome: Outcome) -> Outcome:
    slow, fast = case["_seconds"]
    true = Near(slow / fast, rtol=0.025)
    return {f"ratio, with a drop after run {run}": true for run in DROPS}


def _watched(n: int | None = None) -> Callable[[Case], str]:
    """The call, for a message: n is the case's unless given."""
    return lambda case: f"stopwatch(device, {case['slow']!r}, {case['fast']!r}, {n or case['n']})"


def _finds(
    name: str, run: Callable[[Answer, Case], Outcome], *results: str, n: int | None = None
) -> Law:
    """The law that these results are the truth about a device; all three unless named.

    The ratio may be off by the drift of two runs, since one of a pair comes first.
    """
    results = results or _RESULTS

    def some(answer: Answer, case: Case) -> Outcome:
        seen = run(answer, case)
        return {result: seen[result] for result in results}

    def truth(case: Case, _: Outcome) -> Outcome:
        slow, fast = case["_seconds"]
        known = dict(zip(_RESULTS, (slow, fast, slow / fast), strict=True))
        return {result: Near(known[result], rtol=0.025) for result in results}

    return Law(name, some, truth, shows=_watched(n))


def _run_enough(answer: Answer, case: Case) -> Outcome:
    seen, device = _times(answer, case, case["n"], queues=True)
    return {
        **seen,
        "runs of the slow work, at least": device.runs[case["slow"]],
        "runs of the fast work, at least": device.runs[case["fast"]],
        "runs of both": sum(device.runs.values()),
    }


def _expect_enough(case: Case, _outcome: Outcome) -> Outcome:
    return {
        "runs of the slow work, at least": AtLeast(case["n"] + 1),
        "runs of the fast work, at least": AtLeast(case["n"] + 1),
        "runs of both": AtMost(2 * case["n"] + 6),
    }


STOPWATCH = Exercise(
    number="5.4",
    title="A stopwatch",
    name="stopwatch",
    points=5,
    minutes=25,
    difficulty=3,
    cases=_watch_case,
    size=lambda case: case["n"],
    laws=(
        Law(
            "the device's own clock is read",
            _looks,
            lambda *_: {"calls of device.now()": AtLeast(2)},
            shows=_watched(1),
        ),
        _finds("the first run is cold, and one pair is asked for", _on_cold, n=1),
        _finds("run returns before the work is done", _on_queued),
        _finds("run returns early, and the cold runs still go on", _on_cold_queue, n=1),
        _finds("some runs are disturbed", _on_disturbed, "slow_seconds", "fast_seconds"),
        _finds("some runs are disturbed: the ratio", _on_disturbed, "ratio"),
        Law(
            "slow and fast take turns",
            _in_turn,
            lambda *_: {"the order of the runs": "in turn"},
            shows=_watched(),
        ),
        _finds("the device slows down all the time", _on_drift, "ratio"),
        Law("the device slows down once", _on_drop, _expect_drop, shows=_watched(DROP_PAIRS)),
        Law("n runs of each, and few more", _run_enough, _expect_enough, shows=_watched()),
    ),
    second=given.SECOND_STOPWATCH,
    hints=(
        "Four things can go wrong: a cold start, a clock read too early, disturbed runs, a "
        "device that changes. Which line of your stopwatch answers which?",
        "Run each work once before any clock is read. One reading is: synchronize, now, run, "
        "synchronize, now. Do slow and fast in turn, n pairs, and take medians at the end.",
        "for i in range(n): read both, in the other order when i is odd; append to two lists and "
        "append slow / fast to a third. Return statistics.median of each of the three.",
    ),
    wrong=(
        Wrong(given.clock_too_early, "the clock is read before the device is done. `run` only "
              "hands the work over: synchronize before the second reading."),
        Wrong(given.waits_before_only, "you wait before the first reading but not before the "
              "second, so what is timed is the handing over."),
        Wrong(given.waits_behind_only, "you wait before the second reading but not before the "
              "first, so the first reading also times the warm-up that still runs."),
        Wrong(given.own_clock, "the time is read from another clock than the device's: use "
              "device.now()."),
        Wrong(given.ratio_of_medians, "the two medians are divided. When the pace changes they may "
              "come from different times: take one ratio for each pair, and the median of those."),
        Wrong(given.cold_counts, "nothing is run before the first reading, so it times the "
                                 "start-up."),
        Wrong(given.warms_one, "only one of the two works is warmed up. Each has a cold first "
                               "run."),
        Wrong(given.mean, "the mean follows every outlier. The median does not."),
        Wrong(given.fastest, "the fastest run is taken. A disturbed run can be too short as "
              "well; the median stands in the middle."),
        Wrong(given.one_reading_for_all, "one reading is taken around all n runs and divided by n. "
              "That is a mean, and no run can be told from another."),
        Wrong(given.blocks, "all runs of one come before all runs of the other, so a device "
              "that slows down punishes the second. Take turns."),
        Wrong(given.upside_down, "the ratio is upside down: slow over fast says how many times as "
              "fast the second is."),
    ),
)  # fmt: skip

# --- 5.5 TTFT and TPOT ----------------------------------------------------------------------------


def _log_case(rng: random.Random) -> Case:
    """Requests that overlap: one with many tokens, one with two, one with one, one with none."""
    names = rng.sample(["ada", "bo", "cy", "di", "eve", "flo"], 4)
    events = []
    for name, n_tokens in zip(names, (rng.randint(4, 7), 2, 1, 0), strict=True):
        at = rng.uniform(0.1, 1.0)
        events.append([at, name, "sent"])
        at += rng.uniform(0.05, 0.3)
        events.append([at, name, "started"])
        for i in range(n_tokens):
            at += rng.uniform(0.3, 0.9) if i == 0 else rng.uniform(0.02, 0.2)
            events.append([at, name, "token"])
    return {"events": [[round(at, 4), *rest] for at, *rest in sorted(events)]}


def _reference_latencies(events: list) -> dict[str, list[float | None]]:
    found = {}
    for name in {who for _, who, _ in events}:
        sent = next(at for at, who, what in events if (who, what) == (name, "sent"))
        came = [at for at, who, what in events if (who, what) == (name, "token")]
        gaps = [b - a for a, b in pairwise(came)]
        ttft = came[0] - sent if came else None
        found[name] = [ttft, sum(gaps) / len(gaps) if gaps else None]
    return found


def _table(answer: Answer, case: Case) -> dict[str, list]:
    """The answer's table; whatever else came is the answer's fault.

    Raises: NotData unless each request that is there has two entries.
    """
    table = _by_name(answer(_copied(case)))
    for name, entry in table.items():
        if not isinstance(entry, list) or len(entry) != 2:
            raise NotData(f"your code returned {brief(entry)} for {name!r}; expected [TTFT, TPOT].")
    return table


def _known(case: Case, which: int) -> dict[str, float]:
    """The TTFT (0) or TPOT (1) of the requests that have one."""
    right = _reference_latencies(case["events"])
    return {name: entry[which] for name, entry in right.items() if entry[which] is not None}


def _measured(name: str, which: int) -> Law:
    """The law that one of the two numbers is right wherever it is known."""

    def run(answer: Answer, case: Case) -> Outcome:
        table = _table(answer, case)
        return {name: {who: table.get(who, [None, None])[which] for who in _known(case, which)}}

    return Law(f"{name} where it is known", run, lambda case, _: {name: _known(case, which)})


def _run_one_token(answer: Answer, case: Case) -> Outcome:
    """A token without another one has no gap."""
    table, right = _table(answer, case), _reference_latencies(case["events"])
    single = [who for who, (ttft, tpot) in right.items() if ttft is not None and tpot is None]
    return {"TPOT of a request with one token": [table.get(who, [0, 0])[1] for who in single]}


def _run_no_token(answer: Answer, case: Case) -> Outcome:
    table, right = _table(answer, case), _reference_latencies(case["events"])
    waiting = [who for who, (ttft, _) in right.items() if ttft is None]
    return {
        "the requests of the table": sorted(table),
        "entries of a request without a token": [table.get(who) for who in waiting],
    }


def _expect_no_token(case: Case, outcome: Outcome) -> Outcome:
    entries = outcome["entries of a request without a token"]
    return {
        "the requests of the table": sorted({who for _, who, _ in case["events"]}),
        "entries of a request without a token": [[None, None]] * len(entries),
    }


def _run_alone(answer: Answer, case: Case) -> Outcome:
    """Each request's part of the log, alone."""
    alone = {}
    for name in sorted({who for _, who, _ in case["events"]}):
        alone |= _by_name(answer([list(e) for e in case["events"] if e[1] == name]))
    return {"latencies": alone, "_together": _by_name(answer(_copied(case)))}


def _run_later(answer: Answer, case: Case) -> Outcome:
    """The same log, an hour later."""
    later = [[at + 3600.0, *rest] for at, *rest in case["events"]]
    return {
        "latencies an hour later": _by_name(answer(later)),
        "_before": _by_name(answer(_copied(case))),
    }


def _copied(case: Case) -> list:
    return [list(event) for event in case["events"]]


def _by_name(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NotData(
            f"your code returned {brief(value)}; expected a dict of request to two times."
        )
    return value


LATENCIES = Exercise(
    number="5.5",
    title="TTFT and TPOT from an event log",
    name="latencies",
    points=3,
    minutes=15,
    difficulty=2,
    cases=_log_case,
    size=lambda case: len(case["events"]),
    laws=(
        _measured("TTFT", 0),
        _measured("TPOT", 1),
        Law(
            "one token has no gap",
            _run_one_token,
            lambda *_: {"TPOT of a request with one token": [None]},
        ),
        Law("a request without a token is there", _run_no_token, _expect_no_token),
        Law(
            "who else is in the log does not matter",
            _run_alone,
            lambda _, seen: {"latencies": Near(seen["_together"], atol=1e-6)},
        ),
        Law(
            "the hour does not matter",
            _run_later,
            lambda _, seen: {"latencies an hour later": Near(seen["_before"], atol=1e-6)},
        ),
    ),
    second=given.SECOND_LATENCIES,
    hints=(
        "First sort the events by request. How many gaps lie between N tokens?",
        "For each request: its `sent` time, and the list of its token times. TTFT is the first "
        "token's time less `sent`; TPOT is the time from the first token to the last over N - 1.",
        'sent, came = {}, {}; for at, who, what in events: sent[who] = at if what is "sent", '
        'and came.setdefault(who, []).append(at) if it is "token". No token: [None, None]. One '
        "token: TPOT is None, since there is no gap.",
    ),
    wrong=(
        Wrong(given.absolute, "TTFT is a time of day. It runs from the request's own `sent`: "
              "subtract that."),
        Wrong(given.first_token_in_tpot, "all of the time is divided by all of the tokens. The "
              "wait for the first token belongs to TTFT and to nothing else."),
        Wrong(given.divides_by_n, "TPOT is divided by N. N tokens have N - 1 gaps."),
        Wrong(given.from_started, "TTFT starts when the prefill starts. Who waits has waited "
              "since the prompt was sent."),
        Wrong(given.from_start_of_log, "TTFT starts with the log. Each request has its own "
                                       "`sent`."),
        Wrong(given.one_stream, "the gaps go across requests: another reader's token ends the "
                                "gap."),
        Wrong(given.from_any_token, "each gap begins with the log's token before it, of whomever "
              "it is. Keep the last token of each request."),
        Wrong(given.zero_for_one, "one token has no gap, so its TPOT is not 0 but unknown: None."),
        Wrong(given.forgets_the_waiting, "a request without a token is missing. It waits: "
              "[None, None]. A table without it looks better than the truth."),
        Wrong(given.median_gap, "TPOT is the mean gap: from the first token to the last, over N "
              "- 1. A median hides the pauses."),
    ),
)  # fmt: skip

# --- 5.6 to 5.9 the quiz ------------------------------------------------------------------------

ROWS = one_number(
    number="5.6",
    title="Rows of a longer answer",
    name="rows",
    points=1,
    minutes=3,
    difficulty=1,
    right=215,
    wrong={
        170: "that is N P: the text grows by one token with each step.",
        225: "one token too many is read: the last new token is written and never fed.",
        26: "that is with a cache.",
        68: "that is for 4 new tokens, and as if the text did not grow.",
        74: "that is for 4 new tokens, as in the chapter.",
        189: "the last step is missing: it reads 26.",
        206: "the sum of 0 to 9 is 10 x 9 / 2 = 45.",
        220: "the sum of 0 to 9 is 10 x 9 / 2, not 10 x 10 / 2.",
        27: "that is the length of the text, prompt and answer. Without a cache each step reads "
            "all there is.",
        45: "that is what the new tokens alone add. The prompt is read again in each step, too.",
    },
    because="17 + 18 + ... + 26 = 10 x 17 + 10 x 9 / 2 = 215.",
    hints=(
        "How many tokens does the first step read, and how many the last?",
        "Step i reads 17 + i tokens, for i from 0 to 9.",
        "N P + N (N - 1) / 2 with P = 17 and N = 10.",
    ),
)  # fmt: skip

LENGTH = one_number(
    number="5.7",
    title="When \"of\" is chosen",
    name="length",
    points=1,
    minutes=3,
    difficulty=1,
    right=19,
    wrong={
        20: '"of" is counted, but it was just chosen and nobody has read it. It enters the '
            "cache when it is fed.",
        17: "that is the cache after prefill, when \"The\" is chosen.",
        18: 'that is the cache when "capital" is chosen: "The" had been fed.',
        21: "that is the whole text with all four words.",
    },
    because='17 of the prompt, then "The" and "capital" were fed: 19. "of" is what came of that.',
    hints=(
        "Which words had to be read so that \"of\" could be chosen?",
        'The prompt, "The" and "capital".',
        "17 + 2.",
    ),
)  # fmt: skip

FIRST = choice(
    number="5.8",
    title="Who makes the first token?",
    name="first_token",
    points=1,
    minutes=3,
    difficulty=1,
    right="c",
    wrong={
        "a": "decode has nothing to feed yet. It feeds the first token, so that token must be "
             "there.",
        "b": "the first row saw only the first token of the prompt. Its guess is about the second.",
        "d": "the mean of all rows belongs to no position. Each row guesses the token behind "
             "its own.",
        "e": "the MLP of a layer puts out a vector of the model's width. Scores for tokens come "
             "from the head, and from the last row.",
    },
    because="The prompt's last row guesses the token behind the prompt: prefill ends with it.",
    hints=(
        "Each row of logits guesses the token behind its own.",
        "Which row's next token is not in the prompt?",
        "The last one's, and it is there when prefill is done.",
    ),
)  # fmt: skip

NOTES = claims(
    number="5.9",
    title="The notes, claim by claim",
    name="notes",
    points=2,
    minutes=6,
    difficulty=2,
    right=[True, False, False, True, False, True],
    wrong=[
        "claim 1 is true: the prompt's tokens are all known, so every layer takes all rows at "
        "once.",
        "claim 2 is false: per layer it holds keys and values, each as wide as the key/value heads "
        "together, and not one row of the hidden size.",
        "claim 3 is false: per token the arithmetic is about prefill's. Much memory is read for "
        "it.",
        "claim 4 is true: the token at position i needs the one before it, so one call makes one.",
        "claim 5 is false: the last new token is returned and not fed, so the cache is one shorter "
        "than the text.",
        "claim 6 is true: the same tokens, the same keys and values, only more calls.",
    ],
    because="Each of these was counted or timed in the chapter.",
    hints=(
        "Each claim has its place in the chapter where something is counted or timed.",
        "Which of them speak of arithmetic, and which of memory?",
        "Three are true.",
    ),
)

EXERCISES = (PREFILL, TRACE, WORK, STOPWATCH, LATENCIES, ROWS, LENGTH, FIRST, NOTES)
