"""8.1: the bytes of a cache, from the numbers that a model's maker publishes."""

from __future__ import annotations

from kvlab.course.author import Exercise, NotData, brief
from kvlab.course.author.compare import Near

Q = Exercise(
    "8.1",
    "The bytes of any cache",
    "kv_bytes",
    points=3,
    minutes=20,
    difficulty=2,
    statement="""
How many bytes do the keys and values of one chat of `n_tokens` tokens take (chapter 8, "What one token costs")? `config` is a dict with entries of a model's `config.json`, and a number is stored in `bits` bits, 4, 8, 16 or 32. Return a whole number (`int`).

- `num_hidden_layers` and `num_attention_heads` are always there. `num_key_value_heads` may be missing or `None`: then every query head has a key and a value of its own.
- `head_dim` may be missing or `None`: then a head is `hidden_size` divided by `num_attention_heads` wide.
- `sliding_window` may be missing or `None`: then no layer slides. Else a layer that slides holds its last `sliding_window` tokens, or all of them while there are fewer.
- `layer_types` may be missing or `None`: then all layers slide if there is a window. Else it is a list of a text for each layer, `"sliding_attention"` or `"full_attention"`.
- If there is a `kv_lora_rank`, the model has MLA: a layer keeps `kv_lora_rank + qk_rope_head_dim` numbers a token, for keys and values of all heads together, and nothing else. No layer slides then, whatever `sliding_window` and `layer_types` say.

About 12 lines. Two layers with 4 heads, 2 of them for keys and values, each 8 wide, keep 64 numbers a token, which in 16 bits are 128 bytes. If the first of the two slides with a window of 3, five tokens take 512 bytes.
""",
    hints=(
        "What does one layer hold: how many tokens, and how many numbers for each? Which entries tell the one, and which the other?",
        "First the numbers a token leaves in a layer: 2 * heads * width, or the two entries of MLA. Then for each layer the tokens that it holds: n_tokens, or min(n_tokens, window). The sum of all tokens held times the numbers times bits, divided by 8 without a remainder.",
        "heads = config.get('num_key_value_heads') or config['num_attention_heads']; width = config.get('head_dim') or config['hidden_size'] // config['num_attention_heads']; kinds = config.get('layer_types') or [('sliding_attention' if window else 'full_attention')] * n_layers; held = sum(min(n_tokens, window) if kind == 'sliding_attention' and window else "
        "n_tokens for kind in kinds); return held * 2 * heads * width * bits // 8. With kv_lora_rank: n_tokens * n_layers * (rank + rope) * bits // 8.",
    ),
    size=lambda case: case["n_tokens"],
)


@Q.case
def case(rng):
    n_layers, kv_heads, group = rng.randint(3, 6), rng.choice([2, 3]), rng.choice([2, 4])
    width = rng.choice([6, 10, 14])
    config = {
        "hidden_size": 2 * kv_heads * group * width,
        "num_hidden_layers": n_layers,
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "head_dim": width,
    }
    window = rng.randint(5, 9)
    return {
        "config": config, "n_tokens": rng.randint(window + 3, 40), "bits": rng.choice([16, 32]),
        "_window": window, "_rank": 2 * rng.randint(9, 20) + 1, "_rope": rng.choice([5, 7]),
        "_slides": rng.randint(1, n_layers - 1),
    }  # fmt: skip


@Q.solution
def kv_bytes(config, n_tokens, bits):
    """Return the bytes of the cache of one chat."""
    ### BEGIN SOLUTION
    n_layers, n_heads = config["num_hidden_layers"], config["num_attention_heads"]
    if config.get("kv_lora_rank"):
        each = config["kv_lora_rank"] + config["qk_rope_head_dim"]
        return n_tokens * n_layers * each * bits // 8
    heads = config.get("num_key_value_heads") or n_heads
    width = config.get("head_dim") or config["hidden_size"] // n_heads
    window = config.get("sliding_window")
    held = n_layers * n_tokens
    if window:
        kinds = config.get("layer_types") or ["sliding_attention"] * n_layers
        held = sum(
            min(n_tokens, window) if kind == "sliding_attention" else n_tokens for kind in kinds
        )
    return held * 2 * heads * width * bits // 8
    ### END SOLUTION


