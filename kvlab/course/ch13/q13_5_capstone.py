"""13.5: the capstone, a cache policy under a budget of bytes, on both models.

G key/value heads, H query heads, R = H / G, T tokens, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from kvlab.course.author import AtLeast, AtMost, Exercise, NotData
from kvlab.course.ch11._second import weights
from kvlab.course.ch13._both import BUDGET, installed, on_pocket, on_smollm2
from kvlab.prune import Evidence, scores

FEW, NATS = 1, 0.25

Q = Exercise(
    "13.5",
    "Your policy, two models, one budget",
    "policy",
    points=10,
    minutes=60,
    difficulty=5,
    statement=r"""
The capstone. A model has read a text with several passwords, a question about one of them, and its answer. Now its cache has to shrink to **two fifths of its bytes**, and then somebody asks for another password (chapter 13, "Your policy, on both models").

`policy` is called once for each layer, with its keys and values, and the queries that all T tokens had in its H heads (query heads $0 \ldots R-1$ share KV head 0, the next R share head 1, and so on). Return two things:

- `keep_GT`, True for each token that stays in a KV head. Heads may keep different tokens, but all of them equally many;
- `bits`, 16, 8, 4 or 2, the same in all layers: how what is left is stored. With 16 it stays as it is, in float16. With fewer, the latest 8 to 23 of the tokens that are left stay in float16, and the older ones are rounded as KIVI does it, keys in groups of 16 tokens of one channel and values in groups of 16 channels of one token, each group with a scale and a zero of two bytes each.

What your choice holds is **made as tensors and their storage is counted**, scales and zeros included, against the whole cache in float16. The texts have about 140 tokens and the groups are of 16, so that the window and the scales weigh more than in the chapter: 4 bits for all tokens take 45 % on the pocket model. Pass:

1. **the budget**: at most 0.4 of the bytes, in every prompt and on both models;
2. **the pocket model**: of 7 to 9 prompts that you do not see, at most one second question is answered wrongly, and at most one when the first is asked again, five times over;
3. **SmolLM2**, where it is installed: when the second question and its right answer are fed, the predictions are at most 0.25 nats from those of the whole cache, on average over their tokens. (It has one of two texts, always the same two, since a text takes it seconds.) `check` says whether this part was tried; `python3 -m kvlab fetch smollm2` brings the model.

Keeping everything breaks the budget, chance misses the bars, and there is more than one way to pass; the bars are low, and the contest is the table below. About 6 lines.

**Then compare yourself** with what the package ships, in a cell of its own (about a minute; the table stays on your machine):

