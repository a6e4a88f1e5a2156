"""What Hugging Face's `config.json` says, as our numbers and back, for four families of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvlab import __version__, checks, rope_scaling

# What `transformers` takes each family to mean where its config.json says nothing.
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {
        "max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096,
    },
    "qwen2": {
        "max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen3": {
        "max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096,
        "max_window_layers": 28, "head_dim": 128,
    },
}  # fmt: skip
# Numbers that are the same in both, by our name and theirs
_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "max_positions": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
}
_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}  # in every rope object


def read(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that define a model, by their names in `ModelConfig`; refusals are told there."""
    hf = {"rms_norm_eps": 1e-6, **_family(hf), **hf}
    _refuse_unsupported(hf)
    _refuse_window(hf)
    rope = _rope(hf)
    family, bos = hf["model_type"], hf.get("bos_token_id")
    biased = bool(hf.get("attention_bias", False)) and family != "mistral"
    try:
        n_heads, width, head_dim = hf["num_attention_heads"], hf["hidden_size"], hf.get("head_dim")
        if not head_dim and type(width) is type(n_heads) is int and n_heads > 0:
            head_dim = width // n_heads
        hf |= {"head_dim": head_dim, "rope_theta": rope["rope_theta"]}
        hf["num_key_value_heads"] = hf.get("num_key_value_heads") or n_heads
        return {
            **{ours: hf[theirs] for ours, theirs in _NAMES.items()},
            "tie_embeddings": bool(hf.get("tie_word_embeddings", False)),
            "bos_id": None if bos is None else checks.whole("bos_token_id", bos, None),
            "eos_ids": as_ids(hf.get("eos_token_id")),
            "family": family,
            "qkv_bias": biased or family == "qwen2",
            "o_bias": biased and family != "qwen2",
            "mlp_bias": bool(hf.get("mlp_bias", False)) and family == "llama",
            "qk_norm": family == "qwen3",
            "rope_scaling": rope_scaling.read(rope, hf["max_position_embeddings"]),
        }
    except KeyError as missing:
        raise ValueError(
            f"The config has no entry {missing}; expected a complete {family} config."
        ) from None


def written(config: Any, dtype: str) -> dict[str, Any]:
    """A `ModelConfig` in the words of its family, whether or not that has such a model."""
    ids = list(config.eos_ids)
    found = {
        "architectures": [f"{config.family.capitalize()}ForCausalLM"],
        "model_type": config.family,
        **{theirs: getattr(config, ours) for ours, theirs in _NAMES.items()},
        "hidden_act": "silu",
        "attention_bias": config.qkv_bias and config.family != "qwen2",
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_id,
        "eos_token_id": ids[0] if len(ids) == 1 else ids or None,
        "torch_dtype": dtype,
    }
    if config.family != "llama":
        found["sliding_window"] = None
    if config.rope_scaling is not None:
        found["rope_scaling"] = rope_scaling.written(config.rope_scaling)
    return found


def as_ids(ids: Any) -> tuple[int, ...]:
    """Token ids as Hugging Face writes them: none, one, or a list."""
    found = () if ids is None else ids if isinstance(ids, list) else (ids,)
    return tuple(checks.whole("An id in eos_token_id", i, None) for i in found)


def _family(hf: Mapping[str, Any]) -> dict[str, Any]:
    """What the config's family means where it says nothing."""
    kind = hf.get("model_type")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise ValueError(
            f"This config is of architecture {checks.shown(kind)}; kvlab {__version__} runs "
            f"{', '.join(map(repr, _FAMILIES))}. Choose a checkpoint of one of these."
        )
    return _FAMILIES[kind]


def _rope(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The rope entries in the spelling of transformers 5.

    Where both spellings are there its rule holds: rope_scaling wins whole, and a theta that the
    winner lacks comes from the top level, which also wins with the length of the first training.
    """
    found = [hf.get(name) or {} for name in ("rope_scaling", "rope_parameters")]
    if not all(isinstance(rope, Mapping) for rope in found):
        raise ValueError(f"The config's rope entries are {found}; expected objects.")
    rope = {"rope_theta": hf.get("rope_theta", 10000.0), **(found[0] or found[1])}
    kind = rope["rope_type"] = rope.get("rope_type", rope.get("type")) or "default"
    _refuse_unless("rope type", kind, ("default", *rope_scaling.KINDS))
    share = rope.get("partial_rotary_factor", hf.get("partial_rotary_factor"))
    _refuse_unless("partial_rotary_factor", share, (1, None))
    original = "original_max_position_embeddings"
    if original in hf and original in rope_scaling.entries(kind):
        rope[original] = hf[original]
    for name in sorted(rope.keys() - _ROPE - rope_scaling.entries(kind)):
        _refuse_unless(f"{name} in a {kind} rope", rope[name], (None,))
    return rope


def _refuse_unsupported(hf: Mapping[str, Any]) -> None:
    """Refuse by name every entry whose value changes the sums and is not implemented."""
    off = (False, None)
    wanted = {
        "hidden_act": ("silu", "swish"),  # two names of one function
        "attention_bias": off if hf["model_type"] == "mistral" else (True, *off),
        "mlp_bias": (True, *off) if hf["model_type"] == "llama" else off,
        "is_causal": (True, None),
        "tie_word_embeddings": (False, True),
        "per_layer_config": (None, {}),
        "quantization_config": (None,),
        "compression_config": (None,),
        # a file that transformers reads instead of model.safetensors
        "transformers_weights": (None,),
        # code of the checkpoint's own, which may compute something else
        "auto_map": (None, {}),
    }
    for name, supported in wanted.items():
        _refuse_unless(name, hf.get(name, supported[0]), supported)
    kinds = hf.get("layer_types") or []
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        _refuse_unless("layer_types", kind, ("full_attention",))


def _refuse_unless(name: str, came: Any, supported: tuple) -> None:
    if came not in supported:
        raise ValueError(
            f"The config asks for {name} = {checks.shown(came)}; kvlab {__version__} runs "
            f"{' or '.join(map(repr, supported))} only and will not run it wrongly."
        )


def _refuse_window(hf: Mapping[str, Any]) -> None:
    """Refuse a sliding window by which some layer would lose sight of a token.

    With a window of W, position p sees p - W + 1 to p: all there is, if W is at least the longest
    text. In Llama it is `transformers`' cache that would slide.
    """
    window, longest = hf.get("sliding_window"), hf["max_position_embeddings"]
    if window is None or (type(window) is type(longest) is int and window >= longest):
        return
    if hf["model_type"] in ("qwen2", "qwen3"):
        first, n_layers = hf.get("max_window_layers"), hf.get("num_hidden_layers")
        none_slides = type(first) is type(n_layers) is int and first >= n_layers
        # layer_types decide where they are given, and only full_attention has come this far
        if not hf.get("use_sliding_window") or hf.get("layer_types") or none_slides:
            return
    raise ValueError(
        f"The config asks for sliding_window = {window!r} of {longest!r} positions; kvlab "
        f"{__version__} has no sliding windows. It runs one that hides nothing: null, switched "
        "off, or no shorter than max_position_embeddings."
    )