@Q.also_right
def layer_by_layer(config, n_tokens, bits):
    total = 0
    for layer in range(config["num_hidden_layers"]):
        if config.get("kv_lora_rank") is not None:
            numbers, tokens = config["kv_lora_rank"] + config["qk_rope_head_dim"], n_tokens
        else:
            queries = config["num_attention_heads"]
            shared = config.get("num_key_value_heads")
            shared = queries if shared is None else shared
            wide = config.get("head_dim")
            wide = config["hidden_size"] // queries if wide is None else wide
            numbers, tokens = shared * wide + shared * wide, n_tokens
            window, kinds = config.get("sliding_window"), config.get("layer_types")
            slides = window is not None and (kinds is None or kinds[layer].startswith("sliding"))
            if slides and n_tokens > window:
                tokens = window
        total += tokens * numbers * bits
    return int(total // 8)


# --- laws ---


def _law(says, change):
    """The case's config with other entries; None leaves one out."""

    def asked(case):
        config, more = change(case)
        given = {**case, **more}
        known = {**case["config"], **config}
        left = {name: value for name, value in known.items() if value != "missing"}
        return left, given["n_tokens"], given["bits"]

    @Q.law(says, shows=lambda case: "config {}, n_tokens {}, bits {}".format(*asked(case)))
    def _(answer, case):
        found = answer(*asked(case))
        if type(found) is float:
            raise NotData(
                f"your code returned {brief(found)}, a float; expected a whole number (int)."
            )
        return {"bytes": Near(kv_bytes(*asked(case))).of(found)}


def _slides(case):
    n, first = case["config"]["num_hidden_layers"], case["_slides"]
    kinds = ["sliding_attention"] * first + ["full_attention"] * (n - first)
    return {"sliding_window": case["_window"], "layer_types": kinds[::-1]}


_law("grouped heads", lambda case: ({}, {}))
_law("one token", lambda case: ({}, {"n_tokens": 1}))
_law("no token", lambda case: ({}, {"n_tokens": 0}))
_law("4 and 8 bits", lambda case: ({}, {"bits": 4 if case["n_tokens"] % 2 else 8}))
_law("no entry for key/value heads", lambda case: ({"num_key_value_heads": "missing"}, {}))
_law("None for key/value heads", lambda case: ({"num_key_value_heads": None}, {}))
_law("no entry for the width of a head", lambda case: ({"head_dim": "missing"}, {}))
_law("None for the width of a head", lambda case: ({"head_dim": None}, {}))
_law("all layers slide", lambda case: ({"sliding_window": case["_window"]}, {}))
_law("all layers slide, and layer_types is None", lambda case: (
    {"sliding_window": case["_window"], "layer_types": None}, {}
))  # fmt: skip
_law("a window of None", lambda case: ({"sliding_window": None, "layer_types": None}, {}))
_law("fewer tokens than the window", lambda case: (
    {"sliding_window": case["_window"]}, {"n_tokens": case["_window"] - 1}
))  # fmt: skip
_law("exactly the window, and one more", lambda case: (
    {"sliding_window": case["_window"]}, {"n_tokens": case["_window"] + case["n_tokens"] % 2}
))  # fmt: skip
_law("some layers slide", lambda case: (_slides(case), {}))
_law("no layer slides by its type", lambda case: (
    {**_slides(case), "layer_types": ["full_attention"] * case["config"]["num_hidden_layers"]}, {}
))  # fmt: skip
_law("types, and no window", lambda case: (
    {"layer_types": ["full_attention"] * case["config"]["num_hidden_layers"]}, {}
))  # fmt: skip
_law("MLA", lambda case: ({"kv_lora_rank": case["_rank"], "qk_rope_head_dim": case["_rope"]}, {}))
_law("types of layers that slide, and no window", lambda case: (
    {"layer_types": _slides(case)["layer_types"], "sliding_window": ["missing", None][case["n_tokens"] % 2]}, {}
))  # fmt: skip
_law("MLA in 4 and 8 bits", lambda case: (
    {"kv_lora_rank": case["_rank"], "qk_rope_head_dim": case["_rope"]},
    {"bits": 4 if case["n_tokens"] % 2 else 8},
))  # fmt: skip
_law("MLA, and entries for a window", lambda case: (
    {"kv_lora_rank": case["_rank"], "qk_rope_head_dim": case["_rope"], **_slides(case)}, {}
))  # fmt: skip
_law("MLA, and a window without types", lambda case: (
    {"kv_lora_rank": case["_rank"], "qk_rope_head_dim": case["_rope"],
     "sliding_window": case["_window"]}, {}
))  # fmt: skip
_law("no MLA: its entries are None", lambda case: (
    {"kv_lora_rank": None, "qk_rope_head_dim": None}, {}
))  # fmt: skip
_law("Llama-3-70B at 4,096 tokens", lambda case: (
    {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
     "num_key_value_heads": 8, "head_dim": "missing"}, {"n_tokens": 4096, "bits": 16},
))  # fmt: skip


@Q.law("twice the tokens, twice the bytes, where nothing slides")
def _(answer, case):
    """It needs no right answer."""
    one, two = (answer(case["config"], n, case["bits"]) for n in (7, 14))
    return {"bytes of twice the tokens": Near(2 * one).of(two)}


# --- what goes wrong: each changes one thing of this ---


def _held(config, n_tokens):
    n_layers, window = config["num_hidden_layers"], config.get("sliding_window") or n_tokens
    kinds = config.get("layer_types") or ["sliding_attention"] * n_layers
    return sum(min(n_tokens, window) if kind[0] == "s" else n_tokens for kind in kinds)


def _bytes(
    config, n_tokens, bits, *, both=2, heads=lambda c: c.get("num_key_value_heads"), layers=None,
    wide=lambda c: c.get("head_dim"), held=min, every=False, mla=lambda c: c["qk_rope_head_dim"],
    mla_both=1, width=lambda c: c["hidden_size"] // c["num_attention_heads"], unit=8, whole=True,
    none=False, absent=None, mla_slides=False,
):  # fmt: skip
    n_layers, n_heads = config["num_hidden_layers"], config["num_attention_heads"]
    if config.get("kv_lora_rank") and mla is not None:
        each = mla_both * (config["kv_lora_rank"] + mla(config))
        held = _held(config, n_tokens) if mla_slides else n_tokens * n_layers
        return held * each * bits // unit
    shared = heads(config) or absent or n_heads
    head_dim = wide(config) or width(config)
    if none and (config.get("num_key_value_heads", 1) is None or config.get("head_dim", 1) is None):
        raise TypeError("unsupported operand type(s) for *: 'int' and 'NoneType'")
    window = config.get("sliding_window")
    tokens = n_layers * n_tokens if layers is None else n_tokens
    if window and held is not None:
        kinds = config.get("layer_types") or ["sliding_attention"] * n_layers
        kinds = ["sliding_attention"] * n_layers if every else kinds
        tokens = sum(
            held(n_tokens, window) if kind == "sliding_attention" else n_tokens for kind in kinds
        )
    total = tokens * both * shared * head_dim * bits
    return total // unit if whole else total / unit


Q.mistakes(
    _bytes,
    {
        "keys are counted and values are not.": {"both": 1},
        "query heads are counted. Only the key/value heads are stored.": {
            "heads": lambda c: c["num_attention_heads"]
        },
        "that is tokens times hidden size: the width of the model, not that of the stored heads.": {
            "heads": lambda c: 1, "wide": lambda c: c["hidden_size"]
        },
        "one layer is counted. Each has keys and values of its own.": {"layers": 1},
        "head_dim is computed though it is given. A head may be wider or narrower than "
        "hidden_size / heads.": {"wide": lambda c: None},
        "the width is divided by the key/value heads. hidden_size is shared by the query heads.": {
            "width": lambda c: c["hidden_size"] // (
                c.get("num_key_value_heads") or c["num_attention_heads"])
        },
        "no entry for key/value heads is taken for one head. It means that no heads are shared.": {
            "absent": 1
        },
        "an entry that is None is not taken for one that is missing: config.get(name) or ..., not "
        "config.get(name, ...).": {"none": True},
        "a window is not looked at. A layer that slides holds no more than its window.": {
            "held": None
        },
        "a layer that slides holds its whole window, even when there are fewer tokens.": {
            "held": lambda n, window: window
        },
        "a window of W holds W tokens, the newest among them.": {
            "held": lambda n, window: min(n, window + 1)
        },
        "all layers slide. layer_types says which do.": {"every": True},
        "MLA keeps keys and values of all heads: it keeps one vector and one small key.": {
            "mla": None
        },
        "MLA's vector is counted twice. Keys and values are both made from it.": {"mla_both": 2},
        "the small key of MLA that carries the position is left out.": {"mla": lambda c: 0},
        "layers of MLA slide where there is an entry for a window. With MLA no layer does.": {
            "mla_slides": True
        },
        "bits are taken for bytes: 8 bits are one byte.": {"unit": 1},
        "the result is a float. Bytes are whole: divide with //.": {"whole": False},
    },
)  # fmt: skip
