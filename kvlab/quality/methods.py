"""Ways to prune by name, each as strong as fits a share of the dense bytes.

D head width. A method is a policy, or a policy and then rules that pack what it left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from kvlab import checks
from kvlab.pack import (
    Channels,
    CodesPerChannel,
    CodesPerToken,
    PerToken,
    Rule,
)
from kvlab.prune import (
    Elements,
    Evict,
    Policy,
    Score,
    Sparsify,
    per_channel,
    per_token,
    scores,
)
from kvlab.quality.stored import Stored

Method = Policy | Stored
DENSE, WINDOW_ONLY, BASELINES = "dense", "sinks and window", ("random", "recency")


@dataclass(frozen=True)
class Shape:
    """What the bytes of a method depend on: a text's tokens, a head's width, the protection."""

    n_tokens: float
    width: int
    dtype: torch.dtype = torch.float16
    sink: int = 4
    recent: int = 32

    def __post_init__(self) -> None:
        checks.number("n_tokens", self.n_tokens, lambda n: n > 0, "a number above 0")
        checks.whole("width", self.width)
        checks.kind("dtype", self.dtype, torch.dtype, "a type of torch's")
        checks.whole("sink", self.sink, 0), checks.whole("recent", self.recent, 0)

    @property
    def same(self) -> dict[str, int]:
        return {"sink": self.sink, "recent": self.recent}

    def body(self, share: float, unit: int = 1) -> float:
        """What share of its bytes the pruned part may keep, so that all of it keeps `share`.

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


_share_of = checks.named(checks.number, lambda _: True, "a share of the bytes")


def _evict(name: str, share: float, shape: Shape) -> Method:
    return scores.evictions(share, **shape.same)[name]


def _most(cost: Callable[[int], float], width: int, share: float, what: str) -> int:
    """The largest count whose cost is not above a share of dense bytes."""
    for n in range(width, 0, -1):
        if cost(n) <= share + 1e-9:
            return n
    raise ValueError(
        f"{what} takes {cost(1):.0%} of the dense bytes at least, outside sinks and window, and "
        f"{share:.0%} were left for it. Give more bytes."
    )


def _share(rule: Rule, shape: Shape) -> float:
    """Bytes of what a rule holds against dense ones."""
    dense = rule.unit * shape.width * shape.dtype.itemsize
    return rule.unit_bytes(shape.width, shape.dtype) / dense


def _elements(k: Score, v: Score, select, share: float, shape: Shape) -> Method:
    unit = select(0.5).unit
    row = unit if unit > 1 else shape.width

    def cost(n: int) -> float:
        return 1.0 if n == row else _share(select(1 - n / row), shape)

    n = _most(cost, row, shape.body(share, unit), "Pruning elements")
    how = {"sparsity": 1 - n / row, "select": select}
    return Sparsify(Elements(k, **how), Elements(v, **how), **shape.same)


def _think(share: float, shape: Shape) -> Stored:
    """Whole channels, as many as fit, chosen once for all tokens and held narrower."""
    free = shape.body(share, Channels(1).unit)
    n = _most(lambda n: _share(Channels(n), shape), shape.width, free, "Keeping whole channels")
    k, v = (Elements(score, Channels(n, group=None)) for score in (scores.think, scores.think_v))
    return Stored(Channels(n), Channels(n), Sparsify(k, v, **shape.same), **shape.same)


def _kivi_rules(bits: int, shape: Shape) -> tuple[Rule, Rule]:
    """Source: Liu et al. 2024, "KIVI", section 3: keys per channel, values per token."""
    group = 32 if shape.width % 32 == 0 else shape.width
    return CodesPerChannel(bits), CodesPerToken(bits, group)


def _code_share(bits: int, shape: Shape) -> float:
    """Bytes of KIVI's codes, scales and zeros against dense ones."""
    return sum(_share(rule, shape) for rule in _kivi_rules(bits, shape)) / 2


def _kivi(share: float, shape: Shape) -> Stored:
    """8, 4 or 2 bits, as many as fit."""
    free = shape.body(share, 32)
    for bits in (8, 4, 2):
        if _code_share(bits, shape) <= free + 1e-9:
            return Stored(*_kivi_rules(bits, shape), **shape.same)
    raise ValueError(
        f"2 bits take {_code_share(2, shape):.0%} of the dense bytes, outside sinks and window, "
        f"and {free:.0%} were left for them. Give more bytes."
    )


def _mustafar_codes(share: float, shape: Shape) -> Stored:
    """The largest numbers of each token, in 4 bits."""

    def cost(n: int) -> float:
        return _share(PerToken(n, bits=4), shape)

    n = _most(cost, shape.width, shape.body(share), "Pruning to codes of 4 bits")
    return Stored(PerToken(n, bits=4), PerToken(n, bits=4), **shape.same)


def _snapkv_codes(share: float, shape: Shape) -> Stored:
    """SnapKV keeps as many tokens as fit when all but sinks and window take 4 bits."""
    code, n = _code_share(4, shape), int(shape.n_tokens)
    empty = Stored(*_kivi_rules(4, shape), **shape.same)
    shape.body(share)
    for kept in range(n, 0, -1):
        packed = empty.n_packed(kept)
        if kept - packed + packed * code <= share * n + 1e-9:
            break
    policy = Evict(scores.snapkv, max(kept, shape.sink + shape.recent, 1), **shape.same)
    return Stored(*_kivi_rules(4, shape), policy, **shape.same)


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
    "mustafar": partial(_elements, scores.k_magnitude, scores.v_magnitude, per_token),
    "mustafar_aware": partial(_elements, scores.k_output_aware, scores.v_output_aware, per_token),
    "mustafar_channel": partial(_elements, scores.k_magnitude, scores.v_output_aware, _GROUPS),
    "think": _think,
    "kivi": _kivi,
    "mustafar_4bit": _mustafar_codes,
    "snapkv_4bit": _snapkv_codes,
}


@checks.takes(shape=checks.or_none(checks.named(checks.kind, Shape, "a Shape")))
def as_method(own: Method | Score, share: float, shape: Shape | None = None) -> Method:
    """A policy as it is; a score as the eviction of all but `share` of the tokens.

    Sinks and window are those of the shape; without one, those that `Evict` has.
    Raises: ValueError for anything else.
    """
    if hasattr(own, "bodies"):
        return own
    if not callable(own):
        raise ValueError(
            f"{checks.shown(own)} came as a policy; expected a function of Evidence, Evict(...), "
            "Sparsify(...), Then(...) or Stored(...)."
        )
    return Evict(own, share, **({} if shape is None else shape.same))


@checks.takes(names=checks.listed, share=_share_of, shape=Shape, own=Mapping)
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


@checks.takes(names=checks.listed)
def check_names(names: Iterable[str]) -> None:
    """Refuse a name that no method has."""
    unknown = [f"{n!s:.40}" for n in names if not isinstance(n, str) or n not in METHODS]
    if unknown:
        raise ValueError(
            f"There is no method {', '.join(unknown)[:99]}; there are {', '.join(METHODS)}."
        )


@checks.takes(shape=Shape)
def window_only(shape: Shape) -> Evict:
    """All of the text gone but sinks and window: what a method must beat at any budget."""
    n = max(1, shape.sink + shape.recent)
    return Evict(scores.streaming, n, **shape.same)
