"""11.1: four numbers for what an answer lost. S scored tokens, V vocabulary."""

from __future__ import annotations

import math

import torch

from kvlab.course.author import Exercise, Near, named
from kvlab.course.ch11._normal import normal

Q = Exercise(
    "11.1",
    "What an answer lost",
    "judged",
    points=4,
    minutes=20,
    difficulty=2,
    statement=r"""
A model has answered twice, with the whole cache and with a pruned one, and each time was fed the tokens of the right answer (chapter 11, "When is an answer
right?"). `dense_SV` and `pruned_SV` are its logits at the S places at which a token of the answer had to be named; `answer_S` are the
right tokens. Return four things, in this order:

- `right`, `True` if the likeliest token of the **pruned** run is the right one at **all** places;
- `nats`, the pruned run's loss: the mean of $-\ln p(\text{right token})$ over the places;
- `kl`, how far the pruned run's prediction moved: the mean over the places of $\sum_v p_v \ln (p_v / q_v)$, with $p$ from the dense run and
  $q$ from the pruned one, 0 where nothing moved;
- `agrees`, the share of places at which both runs name the same token as the likeliest, right or wrong.

Logits may be so far apart that a probability is rounded to 0: every number must still come out finite. Roughly 8 lines.

With V = 2, one place, dense logits `[0., 0.]`, pruned logits `[1., 0.]` and the right token 1: not right, 1.3133 nats, a divergence of 0.1201,
and they agree (of equal logits the first is the likeliest).
""",
    hints=(
        "Which of the four needs the right tokens, which the dense run, and which both runs? And what becomes of log(softmax(x)) when "
        "a probability is rounded to 0?",
        "log_softmax gives logarithms that never come from a rounded probability. right and nats need pruned_SV and answer_S; agrees compares "
        "two argmax; kl is a sum over the vocabulary and a mean over places.",
        "p, q = dense_SV.log_softmax(-1), pruned_SV.log_softmax(-1); best = pruned_SV.argmax(-1); right = bool((best == answer_S).all()); nats = "
        "-q.gather(-1, answer_S[:, None]).mean(); kl = (p.exp() * (p - q)).sum(-1).mean(); agrees = (best == "
        "dense_SV.argmax(-1)).double().mean()",
    ),
)


@Q.case
def case(rng):
    """Answers of several tokens, where the runs agree at some places and both are right at few."""
    n, vocab = rng.sample([3, 4, 5, 6, 7], 2)
    dense_SV = 2 * normal(rng, n, vocab)
    pruned_SV = dense_SV + normal(rng, n, vocab)
    pruned_SV[0] = dense_SV[0] - 0.1 * normal(rng, vocab).abs()
    pruned_SV[0, dense_SV[0].argmax()] += 1
    for i in (1, -1):
        pruned_SV[i, (dense_SV[i].argmax() + 1) % vocab] += 9
    answer_S = dense_SV.argmax(-1)
    answer_S[-1] = (answer_S[-1] + rng.randrange(3)) % vocab  # dense's, pruned's or neither's best
    return {"dense_SV": dense_SV, "pruned_SV": pruned_SV, "answer_S": answer_S}


@Q.solution
def judged(dense_SV, pruned_SV, answer_S):
    """Return right, nats, kl and agrees of an answer."""
    ### BEGIN SOLUTION
    p_SV, q_SV = dense_SV.log_softmax(-1), pruned_SV.log_softmax(-1)
    best_S = pruned_SV.argmax(-1)
    right = bool((best_S == answer_S).all())
    nats = float(-q_SV.gather(-1, answer_S[:, None]).mean())
    kl = float((p_SV.exp() * (p_SV - q_SV)).sum(-1).mean())
    agrees = float((best_S == dense_SV.argmax(-1)).double().mean())
    return right, nats, kl, agrees
    ### END SOLUTION


@Q.also_right
@Q.right
def place_by_place(dense_SV, pruned_SV, answer_S):
    """Place by place, with sums of Python's own numbers."""

    def logs(row):
        top = max(row)
        total = top + math.log(sum(math.exp(x - top) for x in row))
        return [x - total for x in row]

    right, nats, kl, same = True, 0.0, 0.0, 0
    rows = zip(dense_SV.tolist(), pruned_SV.tolist(), answer_S.tolist(), strict=True)
    for dense, pruned, token in rows:
        p, q = logs(dense), logs(pruned)
        likeliest = pruned.index(max(pruned))
        right = right and likeliest == token
        same += likeliest == dense.index(max(dense))
        nats -= q[token] / len(answer_S)
        kl += sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)) / len(answer_S)
    return right, nats, kl, same / len(answer_S)


# --- laws ---


def _four(answer, *given):
    return named(answer(*given), "right", "nats", "kl", "agrees")


def _given(case):
    return case["dense_SV"], case["pruned_SV"], case["answer_S"]


for _name in ("right", "nats", "kl", "agrees"):

    @Q.law(f"{_name} of an answer")
    def _(answer, case, name=_name):
        return {name: _four(answer, *_given(case))[name]}


@Q.law("all right, and one token wrong")
def _(answer, case):
    dense_SV, pruned_SV, _ = _given(case)
    best_S = pruned_SV.argmax(-1)
    wrong_S = best_S.clone()
    wrong_S[1] = (wrong_S[1] + 1) % pruned_SV.shape[1]
    return {
        "right, of its own tokens": _four(answer, dense_SV, pruned_SV, best_S)["right"],
        "right, with one token wrong": _four(answer, dense_SV, pruned_SV, wrong_S)["right"],
        "right, with one place": _four(answer, dense_SV[:1], pruned_SV[:1], best_S[:1])["right"],
    }


