"""3.4: how many parameters a model has, part by part, from nothing but its config."""

import math
from itertools import product

import torch

from kvlab.config import ModelConfig
from kvlab.course.author import Exercise, Near
from kvlab.model import Transformer

# what the names of a part's weights have in common
PARTS = {
    "embedding": "embed_tokens",
    "attention": "self_attn",
    "mlp": "mlp",
    "norms": "norm",
    "lm_head": "lm_head",
}

Q = Exercise(
    "3.4",
    "How many parameters?",
    "count_parameters",
    points=4,
    minutes=25,
    difficulty=2,
    statement="""
To the section "Real models". Count the parameters of a Llama-shaped model from its config, a dict:

| entry | what it is | entry | what it is |
|---|---|---|---|
| `vocab_size` | V | `n_heads` | H, query heads |
| `hidden_size` | C, model width | `n_kv_heads` | G, key/value heads: the libraries |
| `intermediate_size` | F, MLP width | `head_dim` | D; H x D need not be C |
| `n_layers` | L | `tie_embeddings`, `qkv_bias` | True or False |

A layer has attention (`q_proj`, `k_proj`, `v_proj`, `o_proj`), an MLP (`gate_proj`, `up_proj`, `down_proj`), and before
each of the two an RMSNorm of C weights. One more RMSNorm follows the last layer. With `qkv_bias` the projections to
queries, keys and values have a bias each. With `tie_embeddings` the output head `lm_head` is the embedding table itself.

Return a dict of whole numbers: `embedding`, `attention`, `mlp`, `norms`, `lm_head`, `total`. What is shared counts
once, as `embedding`.

V = 10, C = 4, F = 6, one layer, two query heads and one library of D = 4, untied, no biases: the embedding has 40, the
attention 32 + 16 + 16 + 32 = 96, the MLP 72, the norms 12, `lm_head` 40; in all 260. With two libraries the
attention would have 128. About ten lines.
""",
    hints=(
        "A linear layer from I to O has I x O weights, and O more with a bias. Which are I and O of each projection?",
        "q_proj goes from C to H x D, k_proj and v_proj from C to G x D, o_proj from H x D back to C. The MLP has "
        "three matrices of C x F. There are two norms a layer and one at the end.",
        'With L, C, D, H, G for the entries: "attention" is L * (2 * C * H * D + 2 * C * G * D), and with biases '
        'L * (H + 2 * G) * D more; "norms" is (2 * L + 1) * C; "lm_head" is 0 if tied and else V * C.',
    ),
    size=lambda case: sum(case["config"].values()),
    n_cases=8,
)


@Q.case
def case(rng):
    """G below H, equal to it, or 1; H x D now and then the model's width, mostly not."""
    n_kv_heads, head_dim = rng.choice([1, 2, 3]), rng.choice([2, 4, 6])
    n_heads = n_kv_heads * rng.choice([1, 2, 4])
    wider = 2 * (n_heads - n_kv_heads) * head_dim  # a bias too many would be this, or C
    vocabulary, width, hidden = rng.sample([n for n in range(7, 60) if n != wider], 3)
    of_heads = n_heads * head_dim
    return {
        "config": {
            "vocab_size": vocabulary,
            "hidden_size": of_heads if of_heads != wider and rng.random() < 0.2 else width,
            "intermediate_size": hidden,
            "n_layers": rng.randint(1, 5),
            "n_heads": n_heads,
            "n_kv_heads": n_kv_heads,
            "head_dim": head_dim,
            "tie_embeddings": rng.random() < 0.5,
            "qkv_bias": rng.random() < 0.5,
        }
    }


@Q.solution
def count_parameters(config):
    """The parameters of a model with this config, by part, and in all."""
    ### BEGIN SOLUTION
    n_layers, width, head_dim = config["n_layers"], config["hidden_size"], config["head_dim"]
    q_width, kv_width = config["n_heads"] * head_dim, config["n_kv_heads"] * head_dim
    biases = q_width + 2 * kv_width if config["qkv_bias"] else 0
    table = config["vocab_size"] * width
    parts = {
        "embedding": table,
        "attention": n_layers * (2 * width * q_width + 2 * width * kv_width + biases),
        "mlp": n_layers * 3 * width * config["intermediate_size"],
        "norms": (2 * n_layers + 1) * width,
        "lm_head": 0 if config["tie_embeddings"] else table,
    }
    return {**parts, "total": sum(parts.values())}
    ### END SOLUTION


@Q.right
def of_a_real_model(config):
    with torch.device("meta"):  # shapes alone
        weights = dict(Transformer(ModelConfig(**config)).named_parameters())
    counts = {
        part: sum(weight.numel() for name, weight in weights.items() if sign in name)
        for part, sign in PARTS.items()
    }
    return {**counts, "total": sum(weight.numel() for weight in weights.values())}


