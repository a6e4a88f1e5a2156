"""What pruning costs: the same prompts under every method, beside the dense cache, at equal bytes.

B prompts, L layers, H query heads, G key/value heads, T slots, S fed tokens, N scored tokens, D
head width, V vocabulary.

A prompt's text is read once and its cache thinned; only then the rest of the prompt is fed, the
right tokens one after the other. What follows is scored and never what was read, because reading
is dense whatever the policy. "Visible" says that the question was read before thinning and "unseen"
that it came after. Dense numbers are the model's own; bytes are those of 16-bit storage.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from math import lcm
from typing import Any

import torch
from torch import Tensor

from kvlab.prune import scores as policies
from kvlab import prune
from kvlab.pack import rows
from kvlab.attention import attend
from kvlab.cache import KVCache
from kvlab.prompts import pad
from kvlab.model import Transformer
from kvlab.pack import Channels, CodesPerChannel, CodesPerToken, Dense, PerToken, Rule
from kvlab.prune import (
    Elements,
    Evict,
    Policy,
    Pruner,
    Score,
    Sparsify,
    Then,
    density,
    n_kept,
    per_channel,
    per_token,
    seen_in,
    unwrapped,
    whole_channels,
)
from kvlab.tokenizer import Tokenizer


@dataclass(frozen=True)
class Packed:
    """A policy, and then what is left as a PackedKVCache would hold it.

    All but the first `sink` and at least the latest `recent` tokens of each head are held by the
    rules, in whole groups. Numbers go through the rule and back; bytes are those of the rules.
    """

    k_rule: Rule
    v_rule: Rule
    policy: Policy | None = None
    sink: int = 4
    recent: int = 32

    @property
    def unit(self) -> int:
        """Tokens that are packed together."""
        return lcm(self.k_rule.unit, self.v_rule.unit)

    def packed(self, used: int) -> int:
        """Of so many tokens of a head, how many the rules hold."""
        return max(0, used - self.sink - self.recent) // self.unit * self.unit


Method = Policy | Packed
DENSE, FLOOR, BASELINES = "dense", "sinks and window", ("random", "recency")


def parts_of(method: Method) -> tuple[Evict | Sparsify, ...]:
    """The single policies of a method, in the order in which they are applied."""
    return prune.parts_of(method.policy if isinstance(method, Packed) else method)


# --- prompts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A text and a question about it, as strings that follow each other.

    `stem` begins the answer, `value` is the one right end of it. `depth` is the share of the text
    before the place where the value was told.
    """

    text: str
    question: str
    stem: str
    value: str
    depth: float


@dataclass(frozen=True)
class Prompts:
    """What is read and then thinned, what is fed after that, and how many of its last are scored.

    The last token of a rest is a right answer, never fed. `question` is "visible" or "unseen".
    """

    texts: list[list[int]]
    rests: list[list[int]]
    scored: list[int]
    question: str
    depths: list[float] | None = None

    def __post_init__(self) -> None:
        for text, rest, n in zip(self.texts, self.rests, self.scored, strict=True):
            if not text or not 0 < n < len(rest):
                raise ValueError(
                    f"A prompt of {len(text)} tokens came with a rest of {len(rest)} and {n} to "
                    "score; expected a text, and at least one more token fed than scored."
                )

    @property
    def mean_tokens(self) -> float:
        """Tokens that a method thins, on average."""
        return sum(map(len, self.texts)) / len(self.texts)


def asked(
    tokenizer: Tokenizer, questions: Sequence[Question], visible: bool, first: Sequence[int] = ()
) -> Prompts:
    """Questions as tokens: thinned before the question or, where it is visible, after it.

    `first` are ids that open every text (BOS). A token that belongs to both sides of a cut counts
    as the later one.
    """
    texts, rests, scored = [], [], []
    for q in questions:
        whole = q.text + q.question + q.stem + q.value
        cut = len(q.text) + len(q.question) * visible
        encoding = tokenizer.inner.encode(whole, add_special_tokens=False)
        ends = [end for _, end in encoding.offsets]
        n_text = sum(end <= cut for end in ends)
        texts.append([*first, *encoding.ids[:n_text]])
        rests.append(encoding.ids[n_text:])
        scored.append(sum(end > len(whole) - len(q.value) for end in ends))
    depths = [q.depth for q in questions]
    return Prompts(texts, rests, scored, "visible" if visible else "unseen", depths)


