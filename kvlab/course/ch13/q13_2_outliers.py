"""13.2: outlier channels of keys, for each key/value head, before rope and after.

G key/value heads, T tokens, D head width, P = D / 2 pairs of channels.
"""

from __future__ import annotations

import math

import torch

from kvlab.course.author import Exercise, Near, named
from kvlab.course.ch13._normal import normal

Q = Exercise(
    "13.2",
    "Find the outlier channels",
    "outlier_channels",
    points=4,
    minutes=25,
    difficulty=3,
    statement=r"""
Which channels of a layer's keys are much larger than the others, and are they the same before and after rope (chapter 13, "Channels that shout")? `k_GTD` are the keys of G heads before rope. Rope turns channels in
pairs, $d$ and $d + D/2$, by an angle: `angle_TP` has one for each token and each of the $P = D/2$ pairs. With $a$ and $b$ the two numbers of a pair and $\varphi$ its angle, they become $a \cos \varphi - b \sin \varphi$ and $b \cos \varphi + a \sin \varphi$.

The **size** of a channel is the root mean square of its numbers over the tokens. In each head, a channel is an **outlier** if its size is at least `times` the **median** size of the head's own D channels; the median is torch's, which takes of an even number the lower of the two in the middle. Return three things:

- `before` and `after`: for each head a list of its outlier channels, in rising order, before rope and after it;
- `ratio_G2`: for each head its largest size divided by the median one, before and after.

If a head of four channels has the sizes 1, 2, 3 and 8, their median is 2 and the ratio 4; with `times = 1.5` the channels 2 and 3 are outliers. About 12 lines.
""",
    hints=(
        "Do the sizes first, for one tensor; then turn the keys and do the same again. Which of the three axes is gone in a size?",
        "size_GD = k_GTD.square().mean(1).sqrt(); middle_G1 = size_GD.median(-1, keepdim=True).values. Rope: a, b = k_GTD.chunk(2, -1), and the two "
        "new halves are put together again with torch.cat along the last axis.",
        "def look(x): size = x.square().mean(1).sqrt(); middle = size.median(-1, keepdim=True).values; lists = [row.nonzero()[:, 0].tolist() for row in size >= times * middle]; "
        "return lists, (size.amax(-1) / middle[:, 0]). Turned: a, b = k_GTD.chunk(2, -1); c, s = angle_TP.cos(), angle_TP.sin(); "
        "torch.cat((a * c - b * s, b * c + a * s), -1). ratio_G2 = torch.stack((ratio_before, ratio_after), -1)",
    ),
    imports=("torch",),
)  # fmt: skip


@Q.case
def case(rng):
    """Channels that are large by their mean or by their spread; no size near the bound."""
    while True:
        n_groups, n_pairs = rng.sample([2, 3, 4, 5], 2)
        n_tokens = n_pairs * 2 + rng.choice([3, 5, 7])
        k_GTD = 0.6 * normal(rng, n_groups, n_tokens, 2 * n_pairs)
        k_GTD = k_GTD * (0.7 + 0.6 * torch.rand(n_groups, 1, 2 * n_pairs, generator=_torch(rng)))
        for g in range(n_groups):
            steady, wide = rng.sample(range(2 * n_pairs), 2)
            k_GTD[g, :, steady] += rng.choice([-1, 1]) * rng.uniform(2.5, 4)
            k_GTD[g, :, wide] *= rng.uniform(3, 5)
        slow = torch.logspace(0, -rng.uniform(1, 2), n_pairs, dtype=torch.float64)
        angle_TP = torch.arange(n_tokens, dtype=torch.float64)[:, None] * slow
        case = {"k_GTD": k_GTD, "angle_TP": angle_TP, "times": rng.uniform(1.7, 2.3)}
        _, _, _, near = _looked_at(**case)
        if near > 0.02:
            return case


def _torch(rng):
    return torch.Generator().manual_seed(rng.randrange(2**31))


def _looked_at(k_GTD, angle_TP, times):
    """The right answer, and how near a size comes to the bound."""
    sizes = [x.square().mean(1).sqrt() for x in (k_GTD, _turned(k_GTD, angle_TP))]
    over = [size / size.median(-1, keepdim=True).values for size in sizes]
    near = min(float((x / times - 1).abs().min()) for x in over)
    lists = [[row.nonzero()[:, 0].tolist() for row in x >= times] for x in over]
    return *lists, torch.stack([x.amax(-1) for x in over], -1), near


