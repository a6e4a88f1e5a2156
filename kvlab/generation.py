"""From a prompt to an answer: prefill once, then decode token by token.

B rows, S prompt tokens, N new tokens, V vocabulary. Prompts of different lengths are padded at
the end; padding has position -1, and nothing ever attends to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from numbers import Integral

import torch
from torch import Tensor

from kvlab.cache import KVCache
from kvlab.model import Transformer
from kvlab.pack import PackedKVCache
from kvlab.prune import Policy, Pruner, check_once

Pick = Callable[[Tensor], Tensor]
Prompt = Tensor | Sequence[int] | Sequence[Sequence[int]]


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
    with pruner:
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


def greedy(logits_BV: Tensor) -> Tensor:
    """The likeliest token of each row; the lowest id wins a tie."""
    return logits_BV.argmax(-1)


@dataclass
class Sampler:
    """Draw the next token: sharpen or flatten, keep the likeliest, draw.

    `temperature` divides the logits (0 is greedy); `top_k` keeps the k likeliest tokens; `top_p`
    keeps the fewest tokens whose probabilities reach p, so the one that crosses p stays in.
    The same seed draws the same tokens on the same device.
    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration" (top-p).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    _generator: torch.Generator | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; expected 0 (greedy) or more.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected a number in (0, 1].")
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 1):
            raise ValueError(f"top_k is {self.top_k}; expected None or at least 1.")

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """What the draw is made from. Shapes: logits_BV -> (B, V) in float32, rows sum to 1."""
        if self.temperature == 0:
            best_B = greedy(logits_BV)
            return torch.nn.functional.one_hot(best_B, logits_BV.shape[-1]).float()
        # the likeliest becomes 0, so that a low temperature cannot overflow
        wide_BV = logits_BV.float()
        scaled_BV = (wide_BV - wide_BV.amax(-1, keepdim=True)) / self.temperature
        if self.top_k is not None and self.top_k < logits_BV.shape[-1]:
            kept_BK = scaled_BV.topk(self.top_k, -1)
            scaled_BV = torch.full_like(scaled_BV, float("-inf")).scatter(
                -1, kept_BK.indices, kept_BK.values
            )
        probs_BV = scaled_BV.softmax(-1)
        if self.top_p < 1:
            sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
            reached_before_BV = sorted_BV.cumsum(-1) - sorted_BV
            sorted_BV = sorted_BV.masked_fill(reached_before_BV >= self.top_p, 0.0)
            probs_BV = torch.zeros_like(probs_BV).scatter(-1, order_BV, sorted_BV)
            probs_BV = probs_BV / probs_BV.sum(-1, keepdim=True)
        return probs_BV

    def __call__(self, logits_BV: Tensor) -> Tensor:
        if self._generator is None or self._generator.device != logits_BV.device:
            self._generator = torch.Generator(logits_BV.device).manual_seed(self.seed)
        probs_BV = self.probabilities(logits_BV)
        # torch.multinomial draws in just this way, but first reads the device back to validate
        waits_BV = torch.empty_like(probs_BV).exponential_(generator=self._generator)
        return (probs_BV / waits_BV).argmax(-1)


def pad(prompts: Prompt, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor | None]:
    """Prompts as one tensor, and the positions if their lengths differ.

    Shapes: -> tokens_BS and pos_BS (-1 where padded), or None when no row is padded.
    Raises: ValueError for an empty prompt or ids that are not whole numbers.
    """
    if isinstance(prompts, Tensor):
        rows = prompts[None] if prompts.dim() == 1 else prompts
        if rows.dim() != 2 or rows.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"A prompt of shape {tuple(prompts.shape)} and type {prompts.dtype} came; "
                "expected whole token ids of shape (S,) or (B, S)."
            )
        if rows.numel() == 0:
            raise ValueError("The prompt is empty; expected at least one token.")
        return rows.to(device), None
    rows = _rows(prompts)
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    tokens_BS = torch.tensor(
        [[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.int64, device=device
    )
    if min(lengths) == longest:
        return tokens_BS, None
    slot_S = torch.arange(longest, device=device)
    length_B1 = torch.tensor(lengths, device=device)[:, None]
    return tokens_BS, torch.where(slot_S < length_B1, slot_S, -1)


def _rows(prompts: Prompt) -> list[list[int]]:
    """One prompt or several, as lists of Python's whole numbers."""
    given = prompts.tolist() if hasattr(prompts, "tolist") else prompts
    if isinstance(given, Sequence) and given and all(isinstance(i, Integral) for i in given):
        given = [given]
    rows = [r.tolist() if hasattr(r, "tolist") else r for r in _listed(given)]
    if not rows or not all(map(_listed, rows)):
        raise ValueError("A prompt is empty; expected at least one token in each.")
    for i in (i for row in rows for i in row):
        if not isinstance(i, Integral) or isinstance(i, bool):
            raise ValueError(f"A prompt holds {i!r}; expected whole token ids.")
    return [[int(i) for i in row] for row in rows]


def _listed(ids: object) -> Sequence:
    if not isinstance(ids, Sequence) or isinstance(ids, str):
        raise ValueError(
            f"{ids!r} came as a prompt; expected whole token ids, as Tokenizer.encode gives them."
        )
    return ids


def _read(model: Transformer, prompts: Prompt, n_new: int) -> tuple[Tensor, Tensor | None]:
    """Prompts on the model's device, checked as far as that needs no waiting for a device."""
    tokens_BS, pos_BS = pad(prompts, prompts.device if isinstance(prompts, Tensor) else "cpu")
    if type(n_new) is not int or n_new < 1:
        raise ValueError(f"{n_new} new tokens were asked for; expected at least 1.")
    if tokens_BS.device.type == "cpu":
        low, high = (int(end) for end in tokens_BS.aminmax())
        if low < 0 or high >= model.config.vocab_size:
            raise ValueError(
                f"The prompt holds token {low if low < 0 else high}; the model knows 0 to "
                f"{model.config.vocab_size - 1}. Is this another model's tokenizer?"
            )
    return tokens_BS.to(model.device), None if pos_BS is None else pos_BS.to(model.device)


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
    tokens_BS, pos_BS = _read(model, prompts, n_new)
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
    _check_positions(model, held + n_prompt, n_new)
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


def _check_positions(model: Transformer, n_prompt: int, n_new: int) -> None:
    if n_prompt + n_new - 1 > model.config.max_positions:
        raise ValueError(
            f"{n_prompt} prompt tokens and {n_new} new ones were asked for, but the model "
            f"reads at most {model.config.max_positions} positions. Shorten the prompt or ask for "
            "fewer tokens."
        )


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
    tokens_BS, pos_BS = _read(model, prompts, n_new)
    if pos_BS is not None:
        raise ValueError("Prompts of different lengths came; this baseline takes equal ones.")
    _check_positions(model, tokens_BS.shape[1], n_new)
    return _uncached_steps(model, tokens_BS, n_new, pick)


@torch.inference_mode()
def _uncached_steps(model, tokens_BS, n_new, pick) -> Iterator[Tensor]:
    for _ in range(n_new):
        token_B = pick(model.head(model.hidden(tokens_BS)[:, -1]))
        tokens_BS = torch.cat((tokens_BS, token_B[:, None]), dim=1)
        yield token_B
