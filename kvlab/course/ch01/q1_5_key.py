"""1.5: a key that gets picked. N queries of a kind, T other tokens, D width of a query and a key."""

import math

import torch
from torch import Tensor

from kvlab.course.author import AtLeast, AtMost, Exercise, NotData, brief
from kvlab.course.ch01._matrices import normals

Q = Exercise(
    "1.5",
    "A key that gets picked",
    "design_key",
    points=4,
    minutes=20,
    difficulty=2,
    statement="""
You are the key of one token. Two kinds of query come by, and you are shown some of each: `wanted_ND` should
pick you, `unwanted_ND` should not. Beside you stand the keys `others_TD` of other tokens (not every answer needs them). Return your key, a
vector of D numbers, no longer than `length` (its norm).

The check draws 200 *new* queries of each kind, puts your key beside the others, and takes the softmax over scores
divided by the root of D. Those who want you must give you at least 0.9 of their attention on average, the others
at most 0.1. There are many right answers.
""",
    hints=(
        "A score is large when key and query point the same way. All queries here have something "
        "in common. If the key points along that, who picks it?",
        "What tells the two kinds apart? Look at the mean of each. Noise of single examples goes "
        "away in a mean.",
        "direction_D = wanted_ND.mean(0) - unwanted_ND.mean(0); return direction_D / "
        "direction_D.norm() * length",
    ),
    imports=("torch",),
)

_UNSEEN = 200


@Q.case
def case(rng):
    """Queries so noisy that the means tell the two kinds apart, and one of each does not."""
    while True:
        case = _queries(rng)
        given = [case[name] for name in ("wanted_ND", "unwanted_ND", "others_TD", "length")]
        sure, lost = _attention(design_key(*given), case), _attention(_one_of_each(*given), case)
        if sure[0] > 0.92 and sure[1] < 0.08 and not (lost[0] > 0.88 and lost[1] < 0.12):
            return case


def _queries(rng):
    """Two kinds of query that have most in common, and the keys of the other tokens."""
    n, t = rng.sample([20, 24, 30, 36], 1)[0], rng.randint(3, 7)
    d = rng.choice([9, 11, 13])
    normal = normals(rng.randrange(2**31))
    shared_D, one_D, other_D = torch.linalg.qr(normal(d, 3))[0].T

    def queries(own_D, count):
        return 3 * shared_D + 2 * own_D + 0.4 * normal(count, d)

    return {
        "wanted_ND": queries(one_D, n),
        "unwanted_ND": queries(other_D, n + 1),
        "others_TD": normal(t, d),
        "length": math.ceil(8 * d**0.5),
        "_unseen_wanted": queries(one_D, _UNSEEN),
        "_unseen_unwanted": queries(other_D, _UNSEEN),
    }


@Q.solution
def design_key(wanted_ND, unwanted_ND, others_TD, length):
    """Return key_D, with a norm of at most `length`."""
    ### BEGIN SOLUTION
    direction_D = wanted_ND.mean(0) - unwanted_ND.mean(0)
    return direction_D / direction_D.norm() * length
    ### END SOLUTION


@Q.also_right
def by_least_squares(wanted, unwanted, others, length):
    # a line that separates the two kinds of query, by least squares; the key points along it
    examples = torch.cat((wanted, unwanted))
    side = torch.cat((torch.ones(len(wanted)), -torch.ones(len(unwanted)))).double()
    ridge = examples.T @ examples + torch.eye(examples.shape[1], dtype=torch.float64)
    direction = torch.linalg.solve(ridge, examples.T @ side)
    return direction * (length / direction.norm())


# --- laws ---


def _key(answer, case):
    key_D = answer(*(case[name] for name in ("wanted_ND", "unwanted_ND", "others_TD", "length")))
    d = case["others_TD"].shape[1]
    if isinstance(key_D, list) and all(isinstance(x, int | float) for x in key_D):
        key_D = torch.tensor(key_D, dtype=torch.float64)
    if isinstance(key_D, Tensor) and key_D.shape == (d,) and not key_D.isfinite().all():
        raise NotData(
            "key_D has a number in it that is nan or infinite. Was a vector of zeros divided by its norm?"
        )
    if not isinstance(key_D, Tensor) or key_D.shape != (d,):
        raise NotData(
            f"your code returned {brief(key_D)}; expected a tensor of {d} numbers: key_D."
        )
    return key_D.double()