def _turned(k_GTD, angle_TP):
    a, b = k_GTD.chunk(2, -1)
    return torch.cat(
        (a * angle_TP.cos() - b * angle_TP.sin(), b * angle_TP.cos() + a * angle_TP.sin()), -1
    )


@Q.solution
def outlier_channels(k_GTD, angle_TP, times):
    """Return the outliers of each head before and after rope, and the ratios."""

    ### BEGIN SOLUTION
    def looked_at(x_GTD):
        size_GD = x_GTD.square().mean(1).sqrt()
        middle_G1 = size_GD.median(-1, keepdim=True).values
        found = [row.nonzero()[:, 0].tolist() for row in size_GD >= times * middle_G1]
        return found, size_GD.amax(-1) / middle_G1[:, 0]

    cos_TP, sin_TP = angle_TP.cos(), angle_TP.sin()
    a_GTP, b_GTP = k_GTD.chunk(2, dim=-1)
    turned_GTD = torch.cat((a_GTP * cos_TP - b_GTP * sin_TP, b_GTP * cos_TP + a_GTP * sin_TP), -1)
    before, ratio_G = looked_at(k_GTD)
    after, turned_ratio_G = looked_at(turned_GTD)
    return before, after, torch.stack((ratio_G, turned_ratio_G), -1)
    ### END SOLUTION


