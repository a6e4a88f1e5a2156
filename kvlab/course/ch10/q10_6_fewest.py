"""10.6: how few elements of each key a head of the pocket model needs.

G key/value heads, H query heads, R = H / G, T tokens, D head width.
"""

from __future__ import annotations

import random
from functools import lru_cache

import torch
from torch import Tensor

from kvlab.course.author import Exercise, pocket_model
from kvlab.course.ch10._contest import first_best, last_best, normal
from kvlab.measure.probe import Probe

Q = Exercise(
    "10.6",
    "How few are enough",
    "fewest",
    points=4,
    minutes=25,
    difficulty=3,
    statement=r"""
A layer of the pocket model has read a text (chapter 10, "What gets lost: one measure"). You get its keys and values, and the query that
the text's last token has in each of the H heads; query heads $0 \ldots R-1$ share KV head 0, the next R share head 1, and so on.

Let each key keep its $n$ largest elements in size (of equal ones the first) and set the others to zero. The *error* of a KV head is how far the
outputs of its R query heads move, all R of them together: the length (the root of the sum of squares) of the difference, divided by the length of the outputs with
whole keys. Logits are divided by the square root of D.

Say how few elements are enough: for each KV head the smallest $n$, at least 1, such that with $n$ **and with every larger number** of elements the error is
at most `bar`. (Errors do not always fall when more is kept.) With all D elements nothing is lost. Return a list of G whole numbers. Roughly 12
lines.

If the errors with 1, 2, 3 and 4 of four elements are 0.5, 0.1, 0.3 and 0, and `bar` is 0.2, then 4 are needed: 2 would do, but 3 would not.

**Predict first:** in the chapter's text, how many of 32 elements does each head of the last layer need if it may be wrong by a tenth? Then see, in a cell of its own:

```python
from kvlab.course.ch10.q10_6_fewest import read
text = "Story: The password of Olga is wolf.\nUser: What is the password of Olga?\nAssistant: The password of Olga is"
fewest(*read(text, 3), bar=0.1)
```
""",
    hints=(
        "Which n can you rule out first: begin with all elements and take away, or begin with one? And which of the H "
        "outputs belong to a KV head?",
        "Write error(n) for one KV head: zero the keys' small elements, take the outputs of q_HD.unflatten(0, (G, -1))[g] with "
        "the new keys and with the old ones, and divide the norm of the difference by the norm of the old. Then go down "
        "from n = D, and stop above the first n whose error is larger than bar.",
        "order = k_TD.abs().argsort(dim=-1, descending=True, stable=True); keep = torch.zeros_like(k_TD, "
        "dtype=torch.bool).scatter(-1, order[:, :n], True); out(k) = (q_RD @ k.T / D**0.5).softmax(-1) @ v_TD; error = "
        "(out(k_TD * keep) - out(k_TD)).norm() / out(k_TD).norm(). Then: n = D; while n > 1 and error(n - 1) <= bar: n -= 1.",
    ),
    imports=("torch",),
)

TEXTS = (
    "Story: The password of {0} is wolf. {1} went home.\nUser: What is the password of {0}?\nAssistant:",
    "Facts: {0} has a shoe. The password of {1} is tiger.\nUser: Where is {0}?\nAssistant: {0} is",
    "The king and the queen live in the castle. {0} and {1} met the king, and {0} met the",
    "Story: {0} gave the flute to {1}. {1} has the flute.\nUser: Who has the flute?\nAssistant:",
)
NAMES = ("Anna", "Tom", "Lucy", "Peter", "Olga", "Karl")
LAYERS = 4


