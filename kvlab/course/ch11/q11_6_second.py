"""11.6: a score of tokens that survives a second question, on the pocket model.

G key/value heads, H query heads, R = H / G, T tokens, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.course.author import AtLeast, Exercise, NotData
from kvlab.course.ch11._second import draw, right_answers, weights

FEW = 2  # answers that may be wrong

Q = Exercise(
    "11.6",
    "The second question",
    "survives",
    points=6,
    minutes=40,
    difficulty=4,
    statement=r"""
The pocket model has read a text with four passwords and a question about **one** of them. Then its cache is pruned: each layer and KV head keeps three
tenths of its tokens, the first 4 and the latest 16 among them, and your score decides about the others. After that comes a **second** question, about another
password, which nobody had asked for when the tokens were chosen (chapter 11, "The second question").

Write the score. For each layer you get its keys and values, and the queries that all T tokens had in its H heads (query heads $0 \ldots R-1$ share KV head
0, the next R share head 1, and so on). Return `score_GT`: one number for each token of each KV head, higher is kept. Roughly 3 lines.

Pass: of 14 to 18 prompts that you do not see, at most two second questions are answered wrongly, and at most three when the first question is asked again. Whole caches
answer all of them, attention of the latest queries about a quarter of the second ones, and so does chance.

**Predict first:** which of the scores of 11.2 will do? Then run your score in `generate`: it is a policy of the package, too, as the end of the chapter shows.
""",
    hints=(
        "What do the tokens of a sentence that nobody has asked for yet get from the queries so far? What do you know of a token that does "
        "not depend on what was asked?",
        "The fillers of these texts resemble each other, and so do their keys. A token that stands out has a key that points away from the mean of "
        "all keys of its head.",
        "unit_GTD = k_GTD / k_GTD.norm(dim=-1, keepdim=True); return -(unit_GTD * unit_GTD.mean(1, keepdim=True)).sum(-1)",
    ),
    n_cases=5,
    size=lambda case: case["n_prompts"],
)


@Q.case
def case(rng):
    return {"n_prompts": rng.randint(14, 18), "_seed": rng.randrange(2**31)}


@Q.solution
def survives(k_GTD, v_GTD, q_HTD):
    """Return score_GT: what each token is worth, higher is kept."""
    ### BEGIN SOLUTION
    unit_GTD = k_GTD / k_GTD.norm(dim=-1, keepdim=True)
    return -(unit_GTD * unit_GTD.mean(1, keepdim=True)).sum(-1)
    ### END SOLUTION


@Q.also_right
def far_from_the_mean(k_GTD, v_GTD, q_HTD):
    """The cosine by torch, to the mean of the keys as they are."""
    return [
        (1 - torch.nn.functional.cosine_similarity(k, k.mean(0, keepdim=True))).tolist()
        for k in k_GTD
    ]


# --- laws: they state what must come out, so no right answer is asked ---


def _score(answer):
    def score(k_GTD: Tensor, v_GTD: Tensor, q_HTD: Tensor) -> Tensor:
        came = answer(k_GTD, v_GTD, q_HTD)
        came = torch.tensor(came) if isinstance(came, list) else came
        shape = tuple(k_GTD.shape[:2])
        if not isinstance(came, Tensor) or tuple(came.shape) != shape:
            raise NotData(f"your code returned something else than one number for each of {shape}.")
        if came.is_complex() or came.isnan().any():
            raise NotData("your code returned scores of which some are no numbers.")
        return came.double()

    return score


@Q.law("second questions, and the first one again")
def _(answer, case):
    n = case["n_prompts"]
    second, first, kept_LGT = right_answers(draw(case["_seed"], n), _score(answer))
    return {
        "_kept of the first text, LGT": kept_LGT,  # so that one mistake is not taken for another
        f"second questions answered, of {n}": AtLeast(n - FEW).of(second),
        f"first questions answered, of {n}": AtLeast(n - FEW - 1).of(first),
    }


# --- what goes wrong ---


@Q.mistake
def latest(k_GTD, v_GTD, q_HTD):
    """attention of the latest queries: they look at what the first question asks for, and what the
    second one needs goes."""
    return weights(k_GTD, q_HTD)[:, :, -32:].sum((1, 2))


@Q.mistake
def latest_half(k_GTD, v_GTD, q_HTD):
    """attention of the latest 16 queries: they are the first question's, and the second one's answer
    goes."""
    return weights(k_GTD, q_HTD)[:, :, -16:].sum((1, 2))


@Q.mistake
def heavy(k_GTD, v_GTD, q_HTD):
    """attention summed over all queries so far: what was looked at is not what will be asked for."""
    return weights(k_GTD, q_HTD).sum((1, 2))


@Q.mistake
def last_query(k_GTD, v_GTD, q_HTD):
    """attention of the last query alone: it knows the first question best, and nothing else."""
    return weights(k_GTD, q_HTD)[:, :, -1].sum(1)


@Q.mistake
def newest(k_GTD, v_GTD, q_HTD):
    """the newest tokens: what was told at the beginning is gone, whoever asks for it."""
    return torch.arange(k_GTD.shape[1], dtype=torch.float64).expand(k_GTD.shape[:2])


@Q.mistake
def turned(k_GTD, v_GTD, q_HTD):
    """keys that point the way of all others are kept, and those that stand out go: the sign."""
    return -survives(k_GTD, v_GTD, q_HTD)


@Q.mistake
def short_keys(k_GTD, v_GTD, q_HTD):
    """short keys first: that was found of other models, and here it is worse than chance."""
    return -k_GTD.norm(dim=-1)


@Q.mistake
def chance(k_GTD, v_GTD, q_HTD):
    """chance; nothing is looked at."""
    torch_rng = torch.Generator().manual_seed(0)
    return torch.rand(k_GTD.shape[:2], generator=torch_rng, dtype=torch.float64)
