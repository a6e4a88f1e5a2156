"""From a prompt to an answer: prefill once, then decode token by token.

B rows, S prompt tokens, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import KVCache
from kvlab.model import Transformer
from kvlab.pack import PackedKVCache
from kvlab.prompts import Prompt, check_positions, pad, read  # noqa: F401 (pad was here)
from kvlab.prune import Policy, Pruner, check_once
from kvlab.sampling import Pick, Sampler, greedy  # noqa: F401 (Sampler was here)


@dataclass(frozen=True)
class Step:
    """One decoding step: the tokens it chose and the logits it chose them from."""

    index: int
    token_B: Tensor
    logits_BV: Tensor
    done_B: Tensor


@torch.inference_mode()
def prefill(
    model: Transformer,
    tokens_BS: Tensor,
    cache: KVCache,
    *,
    pos_BS: Tensor | None = None,
    backend: str = "auto",
    prune: Policy | None = None,
) -> Tensor:
    """Read a whole prompt at once, fill the cache, and return each row's last logits.

    `pos_BS` is needed only when rows have padding (-1): then the last real token counts. `prune`
    thins the cache afterwards, once; the logits are those of the whole prompt. An empty packed
    cache packs what that left.
    Shapes: tokens_BS -> logits_BV.
    Raises: ValueError before anything is read when a budget is too small, a score needs the
    attention mass of tokens already in the cache, or a packed cache is not empty.
    """
    if prune is not None:
        pruner = _pruner(model, cache, prune, tokens_BS, pos_BS)
        return _prefill_thinned(model, tokens_BS, cache, pos_BS, pruner, backend)
    x_BSC = model.hidden(tokens_BS, pos_BS, cache, backend=backend)
    if pos_BS is None:
        last_BC = x_BSC[:, -1]
    else:
        last_B = pos_BS.argmax(-1)
        last_BC = x_BSC[torch.arange(len(last_B), device=last_B.device), last_B]
    return model.head(last_BC)


def _pruner(
    model: Transformer,
    cache: KVCache,
    policy: Policy,
    tokens_BS: Tensor,
    pos_BS: Tensor | None,
) -> Pruner:
    """A pruner for this prompt, with every refusal that is possible before it is read.

    For a packed cache it thins a dense one beside it.
    """
    if isinstance(cache, PackedKVCache):
        cache = _beside(model, cache, policy, *tokens_BS.shape)
    pruner = Pruner(model, cache, policy)
    if pos_BS is None:
        ends_B = (cache.seen + tokens_BS.shape[1],) * len(tokens_BS)
    else:
        ends_B = tuple((pos_BS.amax(-1) + 1).tolist())
    pruner.check(ends_B)
    return pruner


def _beside(
    model: Transformer, cache: PackedKVCache, policy: Policy, batch: int, n_prompt: int
) -> KVCache:
    """A dense cache in which a prompt is thinned before it is packed."""
    if cache.seen:
        raise ValueError(
            f"{policy} came with a packed cache that holds {cache.seen} tokens, and what is packed "
            "cannot be thinned. Start with an empty one, or leave prune= out."
        )
    check_once(policy)
    return model.new_cache(batch, n_prompt)


def _prefill_thinned(model, tokens_BS, cache, pos_BS, pruner: Pruner, backend="auto") -> Tensor:
    """Read a prompt while its pruner watches, thin it, and pack what is left if `cache` does."""
    with pruner:
        logits_BV = prefill(model, tokens_BS, pruner.cache, pos_BS=pos_BS, backend=backend)
    pruner.prune()
    if isinstance(cache, PackedKVCache):
        cache.take(pruner.cache)
    return logits_BV


@torch.inference_mode()
def decode(model: Transformer, token_B: Tensor, cache: KVCache, *, backend: str = "auto") -> Tensor:
    """Feed one token per row, reuse everything in the cache, and return the next logits.

    Shapes: token_B -> logits_BV.
    """
    pos_B1 = None if cache.counts_positions else cache.next_pos_B()[:, None]
    return model.head(model.hidden(token_B[:, None], pos_B1, cache, backend=backend)[:, -1])


def stream(
    model: Transformer,
    prompts: Prompt,
    n_new: int,
    *,
    cache: KVCache | None = None,
    pick: Pick = greedy,
    decode: Callable[[Transformer, Tensor, KVCache], Tensor] = decode,
    eos: Sequence[int] | None = None,
    prune: Policy | None = None,
) -> Iterator[Step]:
    """Yield one Step per new token until every row has ended or `n_new` is reached.

    `prompts` is a tensor (S,) or (B, S), or lists of ids of any lengths. `cache` continues a
    conversation: its tokens come before the prompt. `eos` are the ids that end a row, the
    model's own unless given; () never ends. A row that has ended goes on as its ending id.
    The last new token is not fed, so it is not yet in `cache`: the next prompt begins with it.
    On a GPU a few more steps may follow the one at which every row has ended; the cache is then
    as if they had not.
    `prune` thins the cache after the prompt, and again each `every` decoded tokens if the policy
    says so: `policies` has many. The cache still needs room for prompt and answer. An empty
    `PackedKVCache` packs what a policy left of the prompt, and then what leaves its window.
    Raises: ValueError before the first token when the prompt is empty or not of the model's ids,
    when prompt and answer do not fit the cache or the model's positions, or when the policy's
    budget is too small or what its score needs cannot be collected.
    """
    tokens_BS, pos_BS = read(model, prompts, n_new)
    cache, pos_BS = _room(model, tokens_BS, pos_BS, n_new, cache)
    ends = torch.tensor(model.config.eos_ids if eos is None else tuple(eos), device=model.device)
    pruner = None
    if prune is not None:
        pruner = _pruner(model, cache, prune, tokens_BS, pos_BS)
        if pruner.watches_decoding and not getattr(decode, "passes_taps", True):
            raise ValueError(
                f"{prune} looks at the queries of decoded tokens, but a compiled step passes no "
                "taps. Use plain decode, or every=0."
            )
    return _steps(model, tokens_BS, pos_BS, n_new, cache, pick, decode, ends, pruner)


@torch.inference_mode()
def _steps(model, tokens_BS, pos_BS, n_new, cache, pick, decode, ends, pruner) -> Iterator[Step]:
    if pruner:
        logits_BV = _prefill_thinned(model, tokens_BS, cache, pos_BS, pruner)
    else:
        logits_BV = prefill(model, tokens_BS, cache, pos_BS=pos_BS)
    done_B = torch.zeros(len(tokens_BS), dtype=torch.bool, device=logits_BV.device)
    token_B = tokens_BS[:, -1]
    over: list[Tensor] = []
    for index in range(n_new):
        picked_B = pick(logits_BV)
        if len(ends):
            picked_B = torch.where(done_B, token_B, picked_B)
            done_B = done_B | torch.isin(picked_B, ends)
            over.append(done_B.all())
        token_B = picked_B
        yield Step(index, token_B, logits_BV, done_B)
        last = index + 1 == n_new
        # tokens fed after the end could not be forgotten past an eviction, so then always ask
        if over and (last or _may_ask(done_B.device, index) or (pruner and pruner.again)):
            late = _late(over)
            if late is not None:
                # tokens fed after the end do not belong to the text
                cache.rewind(cache.seen - late)
                return
        if last:
            return
        with pruner if pruner and pruner.watches_decoding else nullcontext():
            logits_BV = decode(model, token_B, cache)
        if pruner and pruner.again:
            pruner.prune()


def _may_ask(device: torch.device, index: int) -> bool:
    """Whether to ask if every row has ended; a GPU only every 16th step, since asking waits."""
    return device.type == "cpu" or index % 16 == 15


def _late(over: list[Tensor]) -> int | None:
    """How many steps ago every row had ended, or None if that is still to come."""
    n_over = int(torch.stack(over).sum())
    return n_over - 1 if n_over else None


def _room(
    model: Transformer,
    tokens_BS: Tensor,
    pos_BS: Tensor | None,
    n_new: int,
    cache: KVCache | None,
) -> tuple[KVCache, Tensor | None]:
    batch, n_prompt = tokens_BS.shape
    held = cache.seen if cache is not None else 0
    # the last new token is returned but never fed
    needed = held + n_prompt + n_new - 1
    check_positions(model, held + n_prompt, n_new)
    if cache is None:
        return model.new_cache(batch, needed), pos_BS
    if cache.batch != batch:
        raise ValueError(f"{batch} prompts came with a cache of {cache.batch} rows.")
    cache.check_room(n_prompt + n_new - 1)
    if pos_BS is None and not cache.counts_positions:
        pos_BS = torch.arange(n_prompt, device=tokens_BS.device).expand(batch, n_prompt)
    if pos_BS is not None:
        pos_BS = torch.where(pos_BS < 0, -1, pos_BS + cache.next_pos_B()[:, None])
    return cache, pos_BS


def generate(
    model: Transformer,
    prompts: Prompt,
    n_new: int,
    *,
    cache: KVCache | None = None,
    pick: Pick = greedy,
    decode: Callable[[Transformer, Tensor, KVCache], Tensor] = decode,
    eos: Sequence[int] | None = None,
    prune: Policy | None = None,
) -> Tensor:
    """The new tokens of each row; same arguments as `stream`.

    Shapes: -> tokens_BN with N <= n_new; after a row's end its ending id repeats.
    """
    steps = stream(
        model, prompts, n_new, cache=cache, pick=pick, decode=decode, eos=eos, prune=prune
    )
    kept = [(step.token_B, step.done_B.all()) for step in steps]
    late = _late([over for _, over in kept]) or 0
    return torch.stack([token_B for token_B, _ in kept[: len(kept) - late]], dim=1)


def generate_uncached(
    model: Transformer, prompts: Prompt, n_new: int, *, pick: Pick = greedy
) -> Tensor:
    """`generate` as it would be without a cache: every step reads the whole text again.

    It exists to be compared with. Each step still forms the last row's logits only, so the
    comparison shows the cache and not a wasteful head. No row ends early.
    Shapes: -> tokens_BN.
    """
    return torch.stack(list(stream_uncached(model, prompts, n_new, pick=pick)), dim=1)


def stream_uncached(
    model: Transformer, prompts: Prompt, n_new: int, *, pick: Pick = greedy
) -> Iterator[Tensor]:
    """`generate_uncached`, one token_B at a time."""
    tokens_BS, pos_BS = read(model, prompts, n_new)
    if pos_BS is not None:
        raise ValueError("Prompts of different lengths came; this baseline takes equal ones.")
    check_positions(model, tokens_BS.shape[1], n_new)
    return _uncached_steps(model, tokens_BS, n_new, pick)


@torch.inference_mode()
def _uncached_steps(model, tokens_BS, n_new, pick) -> Iterator[Tensor]:
    for _ in range(n_new):
        token_B = pick(model.head(model.hidden(tokens_BS)[:, -1]))
        tokens_BS = torch.cat((tokens_BS, token_B[:, None]), dim=1)
        yield token_B