def continuations(
    ids: Sequence[int], rng: random.Random, n_prompts: int, n_tokens: int, n_next: int,
    first: Sequence[int] = (),
) -> Prompts:  # fmt: skip
    """Pieces of a long text: `n_tokens` are thinned, of the next ones all but one are scored.

    Raises: ValueError when the text is too short for one piece.
    """
    n_own, longest = n_tokens - len(first), len(ids) - (n_tokens - len(first)) - n_next
    if longest < 0 or n_own < 1 or n_next < 2:
        raise ValueError(
            f"The text has {len(ids)} tokens; pieces of {n_own} and {n_next} more were asked for. "
            "Give a longer text, or ask for fewer tokens."
        )
    starts = [rng.randint(0, longest) for _ in range(n_prompts)]
    return Prompts(
        [[*first, *ids[at : at + n_own]] for at in starts],
        [list(ids[at + n_own : at + n_own + n_next]) for at in starts],
        [n_next - 1] * n_prompts,
        "unseen",
    )


NAMES = "Alice Ben Clara David Emma Frank Grace Henry Irene Jack Kate Leo Mary Noah Olivia Paul"
WORDS = "apple river candle tiger garden silver window forest butter summer bridge yellow rocket"
FILLER = (
    "The train to the coast was late again and the platform was full.",
    "In the evening they sat by the fire and talked about old friends.",
    "The shop on the corner sells bread, milk and newspapers.",
    "It rained all morning, so the children played inside.",
    "A small boat crossed the lake while the sun went down.",
    "The teacher wrote a long sentence on the board.",
    "Nobody knew who had left the door open that night.",
    "The cat slept on the warm stones behind the house.",
    "They walked along the river until they reached the old mill.",
    "The letter arrived on Monday, two weeks after it was sent.",
)


def plain_questions(
    tokenizer: Tokenizer, rng: random.Random, n_prompts: int, n_tokens: int
) -> list[Question]:
    """Five passwords told in plain English, spread over filler, for a model that read the web.

    The one that is asked for lies at evenly spread depths. Texts have at most `n_tokens` tokens.
    """

    def count(text: str) -> int:
        return len(tokenizer.inner.encode(text, add_special_tokens=False).ids)

    made = []
    for i in range(n_prompts):
        names, words = rng.sample(NAMES.split(), 5), rng.sample(WORDS.split(), 5)
        told = [f" The password of {n} is {w}." for n, w in zip(names, words, strict=True)]
        question = f"\nQuestion: What is the password of {names[0]}?\nAnswer:"
        stem = f" The password of {names[0]} is"
        room = n_tokens - 8 - count("".join(told) + question + stem)
        if room < 0:
            raise ValueError(
                f"Five passwords and a question need {n_tokens - room} tokens of this tokenizer; "
                f"{n_tokens} were asked for."
            )
        filler: list[str] = []
        while (room := room - count(f" {(line := rng.choice(FILLER))}")) >= 0:
            filler.append(f" {line}")
        for other in told[1:]:
            filler.insert(rng.randint(0, len(filler)), other)
        filler.insert(round((i + 0.5) / n_prompts * len(filler)), told[0])
        text = "Notes:" + "".join(filler)
        depth = text.index(told[0]) / len(text)
        made.append(Question(text, question, stem, f" {words[0]}", depth))
    return made


# --- reading, thinning, answering ---------------------------------------------------------------


def collecting(methods: Iterable[Method]) -> Then:
    """A policy that looks at whatever any of the methods looks at: one reading serves them all."""
    return Then(Evict(policies.recency, 1.0), *(p for m in methods for p in parts_of(m)))


