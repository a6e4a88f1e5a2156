"""5.3: keys and FLOP by formula, as counters count them.

S new tokens of a call, T slots; P prompt tokens and N new tokens in formulas.
"""

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from kvlab.course.author import Exercise, Near, NotData, brief, tiny_model
from kvlab.generation import decode, prefill
from kvlab.measure.probe import Probe

Q = Exercise(
    "5.3",
    "Keys and FLOP by formula",
    "count_work",
    points=4,
    minutes=20,
    difficulty=2,
    statement="""
Predict what counters will count. `n_prompt` tokens are answered with `n_new`, one or more, once by the loop without a cache
and once with prefill and decode. `sizes` holds `n_layers`, `n_heads`, `head_dim`, `matrices` (all numbers in the
matrices of all layers together) and `head` (numbers in the head, C times V).

- A token that passes through the layers takes 2 FLOP for each number in `matrices`.
- Each call makes logits after **one** token, its last: 2 FLOP for each number in `head`.
- Attention takes 4 x `head_dim` FLOP for each pair of a query and a slot, in each of `n_heads` heads of each
  layer. A call with S new tokens and T slots (the new ones among them) has S x T pairs: count the whole
  rectangle, as torch's counter does, though the mask throws nearly half of it away in a prompt.

Return a dict with the whole numbers (`int`) `naive_keys`, `cached_keys` (keys computed in each layer, one for each token that passes), `naive_flops` and
`cached_flops`. Roughly 10 lines. For 17 and 4 the keys are 74 and 20.
""",
    hints=(
        "Write a small function for one call: S new tokens, T slots in all. Then ask which "
        "calls each way makes: with which S and which T?",
        "One call: 2 (S x matrices + head) + 4 S T x n_heads x head_dim x n_layers. Without a "
        "cache the calls are S = T = P, P + 1, ... With one: S = T = P once, then S = 1.",
        "Call i of decode (i from 1 to N - 1) has T = P + i: the new token is among the slots. "
        "naive_keys = N P + N (N - 1) // 2, cached_keys = P + N - 1, and FLOP are the sums of one "
        "call's formula over the calls.",
    ),
    size=lambda case: case["n_prompt"] * case["n_new"],
)

COUNTS = ("naive_keys", "cached_keys", "naive_flops", "cached_flops")


@Q.case
def case(rng):
    """Sizes of a model, and lengths. No share of the work is half of it by chance: a mistake that
    halves attention is told from one that leaves out layers or heads.
    """
    n_prompt, n_new = rng.randint(3, 9), rng.randint(3, 5)
    n_kv_heads = rng.choice([2, 3, 4])
    model = {
        "n_layers": rng.choice([3, 5]),
        "n_heads": 2 * n_kv_heads,
        "n_kv_heads": n_kv_heads,
        "head_dim": rng.choice([4, 6, 8]),
        "hidden_size": rng.choice([10, 14, 22]),
        "intermediate_size": rng.choice([15, 25, 35]),
        "vocab_size": rng.choice([41, 53, 61]),
    }
    weights = tiny_model(0, **model).model.layers.parameters()
    sizes = {
        **{name: model[name] for name in ("n_layers", "n_heads", "head_dim")},
        "matrices": sum(w.numel() for w in weights if w.dim() == 2),
        "head": model["hidden_size"] * model["vocab_size"],
    }
    return {"n_prompt": n_prompt, "n_new": n_new, "sizes": sizes, "_model": model}


@Q.solution
def count_work(n_prompt, n_new, sizes):
    """Return naive_keys, cached_keys, naive_flops and cached_flops, as a dict."""
    ### BEGIN SOLUTION
    pair = 4 * sizes["head_dim"] * sizes["n_heads"] * sizes["n_layers"]

    def call(S, T):
        return 2 * (S * sizes["matrices"] + sizes["head"]) + pair * S * T

    texts = range(n_prompt, n_prompt + n_new)
    return {
        "naive_keys": n_new * n_prompt + n_new * (n_new - 1) // 2,
        "cached_keys": n_prompt + n_new - 1,
        "naive_flops": sum(call(T, T) for T in texts),
        "cached_flops": call(n_prompt, n_prompt) + sum(call(1, T) for T in texts[1:]),
    }
    ### END SOLUTION