@lru_cache(maxsize=512)
def read(text: str, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's keys and values after a text, and its last token's queries: k_GTD, v_GTD, q_HD."""
    model, tokenizer = pocket_model()
    ids = tokenizer.encode(text)
    cache = model.new_cache(1, len(ids))
    with Probe(model, keep="queries") as seen, torch.inference_mode():
        model.hidden(torch.tensor([ids]), None, cache)
    kv = cache.read(layer)
    found = kv.k_BGTD[0], kv.v_BGTD[0], seen.queries[layer][0][0, :, -1]
    return tuple(x.clone() for x in found)


@Q.case
def case(rng):
    """A text of the pocket model, one of its layers, and a bar."""
    text = rng.choice(TEXTS).format(*rng.sample(NAMES, 2))
    k_GTD, v_GTD, q_HD = read(text, rng.randrange(LAYERS))
    bar = rng.choice([0.05, 0.08, 0.12, 0.2])
    return {"k_GTD": k_GTD, "v_GTD": v_GTD, "q_HD": q_HD, "bar": bar}


@Q.solution
def fewest(k_GTD, v_GTD, q_HD, bar):
    """Return for each KV head how few elements of each key are enough."""

    ### BEGIN SOLUTION
    def outputs(k_TD, v_TD, q_RD):
        return (q_RD @ k_TD.T / k_TD.shape[1] ** 0.5).softmax(-1) @ v_TD

    def error(n, k_TD, v_TD, q_RD):
        order = k_TD.abs().argsort(dim=-1, descending=True, stable=True)
        keep = torch.zeros_like(k_TD, dtype=torch.bool).scatter(-1, order[:, :n], True)
        dense_RD = outputs(k_TD, v_TD, q_RD)
        return (outputs(k_TD * keep, v_TD, q_RD) - dense_RD).norm() / dense_RD.norm()

    found = []
    q_GRD = q_HD.unflatten(0, (k_GTD.shape[0], -1))
    for head in zip(k_GTD, v_GTD, q_GRD, strict=True):
        n = k_GTD.shape[2]
        while n > 1 and error(n - 1, *head) <= bar:
            n -= 1
        found.append(n)
    return found
    ### END SOLUTION


@Q.also_right
@Q.right
def all_errors_first(k_GTD, v_GTD, q_HD, bar):
    """All errors of all numbers at once, head by head; then the last one that is too large."""
    n_groups, _, width = k_GTD.shape
    share, needed = len(q_HD) // n_groups, []
    for g in range(n_groups):
        place = (-k_GTD[g].abs()).sort(dim=1, stable=True).indices.argsort(dim=1)
        kept = torch.stack([k_GTD[g] * (place < n) for n in range(1, width + 1)])
        q = q_HD[g * share : g * share + share]
        scores = torch.einsum("ntd,rd->nrt", kept, q) / width**0.5
        out = torch.einsum("nrt,td->nrd", torch.softmax(scores, -1), v_GTD[g]).flatten(1)
        errors = torch.linalg.norm(out - out[-1], dim=1) / torch.linalg.norm(out[-1])
        needed.append(max((n + 1 for n, e in enumerate(errors.tolist(), 1) if e > bar), default=1))
    return needed


# --- laws ---


def _asked(answer, case, **other):
    given = {name: case[name] for name in ("k_GTD", "v_GTD", "q_HD", "bar")} | other
    return {"how few are enough, head by head": answer(*given.values())}


@Q.law("a layer of the pocket model")
def _(answer, case):
    return _asked(answer, case)


@Q.law("a bar that nothing exceeds, and one that each loss does")
def _(answer, case):
    high = _asked(answer, case, bar=10.0)
    low = _asked(answer, case, bar=1e-9)
    return {
        f"{says} {name}": x
        for says, of in (("high bar,", high), ("low bar,", low))
        for name, x in of.items()
    }


@Q.law("an error of exactly `bar` is not above it")
def _(answer, case):
    """One token gets all attention whatever its key is: nothing is ever lost, and the bar is 0."""
    one = {name: case[name][:, :1] for name in ("k_GTD", "v_GTD")}
    return {f"of one token, {n}": x for n, x in _asked(answer, case, **one, bar=0.0).items()}


@Q.law("louder values change nothing: the error is a share")
def _(answer, case):
    return _asked(answer, case, v_GTD=100 * case["v_GTD"])


@Q.law("other numbers of heads, and equal elements")
def _(answer, case):
    """Three KV heads with two query heads each, and one with one; sizes of which many are equal."""
    rng = random.Random(int(1000 * case["bar"]) + case["k_GTD"].shape[1])
    seen = {}
    for n_groups, share in ((3, 2), (1, 1)):
        k_GTD = 2 * normal(rng, n_groups, 7, 6)
        k_GTD[0] = k_GTD[0].round()
        given = {
            "k_GTD": k_GTD,
            "v_GTD": normal(rng, n_groups, 7, 6),
            "q_HD": 2 * normal(rng, n_groups * share, 6),
        }
        for bar in (0.15, 0.4):
            found = _asked(answer, case, **given, bar=bar)
            seen |= {
                f"{n_groups} x {share} heads, bar {bar}: {name}": x for name, x in found.items()
            }
    return seen


# --- what goes wrong: each changes one thing of this ---


def _outputs(k_TD, v_TD, q_RD):
    return (q_RD @ k_TD.T / k_TD.shape[1] ** 0.5).softmax(-1) @ v_TD


def _by_size(x_TD, n):
    return first_best(x_TD.abs(), n)


def _relative(out_RD, dense_RD):
    return float((out_RD - dense_RD).norm() / dense_RD.norm())


def _fewest(
    k_GTD, v_GTD, q_HD, bar, *, best=_by_size, loss=_relative, upwards=False, heads=None,
    values=False, keys=True, outputs=_outputs, count=lambda n, width: n, least=1, below=float.__le__,
):  # fmt: skip
    width, found = k_GTD.shape[2], []
    q_GRD = heads(q_HD, len(k_GTD)) if heads else q_HD.unflatten(0, (len(k_GTD), -1))
    for k_TD, v_TD, q_RD in zip(k_GTD, v_GTD, q_GRD, strict=True):
        dense_RD = outputs(k_TD, v_TD, q_RD)

        def fits(n, k=k_TD, v=v_TD, q=q_RD, dense=dense_RD):
            pruned = k * best(k, n) if keys else k, v * best(v, n) if values else v
            return below(loss(outputs(*pruned, q), dense), bar)

        if upwards:
            found.append(next(n for n in range(1, width + 1) if n == width or fits(n)))
            continue
        n = width
        while n > least and fits(n - 1):
            n -= 1
        found.append(count(n, width))
    return found


def _one_for_all(k_GTD, v_GTD, q_HD, bar):
    heads = [*zip(k_GTD, v_GTD, q_HD.unflatten(0, (len(k_GTD), -1)), strict=True)]

    def outputs(n):
        return torch.stack([_outputs(k * _by_size(k, n), v, q) for k, v, q in heads])

    n = width = k_GTD.shape[2]
    while n > 1 and _relative(outputs(n - 1), outputs(width)) <= bar:
        n -= 1
    return [n] * len(k_GTD)


Q.mistakes(
    _fewest,
    {
        "the first number that is good enough, from one upwards. The error may rise again with more "
        "elements; all larger numbers must be good enough, too.": {"upwards": True},
        "the number of elements that can go. Say how many are needed.": {
            "count": lambda n, width: width - n
        },
        "one less than needed: the last number whose error was too large.": {
            "count": lambda n, width: n - 1
        },
        "the error is not divided by the length of the output: louder values seem to lose more.": {
            "loss": lambda out, dense: float((out - dense).norm())
        },
        "the error is squared: the length is the root of the sum of squares, above and below.": {
            "loss": lambda out, dense: _relative(out, dense) ** 2
        },
        "the error is the mean of the R heads' errors. The outputs of all R heads are one row of numbers, with one length.": {
            "loss": lambda out, dense: float(
                ((out - dense).norm(dim=-1) / dense.norm(dim=-1)).mean()
            )
        },
        "only the first query head of each group is looked at. All R of them read these keys.": {
            "heads": lambda q_HD, n: q_HD.unflatten(0, (n, -1))[:, :1]
        },
        "query heads are put beside the wrong KV heads: neighbours share one (unflatten(0, (G, R))), "
        "not every G-th.": {
            "heads": lambda q_HD, n: q_HD.unflatten(0, (-1, n)).transpose(0, 1)
        },
        "the values are pruned, and not the keys.": {"values": True, "keys": False},
        "the values are pruned as well as the keys.": {"values": True},
        "each query head has an error of its own, and the worst counts. The outputs of all R heads are one row of numbers.": {
            "loss": lambda out, dense: float(
                ((out - dense).norm(dim=-1) / dense.norm(dim=-1)).max()
            )
        },
        "all KV heads have one error. Each has its own: that of the outputs of its R query heads.": (
            _one_for_all
        ),
        "a head that loses little needs 0 elements. The smallest n is 1.": {"least": 0},
        "an error of exactly `bar` counts as too large. At most `bar` is asked for.": {
            "below": float.__lt__
        },
        "logits are divided by D, and not by its square root.": {
            "outputs": lambda k, v, q: _outputs(k / k.shape[1] ** 0.5, v, q)
        },
        "the largest elements stay, and not the largest in size: -5 goes before 0.1.": {
            "best": first_best
        },
        "of equal sizes the last stay. The first should.": {
            "best": lambda x_TD, n: last_best(x_TD.abs(), n)
        },
        "each channel keeps its n largest. Here each key does: a row is a token.": {
            "best": lambda x_TD, n: _by_size(x_TD.T, n).T
        },
        "logits are not divided by the square root of D.": {
            "outputs": lambda k, v, q: _outputs(k * k.shape[1] ** 0.5, v, q)
        },
    },
)  # fmt: skip
