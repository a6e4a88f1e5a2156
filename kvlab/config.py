"""The numbers that define a model, read from a Hugging Face `config.json`.

L layers, H query heads, G key/value heads, D head width, C model width, F MLP width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """One Llama-shaped decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    max_positions: int = 2048
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_embeddings: bool = False
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "n_layers",
            "n_heads",
            "n_kv_heads",
            "head_dim",
            "max_positions",
        ):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1.")
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not value > 0:
                raise ValueError(f"{name} is {value!r}; expected a number above 0.")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} key/value heads "
                "evenly; the first must be a multiple of the second."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim is {self.head_dim}; rotary positions turn pairs of numbers, "
                "so it must be even."
            )

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> ModelConfig:
        """Read a Hugging Face config.

        Raises: ValueError naming whatever this engine does not implement. A model that would run
        wrongly is refused.
        """
        _refuse_unsupported(hf)
        try:
            n_heads = hf["num_attention_heads"]
            hidden_size = hf["hidden_size"]
            head_dim = hf.get("head_dim")
            if not head_dim and type(hidden_size) is type(n_heads) is int and n_heads > 0:
                head_dim = hidden_size // n_heads
            # transformers 5 writes rope_parameters, earlier versions rope_theta
            rope = hf.get("rope_parameters") or {}
            return cls(
                vocab_size=hf["vocab_size"],
                hidden_size=hidden_size,
                intermediate_size=hf["intermediate_size"],
                n_layers=hf["num_hidden_layers"],
                n_heads=n_heads,
                n_kv_heads=hf.get("num_key_value_heads") or n_heads,
                head_dim=head_dim,
                max_positions=hf.get("max_position_embeddings", 2048),
                norm_eps=hf.get("rms_norm_eps", 1e-6),
                rope_theta=rope.get("rope_theta", hf.get("rope_theta", 10000.0)),
                tie_embeddings=bool(hf.get("tie_word_embeddings", False)),
                bos_id=hf.get("bos_token_id"),
                eos_ids=_as_ids(hf.get("eos_token_id")),
            )
        except KeyError as missing:
            raise ValueError(
                f"The config has no entry {missing}; expected a complete Llama config."
            ) from None

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """The same model as a Hugging Face config, which `transformers` opens unchanged."""
        ids = list(self.eos_ids)
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": self.tie_embeddings,
            "bos_token_id": self.bos_id,
            "eos_token_id": self.eos_ids[0] if len(self.eos_ids) == 1 else ids or None,
            "torch_dtype": dtype,
        }

    @property
    def n_params(self) -> int:
        """Parameters in all; a tied embedding counts once."""
        c, d = self.hidden_size, self.head_dim
        attention = 2 * c * self.n_heads * d + 2 * c * self.n_kv_heads * d
        layer = attention + 3 * c * self.intermediate_size + 2 * c
        embeddings = self.vocab_size * c * (1 if self.tie_embeddings else 2)
        return self.n_layers * layer + c + embeddings

    def kv_bytes_per_token(self, bytes_per_number: int = 4) -> int:
        """Bytes that one token adds to the cache: a key and a value, per layer and KV head."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * bytes_per_number


def _as_ids(ids: Any) -> tuple[int, ...]:
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)


def _refuse_unsupported(hf: Mapping[str, Any]) -> None:
    kind = hf.get("model_type")
    if kind != "llama":
        raise ValueError(
            f"This config is of architecture {kind!r}; kvlab {_version()} runs 'llama'. "
            "Choose a Llama-shaped checkpoint."
        )
    ropes = [hf.get(name) or {} for name in ("rope_parameters", "rope_scaling")]
    if not all(isinstance(rope, Mapping) for rope in ropes):
        raise ValueError(f"The config's rope entries are {ropes}; expected objects.")
    types = [rope.get("rope_type", rope.get("type", "default")) for rope in ropes]
    shares = [entry.get("partial_rotary_factor", 1.0) for entry in (hf, *ropes)]
    wanted = {
        "hidden_act": (hf.get("hidden_act", "silu"), ("silu",)),
        "attention_bias": (bool(hf.get("attention_bias", False)), (False,)),
        "mlp_bias": (bool(hf.get("mlp_bias", False)), (False,)),
        "rope type": (next((t for t in types if t != "default"), "default"), ("default",)),
        "partial_rotary_factor": (next((s for s in shares if s not in (1, None)), 1), (1,)),
        "quantization_config": (hf.get("quantization_config"), (None,)),
    }
    for name, (came, supported) in wanted.items():
        if came not in supported:
            raise ValueError(
                f"The config asks for {name} = {came!r}; kvlab {_version()} runs "
                f"{' or '.join(map(repr, supported))} only and will not run it wrongly."
            )


def _version() -> str:
    from kvlab import __version__

    return __version__
