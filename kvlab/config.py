"""The numbers that define a model.

L layers, H query heads, G key/value heads, D head width, C model width, F MLP width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from kvlab import checks, families, rope_scaling
from kvlab.families import as_ids  # noqa: F401 (it was here)
from kvlab.rope_scaling import Llama3Scaling  # noqa: F401 (it was here)


@dataclass(frozen=True)
class ModelConfig:
    """One Llama-shaped decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

    `family` is Hugging Face's model_type; what a family adds is in the four entries after it.
    """

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
    family: str = "llama"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    rope_scaling: rope_scaling.Scaling | None = None

    def __post_init__(self) -> None:
        wanted = {
            "int": (
                lambda n: type(n) is int and 0 < n < 2**31,
                "a whole number of at least 1, below 2**31",
            ),
            "float": (checks.is_positive, "a finite number above 0"),
        }
        for field in fields(self):
            if field.type in wanted:
                given = checks.number(field.name, getattr(self, field.name), *wanted[field.type])
                if field.type == "float":  # a whole number may be more than torch takes
                    object.__setattr__(self, field.name, given)
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} key/value heads "
                "evenly; the first must be a multiple of the second."
            )
        for i in (*self.eos_ids, *(() if self.bos_id is None else (self.bos_id,))):
            if i >= self.vocab_size:
                raise ValueError(
                    f"A token that begins or ends a text is {i}; expected one of the "
                    f"{self.vocab_size} of the vocabulary, from 0."
                )
        rope_scaling.check(self.rope_scaling, self.rope_theta)
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
        return cls(**families.read(hf))

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """The same model as a Hugging Face config, which `transformers` opens unchanged.

        Raises: ValueError when no config of the family says what this one does.
        """
        written = families.written(self, dtype)
        whole = self.family != "llama" or self.hidden_size % self.n_heads == 0
        if not whole or type(self).from_hf(written) != self:
            raise ValueError(
                f"{self} cannot be written as a {self.family} config: transformers has no such "
                "model. Its biases and norms must be the family's, and in a llama the heads must "
                "divide hidden_size."
            )
        return written

    @property
    def n_params(self) -> int:
        """Parameters in all; a tied embedding counts once."""
        c, d, f = self.hidden_size, self.head_dim, self.intermediate_size
        attention = 2 * c * self.n_heads * d + 2 * c * self.n_kv_heads * d
        biases = self.qkv_bias * (self.n_heads + 2 * self.n_kv_heads) * d + self.o_bias * c
        biases += self.mlp_bias * (2 * f + c) + self.qk_norm * 2 * d
        layer = attention + 3 * c * f + 2 * c + biases
        embeddings = self.vocab_size * c * (1 if self.tie_embeddings else 2)
        return self.n_layers * layer + c + embeddings

    def kv_bytes_per_token(self, bytes_per_number: int = 4) -> int:
        """Bytes that one token adds to the cache: a key and a value, per layer and KV head."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * bytes_per_number
