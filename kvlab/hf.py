"""The same policies and packed rows inside models of `transformers` 5.

L layers, B rows, H query heads, G key/value heads, T slots, S new tokens, D head width.

```
cache = kvlab.hf.cache(model, Evict(snapkv, 0.25))
model.generate(**inputs, past_key_values=cache)
```
Nothing of transformers is changed. The model hands its turned keys and its values to the cache and
asks the attention function named "kvlab" for the result. That function appends to a `KVCache`,
reads it and attends, as our own model does, so padding, eviction, ragged heads and layers of
different lengths need no masks but those that follow from positions.

Long because all that is said in the words of transformers stands in this one file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from kvlab.attention import attend
from kvlab.cache import Cache as OurCache
from kvlab.cache import KVCache, new_cache
from kvlab.config import ModelConfig
from kvlab.measure.taps import compiled
from kvlab.old import in_new_words, renamed
from kvlab.prune import Policy, Pruner, check_once, parts_of

WANTED = "kvlab.hf works inside transformers 5, which is not here: pip install 'transformers>=5.23'"
try:
    from transformers import (
        AttentionInterface,
        AttentionMaskInterface,
        PreTrainedConfig,
        PreTrainedModel,
    )
    from transformers.cache_utils import Cache, CacheLayerMixin

    Cache.get_query_offset  # noqa: B018 older ones lack it
except (ImportError, AttributeError):
    raise ImportError(WANTED) from None

NAME = "kvlab"
# Slots that a cache without a fixed capacity has beyond what it needs, and their share of it.
_SPARE, _SHARE = 64, 8
_WORDS = {"k_rule": "k", "v_rule": "v", "sinks": "sink", "every": "at_once"}
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@renamed(packed="storage")
def cache(
    model: PreTrainedModel,
    policy: Policy | None = None,
    *,
    storage: dict | None = None,
    capacity: int | None = None,
) -> PolicyCache:
    """A cache for one batch of this model, to be passed as `past_key_values`.

    `policy` is what `kvlab.generate(prune=)` takes. It is applied when the prompt has been read,
    that is before the first token that comes alone, and by its `every` after that. `storage` is
    what `model.new_cache` takes by name (k, v, recent, ...), and holds what a policy left.
    `capacity` takes memory for so many slots once; without it, memory grows with the text
    and shrinks when tokens were evicted. A packed cache needs one.
    Registers the attention function "kvlab" with transformers and selects it in this model. With
    any other cache it does what "sdpa" does; `model.set_attn_implementation` selects another.
    Raises: ValueError for a model, policy or storage that cannot work; nothing is then changed.
    """
    theirs, inside = _read(model)
    if storage is not None:
        storage = in_new_words(storage, _WORDS, stacklevel=4)
    _check_storage(policy, storage, capacity)
    _check_rules(storage, inside.config)
    _check_policy(policy, inside)
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)
    return PolicyCache(theirs, inside, policy, storage, capacity)


class PolicyCache(Cache):
    """What `cache` makes. `kv` is the KVCache inside, None until something was read.

    `get_seq_length` counts the tokens seen, evicted ones too, so positions go on after an eviction.
    One prompt may be read in several forwards, which ends when a token comes alone or at `prune`.
    Text that comes later in pieces of several tokens stays whole until the policy is due again.
    """

    def __init__(
        self,
        theirs: PreTrainedConfig,
        inside: _Inside,
        policy: Policy | None,
        storage: dict | None,
        capacity: int | None,
    ) -> None:
        self._theirs, self._inside = theirs, inside
        self._policy, self._storage, self._capacity = policy, storage, capacity
        n_layers = len(inside.attentions)
        super().__init__(layers=[_Layer(self, i) for i in range(n_layers)])
        self._pruner: Pruner | None = None
        self._listening = ExitStack()  # what the pruner hears through, during a forward
        self.reset()

    def __repr__(self) -> str:
        held = "empty" if self.kv is None else repr(self.kv)
        return f"PolicyCache({self._policy}, {held})"

    def reset(self) -> None:
        """Forget everything, and give the memory back."""
        self._listening.close()
        self.kv: OurCache | None = None
        self._pruner = None
        self._turn = 0  # the layer that comes next
        self._pos_BS: Tensor | None = None
        self._ended = False  # whether the prompt has been read and pruned

    @property
    def live_bytes(self) -> int:
        """Bytes of the keys and values that are kept: see KVCache, or PackedKVCache."""
        return 0 if self.kv is None else self.kv.live_bytes

    @property
    def allocated_bytes(self) -> int:
        """Bytes that the device pays for them, used or not."""
        return 0 if self.kv is None else self.kv.allocated_bytes

    def prune(self) -> None:
        """The prompt ends here: apply the policy, and pack what is left.

        Call it to prune a text before a question about it is read; else it happens by itself.
        Raises: ValueError as Pruner.prune does, with nothing changed; and for a second time, where
        the policy looks at queries that were not collected since.
        """
        if self.kv is None or self._turn:
            raise ValueError("The cache is empty or in the middle of a forward; read a text first.")
        pruner = self._pruner
        if pruner is not None:
            if self._ended and pruner.watches and not pruner.watches_decoding:
                raise ValueError(
                    f"{self._policy} was applied after the prompt, and the queries that it looks "
                    "at were not collected since then. Give it every=..., or make a new cache."
                )
            pruner.step = 0
            pruner.prune()
        if self._storage is not None and pruner is not None:  # so far a dense one was pruned
            kv = self.kv
            sizes = (kv.n_layers, kv.batch, kv.n_kv_heads, self._capacity, kv.head_dim)
            self.kv = new_cache(*sizes, dtype=kv.dtype, device=kv.device, **self._storage)
            self.kv.take(kv)
            self._pruner = None
        elif self._capacity is None:
            used = max(self.kv.used_L)
            self.kv.shrink(min(self.kv.capacity, used + _spare(used)))
        self._ended = True

    def fork(self, policy: Policy | None = None) -> PolicyCache:
        """A second cache with the same contents, also what `copy.deepcopy` makes.

        With another policy, one reading of a prompt serves several: it may look at no more than
        this one's does, and needs a prompt that has not been pruned yet.
        """
        if policy is not None and (self._policy is None or self._ended):
            raise ValueError(
                f"{policy} was given to a fork of a cache that has no policy, or has applied it. "
                "Fork before that, or pass no policy."
            )
        if self._turn:
            raise ValueError("A fork was asked for in the middle of a forward.")
        wanted = policy or self._policy
        _check_storage(wanted, self._storage, self._capacity)
        _check_policy(wanted, self._inside)
        twin = PolicyCache(self._theirs, self._inside, wanted, self._storage, self._capacity)
        twin._ended = self._ended
        if self._pruner is not None:
            twin._pruner = self._pruner.fork(wanted)
            twin.kv = twin._pruner.cache
        elif self.kv is not None:
            twin.kv = self.kv.fork()
        return twin

    def __deepcopy__(self, memo: dict) -> PolicyCache:
        return self.fork()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Mark new keys as this cache's: the attention function takes them in."""
        if self._theirs._attn_implementation != NAME:
            raise ValueError(
                f"The model's attention is {self._theirs._attn_implementation!r}, which knows "
                f"nothing of this cache: model.set_attn_implementation({NAME!r})."
            )
        if layer_idx != self._turn:
            raise ValueError(
                f"Keys of layer {layer_idx} came where layer {self._turn} was expected: a forward "
                "failed or stopped halfway, or the attention in between did not use this cache. "
                "Call reset() and read the text again."
            )
        key_states.kvlab = self
        return key_states, value_states

    def attend(
        self,
        module: nn.Module,
        q_BHSD: Tensor,
        k_BGSD: Tensor,
        v_BGSD: Tensor,
        mask: Tensor | None,
        position_ids: Tensor | None,
    ) -> Tensor:
        """One layer's new tokens in, what they see out. Shapes: out_BHSD."""
        attention = self._inside.attentions[self._turn]
        if attention.theirs[0] is not module:
            raise ValueError("This cache was made for another model; make one for this model.")
        if self._turn == 0:
            self._begin(k_BGSD, mask, position_ids)
        try:
            out_BHSD = attention(q_BHSD, k_BGSD, v_BGSD, self._pos_BS, self.kv)
        except BaseException:
            self._turn = -1
            self._listening.close()
            raise
        self._turn += 1
        if self._turn == len(self.layers):
            self._end(q_BHSD.shape[2])
        return out_BHSD

    def _begin(self, k_BGSD: Tensor, mask: Tensor | None, position_ids: Tensor | None) -> None:
        """All that can be refused before anything is written; then memory, positions, watching."""
        batch, n_new = k_BGSD.shape[0], k_BGSD.shape[2]
        if self.kv is not None and batch != self.kv.batch:
            raise ValueError(f"{batch} rows came to a cache of {self.kv.batch}; make a new one.")
        seen = 0 if self.kv is None else self.kv.seen
        valid_BS = _valid(mask, seen)
        if self.kv is not None and n_new == 1 and not self._ended:
            self.prune()
        kv = self._new(k_BGSD) if self.kv is None else self.kv
        pos_BS = _positions(kv, valid_BS, n_new)
        _check_positions(position_ids, pos_BS, kv.seen)
        needed = max(kv.used_L) + n_new
        if self._capacity is not None:
            kv.check_capacity(n_new)
        elif needed > kv.capacity:
            kv.grow(needed + _spare(needed))
        if self.kv is None and self._policy is not None:
            self._pruner = Pruner(self._inside, kv, self._policy)
        self.kv, self._pos_BS = kv, pos_BS
        if self._pruner is not None and (not self._ended or self._pruner.watches_decoding):
            self._listening = self._pruner.listen()

    def _new(self, k_BGSD: Tensor) -> OurCache:
        batch, heads, n_new, width = k_BGSD.shape
        direct = self._storage is not None and self._policy is None
        capacity = n_new + _spare(n_new) if self._capacity is None else self._capacity
        sizes = (len(self.layers), batch, heads, capacity, width)
        where = {"dtype": k_BGSD.dtype, "device": k_BGSD.device}
        return new_cache(*sizes, **where, **(self._storage if direct else {}))

    def _end(self, n_new: int) -> None:
        self._listening.close()
        self._turn = 0
        if self._ended and n_new == 1 and self._pruner is not None and self._pruner.again:
            self._pruner.prune()


