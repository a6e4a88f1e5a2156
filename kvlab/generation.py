"""From a prompt to an answer: prefill once, then decode token by token.

B rows, S prompt tokens, N new tokens, V vocabulary. Prompts of different lengths are padded at
the end; padding has position -1, and nothing ever attends to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kvlab.cache import KVCache
from kvlab.model import Transformer

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
) -> Tensor:
    """Read a whole prompt at once, fill the cache, and return each row's last logits.

    `pos_BS` is needed only when rows have padding (-1): then the last real token counts.
    Shapes: tokens_BS -> logits_BV.
    """
    x_BSC = model.hidden(tokens_BS, pos_BS, cache, backend=backend)
    if pos_BS is None:
        last_BC = x_BSC[:, -1]
    else:
        last_B = pos_BS.argmax(-1)
        last_BC = x_BSC[torch.arange(len(last_B), device=last_B.device), last_B]
    return model.head(last_BC)


@torch.inference_mode()
def decode(model: Transformer, token_B: Tensor, cache: KVCache, *, backend: str = "auto") -> Tensor:
    """Feed one token per row, reuse everything in the cache, and return the next logits.

    Shapes: token_B -> logits_BV.
    """
    pos_B1 = None if cache.in_order else cache.next_pos_B()[:, None]
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
        if not self.temperature >= 0:
            raise ValueError(f"temperature is {self.temperature}; expected 0 (greedy) or more.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected a number in (0, 1].")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; expected None or at least 1.")

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """What the draw is made from. Shapes: logits_BV -> (B, V) in float32, rows sum to 1."""
        if self.temperature == 0:
            best_B = greedy(logits_BV)
            return torch.nn.functional.one_hot(best_B, logits_BV.shape[-1]).float()
        scaled_BV = logits_BV.float() / self.temperature
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
        return torch.multinomial(probs_BV, 1, generator=self._generator)[:, 0]


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
    rows = [prompts] if prompts and isinstance(prompts[0], int) else list(prompts)
    if not rows or not all(len(row) for row in rows):
        raise ValueError("A prompt is empty; expected at least one token in each.")
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


def stream(
    model: Transformer,
    prompts: Prompt,
    n_new: int,
    *,
    cache: KVCache | None = None,
    pick: Pick = greedy,
    decode: Callable[[Transformer, Tensor, KVCache], Tensor] = decode,
    eos: Sequence[int] | None = None,
) -> Iterator[Step]:
    """Yield one Step per new token until every row has ended or `n_new` is reached.

    `prompts` is a tensor (S,) or (B, S), or lists of ids of any lengths. `cache` continues a
    conversation: its tokens come before the prompt. `eos` are the ids that end a row, the
    model's own unless given; () never ends. A row that has ended goes on as its ending id.
    Raises: ValueError before the first token when the prompt is empty, or when prompt and answer
    do not fit the cache or the model's positions.
    """
    tokens_BS, pos_BS = pad(prompts, model.device)
    if n_new < 1:
        raise ValueError(f"{n_new} new tokens were asked for; expected at least 1.")
    cache, pos_BS = _room(model, tokens_BS, pos_BS, n_new, cache)
    ends = torch.tensor(model.config.eos_ids if eos is None else tuple(eos), device=model.device)
    return _steps(model, tokens_BS, pos_BS, n_new, cache, pick, decode, ends)


@torch.inference_mode()
def _steps(model, tokens_BS, pos_BS, n_new, cache, pick, decode, ends) -> Iterator[Step]:
    logits_BV = prefill(model, tokens_BS, cache, pos_BS=pos_BS)
    done_B = torch.zeros(len(tokens_BS), dtype=torch.bool, device=logits_BV.device)
    for index in range(n_new):
        token_B = pick(logits_BV)
        if len(ends):
            token_B = torch.where(done_B, ends[0], token_B)
            done_B = done_B | torch.isin(token_B, ends)
        yield Step(index, token_B, logits_BV, done_B)
        if index + 1 == n_new or (len(ends) and _all_done(done_B, index)):
            return
        logits_BV = decode(model, token_B, cache)


def _all_done(done_B: Tensor, index: int) -> bool:
    """Whether every row has ended; a GPU is asked only every 16th step, since asking waits."""
    return (done_B.device.type == "cpu" or index % 16 == 15) and bool(done_B.all())


def _room(
    model: Transformer,
    tokens_BS: Tensor,
    pos_BS: Tensor | None,
    n_new: int,
    cache: KVCache | None,
) -> tuple[KVCache, Tensor | None]:
    batch, n_prompt = tokens_BS.shape
    held = cache.length if cache is not None else 0
    # the last new token is returned but never fed
    needed = held + n_prompt + n_new - 1
    if needed > model.config.max_positions:
        raise ValueError(
            f"{held + n_prompt} prompt tokens and {n_new} new ones were asked for, but the model "
            f"reads at most {model.config.max_positions} positions. Shorten the prompt or ask for "
            "fewer tokens."
        )
    if cache is None:
        return model.new_cache(batch, needed), pos_BS
    if cache.batch != batch:
        raise ValueError(f"{batch} prompts came with a cache of {cache.batch} rows.")
    cache.check_room(n_prompt + n_new - 1)
    if pos_BS is None and not cache.in_order:
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
) -> Tensor:
    """The new tokens of each row; same arguments as `stream`.

    Shapes: -> tokens_BN with N <= n_new; after a row's end its ending id repeats.
    """
    steps = stream(model, prompts, n_new, cache=cache, pick=pick, decode=decode, eos=eos)
    return torch.stack([step.token_B for step in steps], dim=1)


def generate_uncached(
    model: Transformer, prompts: Prompt, n_new: int, *, pick: Pick = greedy
) -> Tensor:
    """`generate` as it would be without a cache: every step reads the whole text again.

    It exists to be compared with. Each step still forms the last row's logits only, so the
    comparison shows the cache and not a wasteful head. No row ends early.
    Shapes: -> tokens_BN.
    """
    return torch.stack(list(stream_uncached(model, prompts, n_new, pick=pick)), dim=1)


@torch.inference_mode()
def stream_uncached(
    model: Transformer, prompts: Prompt, n_new: int, *, pick: Pick = greedy
) -> Iterator[Tensor]:
    """`generate_uncached`, one token_B at a time."""
    tokens_BS, pos_BS = pad(prompts, model.device)
    if pos_BS is not None:
        raise ValueError("Prompts of different lengths came; this baseline takes equal ones.")
    for _ in range(n_new):
        token_B = pick(model.head(model.hidden(tokens_BS)[:, -1]))
        tokens_BS = torch.cat((tokens_BS, token_B[:, None]), dim=1)
        yield token_B