```python
from kvlab.course.ch13.q13_5_capstone import leaderboard
for line in leaderboard(policy):
    print(line)
```
""",
    hints=(
        "There are two ways to save, and they multiply: fewer tokens, and fewer bits for each number. What does each of them alone cost at two fifths of the bytes? The figures of the chapter say.",
        "Two bits for every token fit. So do two fifths of the tokens in 16 bits, chosen by a score that does not depend on what was asked: KeyDiff, of exercise 11.2. The first tokens and the latest should "
        "stay in any case.",
        "unit = k_GTD / k_GTD.norm(dim=-1, keepdim=True); score = -(unit * unit.mean(1, keepdim=True)).sum(-1); score[:, :4] = 9; score[:, -16:] = 9; best = score.topk(int(0.4 * T), dim=-1).indices; "
        "return torch.zeros_like(score, dtype=torch.bool).scatter(-1, best, True), 16",
    ),
    imports=("torch",),
    n_cases=5,
    size=lambda case: case["n_prompts"],
    because="Your policy stays within the budget and passes on the pocket model"
    + (
        " and on SmolLM2."
        if installed()
        else ". SmolLM2 is not installed here, so it was not tried: python3 -m kvlab fetch smollm2 brings it."
    ),
)  # fmt: skip


@Q.case
def case(rng):
    return {"n_prompts": rng.randint(7, 9), "_seed": rng.randrange(2**31)}


@Q.solution
def policy(k_GTD, v_GTD, q_HTD):
    """Return which tokens stay in each head, and in how many bits."""
    ### BEGIN SOLUTION
    # The plainest that passes: no token goes, and each number has 2 bits. What keeps more of the
    # model for the same bytes, the chapter's leaderboard says.
    return torch.ones(k_GTD.shape[:2], dtype=torch.bool), 2
    ### END SOLUTION


@Q.also_right
def keys_that_stand_apart_in_four_bits(k_GTD, v_GTD, q_HTD):
    """Seven tenths of the tokens by KeyDiff; the sinks and what was just said stay."""
    n_tokens = k_GTD.shape[1]
    unit_GTD = torch.nn.functional.normalize(k_GTD, dim=-1)
    apart_GT = -(unit_GTD * unit_GTD.mean(1, keepdim=True)).sum(-1)
    apart_GT[:, :4] = apart_GT[:, -16:] = 9
    best_GN = apart_GT.topk(int(0.7 * n_tokens), dim=-1).indices
    keep_GT = torch.zeros_like(apart_GT, dtype=torch.bool).scatter(-1, best_GN, True)
    return keep_GT.tolist(), 4


# --- laws: they state what must come out, so no right answer is asked ---


def _checked(answer):
    """The answer as a policy, whose results are what they should be."""
    told: set[int] = set()

    def policy(k_GTD: Tensor, v_GTD: Tensor, q_HTD: Tensor) -> tuple[Tensor, int]:
        came = answer(k_GTD, v_GTD, q_HTD)
        if not isinstance(came, (tuple, list)) or len(came) != 2:
            raise NotData("your code returned something else than two things, keep_GT and bits.")
        keep, bits = came
        keep_GT = torch.tensor(keep) if isinstance(keep, list) else keep
        shape = tuple(k_GTD.shape[:2])
        if not isinstance(keep_GT, Tensor) or tuple(keep_GT.shape) != shape:
            raise NotData(f"keep_GT is something else than True or False for each of {shape}.")
        if keep_GT.dtype != torch.bool:
            raise NotData(f"keep_GT is of {keep_GT.dtype}; True or False were asked for.")
        n_G = keep_GT.sum(1)
        if not n_G[0] or (n_G != n_G[0]).any():
            raise NotData(
                f"heads keep {n_G.tolist()} tokens; all have to keep equally many, and at least one."
            )
        told.add(bits if type(bits) is int else 0)
        if told - {16, 8, 4, 2} or len(told) > 1:
            raise NotData("bits are something else than 16, 8, 4 or 2, the same in all layers.")
        return keep_GT, bits

    return policy


def _kept(policy, seen: list) -> object:
    """The policy, noting what it said at first, by which mistakes are told apart."""

    def noting(*given):
        found = policy(*given)
        if not seen:
            seen.append((found[0][0].nonzero()[:, 0].tolist(), found[1]))
        return found

    return noting


@Q.law("the pocket model")
def _(answer, case):
    n, seen = case["n_prompts"], []
    most, second, first = on_pocket(_kept(_checked(answer), seen), case["_seed"], n)
    return {
        "largest share of the bytes": AtMost(BUDGET).of(most),
        f"second questions answered, of {n}": AtLeast(n - FEW).of(second),
        f"first questions answered, of {n}": AtLeast(n - FEW).of(first),
        "_kept": seen[0],
    }


@Q.law("SmolLM2, where it is installed")
def _(answer, case):
    if not installed():
        return {}
    share, nats = on_smollm2(_checked(answer), case["_seed"])
    return {
        "SmolLM2: share of the bytes": AtMost(BUDGET).of(share),
        "SmolLM2: nats from the whole cache": AtMost(NATS).of(nats),
    }


# --- beside what the package ships ---


def _by(score, share: float, bits: int, k_GTD: Tensor, v_GTD: Tensor, q_HTD: Tensor):
    """A score of the package as a policy: 4 sinks and the latest 16 tokens stay."""
    n_tokens = k_GTD.shape[1]
    pos_T = torch.arange(n_tokens)
    evidence = Evidence(
        0, 1, k_GTD[None], v_GTD[None], pos_T.expand(1, len(k_GTD), -1), (n_tokens,),
        q_HTD[None, :, -32:], pos_T[None, -32:],
    )  # fmt: skip
    score_GT = score(evidence)[0].double().clone()
    score_GT[:, :4] = score_GT[:, -16:] = float("inf")
    best_GN = score_GT.topk(int(share * n_tokens), dim=-1).indices
    return torch.zeros_like(score_GT, dtype=torch.bool).scatter(-1, best_GN, True), bits


SHIPPED = {
    "the whole cache": (scores.recency, 1.0, 16),
    "2 bits, all tokens": (scores.recency, 1.0, 2),
    "keydiff, 40 %": (scores.keydiff, 0.4, 16),
    "keydiff, 70 % in 4 bits": (scores.keydiff, 0.7, 4),
    "snapkv, 40 %": (scores.snapkv, 0.4, 16),
    "snapkv, 70 % in 4 bits": (scores.snapkv, 0.7, 4),
    "knorm, 40 %": (scores.knorm, 0.4, 16),
    "streaming, 40 %": (scores.recency, 0.4, 16),
    "random, 70 % in 4 bits": (scores.random, 0.7, 4),
}


def leaderboard(answer, n_prompts: int = 15, seed: int = 0) -> Iterator[str]:
    """A line for the answer and for each of the package's, on the same prompts."""
    yield (
        f"{'':26}{'bytes':>7}{f'second, of {n_prompts}':>15}{'first':>7}"
        + f"{'SmolLM2: bytes':>16}{'nats':>7}" * installed()
    )
    shipped = {name: partial(_by, *how) for name, how in SHIPPED.items()}
    for name, one in {"yours": answer, **shipped}.items():
        most, second, first = on_pocket(_checked(one), seed, n_prompts)
        line = f"{name:26}{most:7.0%}{second:15}{first:7}"
        if installed():
            real, nats = on_smollm2(_checked(one), seed)
            line += f"{real:16.0%}{nats:7.2f}"
        yield line + "  over the budget" * (most > BUDGET)