@Q.also_right
def by_shapes(config):
    c, f, d = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["n_heads"] * d, config["n_kv_heads"] * d
    layer = {
        "attention": [(q, c), (kv, c), (kv, c), (c, q)] + [(q,), (kv,), (kv,)] * config["qkv_bias"],
        "mlp": [(f, c), (f, c), (c, f)],
        "norms": [(c,), (c,)],
    }
    count = {part: sum(map(math.prod, s)) * config["n_layers"] for part, s in layer.items()}
    count["norms"] += c
    count["embedding"] = config["vocab_size"] * c
    count["lm_head"] = 0 if config["tie_embeddings"] else count["embedding"]
    return {**count, "total": sum(count.values())}


def shown(case):
    """The whole config: a message cuts off a long dict."""
    return ", ".join(f"{name} {value}" for name, value in case["config"].items())


for part in PARTS:

    @Q.law(f"{part}, as in the real model", shows=shown)
    def _(answer, case, part=part):
        return {part: answer(case["config"])[part]}


@Q.law("tied or not, with biases or without, each part as in the real model", shows=shown)
def _(answer, case):
    """By luck no case might have the one or the other."""
    seen = {}
    for tied, biased in product((True, False), repeat=2):
        count = answer({**case["config"], "tie_embeddings": tied, "qkv_bias": biased})
        kind = f"tie_embeddings {tied}, qkv_bias {biased}"
        seen |= {f"{part} with {kind}": count[part] for part in PARTS}
    return seen


@Q.law("the total is the sum of the parts", shows=shown)
def _(answer, case):
    count = answer(case["config"])
    return {"total": Near(sum(count[part] for part in PARTS)).of(count["total"])}


@Q.law("a table that is tied saves V x C, in all", shows=shown)
def _(answer, case):
    config = case["config"]
    tied, own = (answer({**config, "tie_embeddings": tie})["total"] for tie in (True, False))
    return {"saved": Near(config["vocab_size"] * config["hidden_size"]).of(own - tied)}


@Q.law("one library instead of H saves keys and values of H - 1 heads, in all", shows=shown)
def _(answer, case):
    config = case["config"]
    many, one = (answer({**config, "n_kv_heads": n})["total"] for n in (config["n_heads"], 1))
    of_a_head = 2 * config["head_dim"] * (config["hidden_size"] + config["qkv_bias"])
    saved = config["n_layers"] * (config["n_heads"] - 1) * of_a_head
    return {"saved": Near(saved).of(many - one)}


def miscounted(config, o_proj=1, o_bias=0, wide_bias=0, matrices=3, norms=2, last=1, **taken_for):
    """A count with other matrices and norms, of a config with one entry taken for another."""
    config = {**config, **{name: config.get(other, other) for name, other in taken_for.items()}}
    n_layers, width, parts = config["n_layers"], config["hidden_size"], count_parameters(config)
    o_width = (o_proj - 1) * config["n_heads"] * config["head_dim"] + o_bias * config["qkv_bias"]
    parts["attention"] += n_layers * width * o_width
    wider = 2 * (config["n_heads"] - config["n_kv_heads"]) * config["head_dim"]
    parts["attention"] += n_layers * wide_bias * config["qkv_bias"] * wider
    parts["mlp"] = n_layers * width * matrices * config["intermediate_size"]
    parts["norms"] = (norms * n_layers + last) * width
    return {**parts, "total": sum(parts[part] for part in PARTS)}


Q.mistakes(
    miscounted,
    {
        "`hidden_size` is the width of a row; the table has V rows.": {"vocab_size": 1},
        "keys and values have G heads, not H.": {"n_kv_heads": "n_heads"},
        "keys and values alone are shared: queries have H heads.": {"n_heads": "n_kv_heads"},
        "`head_dim` need not be `hidden_size` / `n_heads`: the config says what it is.": lambda c: (
            miscounted(c, head_dim=c["hidden_size"] // c["n_heads"])
        ),
        "`o_proj` is left out, which leads from all heads back to C.": {"o_proj": 0},
        "the biases of queries, keys and values are left out.": {"qkv_bias": False},
        "`qkv_bias` gives `o_proj` no bias: it stands for q, k and v.": {"o_bias": 1},
        "a bias is as wide as what its matrix returns: G x D for keys and values, not H x D.": {
            "wide_bias": 1
        },
        "the gate is left out: this MLP has three matrices, not two.": {"matrices": 2},
        "the norms are left out: each has C learned weights.": {"norms": 0, "last": 0},
        "the norm after the last layer is left out.": {"last": 0},
        "a layer has two norms, before attention and before the MLP.": {"norms": 1},
        "a tied table counts once: `lm_head` has no weights then.": {"tie_embeddings": False},
        "counts are whole numbers and this is a float: divide with `//`.": lambda c: {
            part: float(count) for part, count in count_parameters(c).items()
        },
        "that is one layer: each of the L layers has weights of its own.": {"n_layers": 1},
    },
)
