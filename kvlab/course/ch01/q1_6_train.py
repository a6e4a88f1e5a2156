"""1.6: train the three matrices.

N lists of T pairs, C width of a pair, D width of a query and a key, E width of a value (C / 2).

Long because a training that failed is told by what its matrices do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kvlab.course.author import AtLeast, Exercise, Near, NotData, named
from kvlab.course.ch01._matrices import matrix

Q = Exercise(
    "1.6",
    "Train the three matrices",
    "train",
    points=5,
    minutes=25,
    difficulty=3,
    statement="""
Learn one head from examples. List n holds T pairs, `pairs_NTC[n]`: in each row a name, then a word, C / 2 numbers
each. `asks_NC[n]` asks for one of its names; the second half is zeros, and **a name looks different in a question
than in a list** (it is turned by a rotation that you are not told). `answers_NE[n]`, with E = C / 2, is the word that should come out.

Return `w_q`, `w_k` (both (D, C), with a D of your choice; D = C is fine) and `w_v` (E, C) such that this head answers:

`q = w_q @ ask`, `k_t = w_k @ pair_t`, `v_t = w_v @ pair_t`, scores divided by the root of D, softmax, mixture.

The check asks for names that no list of the training had. At least 0.8 of the attention must fall on the
right pair, and what comes out must point along the right word (a cosine of at least 0.8). The same seed must
give the same matrices. Any loss that is small when the right word comes out will do, such as the mean squared error. Keep
the matrices in float64, as the lists are, and return them so. Start from random matrices of spread 1 / √C, as the chapter
does: larger ones begin with a softmax that is nearly one-hot, and a hundred steps do not get out of it. From there a hundred steps
of `torch.optim.Adam` with lr=0.05 are enough, less than a second. About fifteen lines.
""",
    hints=(
        "It is the training loop of the chapter with another loss. What comes out should be "
        "answers_NE; how far off it is, squared and averaged, is a loss.",
        "Draw three random matrices from a generator with the seed, divided by C ** 0.5, call "
        "requires_grad_() on each, give them to torch.optim.Adam with lr=0.05, and take a hundred steps on 64 lists drawn "
        "at random. Attention: einsum('nd,ntd->nt', q, k), divide by the root of D, softmax, "
        "einsum('nt,nte->ne', weights, v).",
        "Each step: i = torch.randint(len(pairs_NTC), (64,), generator=rng); q = asks_NC[i] @ "
        "w_q.T; k = pairs_NTC[i] @ w_k.T; v = pairs_NTC[i] @ w_v.T; weights and out as in hint 2; "
        "loss = ((out - answers_NE[i]) ** 2).mean(); optimizer.zero_grad(); loss.backward(); "
        "optimizer.step(). Return the three, detached.",
    ),
    n_cases=5,
    size=lambda case: case["pairs_NTC"].numel(),
)

_N_KNOWN, _N_HELD_OUT, _N_LISTS, _BAR = 100, 20, 1024, 0.8


@Q.case
def case(rng):
    """Lists of pairs to learn from, and lists whose names occur in none of those."""
    width, n_pairs = rng.choice([8, 10, 12]), rng.choice([3, 4, 5])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(*shape):
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    names = normal(_N_KNOWN + _N_HELD_OUT, width)
    turn = torch.linalg.qr(normal(width, width))[0]  # a name looks different in a question

    def lists(n, first, count):
        who_NT = torch.rand(n, count, generator=torch_rng).argsort(-1)[:, :n_pairs] + first
        word_NTE, row_N = normal(n, n_pairs, width), torch.arange(n)
        pick_N = torch.randint(n_pairs, (n,), generator=torch_rng)
        asked_NE = names[who_NT[row_N, pick_N]] @ turn
        pairs_NTC = torch.cat((names[who_NT], word_NTE), -1)
        asks_NC = torch.cat((asked_NE, torch.zeros_like(asked_NE)), -1)
        return pairs_NTC, asks_NC, word_NTE[row_N, pick_N], pick_N

    known = pairs_NTC, asks_NC, answers_NE, _ = lists(_N_LISTS, 0, _N_KNOWN)
    return {
        "pairs_NTC": pairs_NTC,
        "asks_NC": asks_NC,
        "answers_NE": answers_NE,
        "seed": rng.randrange(1000),
        "_known": known,
        "_held_out": lists(400, _N_KNOWN, _N_HELD_OUT),
    }


@Q.solution
def train(pairs_NTC, asks_NC, answers_NE, seed):
    """Return w_q, w_k, w_v."""
    ### BEGIN SOLUTION
    rng = torch.Generator().manual_seed(seed)
    C, E = pairs_NTC.shape[2], answers_NE.shape[1]
    ws = [
        (torch.randn(rows, C, generator=rng, dtype=torch.float64) / C**0.5).requires_grad_()
        for rows in (C, C, E)
    ]
    w_q, w_k, w_v = ws
    optimizer = torch.optim.Adam(ws, lr=0.05)
    for _ in range(100):
        i = torch.randint(len(pairs_NTC), (64,), generator=rng)
        q, k, v = asks_NC[i] @ w_q.T, pairs_NTC[i] @ w_k.T, pairs_NTC[i] @ w_v.T
        weights = (torch.einsum("nd,ntd->nt", q, k) / C**0.5).softmax(-1)
        out = torch.einsum("nt,nte->ne", weights, v)
        loss = ((out - answers_NE[i]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return w_q.detach(), w_k.detach(), w_v.detach()
    ### END SOLUTION


@Q.also_right
def linear_layers(pairs, asks, answers, seed):
    torch.manual_seed(seed)
    width, out = pairs.shape[-1], answers.shape[-1]
    query, key = (torch.nn.Linear(width, width, bias=False, dtype=torch.float64) for _ in "qk")
    value = torch.nn.Linear(width, out, bias=False, dtype=torch.float64)
    layers = torch.nn.ModuleList((query, key, value))
    optimizer = torch.optim.AdamW(layers.parameters(), lr=0.05, weight_decay=0.0)
    for _ in range(4):
        for batch in torch.randperm(len(pairs)).split(32):
            q, k, v = query(asks[batch])[:, None], key(pairs[batch]), value(pairs[batch])
            weights = (q * k).sum(-1).div(width**0.5).softmax(-1)
            off = (weights[..., None] * v).sum(1) - answers[batch]
            optimizer.zero_grad()
            off.pow(2).mean().backward()
            optimizer.step()
    return [layer.weight.detach() for layer in layers]


# --- laws ---


def _trained(answer, case) -> list[Tensor]:
    inputs = (case[name] for name in ("pairs_NTC", "asks_NC", "answers_NE", "seed"))
    found = named(answer(*inputs), "w_q", "w_k", "w_v")
    w_q, w_k, w_v = (matrix(w, name) for name, w in found.items())
    c, e = case["pairs_NTC"].shape[2], case["answers_NE"].shape[1]
    if w_q.shape != w_k.shape or w_q.shape[1] != c or tuple(w_v.shape) != (e, c):
        raise NotData(
            f"your code returned w_q {tuple(w_q.shape)}, w_k {tuple(w_k.shape)} and w_v "
            f"{tuple(w_v.shape)}; expected (D, {c}) twice, with one D for both, and ({e}, {c})."
        )
    return [w_q, w_k, w_v]


def _head(w_q, w_k, w_v, lists) -> tuple[Tensor, Tensor]:
    """For each list: the weights of its pairs, and what comes out."""
    pairs_NTC, asks_NC, *_ = lists
    scores_NT = torch.einsum("nd,ntd->nt", asks_NC @ w_q.T, pairs_NTC @ w_k.T)
    weights_NT = (scores_NT / w_q.shape[0] ** 0.5).softmax(-1)
    return weights_NT, torch.einsum("nt,nte->ne", weights_NT, pairs_NTC @ w_v.T)


def _recalled(w_q, w_k, w_v, lists) -> tuple[Tensor, Tensor]:
    """For each list: the attention on the right pair, and the cosine with the right word."""
    *_, answers_NE, pick_N = lists
    weights_NT, out_NE = _head(w_q, w_k, w_v, lists)
    cosine_N = torch.nn.functional.cosine_similarity(out_NE, answers_NE)
    mass_N = weights_NT[torch.arange(len(pick_N)), pick_N]
    return mass_N.nan_to_num(0.0), cosine_N.nan_to_num(0.0)


def _tenths(some_N: Tensor) -> float:
    """The mean, cut to one digit, so that two trainings that fail alike are told to be alike."""
    return max(0, math.floor(some_N.mean().item() * 10)) / 10


@Q.law("names that were never seen are found, by the seed alone")
def _(answer, case):
    """Train, then ask for names that no list of the training had; if found, train once more.

    An outcome that tells by itself what went wrong is returned alone: two trainings that fail in
    the same way need not agree in their numbers.
    """
    trained = _trained(answer, case)
    kinds = {str(w.dtype) for w in trained}
    if kinds != {"torch.float64"}:
        return {"the type of the matrices": Near(["torch.float64"]).of(sorted(kinds))}
    known_N, known_cosine_N = _recalled(*trained, case["_known"])
    mass_N, cosine_N = _recalled(*trained, case["_held_out"])
    scores = {
        "attention on the right pair, names of the training": _tenths(known_N),
        "attention on the right pair, names never seen": _tenths(mass_N),
        "cosine of what comes out with the right word": _tenths(cosine_N),
    }
    seen = {name: AtLeast(_BAR).of(score) for name, score in scores.items()}
    if min(scores.values()) >= _BAR:
        again = _trained(answer, case)
        same = all(torch.allclose(a, b, 0.0, 1e-9) for a, b in zip(trained, again, strict=True))
        told = {"the same matrices from the same seed": Near(True).of(same)}
        return {**seen, **told} if same else told
    fault = _fault(trained, known_N, known_cosine_N, case)
    return {"what went wrong": Near("nothing").of(fault)} if fault else seen


def _fault(trained, known_N, known_cosine_N, case) -> str | None:
    """What went wrong, where that can be told from the matrices."""
    w_q, w_k, w_v = trained
    if not (w_q.any() and w_k.any()):
        return "w_q or w_k is all zeros"
    if torch.equal(w_q, w_k):
        return "w_q and w_k are the same matrix"
    if _tenths(_recalled(w_k, w_q, w_v, case["_held_out"])[0]) >= _BAR:
        return "it works with w_q and w_k exchanged"
    exactly, nearly = (int((known_cosine_N > bar).sum()) for bar in (0.99, 0.9))
    if 2 <= exactly <= 32 and nearly < 2 * exactly:
        return "it answers a few lists of the training exactly, and no others"
    along = known_cosine_N.mean()
    weights_NT, out_NE = _head(*trained, case["_known"])
    too_long = out_NE.square().sum() / (out_NE * case["_known"][2]).sum()
    if known_N.mean() < _BAR and along > 0.3 and too_long > 1.4:
        return "what comes out points along the right word, and is too long"
    if known_N.mean() < _BAR and weights_NT.amax(-1).mean() > _BAR:
        if along < 0.2:
            return "nearly all attention falls on one pair, and what comes out is not its word"
        return "nearly all attention falls on one pair, and mostly on a wrong one"
    by_chance = known_N.mean() < 1 / case["pairs_NTC"].shape[1] + 0.1
    if by_chance and known_cosine_N.mean().abs() < 0.1:
        return "it neither finds the right pair nor hands over its word"
    if by_chance:
        return "it finds the right pair about as often as chance does"
    return None


# --- what goes wrong: each changes one thing of this ---


def _train(
    pairs,
    asks,
    answers,
    seed,
    *,
    steps=80,
    lists=None,
    tied=False,
    looks=True,
    random_values=False,
    size=1.0,
    dtype=torch.float64,
    slopes=True,
    zeroes=True,
    axis=-1,
    leaves=True,
):
    rng = torch.Generator().manual_seed(seed)
    width, out = pairs.shape[-1], answers.shape[-1]
    w_q, w_k, w_v = (
        size * torch.randn(d, width, generator=rng, dtype=dtype) / width**0.5
        for d in (width, width, out)
    )
    learned = [w_q, w_v] if tied else [w_q, w_k, w_v] if looks else [w_v]
    for w in learned:
        w.requires_grad_(slopes)
    learned = learned if leaves else [w / 1.0 for w in learned]
    w_k = w_q if tied else w_k
    optimizer = torch.optim.Adam(learned, lr=0.05)
    for _ in range(steps):
        batch = torch.randint(lists or len(pairs), (64,), generator=rng)
        q, k, v = asks[batch] @ w_q.T, pairs[batch] @ w_k.T, pairs[batch] @ w_v.T
        weights = (torch.einsum("nd,ntd->nt", q, k) / width**0.5).softmax(axis)
        loss = ((torch.einsum("nt,nte->ne", weights, v) - answers[batch]) ** 2).mean()
        if zeroes:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if random_values:
        w_v = torch.randn(out, width, generator=rng, dtype=torch.float64) / width**0.5
    return w_q.detach(), w_k.detach(), w_v.detach()


def _exchanged(*given):
    w_q, w_k, w_v = _train(*given)
    return w_k, w_q, w_v


Q.mistakes(
    _train,
    {
        "nothing was learned, neither where to look nor what to hand over. Is step() called in the "
        "loop, did the optimizer get the very matrices that you return, and are the steps large "
        "enough? Adam's own lr, 0.001, needs far more of them than 0.05, and SGD more still.": {
            "steps": 0
        },
        "it has learned what to hand over and not where to look. Did the optimizer get w_q and w_k, "
        "too, does the softmax run over the T pairs of a list, and is it Adam? Plain SGD needs far more steps.": {
            "looks": False,
            "steps": 40,
        },
        "the start is too large: random matrices of spread 1 make scores of spread √C or more, and a "
        "softmax that is nearly one-hot hardly learns. Divide them by C ** 0.5.": lambda *given: (
            _train(*given, steps=60, size=given[0].shape[-1] ** 0.5)
        ),
        "the matrices come back in float32. The lists are in float64: keep the matrices so, "
        "too.": lambda *given: [w.float() for w in _train(*given, steps=1)],
        "the matrices begin as zeros. The slope of w_q is made of w_k and the other way round, so "
        "neither can begin to move. Draw small random numbers.": {"size": 0.0},
        "the slopes of all steps add up: backward() adds to what is there. Call "
        "optimizer.zero_grad() in every step.": {"zeroes": False},
        "the softmax runs over the lists of a batch. A question shares its attention among the T "
        "pairs of its own list: the last axis.": {"axis": 0},
        "torch was not told to keep slopes. Call requires_grad_() on each matrix before it goes to "
        "the optimizer.": {"slopes": False},
        "a matrix was divided after requires_grad=True, and what the optimizer got is the quotient, whose slopes torch does not "
        'keep (a "non-leaf"). Divide first, and call requires_grad_() on what comes out.': {
            "leaves": False
        },
        "the matrices are float32 and the lists float64. Draw them with dtype=torch.float64.": {
            "dtype": torch.float32
        },
        "queries and keys come from one matrix. A name looks different in a question and in a "
        "list, so each needs a reading of its own.": {"tied": True},
        "it trained on a handful of lists again and again and knows those by heart. Draw other "
        "lists for each step.": {"lists": 8},
        "attention finds the right pair, but w_v does not hand over the word. Train all three "
        "matrices, and return the trained ones.": {"random_values": True},
        "w_q and w_k came back in each other's place.": _exchanged,
        "two trainings with one seed gave different matrices. Draw all random numbers from a "
        "generator that the seed was given to.": lambda *given: _train(
            *given[:3], seed=torch.seed() % 2**31
        ),
    },
)