class _Layer(CacheLayerMixin):
    """What transformers asks of one layer; the answers are the whole cache's."""

    is_sliding = False
    supports_early_init = False

    def __init__(self, owner: PolicyCache, index: int) -> None:
        super().__init__()
        self._owner, self._index = owner, index

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: memory is taken when the first text comes."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        return self._owner.update(key_states, value_states, self._index)

    def get_seq_length(self) -> int:
        """Tokens seen, evicted ones too."""
        kv = self._owner.kv
        return 0 if kv is None else kv.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """New tokens alone, behind all that were seen: only their padding is read from the mask."""
        return query_length, self.get_seq_length()

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self._owner.reset()

    def activate_past_recording(self) -> None:
        """Asked for by assisted decoding before it reads anything."""
        raise ValueError(
            "Assisted decoding (assistant_model, prompt_lookup_num_tokens) takes tokens back, and "
            "a pruned cache cannot give back what it dropped. Generate without an assistant."
        )

    def crop(self, tokens_to_remove: int) -> None:
        self.activate_past_recording()

    def _reorder(self, *_) -> None:
        raise ValueError(
            "Beam search and other reorderings of rows came to a kvlab cache, which keeps each row "
            "in its place. Use num_beams=1; for several answers, repeat the prompts."
        )

    reorder_cache = batch_repeat_interleave = batch_select_indices = _reorder