# --- what goes wrong ---


def _keeping(score_GT: Tensor, bits: int = 16, share: float = 0.4) -> tuple[Tensor, int]:
    score_GT = score_GT.double().clone()
    score_GT[:, :4] = score_GT[:, -16:] = float("inf")
    best_GN = score_GT.topk(int(share * score_GT.shape[1]), dim=-1).indices
    return torch.zeros_like(score_GT, dtype=torch.bool).scatter(-1, best_GN, True), bits


@Q.mistake
def everything(k_GTD, v_GTD, q_HTD):
    """everything is kept as it is. That loses nothing and saves nothing."""
    return torch.ones(k_GTD.shape[:2], dtype=torch.bool), 16


@Q.mistake
def eight_bits(k_GTD, v_GTD, q_HTD):
    """8 bits for every token are more than half of the bytes: the scales count, and so do the latest
    tokens, which stay in 16."""
    return torch.ones(k_GTD.shape[:2], dtype=torch.bool), 8


@Q.mistake
def half_in_sixteen(k_GTD, v_GTD, q_HTD):
    """half of the tokens in 16 bits are half of the bytes."""
    return _keeping(-k_GTD.norm(dim=-1), share=0.5)


@Q.mistake
def latest(k_GTD, v_GTD, q_HTD):
    """attention of the latest queries chooses: they look at what was asked first, and the second
    question's password goes."""
    return _keeping(weights(k_GTD, q_HTD)[:, :, -8:].sum((1, 2)))


@Q.mistake
def heavy(k_GTD, v_GTD, q_HTD):
    """attention summed over all queries chooses: what was looked at is not what will be asked for."""
    return _keeping(weights(k_GTD, q_HTD).sum((1, 2)))


@Q.mistake
def newest(k_GTD, v_GTD, q_HTD):
    """only the first tokens and the newest stay: what was told at the beginning is gone."""
    return _keeping(torch.arange(k_GTD.shape[1]).expand(k_GTD.shape[:2]))


@Q.mistake
def turned(k_GTD, v_GTD, q_HTD):
    """keys that point the way of all others are kept, and those that stand out go: the sign."""
    unit_GTD = k_GTD / k_GTD.norm(dim=-1, keepdim=True)
    return _keeping((unit_GTD * unit_GTD.mean(1, keepdim=True)).sum(-1))


@Q.mistake
def chance(k_GTD, v_GTD, q_HTD):
    """chance chooses; nothing is looked at."""
    torch_rng = torch.Generator().manual_seed(0)
    return _keeping(torch.rand(k_GTD.shape[:2], generator=torch_rng, dtype=torch.float64))