@Q.law("the key is not longer than allowed")
def _(answer, case):
    key_D = _key(answer, case)
    allowed = AtMost(case["length"] * (1 + 1e-6))
    return {"length of the key": allowed.of(key_D.norm().item()), "_key_D": key_D}


@Q.law("those who want it pick it, the others do not")
def _(answer, case):
    key_D = _key(answer, case)
    wanted, unwanted = _attention(key_D, case)
    return {
        "attention from unseen queries that want it": AtLeast(0.9).of(wanted),
        "attention from unseen queries that do not": AtMost(0.1).of(unwanted),
        "_key_D": key_D,
    }


def _attention(key_D, case):
    """What a key gets of the unseen queries that want it, and of those that do not, on average."""
    keys_TD = torch.cat((case["others_TD"], key_D[None]))

    def attention(queries_ND):
        return (queries_ND @ keys_TD.T / len(key_D) ** 0.5).softmax(-1)[:, -1].mean().item()

    return attention(case["_unseen_wanted"]), attention(case["_unseen_unwanted"])


# --- what goes wrong: most point elsewhere ---


def _one_of_each(wanted_ND, unwanted_ND, others_TD, length):
    direction_D = wanted_ND[0] - unwanted_ND[0]
    return direction_D / direction_D.norm() * length


def _along(wanted_ND, unwanted_ND, others_TD, length, *, direction):
    direction_D = direction(wanted_ND, others_TD)
    return direction_D / direction_D.norm() * length


Q.mistakes(
    _along,
    {
        "the key points at the mean of the wanted queries, and most of that the unwanted ones have "
        "too, so they pick it as well. Point along what tells the two apart.": {
            "direction": lambda wanted_ND, others_TD: wanted_ND.mean(0)
        },
        "the key is the mean of the wanted queries as it is. Most of that the unwanted ones have "
        "too, and it is shorter than it may be. Point along what tells the two apart, and use the "
        "length.": lambda wanted_ND, unwanted_ND, *_: wanted_ND.mean(0),
        "the direction is right, but the key has the length that the difference happens to have. "
        "Stretch it: divide by its norm, then multiply by "
        "length.": lambda wanted_ND, unwanted_ND, *_: wanted_ND.mean(0) - unwanted_ND.mean(0),
        "the key is a copy of one wanted query, stretched: with what it shares with all others, "
        "and with its own noise.": {"direction": lambda wanted_ND, others_TD: wanted_ND[0]},
        "the direction is the difference of one wanted and one unwanted query, with the noise of "
        "both. Noise goes away in the mean of each kind.": _one_of_each,
        "the key points away from the mean of the unwanted queries, and with that away from what the wanted "
        "ones share with them. Point along what tells the two apart: the one mean minus the "
        "other.": lambda wanted_ND, unwanted_ND, others_TD, length: (
            -unwanted_ND.mean(0) / unwanted_ND.mean(0).norm() * length
        ),
        "the two means are added up: that is what both kinds have in common, so both pick the key. Subtract "
        "them.": lambda wanted_ND, unwanted_ND, others_TD, length: _along(
            wanted_ND,
            unwanted_ND,
            others_TD,
            length,
            direction=lambda wanted_ND, _: wanted_ND.mean(0) + unwanted_ND.mean(0),
        ),
        "the key is equally loud in every channel. That is a direction like any other; who picks "
        "it is left to chance.": {
            "direction": lambda wanted_ND, others_TD: torch.ones_like(wanted_ND[0])
        },
        "the key is set apart from the other keys. It is the queries that have to tell it apart.": {
            "direction": lambda wanted_ND, others_TD: wanted_ND.mean(0) - others_TD.mean(0)
        },
        "the difference is the wrong way round: those who do not want it pick "
        "it.": lambda wanted_ND, unwanted_ND, *others_and_length: design_key(
            unwanted_ND, wanted_ND, *others_and_length
        ),
        "the direction is right, but at length 1 the key whispers: the other keys drown it. Use "
        "the length that is allowed.": lambda *given: design_key(*given[:3], length=1.0),
        "the key is longer than allowed. Cut it: divide by its norm, then multiply by "
        "length.": lambda wanted_ND, unwanted_ND, *_: (
            (wanted_ND.mean(0) - unwanted_ND.mean(0)) * 100
        ),
    },
)