@Q.also_right
@Q.right
def number_by_number(k_GTD, angle_TP, times):
    """Heads, pairs and tokens in loops; medians from a sorted list."""
    n_groups, n_tokens, width = k_GTD.shape
    found, ratios = ([], []), []
    for g in range(n_groups):
        turned = [[0.0] * width for _ in range(n_tokens)]
        for t in range(n_tokens):
            for d in range(width // 2):
                a, b = float(k_GTD[g, t, d]), float(k_GTD[g, t, d + width // 2])
                phi = float(angle_TP[t, d])
                turned[t][d] = a * math.cos(phi) - b * math.sin(phi)
                turned[t][d + width // 2] = b * math.cos(phi) + a * math.sin(phi)
        pair = []
        for lists, rows in zip(found, (k_GTD[g].tolist(), turned), strict=True):
            sizes = [math.sqrt(sum(x * x for x in column) / n_tokens) for column in zip(*rows)]
            middle = sorted(sizes)[(width - 1) // 2]
            lists.append([d for d in range(width) if sizes[d] >= times * middle])
            pair.append(max(sizes) / middle)
        ratios.append(pair)
    return *found, torch.tensor(ratios, dtype=torch.float64)


# --- laws ---

RESULTS = ("before", "after", "ratio_G2")


def _found(answer, case, **other):
    given = {name: case[name] for name in ("k_GTD", "angle_TP", "times")} | other
    found = named(answer(*given.values()), *RESULTS)
    return found | {name: [list(one) for one in found[name]] for name in RESULTS[:2]}


for _name, _says in zip(
    RESULTS, ("outliers before rope", "outliers after rope", "ratios"), strict=True
):

    @Q.law(_says)
    def _(answer, case, name=_name):
        return {name: _found(answer, case)[name]}


@Q.law("a rope that turns nothing changes nothing")
def _(answer, case):
    found = _found(answer, case, angle_TP=torch.zeros_like(case["angle_TP"]))
    ratio_G2 = found["ratio_G2"]
    return {
        "without a turn, outliers after rope": Near(found["before"]).of(found["after"]),
        "without a turn, ratios after rope": Near(ratio_G2[:, 0]).of(ratio_G2[:, 1]),
    }


@Q.law("keys that point the other way are as large")
def _(answer, case):
    before = _found(answer, case)
    after = _found(answer, case, k_GTD=-case["k_GTD"])
    return {f"of minus the keys, {n}": Near(x).of(after[n]) for n, x in before.items()}


@Q.law("exactly `times` the median; one head, one token, two channels")
def _(answer, case):
    """Sizes 1, 2, 3 and 4, of which 2 is the median; then a head of two channels."""
    k_GTD = torch.tensor([[[1.0, -2.0, 3.0, -4.0]]], dtype=torch.float64)
    angle_TP = torch.zeros(1, 2, dtype=torch.float64)
    exact = _found(answer, case, k_GTD=k_GTD, angle_TP=angle_TP, times=1.5)
    pair = torch.tensor([[[3.0, 1.0], [3.0, -1.0]]], dtype=torch.float64)
    angle_TP = torch.tensor([[0.0], [math.pi / 2]], dtype=torch.float64)
    least = _found(answer, case, k_GTD=pair, angle_TP=angle_TP, times=2.0)
    none = _found(answer, case, times=1e6)
    return (
        {f"exactly the bound, {name}": x for name, x in exact.items()}
        | {f"two channels, {name}": x for name, x in least.items()}
        | {f"with times of a million, {name}": none[name] for name in RESULTS[:2]}
    )


# --- what goes wrong: each changes one thing of this ---


def _interleaved(k_GTD, angle_TP):
    a, b = k_GTD[..., ::2], k_GTD[..., 1::2]
    turned = (a * angle_TP.cos() - b * angle_TP.sin(), b * angle_TP.cos() + a * angle_TP.sin())
    return torch.stack(turned, -1).flatten(-2)


def _half_turned(k_GTD, angle_TP):
    a, b = k_GTD.chunk(2, -1)
    first = a * angle_TP.cos() - b * angle_TP.sin()
    return torch.cat((first, b * angle_TP.cos() + first * angle_TP.sin()), -1)


def _own_middle(size_GD):
    return size_GD.median(-1, keepdim=True).values


def _outliers(
    k_GTD, angle_TP, times, *, size=lambda x: x.square().mean(1).sqrt(), middle=_own_middle,
    turn=_turned, enough=torch.ge, lists=lambda is_GD: [r.nonzero()[:, 0].tolist() for r in is_GD],
    largest=lambda size_GD: size_GD.amax(-1), order=lambda x: x,
):  # fmt: skip
    found, ratios = [], []
    for x_GTD in (k_GTD, turn(k_GTD, angle_TP)):
        size_GD = size(x_GTD)
        middle_G1 = middle(size_GD).expand(len(size_GD), 1)
        found.append(lists(enough(size_GD, times * middle_G1)))
        ratios.append(largest(size_GD) / middle_G1[:, 0])
    before, after = order(found)
    return before, after, torch.stack(order(ratios), -1)


Q.mistakes(
    _outliers,
    {
        "the largest number of a channel is taken for its size. The root mean square over the tokens was asked for.": {
            "size": lambda x: x.abs().amax(1)
        },
        "the mean of the absolute numbers: close, but the root mean square was asked for.": {
            "size": lambda x: x.abs().mean(1)
        },
        "the root is missing: these are squares, and ratios of squares are squared.": {
            "size": lambda x: x.square().mean(1)
        },
        "the spread around the mean is measured. A channel that is large for all tokens alike has no spread, and it is the one to find.": {
            "size": lambda x: x.std(1, correction=0)
        },
        "the mean with its signs: numbers that point both ways cancel.": {
            "size": lambda x: x.mean(1).abs()
        },
        "the median is that of all heads together. Each head has channels of its own.": {
            "middle": lambda size_GD: size_GD.median()
        },
        "sizes are compared with their mean, which the outliers themselves pull up.": {
            "middle": lambda size_GD: size_GD.mean(-1, keepdim=True)
        },
        "of an even number of channels the mean of the two in the middle is taken; torch's median takes the lower one.": {
            "middle": lambda size_GD: size_GD.quantile(0.5, -1, keepdim=True)
        },
        "a size of exactly `times` the median is enough: at least is >=.": {"enough": torch.gt},
        "neighbouring channels are turned together. The pairs are d and d + D/2.": {
            "turn": _interleaved
        },
        "the keys are turned the other way: the signs of the two sines.": {
            "turn": lambda k, angle: _turned(k, -angle)
        },
        "the second half is made from the first one after it was turned. Use the numbers as they were.": {
            "turn": _half_turned
        },
        "the keys are not turned at all: both answers are those before rope.": {
            "turn": lambda k, angle: k
        },
        "before and after change places.": {"order": lambda x: x[::-1]},
        "only the largest channel of each head is named. All that reach the bound are outliers.": {
            "lists": lambda is_GD: [r.nonzero()[:1, 0].tolist() for r in is_GD]
        },
    },
)  # fmt: skip