@torch.inference_mode()
def read(model: Transformer, prompts: Prompts, collect: Policy) -> Pruner:
    """Read all texts into one cache, collecting what `collect` looks at; nothing is thinned.

    Raises: ValueError when text and rest together are longer than the model reads.
    """
    longest = max(len(t) + len(r) for t, r in zip(prompts.texts, prompts.rests, strict=True)) - 1
    if longest > model.config.max_positions:
        raise ValueError(
            f"Text and rest have {longest} tokens, and the model reads at most "
            f"{model.config.max_positions}. Ask for fewer."
        )
    tokens_BS, pos_BS = pad(prompts.texts, model.device)
    room = max(map(len, prompts.rests))
    cache = model.new_cache(len(prompts.texts), tokens_BS.shape[1] + room)
    with Pruner(model, cache, collect) as pruner:
        model.hidden(tokens_BS, pos_BS, cache)
    return pruner


@torch.inference_mode()
def thinned(base: Pruner, method: Method | None) -> Pruner:
    """A method applied to a fork of what was read; None leaves it dense."""
    policy = collecting([]) if method is None else Then(*parts_of(method))
    pruner = base.fork(policy if policy.parts else collecting([]))
    pruner.prune()
    if isinstance(method, Packed):
        _hold(pruner.cache, method)
    return pruner


def _hold(cache: KVCache, method: Packed) -> None:
    """Put what the rules hold through them and back, each head by its own count of tokens."""
    for layer, used in enumerate(cache.used_L):
        pos_BGT = cache.pos_LBGT[layer, :, :, :used]
        for row, pos_GT in enumerate(pos_BGT):
            same = bool(((pos_GT >= 0) == (pos_GT[:1] >= 0)).all())
            heads = [slice(None)] if same else [slice(g, g + 1) for g in range(len(pos_GT))]
            for some in heads:
                slots = (pos_GT[some][0] >= 0).nonzero()[:, 0]
                body = slots[method.sink : method.sink + method.packed(len(slots))]
                for store, rule in _sides(cache, method):
                    if len(body) and not isinstance(rule, Dense):
                        held = store[layer, row, some]
                        held[:, body] = _through(rule, layer, held[:, body], pos_GT[some][:, body])


def _through(rule: Rule, layer: int, x_GTD: Tensor, pos_GT: Tensor) -> Tensor:
    scored = getattr(rule, "score", None)
    score = None if scored is None else scored(layer, x_GTD[None], pos_GT[None])
    return rule.decode(rule.encode(x_GTD[None], score), x_GTD.shape[-1])[0]


def _sides(cache: KVCache, method: Packed) -> tuple[tuple[Tensor, Rule], tuple[Tensor, Rule]]:
    return (cache.k_LBGTD, method.k_rule), (cache.v_LBGTD, method.v_rule)


@dataclass(frozen=True)
class Answers:
    """Log-probabilities where the scored tokens are looked up, and which prompt each is of."""

    logp_NV: Tensor
    token_N: Tensor
    row_N: Tensor
    n_rows: int

    def mean_B(self, x_N: Tensor) -> Tensor:
        """Each prompt's mean over its scored tokens."""
        total_B = x_N.new_zeros(self.n_rows).index_add_(0, self.row_N, x_N)
        return total_B / torch.bincount(self.row_N, minlength=self.n_rows)

    @property
    def right_B(self) -> Tensor:
        """Whether greedy decoding gives exactly the scored tokens."""
        return self.mean_B((self.logp_NV.argmax(-1) == self.token_N).double()) == 1

    @property
    def nats_B(self) -> Tensor:
        """Mean loss of the scored tokens."""
        return self.mean_B(-self.logp_NV.gather(-1, self.token_N[:, None])[:, 0].double())

    def kl_N(self, dense: Answers) -> Tensor:
        """KL(dense || this) in nats at each scored token."""
        return (dense.logp_NV.exp() * (dense.logp_NV - self.logp_NV)).sum(-1)

    def agrees_N(self, dense: Answers) -> Tensor:
        """Whether the likeliest token is the dense cache's."""
        return self.logp_NV.argmax(-1) == dense.logp_NV.argmax(-1)