class _Attention(nn.Module):
    """Attention as our own model has it, between the projections of theirs."""

    def __init__(self, index: int, theirs: nn.Module) -> None:
        super().__init__()
        self.index, self.theirs = index, (theirs,)  # in a tuple, so that it is not a part of this
        self.tap_q = nn.Identity()
        self.o_proj = theirs.o_proj

    def forward(
        self, q_BHSD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None, kv: KVCache
    ) -> Tensor:
        q_BHSD = self.tap_q(q_BHSD)
        kv.append(self.index, k_BGSD, v_BGSD, pos_BS)
        return attend(q_BHSD, kv.read(self.index), pos_BS).out_BHSD


class _Inside(nn.Module):
    """What a Pruner asks of a model, of one of theirs: its sizes, its attention and its device."""

    def __init__(self, config: ModelConfig, layers: list[nn.Module], device: torch.device) -> None:
        super().__init__()
        self.config, self.device = config, device
        self.attentions = nn.ModuleList(_Attention(i, layer) for i, layer in enumerate(layers))


def _read(model: PreTrainedModel) -> tuple[PreTrainedConfig, _Inside]:
    """Its decoder's config, and its inside as a Pruner asks for it.

    Raises: ValueError for what our attention would run wrongly.
    """
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"A {type(model).__name__} came; expected a model of transformers, not a compiled one."
        )
    if compiled(model):
        raise ValueError(
            "The model was compiled, which would fix the cache's length; use it as is."
        )
    theirs = model.get_decoder().config
    # how linear layers are stored is their own business
    config = ModelConfig.from_hf({**theirs.to_dict(), "quantization_config": None})
    layers = [layer.self_attn for layer in model.get_decoder().layers]
    devices = {weight.device for weight in model.get_decoder().layers.parameters()}
    if len(devices) != 1:
        named = ", ".join(sorted(map(str, devices)))
        raise ValueError(
            f"The model's layers are on {named}; one cache is on one device. Load the model onto "
            "one, without device_map."
        )
    return theirs, _Inside(config, layers, devices.pop())


def _check_storage(policy: Policy | None, storage: dict | None, capacity: int | None) -> None:
    if capacity is not None and (type(capacity) is not int or capacity < 1):
        raise ValueError(f"capacity is {capacity!r}; expected a number of slots, or None to grow.")
    if storage is None:
        return
    if capacity is None:
        raise ValueError("A packed cache does not grow; give it capacity=, prompt and answer.")
    check_once(policy)