@Q.also_right
def call_by_call(n_prompt, n_new, sizes):
    pair = 4 * sizes["n_layers"] * sizes["n_heads"] * sizes["head_dim"]
    found = {}
    for way, calls in {
        "naive": [(n_prompt + i, n_prompt + i) for i in range(n_new)],
        "cached": [(n_prompt, n_prompt)] + [(1, n_prompt + i) for i in range(1, n_new)],
    }.items():
        found[way + "_keys"] = sum(s for s, _ in calls)
        found[way + "_flops"] = sum(
            2 * s * sizes["matrices"] + 2 * sizes["head"] + pair * s * t for s, t in calls
        )
    return found


# --- laws ---


@lru_cache(64)
def _counted(n_prompt: int, n_new: int, **sizes: int) -> dict[str, int]:
    """What counters count in a real model that writes token 1 again and again."""
    model = tiny_model(0, **sizes)
    prompt_BS, token_B = torch.ones(1, n_prompt, dtype=torch.int64), torch.ones(1).long()
    naive_flops, cached_flops = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with torch.inference_mode(), Probe(model) as naive, naive_flops:
        for i in range(n_new):
            text_BS = torch.cat((prompt_BS, token_B.expand(1, i)), dim=1)
            model.head(model.hidden(text_BS, backend="reference")[:, -1])
    cache = model.new_cache(1, n_prompt + n_new)
    with Probe(model) as cached, cached_flops:
        prefill(model, prompt_BS, cache, backend="reference")
        for _ in range(n_new - 1):
            decode(model, token_B, cache, backend="reference")
    return {
        "naive_keys": naive.rows_projected,
        "cached_keys": cached.rows_projected,
        "naive_flops": naive_flops.get_total_flops(),
        "cached_flops": cached_flops.get_total_flops(),
    }


def _asked(answer, case, n_prompt, n_new, names=COUNTS, sizes=None):
    got = answer(n_prompt, n_new, sizes or case["sizes"])
    if not isinstance(got, dict) or set(got) != set(COUNTS):
        raise NotData(
            f"your code returned {_returned(got)}; expected a dict with {', '.join(COUNTS)}."
        )
    for name in names:
        if type(got[name]) is float:
            raise NotData(
                f"your code returned {name} as {got[name]}, a float; expected a whole number (int)."
            )
    return got


def _returned(got):
    """What came in place of the four numbers, in a few words."""
    if not isinstance(got, dict):
        return brief(got)
    lacking = [name for name in COUNTS if name not in got]
    more = [brief(name) for name in got if name not in COUNTS]
    told = {"without": lacking, "with": more}
    return "a dict " + " and ".join(f"{how} {', '.join(n)}" for how, n in told.items() if n)


for name in COUNTS:

    @Q.law(f"{name}, as counters count in a real model")
    def _(answer, case, name=name):
        lengths = case["n_prompt"], case["n_new"]
        counted = _counted(*lengths, **case["_model"])
        return {name: Near(counted[name]).of(_asked(answer, case, *lengths, [name])[name])}


@Q.law("a prompt of one token, and one new token")
def _(answer, case):
    got, counted = _asked(answer, case, 1, 1), _counted(1, 1, **case["_model"])
    return {name: Near(counted[name]).of(got[name]) for name in COUNTS}


LARGE = {"n_layers": 32, "n_heads": 32, "head_dim": 128, "matrices": 6979321856, "head": 525336576}


@Q.law("a large model", shows=lambda case: f"count_work(500, 20, {LARGE})")
def _(answer, case):
    """The numbers of Llama-3.1-8B, which 32 bits cannot hold."""
    return _asked(answer, case, 500, 20, sizes=LARGE)


@Q.law("a step without a cache is a prefill")
def _(answer, case):
    whole = _asked(answer, case, case["n_prompt"], case["n_new"])
    steps = [_asked(answer, case, case["n_prompt"] + i, 1) for i in range(case["n_new"])]
    keys = sum(step["cached_keys"] for step in steps)
    flops = sum(step["cached_flops"] for step in steps)
    return {
        "naive_keys": Near(keys).of(whole["naive_keys"]),
        "naive_flops": Near(flops).of(whole["naive_flops"]),
        "_of the prefills": [keys, flops],
    }


# --- what goes wrong: each changes one thing of this ---


