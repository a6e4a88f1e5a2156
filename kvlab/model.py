"""The transformer: Llama's shape, one path for training, prefill and decode.

B rows, S new tokens, H query heads, G key/value heads, D head width, C model width, F MLP width,
V vocabulary. Parameter names are Hugging Face's, so a checkpoint loads without a map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvlab import checks, ops
from kvlab.attention import Chosen, chosen
from kvlab.cache import Cache, KVCache, LayerKV, new_cache
from kvlab.config import ModelConfig


@dataclass(frozen=True)
class Pass:
    """What one forward hands from layer to layer, beside the tokens themselves."""

    rope: tuple[Tensor, Tensor]
    pos_BS: Tensor | None  # None where tokens follow on
    cache: Cache | None
    attend: Chosen


class Transformer(nn.Module):
    """A decoder-only language model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        checks.kind("config", config, ModelConfig, "a ModelConfig")
        self.config = config
        self.model = Decoder(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tap_logits = nn.Identity()

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.embed_tokens.weight.dtype

    @property
    def attentions(self) -> list[Attention]:
        """The layers' attention modules, in order: `measure.taps.listen` hears what passes."""
        return [layer.self_attn for layer in self.model.layers]

    @overload
    def new_cache(self, batch: int, capacity: int) -> KVCache: ...
    @overload
    def new_cache(self, batch: int, capacity: int, **how: object) -> Cache: ...
    def new_cache(self, batch: int, capacity: int, **how: object) -> Cache:
        """An empty cache that fits this model, its device and its precision.

        A `KVCache`; with rules for keys and values (`k=PerToken(19), v=PerToken(19)`) the cache
        that holds them so, which also takes `recent`, `sink` and `at_once`.
        """
        config = self.config
        sizes = (config.n_layers, batch, config.n_kv_heads, capacity, config.head_dim)
        return new_cache(*sizes, dtype=self.dtype, device=self.device, **how)

    def forward(
        self, tokens_BS: Tensor, pos_BS: Tensor | None = None, cache: Cache | None = None, *,
        backend: str = "auto",
    ) -> Tensor:  # fmt: skip
        """Logits of the token after each given one.

        With a cache the tokens follow those already in it, and their keys and values stay there.
        `pos_BS` is needed only where rows have padding (-1); None counts on from the cache.
        Shapes: tokens_BS -> logits_BSV.
        Raises: ValueError when the tokens do not fit the cache; nothing is then written.
        """
        return self.head(self.hidden(tokens_BS, pos_BS, cache, backend=backend))

    def hidden(
        self, tokens_BS: Tensor, pos_BS: Tensor | None = None, cache: Cache | None = None, *,
        backend: str = "auto",
    ) -> Tensor:  # fmt: skip
        """The last layer's output after the final norm: what `head` reads. Shapes: x_BSC."""
        # an unknown backend is refused, as all else, before anything is written
        attend = chosen(backend, weights=backend == "reference")
        checks.tensor("tokens_BS", tokens_BS, "BS", checks.IDS)
        if pos_BS is not None:
            checks.tensor("pos_BS", pos_BS, tuple(tokens_BS.shape))
        if cache is not None:
            checks.cache("cache", cache)
            self._check(cache, *tokens_BS.shape, counts=pos_BS is None)
        return self.model(tokens_BS, pos_BS, cache, attend)

    def _check(self, cache: Cache, rows: int, n_new: int, counts: bool) -> None:
        """Refuse a cache that a later layer would refuse: the first ones would be written then."""
        n_layers = self.config.n_layers
        held = (cache.n_layers or n_layers, cache.batch or rows)
        if held != (n_layers, rows):
            raise ValueError(
                f"A cache of {held[0]} layers and {held[1]} rows came; expected {n_layers} layers "
                f"and {rows} rows, as the model and its tokens have."
            )
        cache.check_capacity(n_new)
        if counts and not cache.counts_positions:
            raise ValueError("This cache was given positions, so it needs them: pass pos_BS.")

    @property
    def head_weights(self) -> nn.Module:
        """Whose `weight` turns a row into logits: the embedding's own where they are tied."""
        return self.model.embed_tokens if self.config.tie_embeddings else self.lm_head

    def head(self, x: Tensor) -> Tensor:
        """Logits over the vocabulary for each given row. Shapes: (..., C) -> (..., V)."""
        if self.config.tie_embeddings:
            return self.tap_logits(F.linear(x, self.model.embed_tokens.weight))
        return self.tap_logits(self.lm_head(x))


class Decoder(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.n_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self._table: tuple[Tensor, Tensor] | None = None

    def forward(
        self, tokens_BS: Tensor, pos_BS: Tensor | None, cache: Cache | None, attend: Chosen
    ) -> Tensor:
        try:
            x_BSC = self.embed_tokens(tokens_BS)
        except IndexError:
            known = self.config.vocab_size
            raise ValueError(f"A token is none of the model's, 0 to {known - 1}.") from None
        start = cache.seen if cache is not None else 0
        rope = self.rope(pos_BS, start, tokens_BS.shape[1], x_BSC)
        now = Pass(rope, pos_BS, cache, attend)
        for layer in self.layers:
            x_BSC = layer(x_BSC, now)
        return self.norm(x_BSC)

    def rope(
        self, pos_BS: Tensor | None, start: int, n_new: int, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Each new token's turn, from a table that is made once and grows when text outgrows it.

        In the precision and on the device of `like`. Positions that are given may be anything: on a
        CPU they are looked up if the model reads so many, elsewhere that would mean to wait.
        """
        stop = start + n_new
        if pos_BS is not None:
            known = pos_BS.is_cpu and pos_BS.numel() and not torch.compiler.is_compiling()
            if not known or (stop := int(pos_BS.max()) + 1) > self.config.max_positions:
                return self._turns(pos_BS, like.dtype)
        table = self._table
        made = () if table is None else (table[0].dtype, table[0].device)
        if made != (like.dtype, like.device) or table[0].shape[1] < stop:
            # it outlives this call, and a tensor of inference mode could not be trained with
            with torch.inference_mode(False):
                every = torch.arange(max(256, 2 * stop), device=like.device)[None]
                table = self._turns(every, like.dtype)
            self._table = table
        if pos_BS is not None:
            return tuple(half_1SD[0][pos_BS.clamp(min=0)] for half_1SD in table)
        return table[0][:, start:stop], table[1][:, start:stop]

    def _turns(self, pos_BS: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        config = self.config
        return ops.rope_angles(
            pos_BS, config.head_dim, config.rope_theta, dtype, config.rope_scaling
        )


class Layer(nn.Module):
    """Attention looks around, the MLP thinks; each adds to the residual stream."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_BSC: Tensor, now: Pass) -> Tensor:
        x_BSC = x_BSC + self.self_attn(self.input_layernorm(x_BSC), now)
        return x_BSC + self.mlp(self.post_attention_layernorm(x_BSC))


class Attention(nn.Module):
    """Queries, keys and values of one layer.

    `tap_q`, `tap_k`, `tap_v` and `tap_weights` do nothing: they are where a probe listens.
    Weights are formed, and pass `tap_weights`, only in the reference backend.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.head_dim
        width, biased = config.hidden_size, config.qkv_bias
        self.q_proj = nn.Linear(width, config.n_heads * config.head_dim, bias=biased)
        self.k_proj = nn.Linear(width, config.n_kv_heads * config.head_dim, bias=biased)
        self.v_proj = nn.Linear(width, config.n_kv_heads * config.head_dim, bias=biased)
        self.o_proj = nn.Linear(config.n_heads * config.head_dim, width, bias=config.o_bias)
        normed = config.qk_norm
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if normed else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if normed else nn.Identity()
        self.tap_q = nn.Identity()
        self.tap_k = nn.Identity()
        self.tap_v = nn.Identity()
        self.tap_weights = nn.Identity()

    def forward(self, x_BSC: Tensor, now: Pass) -> Tensor:
        q_BHSD = self.q_norm(self._heads(self.q_proj(x_BSC)))
        k_BGSD = self.k_norm(self._heads(self.k_proj(x_BSC)))
        # queries and keys turn alike, so they turn together
        turned = ops.apply_rope(torch.cat((q_BHSD, k_BGSD), dim=1), *now.rope)
        q_BHSD = self.tap_q(turned[:, : q_BHSD.shape[1]])
        k_BGSD = self.tap_k(turned[:, q_BHSD.shape[1] :])
        v_BGSD = self.tap_v(self._heads(self.v_proj(x_BSC)))
        if now.cache is None:
            kv = _uncached(k_BGSD, v_BGSD, now.pos_BS)
        else:
            now.cache.append(self.index, k_BGSD, v_BGSD, now.pos_BS)
            kv = now.cache.read(self.index)
        seen = now.attend(q_BHSD, kv, now.pos_BS)
        if seen.weights_BHST is not None:
            self.tap_weights(seen.weights_BHST)
        out_BSHD = seen.out_BHSD.transpose(1, 2)
        return self.o_proj(out_BSHD.flatten(2))

    def _heads(self, x_BSC: Tensor) -> Tensor:
        """(B, S, heads x D) -> (B, heads, S, D); the number of heads follows from the weights."""
        return x_BSC.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MLP(nn.Module):
    """Works on each token alone: it never sees another position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, biased = config.hidden_size, config.mlp_bias
        self.gate_proj = nn.Linear(width, config.intermediate_size, bias=biased)
        self.up_proj = nn.Linear(width, config.intermediate_size, bias=biased)
        self.down_proj = nn.Linear(config.intermediate_size, width, bias=biased)

    def forward(self, x_BSC: Tensor) -> Tensor:
        return self.down_proj(ops.swiglu(self.gate_proj(x_BSC), self.up_proj(x_BSC)))


class RMSNorm(nn.Module):
    """`ops.rms_norm` with its learned scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_BSC: Tensor) -> Tensor:
        return ops.rms_norm(x_BSC, self.weight, self.eps)


def _uncached(k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None) -> LayerKV:
    """New keys and values as if they had just been read from a cache."""
    batch, n_groups, n_new, _ = k_BGSD.shape
    counted = pos_BS is None
    if counted:
        pos_BS = torch.arange(n_new, device=k_BGSD.device).expand(batch, n_new)
    return LayerKV(k_BGSD, v_BGSD, pos_BS[:, None].expand(-1, n_groups, -1), counted, counted)