@Q.law("a prediction that has not moved")
def _(answer, case):
    """The logits of both runs may differ by a number that is the same for all tokens."""
    dense_SV, _, answer_S = _given(case)
    four = _four(answer, dense_SV, dense_SV + 3, answer_S)
    return {"agrees of it": four["agrees"], "kl of it": Near(0.0).of(four["kl"])}


@Q.law("of equal logits the first is the likeliest")
def _(answer, case):
    """Logits that are all equal, in either run, beside those of a run that prefers token 0."""
    level_1V = torch.zeros_like(case["dense_SV"][:1])
    first_1V, token = level_1V.clone(), torch.tensor([0])
    first_1V[0, 0] = 1
    return {
        "right, with equal logits": _four(answer, first_1V, level_1V, token)["right"],
        "agrees, with equal pruned logits": _four(answer, first_1V, level_1V, token)["agrees"],
        "agrees, with equal dense logits": _four(answer, level_1V, first_1V, token)["agrees"],
    }


@Q.law("logits that are far apart")
def _(answer, case):
    """A thousand apart: e to the minus 1000 is 0 in any floating-point number."""
    dense_SV, pruned_SV, answer_S = _given(case)
    four = _four(answer, 400 * dense_SV, 400 * pruned_SV, answer_S)
    return {f"{name} of logits that are far apart": four[name] for name in ("nats", "kl")}


# --- what goes wrong: each changes one thing of this ---


def _kl(p_SV, q_SV):
    return (p_SV.exp() * (p_SV - q_SV)).sum(-1)


def _judged(
    dense_SV, pruned_SV, answer_S, *, logs=lambda x: x.log_softmax(-1), divergence=_kl,
    over=torch.mean, right=lambda hit_S: hit_S.all(), judged=lambda dense, pruned: pruned,
    same=lambda best, dense, answer: best == dense, base=1.0, best=lambda x: x.argmax(-1),
    share=lambda agree_S: agree_S.double().mean(), loss=lambda logs_S: -logs_S,
):  # fmt: skip
    p_SV, q_SV = logs(dense_SV), logs(pruned_SV)
    told_SV = judged(dense_SV, pruned_SV)
    best_S = best(told_SV)
    nats = float(over(loss(logs(told_SV).gather(-1, answer_S[:, None]))) / base)
    agree_S = same(best(pruned_SV), best(dense_SV), answer_S)
    return (
        bool(right(best_S == answer_S)),
        nats,
        float(over(divergence(p_SV, q_SV)) / base),
        share(agree_S).item(),
    )


def _without_infinities(p_SV, q_SV):
    moved_SV = p_SV.exp() * (p_SV.exp() / q_SV.exp()).log()
    return moved_SV.nan_to_num(0.0).sum(-1)


Q.mistakes(
    _judged,
    {
        "an answer counts as right if any of its tokens is. All must be: a code with one wrong digit is "
        "another code.": {"right": lambda hit_S: hit_S.any()},
        "an answer counts as right if its last token is. All must be.": {
            "right": lambda hit_S: hit_S[-1]
        },
        "the dense run is judged: right and nats are those of the pruned one.": {
            "judged": lambda dense, pruned: dense
        },
        "the divergence is turned round: the weights p are the dense run's, since it says what should "
        "have been predicted.": {"divergence": lambda p, q: _kl(q, p)},
        "the difference of the logarithms is summed without the weights p in front of it.": {
            "divergence": lambda p, q: (p - q).sum(-1)
        },
        "the mean is taken over the vocabulary too. Over tokens it is a sum, over places a mean.": {
            "divergence": lambda p, q: (p.exp() * (p - q)).mean(-1)
        },
        "sums over the places: take means, or longer answers seem to lose more.": {
            "over": torch.sum
        },
        "bits, and not nats: the logarithm is the natural one.": {"base": math.log(2)},
        "log(softmax(x)) is minus infinity where a probability is rounded to 0, and 0 times that is no "
        "number. Use log_softmax.": {"logs": lambda x: x.softmax(-1).log()},
        "a small number is added before the logarithm: it, and not the logits, says how unlikely a token is. "
        "Use log_softmax.": {"logs": lambda x: (x.softmax(-1) + 1e-12).log()},
        "probabilities that were rounded to 0 are left out of the divergence, or make it infinite. Take the "
        "difference of two log_softmax.": {"divergence": _without_infinities},
        "the softmax runs over the places. Each place has a prediction of its own: the last axis.": {
            "logs": lambda x: x.log_softmax(0)
        },
        "the logarithm of the mean probability, and not the mean of the logarithms.": {
            "loss": lambda logs_S: -logs_S.exp().mean().log()
        },
        "agrees is True or False. It is the share of places at which the runs agree.": {
            "share": torch.all
        },
        "agrees is the number of places. It is their share.": {"share": torch.sum},
        "the four are in another order: right, nats, kl, agrees.": lambda *given: (
            _judged(*given)[1:3] + _judged(*given)[::3]
        ),
        "of equal logits the last is taken for the likeliest. argmax gives the first.": {
            "best": lambda x: x.shape[-1] - 1 - x.flip(-1).argmax(-1)
        },
        "agrees compares with the right answer. It compares the two runs, right or wrong.": {
            "same": lambda best, dense, answer: best == answer
        },
    },
)