def fed(model: Transformer, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """What is fed after thinning, and its positions, -1 where padded. Shapes: (B, S) both."""
    tokens_BS, pos_BS = pad([rest[:-1] for rest in prompts.rests], model.device)
    if pos_BS is None:
        pos_BS = torch.arange(tokens_BS.shape[1], device=model.device).expand_as(tokens_BS)
    seen_B1 = torch.tensor([len(text) for text in prompts.texts], device=model.device)[:, None]
    return tokens_BS, torch.where(pos_BS >= 0, pos_BS + seen_B1, -1)


@torch.inference_mode()
def answers(model: Transformer, pruner: Pruner, prompts: Prompts) -> Answers:
    """Feed the rest of each prompt, the right tokens whatever the model would say.

    A policy that is applied while decoding gets token after token, others get all at once.
    """
    tokens_BS, pos_BS = fed(model, prompts)
    if not pruner.again:
        x_BSC = model.hidden(tokens_BS, pos_BS, pruner.cache)
    else:
        x_BSC = torch.cat(list(_one_by_one(model, pruner, tokens_BS, pos_BS)), 1)
    where = [
        (row, len(rest) - 1 - n + i, rest[len(rest) - n + i])
        for row, (rest, n) in enumerate(zip(prompts.rests, prompts.scored, strict=True))
        for i in range(n)
    ]
    row_N, at_N, token_N = torch.tensor(where, device=model.device).unbind(1)
    logits_NV = model.head(x_BSC[row_N, at_N])
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    return Answers(logits_NV.log_softmax(-1, dtype=wide), token_N, row_N, len(prompts.rests))


def _one_by_one(model: Transformer, pruner: Pruner, tokens_BS: Tensor, pos_BS: Tensor):
    for i in range(tokens_BS.shape[1]):
        with pruner if pruner.watches_decoding else nullcontext():
            yield model.hidden(tokens_BS[:, i : i + 1], pos_BS[:, i : i + 1], pruner.cache)
        pruner.prune()


# --- the error of attention's output ------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """Of the dense run: the queries of the fed tokens, their keys and values, what came out."""

    q_L: list[Tensor]
    k_L: list[Tensor]
    v_L: list[Tensor]
    out_L: list[Tensor]
    pos_BS: Tensor


@torch.inference_mode()
def heard(model: Transformer, base: Pruner, prompts: Prompts) -> tuple[Answers, Heard]:
    """The dense answers, and what each layer's attention was asked meanwhile and gave."""
    q_L: list[Tensor] = []
    layers = [layer.self_attn for layer in model.model.layers]
    hooks = [a.tap_q.register_forward_hook(lambda _m, _i, q: q_L.append(q)) for a in layers]
    dense = thinned(base, None)
    used = dense.cache.used_L
    try:
        found = answers(model, dense, prompts)
    finally:
        for hook in hooks:
            hook.remove()
    _, pos_BS = fed(model, prompts)
    cache = dense.cache
    k_L = [cache.k_LBGTD[i, :, :, n : cache.used_L[i]] for i, n in enumerate(used)]
    v_L = [cache.v_LBGTD[i, :, :, n : cache.used_L[i]] for i, n in enumerate(used)]
    out_L = [attend(q, cache.read(i), pos_BS).out_BHSD for i, q in enumerate(q_L)]
    return found, Heard(q_L, k_L, v_L, out_L, pos_BS)


@torch.inference_mode()
def output_errors(cache: KVCache, dense: Heard) -> Tensor:
    """Relative error of each layer's attention output, asked what the dense run was asked.

    So each layer's error is its own: none is carried over from the layers before it. The cache is
    afterwards as before.
    Shapes: -> (L, B): |out - dense| / |dense|, over heads, channels and fed tokens.
    """
    seen, found = cache.seen, []
    there_B1S1 = (dense.pos_BS >= 0)[:, None, :, None]
    for i, (q, out) in enumerate(zip(dense.q_L, dense.out_L, strict=True)):
        cache.append(i, dense.k_L[i], dense.v_L[i], dense.pos_BS)
        off = attend(q, cache.read(i), dense.pos_BS).out_BHSD - out
        norms = [(x * there_B1S1).double().flatten(1).norm(dim=1) for x in (off, out)]
        found.append(norms[0] / norms[1])
    cache.rewind(seen)
    return torch.stack(found)


# --- bytes --------------------------------------------------------------------------------------


def storage(model: Transformer) -> torch.dtype:
    """The type that bytes are counted in: the model's own where it has 16 bits, else float16."""
    return model.dtype if model.dtype.itemsize == 2 else torch.float16


def held_bytes(cache: KVCache, method: Method | None, dtype: torch.dtype) -> int:
    """Bytes of what a method left, packed: all values, marks, scales and zeros, sinks and window.

    Evicted tokens cost nothing and others are counted by head. Pruned elements are counted in the
    format of `kvlab.pack.rows`; where a reader's own selection, or two rules on one side, keep uneven
    rows, as values, a bitmap and an offset of two bytes a row. Positions are not counted, as in
    KVCache.
    """
    rules = [[], []]
    for part in parts_of(method) if method is not None else ():
        for which, rule in enumerate((part.k, part.v) if isinstance(part, Sparsify) else ()):
            if rule is not None and rule.sparsity:
                rules[which].append((rule, part.sink, part.recent))
    seen_B, total = seen_in(cache), 0
    for layer, used in enumerate(cache.used_L):
        pos_BGT = cache.pos_LBGT[layer, :, :, :used]
        for which, store in enumerate((cache.k_LBGTD, cache.v_LBGTD)):
            held = (method.k_rule, method.v_rule)[which] if isinstance(method, Packed) else Dense()
            if not isinstance(held, Dense):
                total += _rule_bytes(method, held, pos_BGT, store.shape[-1], dtype)
            else:
                x_BGTD = store[layer, :, :, :used]
                total += _side_bytes(rules[which], x_BGTD, pos_BGT, seen_B, dtype)
    return total


def _rule_bytes(method: Packed, rule: Rule, pos_BGT: Tensor, width: int, dtype) -> int:
    total = 0
    for used in (pos_BGT >= 0).sum(-1).flatten().tolist():
        packed = method.packed(used)
        total += packed // rule.unit * rule.unit_bytes(width, dtype)
        total += (used - packed) * width * dtype.itemsize
    return total


def _side_bytes(rules: list, x_BGTD: Tensor, pos_BGT: Tensor, seen_B, dtype) -> int:
    """Bytes of one layer's keys, or values, that the rules thinned."""
    width, valid_BGT = x_BGTD.shape[-1], pos_BGT >= 0
    row = width * dtype.itemsize
    if not rules:
        return int(valid_BGT.sum()) * row
    if len(rules) > 1:
        n = int(valid_BGT.sum())
        kept = int(((x_BGTD != 0) & valid_BGT[..., None]).sum())
        return kept * dtype.itemsize + n * (-(-width // 8) + 2)
    ((rule, sink, recent),) = rules
    seen_B11 = torch.tensor(seen_B, device=pos_BGT.device)[:, None, None]
    ripe_BGT = (pos_BGT >= sink) & (seen_B11 - 1 - pos_BGT >= recent)
    select, settings = unwrapped(rule.select)
    if select is per_channel:
        group = settings.get("group", 32)
        number_BGT = (pos_BGT - sink).div(group, rounding_mode="floor")
        ripe_BGT &= (number_BGT + 1) * group <= seen_B11 - recent - sink
    n_ripe = int(ripe_BGT.sum())
    dense = (int(valid_BGT.sum()) - n_ripe) * row
    n = n_kept(rule.sparsity, width)
    if select is per_token:
        return dense + n_ripe * rows.row_bytes(width, n, dtype)
    if select is whole_channels:
        names = int(ripe_BGT.any(-1).sum()) * -(-width // 8)  # which channels each head keeps
        return dense + n_ripe * n * dtype.itemsize + names
    if select is per_channel:
        return dense + width * _group_bytes(number_BGT, ripe_BGT, rule.sparsity, dtype)
    kept = int(((x_BGTD != 0) & ripe_BGT[..., None]).sum())
    return dense + kept * dtype.itemsize + n_ripe * (-(-width // 8) + 2)


def _group_bytes(number_BGT: Tensor, ripe_BGT: Tensor, sparsity: float, dtype) -> int:
    """Bytes of one channel over all its groups of tokens, some of which eviction made smaller."""
    head_BG1 = torch.arange(ripe_BGT[..., 0].numel(), device=ripe_BGT.device)
    most = max(1, ripe_BGT.shape[-1] + int(number_BGT.max()) + 1)
    key = head_BG1.view(*ripe_BGT.shape[:2], 1) * most + number_BGT
    sizes = Counter(torch.bincount(key[ripe_BGT]).tolist()) if bool(ripe_BGT.any()) else Counter()
    del sizes[0]
    return sum(
        times * rows.row_bytes(-(-size // 8) * 8, n_kept(sparsity, size), dtype)
        for size, times in sizes.items()
    )


# --- methods at equal bytes ---------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """What the bytes of a method depend on: a text's tokens, a head's width, the protection."""

    n_tokens: float
    width: int
    dtype: torch.dtype = torch.float16
    sink: int = 4
    recent: int = 32

    @property
    def same(self) -> dict[str, int]:
        return {"sink": self.sink, "recent": self.recent}

    def body(self, share: float, unit: int = 1) -> float:
        """What share of its bytes the thinned part may keep, so that all of it keeps `share`.

        Sinks and window stay dense, and so does what does not fill a group of `unit` tokens.
        Raises: ValueError when these alone take more.
        """
        n = int(self.n_tokens)
        body = max(0, n - self.sink - self.recent) // unit * unit
        if body == 0 or share * n <= n - body:
            raise ValueError(
                f"{share:.0%} of the bytes of {n} tokens were asked for, and {n - body} tokens stay"
                " dense (sinks, window, a group that is not full). Give more bytes or longer texts."
            )
        return 1 - (1 - share) * n / body


def _evict(name: str, share: float, shape: Shape) -> Method:
    return policies.evictions(share, **shape.same)[name]


def _most(cost: Callable[[int], float], width: int, share: float, what: str) -> int:
    """The largest count whose cost is not above a share of dense bytes."""
    for n in range(width, 0, -1):
        if cost(n) <= share + 1e-9:
            return n
    raise ValueError(
        f"{what} takes {cost(1):.0%} of the dense bytes at least, outside sinks and window, and "
        f"{share:.0%} were left for it. Give more bytes."
    )


def _elements(k: Score, v: Score, select, unit: int, share: float, shape: Shape) -> Method:
    width, item = unit if unit > 1 else shape.width, shape.dtype.itemsize

    def cost(n: int) -> float:
        return 1.0 if n == width else rows.row_bytes(width, n, shape.dtype) / (width * item)

    n = _most(cost, width, shape.body(share, unit), "Pruning elements")
    rule = {"sparsity": 1 - n / width, "select": select}
    return Sparsify(Elements(k, **rule), Elements(v, **rule), **shape.same)


def _think(share: float, shape: Shape) -> Packed:
    """Whole channels, as many as fit, chosen once for all tokens and held narrower."""
    width = shape.width

    def cost(n: int) -> float:
        held = Channels(n)
        return held.unit_bytes(width, shape.dtype) / (held.unit * width * shape.dtype.itemsize)

    n = _most(cost, width, shape.body(share, Channels(1).unit), "Keeping whole channels")
    rule = {"sparsity": 1 - n / width, "select": whole_channels}
    k, v = (Elements(score, **rule) for score in (policies.think, policies.think_v))
    return Packed(Channels(n), Channels(n), Sparsify(k, v, **shape.same), **shape.same)


def _kivi_rules(bits: int, shape: Shape) -> tuple[Rule, Rule]:
    """Source: Liu et al. 2024, "KIVI", section 3: keys per channel, values per token."""
    group = 32 if shape.width % 32 == 0 else shape.width
    return CodesPerChannel(bits), CodesPerToken(bits, group)


def _code_share(bits: int, shape: Shape) -> float:
    """Bytes of KIVI's codes, scales and zeros against dense ones."""
    dense, found = shape.width * shape.dtype.itemsize, _kivi_rules(bits, shape)
    return sum(rule.unit_bytes(shape.width, shape.dtype) / rule.unit / dense for rule in found) / 2


def _kivi(share: float, shape: Shape) -> Packed:
    """8, 4 or 2 bits, as many as fit."""
    room = shape.body(share, 32)
    for bits in (8, 4, 2):
        if _code_share(bits, shape) <= room + 1e-9:
            return Packed(*_kivi_rules(bits, shape), **shape.same)
    raise ValueError(
        f"2 bits take {_code_share(2, shape):.0%} of the dense bytes, outside sinks and window, "
        f"and {room:.0%} were left for them. Give more bytes."
    )


def _mustafar_codes(share: float, shape: Shape) -> Packed:
    """The largest numbers of each token, in 4 bits."""
    dense = shape.width * shape.dtype.itemsize

    def cost(n: int) -> float:
        return rows.row_bytes(shape.width, n, shape.dtype, bits=4) / dense

    n = _most(cost, shape.width, shape.body(share), "Pruning to codes of 4 bits")
    return Packed(PerToken(n, bits=4), PerToken(n, bits=4), **shape.same)


def _snapkv_codes(share: float, shape: Shape) -> Packed:
    """SnapKV keeps as many tokens as fit when all but sinks and window take 4 bits."""
    code, n = _code_share(4, shape), int(shape.n_tokens)
    empty = Packed(*_kivi_rules(4, shape), **shape.same)
    shape.body(share)
    for kept in range(n, 0, -1):
        held = empty.packed(kept)
        if kept - held + held * code <= share * n + 1e-9:
            break
    policy = Evict(policies.snapkv, max(kept, shape.sink + shape.recent, 1), **shape.same)
    return Packed(*_kivi_rules(4, shape), policy, **shape.same)


_GROUPS = partial(per_channel, group=32)
EVICTIONS = (
    "random", "recency", "streaming", "h2o", "observed", "scissorhands", "tova", "snapkv",
    "pyramidkv", "adakv", "keyformer", "knorm", "keydiff", "expected_attention", "vatp",
    "criticalkv",
)  # fmt: skip
# Every method by name: a function of the share of dense bytes and a Shape. "mustafar" prunes single
# elements per token, "think" whole channels, both of keys and of values.
METHODS: dict[str, Callable[[float, Shape], Method]] = {
    **{name: partial(_evict, name) for name in EVICTIONS},
    "mustafar": partial(_elements, policies.k_magnitude, policies.v_magnitude, per_token, 1),
    "mustafar_aware": partial(
        _elements, policies.k_output_aware, policies.v_output_aware, per_token, 1
    ),
    "mustafar_channel": partial(
        _elements, policies.k_magnitude, policies.v_output_aware, _GROUPS, 32
    ),
    "think": _think,
    "kivi": _kivi,
    "mustafar_4bit": _mustafar_codes,
    "snapkv_4bit": _snapkv_codes,
}


def as_method(own: Method | Score, share: float, shape: Shape) -> Method:
    """A policy as it is; a score as the eviction of all but `share` of the tokens.

    Raises: ValueError for anything else.
    """
    if isinstance(own, Evict | Sparsify | Then | Packed):
        return own
    if not callable(own):
        raise ValueError(
            f"{own!r} came as a policy; expected a function of Evidence, Evict(...), "
            "Sparsify(...), Then(...) or Packed(...)."
        )
    return Evict(own, share, **shape.same)


def at_bytes(
    names: Iterable[str], share: float, shape: Shape, own: Mapping[str, Method | Score] = {}
) -> tuple[dict[str, Method], dict[str, str]]:
    """Methods that keep about a share of the dense bytes, never more, and why others cannot.

    The nearest that a method can do: elements and bits come in steps. The baselines are always
    among them. `own` are a reader's, by name.
    Raises: ValueError for an unknown name, or a share that the baselines cannot keep.
    """
    if not 0 < share < 1:
        raise ValueError(f"A budget of {share} was asked for; expected a share between 0 and 1.")
    check_names(names)
    shape.body(share)
    found, refused = {}, {}
    for name in dict.fromkeys((*BASELINES, *names)):
        try:
            found[name] = METHODS[name](share, shape)
        except ValueError as error:
            refused[name] = str(error)
    return found | {name: as_method(one, share, shape) for name, one in own.items()}, refused


def check_names(names: Iterable[str]) -> None:
    """Refuse a name that no method has."""
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(
            f"There is no method {', '.join(unknown)}; there are {', '.join(METHODS)}."
        )


def floor(shape: Shape) -> Evict:
    """All of the text gone but sinks and window: what a method must beat at any budget."""
    n = max(1, shape.sink + shape.recent)
    return Evict(policies.streaming, n, **shape.same)


# --- measuring ----------------------------------------------------------------------------------


@torch.inference_mode()
def measured(
    model: Transformer,
    prompts: Prompts,
    methods: Mapping[Any, Method | None],
    *,
    dtype: torch.dtype | None = None,
) -> Iterator[dict[str, Any]]:
    """One reading of the prompts, and under each method what it cost, prompt by prompt.

    None is the dense cache itself. Rows hold the method's key, `bytes` as a share of the dense
    ones in `dtype` (see `storage`), what is left (`tokens_left`, `k_left`, `v_left`), and for each
    prompt `right` (all scored tokens exact), `nats` (mean loss), `kl` (nats), `agree` (share of
    likeliest tokens that are the dense cache's) and `error` (of attention's output, mean of layers;
    `error_L` by layer, mean of prompts).
    """
    dtype = dtype or storage(model)
    base = read(model, prompts, collecting(m for m in methods.values() if m is not None))
    dense, told = heard(model, base, prompts)
    whole = held_bytes(base.cache, None, dtype)
    for key, method in methods.items():
        pruner = thinned(base, method)
        left, held = density(pruner.cache), held_bytes(pruner.cache, method, dtype)
        error_LB = output_errors(pruner.cache, told)
        found = answers(model, pruner, prompts)
        yield {
            "method": key,
            "bytes": held / whole,
            "tokens_left": left.tokens,
            "k_left": left.k,
            "v_left": left.v,
            "right": found.right_B.tolist(),
            "nats": found.nats_B.tolist(),
            "kl": found.mean_B(found.kl_N(dense).double()).tolist(),
            "agree": found.mean_B(found.agrees_N(dense).double()).tolist(),
            "error": error_LB.mean(0).tolist(),
            "error_L": error_LB.mean(1).tolist(),
        }


# --- intervals ----------------------------------------------------------------------------------


def wilson(n_right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share, from n_right of n. Source: Wilson 1927."""
    if not 0 <= n_right <= n or n == 0:
        raise ValueError(f"{n_right} of {n} is no share.")
    p, zz = n_right / n, z * z / n
    middle, half = p + zz / 2, z * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return max(0.0, (middle - half) / (1 + zz)), min(1.0, (middle + half) / (1 + zz))


def bootstrap(values: Sequence[float], draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean: from the 2.5th to the 97.5th percentile over draws of as many.

    Source: Efron 1979, "Bootstrap methods".
    """
    if not len(values):
        raise ValueError("There are no values to draw from; expected at least one.")
    x = torch.tensor(list(values), dtype=torch.float64)
    draw = torch.Generator().manual_seed(seed)
    means = x[torch.randint(len(x), (draws, len(x)), generator=draw)].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
