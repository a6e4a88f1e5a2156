"""7.3: FLOP and bytes of a decode step, as a counter and a real model have them.

B chats, T slots, C model width, F width of the MLP, V vocabulary, L layers.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from kvlab.course.author import Exercise, Near, NotData, brief, tiny_model
from kvlab.generation import decode, prefill

Q = Exercise(
    "7.3",
    "FLOP and bytes of a step",
    "step_work",
    points=4,
    minutes=20,
    difficulty=2,
    statement="""
Count one step of decode for a model of any sizes (chapter 7, "What one step has to do"). `sizes` holds `hidden_size` (C), `intermediate_size` (F), `n_layers`, `n_heads` (H),
`n_kv_heads` (G), `head_dim` (D), `vocab_size` (V) and `tied` (True or False). `batch` chats get one token each, and each token looks at `context` slots, its own among them; a
number takes `size` bytes. Return a dict with the whole numbers (`int`) `flops` and `bytes`.

- A layer has matrices of C x HD, twice C x GD, HD x C and three of C x F, and two norms of C numbers. After the layers come one more norm and the output head of C x V.
- **FLOP**: 2 for each number of a matrix that a token goes through, and 4 D for each pair of a query and a slot in each head of each layer. Norms count nothing.
- **Bytes**: every parameter of the layers, norms and head, once. The table of embeddings is the head itself if `tied`, and else another C x V, but of it only the rows of the tokens that go in are fetched. Such a row of C
  numbers counts for each chat, tied or not.
- Each chat has its own keys and values: `context` of each are fetched, and one of each is written, in each layer.

About 10 lines. With C = 4, F = 6, L = 1, H = 2, G = 1, D = 3 and V = 5, tied, one chat with `context` 2 takes 376 FLOP and, with 4 bytes a number, 744 bytes.
""",
    hints=(
        "Which of the terms grow with the number of chats, and which do not? What is fetched once can serve them all.",
        "matrices = L (2 C (H + G) D + 3 C F) + C V. FLOP: 2 B matrices + 4 B L H D T. Bytes: size times (matrices + norms + B C + keys and values).",
        "norms = (2 * L + 1) * C; held = B * (T + 1) * 2 * L * G * D; bytes = size * (matrices + norms + B * C + held). Nothing depends on `tied`: "
        "an embedding of its own is never fetched whole.",
    ),
    size=lambda case: case["batch"] * case["context"],
)

COUNTS = ("flops", "bytes")


@Q.case
def case(rng):
    n_kv_heads = rng.choice([2, 3])
    sizes = {
        "hidden_size": rng.choice([10, 14, 22]),
        "intermediate_size": rng.choice([15, 25, 35]),
        "n_layers": rng.choice([3, 5]),
        "n_heads": 2 * n_kv_heads,
        "n_kv_heads": n_kv_heads,
        "head_dim": rng.choice([4, 6, 8]),
        "vocab_size": rng.choice([41, 53, 61]),
        "tied": rng.random() < 0.5,
    }
    batch, context = rng.sample([2, 3, 4, 5, 6, 7], 2)
    return {"sizes": sizes, "batch": batch, "context": context, "size": rng.choice([1, 2, 4])}


@Q.solution
def step_work(sizes, batch, context, size):
    """Return the FLOP and bytes of one step of decode, as a dict."""
    ### BEGIN SOLUTION
    C, L, D = sizes["hidden_size"], sizes["n_layers"], sizes["head_dim"]
    H, G = sizes["n_heads"], sizes["n_kv_heads"]
    in_layer = 2 * C * (H + G) * D + 3 * C * sizes["intermediate_size"]
    matrices = L * in_layer + C * sizes["vocab_size"]
    norms = (2 * L + 1) * C
    held = batch * (context + 1) * 2 * L * G * D
    return {
        "flops": 2 * batch * matrices + 4 * batch * L * H * D * context,
        "bytes": size * (matrices + norms + batch * C + held),
    }
    ### END SOLUTION


@Q.also_right
def matrix_by_matrix(sizes, batch, context, size):
    c, d = sizes["hidden_size"], sizes["head_dim"]
    queries, shared = sizes["n_heads"] * d, sizes["n_kv_heads"] * d
    flops = fetched = 0
    for _ in range(sizes["n_layers"]):
        for rows, columns in [(c, queries), (c, shared), (c, shared), (queries, c)] + [
            (c, sizes["intermediate_size"])
        ] * 3:
            flops += 2 * rows * columns * batch
            fetched += rows * columns
        fetched += 2 * c + batch * 2 * shared * context + batch * 2 * shared
        flops += batch * 2 * queries * context * 2
    fetched += c + c * sizes["vocab_size"] + batch * c
    flops += 2 * c * sizes["vocab_size"] * batch
    return {"bytes": fetched * size, "flops": flops}


# --- laws ---


@lru_cache(128)
def _counted(batch: int, context: int, tied: bool, **sizes: int) -> dict[str, int]:
    """FLOP by torch's counter in a real model, and the numbers that it has to hand to a step."""
    model = tiny_model(0, tie_embeddings=tied, **sizes)
    cache = model.new_cache(batch, context)
    if context > 1:
        prefill(model, torch.ones(batch, context - 1, dtype=torch.int64), cache)
    counter = FlopCounterMode(display=False)
    with counter:
        decode(model, torch.ones(batch, dtype=torch.int64), cache, backend="reference")
    layers = sum(p.numel() for p in model.model.layers.parameters())
    others = model.model.norm.weight.numel() + model.head_weights.weight.numel()
    kv = 2 * cache.k_LBGTD[:, :, :, :1].numel()  # of one token, all chats
    rows = batch * sizes["hidden_size"]
    return {
        "flops": counter.get_total_flops(),
        "numbers": layers + others + rows + kv * (context + 1),
    }