def _work(
    n_prompt,
    n_new,
    sizes,
    *,
    misread=lambda sizes: {},
    pairs=lambda S, T: S * T,
    per_pair=4,
    per_number=2,
    per_matrix=None,
    logits=lambda S: 1,
    grows=True,
    reads_last=False,
    slots=lambda n_before: n_before + 1,
):
    sizes = sizes | misread(sizes)

    def flops(S, T):
        attention = per_pair * sizes["head_dim"] * sizes["n_heads"] * sizes["n_layers"]
        products = (per_matrix or per_number) * S * sizes["matrices"]
        products += per_number * logits(S) * sizes["head"]
        return products + attention * pairs(S, T)

    texts = [n_prompt + (i if grows else 0) + reads_last for i in range(n_new)]
    steps = [(1, slots(n_prompt + i)) for i in range(n_new - 1 + reads_last)]
    return {
        "naive_keys": sum(texts),
        "cached_keys": n_prompt + len(steps),
        "naive_flops": sum(flops(T, T) for T in texts),
        "cached_flops": flops(n_prompt, n_prompt) + sum(flops(S, T) for S, T in steps),
    }


def _head_once(n_prompt, n_new, sizes):
    found, more = _work(n_prompt, n_new, sizes), 2 * sizes["head"] * (n_new - 1)
    return found | {n: found[n] - more for n in ("naive_flops", "cached_flops")}


def _as(number):
    """The right numbers, in a type that does not hold them."""
    return lambda *given: {name: number(n) for name, n in _work(*given).items()}


def _keys_of_all_layers(n_prompt, n_new, sizes):
    found = _work(n_prompt, n_new, sizes)
    return found | {n: sizes["n_layers"] * found[n] for n in ("naive_keys", "cached_keys")}


Q.mistakes(
    _work,
    {
        "each step without a cache reads P tokens, as if the text did not grow.": {"grows": False},
        "one token too many is read: the last new token is written and never fed, with a cache or "
        "without.": {"reads_last": True},
        "P + N is the length of the finished text. Without a cache each step reads all there is "
        "again.": lambda P, N, sizes: _work(P, N, sizes) | {"naive_keys": P + N},
        "the keys of all layers are added up. What is asked is how many each layer computes.": _keys_of_all_layers,
        "/ makes a float. Whole numbers are divided with //.": lambda P, N, sizes: (
            _work(P, N, sizes) | {"naive_keys": N * P + N * (N - 1) / 2}
        ),
        "only the pairs that the causal mask leaves are counted. The counter counts the whole "
        "rectangle, S x T.": {"pairs": lambda S, T: S * T - S * (S - 1) // 2},
        "`matrices` is taken times the number of layers. It holds all of them together.": {
            "misread": lambda sizes: {"matrices": sizes["n_layers"] * sizes["matrices"]}
        },
        "the head is left out: each call makes logits after its last token.": {
            "logits": lambda S: 0
        },
        "the head is counted once for the whole answer. Each call makes logits.": _head_once,
        "2 FLOP for each number of `matrices`: it is multiplied, and the product added.": {
            "per_matrix": 1
        },
        "numbers of 32 bits end at two thousand millions. Python's own int does not end, and int64 is enough.": (
            _as(lambda n: (n + 2**31) % 2**32 - 2**31)
        ),
        "float32 has seven digits, and these numbers have more. Count in whole numbers.": _as(
            lambda n: int(torch.tensor(n, dtype=torch.float32))
        ),
        "attention is counted for one head. Each layer has n_heads.": {
            "misread": lambda sizes: {"n_heads": 1}
        },
        "logits are made after every token. Only those after a call's last token are needed: the head counts "
        "once per call.": {"logits": lambda S: S},
        "attention counts half: queries meet keys, and then values are mixed. Both are products.": {
            "per_pair": 2
        },
        "a decoded token is taken to look at itself only. There is one new query, but it looks at "
        "every slot.": {"slots": lambda n_before: 1},
        "a decoded token does not look at itself: T counts the new token as well.": {
            "slots": lambda n_before: n_before
        },
        "only multiplications are counted. Each comes with an addition.": {
            "per_pair": 2,
            "per_number": 1,
        },
        "attention is counted for one layer. `matrices` holds all layers, the attention term has "
        "to be multiplied.": {"misread": lambda sizes: {"n_layers": 1}},
    },
)