def _check_rules(storage: dict | None, config: ModelConfig) -> None:
    """Refuse what a cache of this model and storage would refuse, by making the smallest one."""
    if storage is None:
        return
    try:
        lacking = [name for name in ("k", "v") if name not in storage]
        if lacking:
            raise TypeError(f"{' and '.join(lacking)} missing")
        new_cache(1, 1, 1, 1, config.head_dim, dtype=torch.float32, device="cpu", **storage)
    except TypeError as error:
        raise ValueError(
            f"storage is {storage!r}, which makes no cache ({error}); expected dict(k=..., v=..., "
            "recent=32, sink=0)."
        ) from None


def _check_policy(policy: Policy | None, inside: _Inside) -> None:
    """Refuse what a Pruner would, and a score that reads weights which are no numbers."""
    if policy is None:
        return
    Pruner(inside, KVCache(len(inside.attentions), 1, 1, 1, 2), policy)
    held = getattr(getattr(inside.attentions[0].o_proj, "weight", None), "dtype", None)
    if any(part.needs.output for part in parts_of(policy)) and held not in _FLOATS:
        raise ValueError(
            f"{policy} reads the output projection's weight, which this model holds as {held}. Use "
            "another score, or a model that is not quantised."
        )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, None]:
    """The attention function "kvlab": of a PolicyCache, else sdpa's."""
    owner = getattr(key, "kvlab", None)
    if owner is None:
        sdpa: Callable = AttentionInterface()["sdpa"]
        return sdpa(module, query, key, value, attention_mask, dropout=dropout, **kwargs)
    if dropout:
        raise ValueError("Attention dropout came to a kvlab cache: call model.eval() first.")
    position_ids = kwargs.get("position_ids")
    out_BHSD = owner.attend(module, query, key, value, attention_mask, position_ids)
    return out_BHSD.transpose(1, 2), None


def _mask(*args, **kwargs) -> Tensor | None:
    """sdpa's mask, marked as made from a 2D mask and with whether that covers all tokens."""
    mask = AttentionMaskInterface()["sdpa"](*args, **kwargs)
    given = kwargs.get("attention_mask")
    if mask is not None and given is not None:
        mask.kvlab = given.shape[-1] >= kwargs["kv_length"] + kwargs["kv_offset"]
    return mask


def _valid(mask: Tensor | None, seen: int) -> Tensor | None:
    """Which new tokens are not padding, from their mask's diagonal; None for all."""
    if mask is None:
        return None
    covers = getattr(mask, "kvlab", None)
    if covers is None:
        raise ValueError(
            "A mask of four axes came with a kvlab cache, which masks by positions and padding "
            "only. Pass attention_mask with two axes, (rows, tokens), or none."
        )
    if not covers:
        raise ValueError(
            "attention_mask covers fewer tokens than there are: it needs one entry for each token "
            f"so far, evicted ones too, and each new one.{_used(seen)}"
        )
    return mask[:, 0].diagonal(dim1=-2, dim2=-1)


def _positions(kv: KVCache, valid_BS: Tensor | None, n_new: int) -> Tensor | None:
    """Positions of new tokens, counted from each row's first; None where they just follow on."""
    if valid_BS is None and kv.counts_positions:
        return None
    next_B1 = kv.next_pos_B()[:, None]
    if valid_BS is None:
        return next_B1 + torch.arange(n_new, device=next_B1.device)
    valid_BS = valid_BS.to(next_B1.device)
    return (next_B1 + valid_BS.cumsum(-1) - 1).where(valid_BS, -1)


def _check_positions(position_ids: Tensor | None, pos_BS: Tensor | None, start: int) -> None:
    """Refuse a model that turned its keys by other positions; a GPU is not asked."""
    if position_ids is None or position_ids.device.type != "cpu":
        return
    want = pos_BS
    if want is None:
        want = torch.arange(start, start + position_ids.shape[-1])
    if not ((position_ids == want) | (want < 0)).all():
        if position_ids.amax() < start:
            raise ValueError(f"A text came that begins before the cache ends.{_used(start)}")
        raise ValueError(
            "position_ids do not count each row's tokens from its first. Leave them out, or for "
            "padded rows pass attention_mask.cumsum(-1) - 1 of the new tokens, as generate does."
        )


def _used(seen: int) -> str:
    """What to do if a cache was meant to be new."""
    if not seen:
        return ""
    return (
        f" This cache has seen {seen} tokens: for another text make a new one, or call reset(); to "
        "go on with this text give all of it, as generate expects."
    )


def _spare(used: int) -> int:
    return max(_SPARE, used // _SHARE)