def _asked(answer, case, **other):
    given = {**case, **other}
    got = answer(*(given[name] for name in ("sizes", "batch", "context", "size")))
    if not isinstance(got, dict) or set(got) != set(COUNTS):
        raise NotData(f"your code returned {brief(got)}; expected a dict with {', '.join(COUNTS)}.")
    for name in COUNTS:
        if type(got[name]) is float:
            raise NotData(
                f"your code returned {name} as {got[name]}, a float; expected a whole number (int)."
            )
    return got


def _true(case, **other):
    given = {**case, **other}
    sizes = dict(given["sizes"])
    tied = sizes.pop("tied")
    counted = _counted(given["batch"], given["context"], tied, **sizes)
    return {"flops": counted["flops"], "bytes": counted["numbers"] * given["size"]}


for name in COUNTS:

    @Q.law(f"{name}, as counted in a real model")
    def _(answer, case, name=name):
        return {name: Near(_true(case)[name]).of(_asked(answer, case)[name])}


def _law(says, change):
    @Q.law(says, shows=lambda case: f"the case with {brief(change(case))}")
    def _(answer, case):
        found, true = _asked(answer, case, **change(case)), _true(case, **change(case))
        return {name: Near(true[name]).of(found[name]) for name in COUNTS}


_law("one chat, one slot", lambda case: {"batch": 1, "context": 1})
_law("tied and not", lambda case: {"sizes": {**case["sizes"], "tied": not case["sizes"]["tied"]}})
_law(
    "as many key/value heads as query heads",
    lambda case: {"sizes": {**case["sizes"], "n_kv_heads": case["sizes"]["n_heads"]}},
)


@Q.law("twice the chats fetch no parameter twice")
def _(answer, case):
    """What two batches have in common is what one chat more than none does not bring."""
    one, two, three = (_asked(answer, case, batch=n) for n in (1, 2, 3))
    return {
        "bytes of a third chat": Near(two["bytes"] - one["bytes"]).of(
            three["bytes"] - two["bytes"]
        ),
        "flops of two chats": Near(2 * one["flops"]).of(two["flops"]),
        "_one": one,
        "_three": three,
    }


# --- what goes wrong: each changes one thing of this ---


def _work(
    sizes, batch, context, size, *, norms=lambda L, C: (2 * L + 1) * C, table=lambda B, C: B * C,
    per_pair=4, per_number=2, once=lambda B: 1, slots=lambda T: T + 1, chats=lambda B: B,
    kv_heads=lambda H, G: G, pair_heads=lambda H, G: H, both=2, head=1, untied=0, o_heads=1,
    layers=lambda L: L, looks=lambda T: T, pairs_once=False, mlp=3, logits=lambda B: B,
):  # fmt: skip
    C, L, D = sizes["hidden_size"], sizes["n_layers"], sizes["head_dim"]
    H, G = sizes["n_heads"], sizes["n_kv_heads"]
    shared = kv_heads(H, G)
    in_layer = C * D * (H + o_heads * H + 2 * shared) + mlp * C * sizes["intermediate_size"]
    out = C * sizes["vocab_size"]
    through = per_number * (batch * L * in_layer + head * logits(batch) * out)
    pairs = per_pair * (1 if pairs_once else batch) * layers(L) * pair_heads(H, G) * D
    held = chats(batch) * slots(context) * both * layers(L) * shared * D
    own = untied * (not sizes["tied"]) * out
    fetched = once(batch) * (L * in_layer + head * out + norms(L, C) + own)
    return {
        "flops": through + pairs * looks(context),
        "bytes": size * (fetched + table(batch, C) + held),
    }


Q.mistakes(
    _work,
    {
        "the parameters are fetched for each chat. They are fetched once and serve all.": {
            "once": lambda B: B
        },
        "keys and values are counted once for all chats. Each chat has its own.": {
            "chats": lambda B: 1
        },
        "keys and values are counted for query heads; only the key/value heads have them.": {
            "kv_heads": lambda H, G: H
        },
        "the pairs are counted for key/value heads. Each query head has its own scores.": {
            "pair_heads": lambda H, G: G
        },
        "keys are counted and values are not.": {"both": 1},
        "the new token's key and value are not written.": {"slots": lambda T: T},
        "attention counts half: queries meet keys, and then values are mixed.": {"per_pair": 2},
        "only multiplications are counted. Each comes with an addition.": {
            "per_pair": 2,
            "per_number": 1,
        },
        "the norms are parameters, too, and are fetched.": {"norms": lambda L, C: 0},
        "a layer has two norms, and one more follows all layers.": {
            "norms": lambda L, C: 2 * L * C
        },
        "the row of embeddings of each token that goes in is fetched as well.": {
            "table": lambda B, C: 0
        },
        "each chat has a token of its own, and a row of embeddings for it.": {
            "table": lambda B, C: C
        },
        "a table of embeddings of its own is not fetched whole: only the rows of the tokens that "
        "go in.": {"untied": 1},
        "the output head is left out.": {"head": 0},
        "logits are counted for one chat. Each has its own.": {"logits": lambda B: 1},
        "the matrix after attention, HD x C, is left out.": {"o_heads": 0},
        "the MLP has three matrices.": {"mlp": 2},
        "attention is counted for one layer.": {"layers": lambda L: 1},
        "the token looks at itself as well: `context` counts it already.": {
            "looks": lambda T: T + 1
        },
        "the pairs of one chat are counted. Each chat's query looks at its own slots.": {
            "pairs_once": True
        },
    },
)
