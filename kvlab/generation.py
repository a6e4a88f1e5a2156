"""From a prompt to an answer: prefill once, then decode token by token.

B rows, S prompt tokens, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from kvlab import checks
from kvlab.cache import Cache
from kvlab.model import Transformer
from kvlab.old._uncached import __getattr__  # noqa: F401 (what was here)
from kvlab.prompts import Prompt, check_positions, pad, read  # noqa: F401 (pad was here)
from kvlab.protocol import Policy, Watcher
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
    cache: Cache,
    *,
    pos_BS: Tensor | None = None,
    backend: str = "auto",
    prune: Policy | None = None,
) -> Tensor:
    """Read a whole prompt at once, fill the cache, and return each row's last logits.

    `pos_BS` is needed only when rows have padding (-1): then the last real token counts. `prune`
    prunes the cache afterwards, once; the logits are those of the whole prompt. An empty packed
    cache packs what that left.
    Shapes: tokens_BS -> logits_BV.
    Raises: ValueError before anything is read when a budget is too small, a score needs the
    attention mass of tokens already in the cache, or a packed cache is not empty.
    """
    checks.model("model", model)
    checks.tensor("tokens_BS", tokens_BS, "BS", checks.IDS)
    checks.cache("cache", cache)
    watcher = None if prune is None else _watch(model, tokens_BS, pos_BS, cache, prune)
    return _prefill(model, tokens_BS, pos_BS, cache, watcher, backend)


def _watch(
    model: Transformer, tokens_BS: Tensor, pos_BS: Tensor | None, cache: Cache, prune: Policy
) -> Watcher:
    """A policy ready for this prompt, with every refusal that is possible before it is read."""
    policies = "a policy: Evict(score, budget), Sparsify(k=..., v=...) or Then(...) of these"
    checks.has("prune", prune, "watch", policies)
    checks.in_one_piece("Pruning was asked for", model)
    batch, n_prompt = tokens_BS.shape
    draft = cache.draft(n_prompt)
    if pos_BS is None:
        ends_B = (draft.seen + n_prompt,) * batch
    else:
        ends_B = tuple((pos_BS.amax(-1) + 1).tolist())
    return prune.watch(model, draft, ends_B, once=draft is not cache)


def _prefill(
    model: Transformer,
    tokens_BS: Tensor,
    pos_BS: Tensor | None,
    cache: Cache,
    watcher: Watcher | None,
    backend: str = "auto",
) -> Tensor:
    draft = cache if watcher is None else watcher.cache
    with watcher or nullcontext():
        x_BSC = model.hidden(tokens_BS, pos_BS, draft, backend=backend)
        if pos_BS is None:
            last_BC = x_BSC[:, -1]
        else:
            last_B = pos_BS.argmax(-1)
            last_BC = x_BSC[torch.arange(len(last_B), device=last_B.device), last_B]
        logits_BV = model.head(last_BC)
    if watcher:
        watcher.prune()
        cache.take(draft)
    return logits_BV


@torch.inference_mode()
def decode(model: Transformer, token_B: Tensor, cache: Cache, *, backend: str = "auto") -> Tensor:
    """Feed one token per row, reuse everything in the cache, and return the next logits.

    Shapes: token_B -> logits_BV.
    """
    checks.model("model", model)
    checks.tensor("token_B", token_B, "B", checks.IDS)
    checks.cache("cache", cache)
    pos_B1 = None if cache.counts_positions else cache.next_pos_B()[:, None]
    return model.head(model.hidden(token_B[:, None], pos_B1, cache, backend=backend)[:, -1])


# after how many steps to look for NaN and ends; on other devices than these after 16: it waits
_ASKED = {"cpu": 1}
Decode = Callable[[Transformer, Tensor, Cache], Tensor]


class How(TypedDict, total=False):
    """The keywords of `stream`, which says what they mean."""

    cache: Cache | None
    pick: Pick
    decode: Decode
    eos: int | Sequence[int] | None
    prune: Policy | None


def stream(
    model: Transformer,
    prompts: Prompt,
    n_new: int,
    *,
    cache: Cache | None = None,
    pick: Pick = greedy,
    decode: Decode = decode,
    eos: int | Sequence[int] | None = None,
    prune: Policy | None = None,
) -> Iterator[Step]:
    """Yield one Step per new token until every row has ended or `n_new` is reached.

    `prompts` is a tensor (S,) or (B, S), or lists of ids of any lengths. `cache` continues a
    conversation: its tokens come before the prompt. `eos` is the id that ends a row, or several,
    the model's own unless given; () never ends. A row that has ended goes on as its ending id. The
    last new token is not fed, so it is not yet in `cache`: the next prompt begins with it.
    On a GPU a few more steps may follow the one at which every row has ended; the cache is then
    as if they had not.
    `prune` prunes the cache after the prompt, and again each `every` decoded tokens if the policy
    says so: `policies` has many. The cache still needs slots for prompt and answer. An empty
    `PackedKVCache` packs what a policy left of the prompt, and then what leaves its window. `cache`
    may also be of a class of your own: see `Cache`.
    Raises: ValueError before the first token when the prompt is empty or not of the model's ids,
    when prompt and answer do not fit the cache or the model's positions, or when the policy's
    budget is too small or what its score needs cannot be collected. Later, where logits are NaN; a
    GPU tells up to 15 tokens late.
    """
    tokens_BS, pos_BS = read(model, prompts, n_new)
    cache, pos_BS = _cache_for(model, tokens_BS, pos_BS, n_new, cache)
    checks.functions(pick=pick, decode=decode)
    ends = model.config.eos_ids if eos is None else checks.ids("eos", eos)
    ends = torch.tensor(ends, dtype=torch.int64, device=model.device)
    watcher = None if prune is None else _watch(model, tokens_BS, pos_BS, cache, prune)
    if watcher and watcher.watches_decoding and not getattr(decode, "passes_taps", True):
        raise ValueError(
            f"{prune} looks at the queries of decoded tokens, but a compiled step passes no "
            "taps. Use plain decode, or every=0."
        )
    return _steps(model, tokens_BS, pos_BS, n_new, cache, pick, decode, ends, watcher)


@torch.inference_mode()
def _steps(
    model: Transformer,
    tokens_BS: Tensor,
    pos_BS: Tensor | None,
    n_new: int,
    cache: Cache,
    pick: Pick,
    decode: Decode,
    ends: Tensor,
    watcher: Watcher | None,
) -> Iterator[Step]:
    logits_BV = _prefill(model, tokens_BS, pos_BS, cache, watcher)
    token_B = tokens_BS[:, -1]
    done_B = torch.zeros(len(token_B), dtype=torch.bool, device=logits_BV.device)
    over: list[Tensor] = []
    most: list[Tensor] = []
    for index in range(n_new):
        last = index + 1 == n_new
        asks = last or (index + 1) % _ASKED.get(done_B.device.type, 16) == 0
        picked_B = _picked(pick, logits_BV, most, asks)
        if len(ends):
            picked_B = torch.where(done_B, token_B, picked_B)
            done_B = done_B | torch.isin(picked_B, ends)
            over.append(done_B.all())
        token_B = picked_B
        yield Step(index, token_B, logits_BV, done_B)
        # tokens fed after the end could not be forgotten past an eviction, so then always ask
        if over and (asks or (watcher and watcher.again)):
            n_over = int(torch.stack(over).sum())
            if n_over:
                # tokens fed after the end do not belong to the text
                cache.rewind(cache.seen - n_over + 1)
                return
        if last:
            return
        with watcher if watcher and watcher.watches_decoding else nullcontext():
            logits_BV = decode(model, token_B, cache)
        if watcher and watcher.again:
            watcher.prune()


def _picked(pick: Pick, logits_BV: Tensor, most: list[Tensor], asks: bool) -> Tensor:
    """The next tokens, of logits that are looked at whenever the device is asked anyway."""
    most.append(logits_BV.amax())
    if asks:
        checks.finite(torch.stack(most).amax())
        most.clear()
    picked_B = pick(logits_BV)
    checks.tensor("What pick gave", picked_B, (len(logits_BV),), checks.IDS)
    return picked_B


def _cache_for(
    model: Transformer,
    tokens_BS: Tensor,
    pos_BS: Tensor | None,
    n_new: int,
    cache: Cache | None,
) -> tuple[Cache, Tensor | None]:
    """A new cache, or the given one if prompt and answer fit; and the prompt's positions."""
    if cache is not None:
        checks.cache("cache", cache)
    batch, n_prompt = tokens_BS.shape
    held = cache.seen if cache is not None else 0
    check_positions(model, held + n_prompt, n_new)
    n_fed = n_prompt + n_new - 1  # the last new token is returned but never fed
    if cache is None:
        return model.new_cache(batch, n_fed), pos_BS
    if batch != (cache.batch or batch):
        raise ValueError(f"{batch} prompts came with a cache of {cache.batch} rows.")
    cache.check_capacity(n_fed)
    if pos_BS is None and not cache.counts_positions:
        pos_BS = torch.arange(n_prompt, device=tokens_BS.device).expand(batch, n_prompt)
    if pos_BS is not None:
        pos_BS = torch.where(pos_BS < 0, -1, pos_BS + cache.next_pos_B()[:, None])
    return cache, pos_BS


def generate(model: Transformer, prompts: Prompt, n_new: int, **how: Unpack[How]) -> Tensor:
    """The new tokens of each row; same arguments as `stream`: cache, pick, decode, eos, prune.

    Shapes: -> tokens_BN with N <= n_new; after a row's end its ending id repeats.
    """
    kept = [(step.token_B, step.done_B.all()) for step in stream(model, prompts, n_new, **how)]
    n_late = max(0, int(sum(over for _, over in kept)) - 1)  # of a GPU, which tells late
    return torch.stack([token_B for token_B, _ in kept[: len(kept) - n_late]], dim=1)
