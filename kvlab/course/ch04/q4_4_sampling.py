"""4.4: what a draw is made from: temperature, top-k, top-p. V tokens of the vocabulary.

Long because each of the six steps goes wrong in its own ways, and each of them is named.
"""

from __future__ import annotations

import torch

from kvlab.course.author import Exercise, Near, as_tensor

Q = Exercise(
    "4.4",
    "Which tokens may be drawn?",
    "probabilities",
    points=5,
    minutes=25,
    difficulty=3,
    statement="""
Turn the logits of one row, `logits_V`, into the probabilities from which the next token is drawn (chapter 4, "From logits to
a token"). In this order, as `kvlab.Sampler` does it:

1. `temperature` 0 is greedy: the likeliest token gets 1 and all others 0, whatever top-k and top-p are. If several are
   the likeliest, it is the one of the lowest id.
2. Above 0, `temperature` divides the logits.
3. `top_k` keeps the k likeliest tokens; all others get 0. `None`, or a k of at least V, keeps all. (No case has a tie at the
   border.)
4. What is kept becomes probabilities: softmax.
5. `top_p` goes through **these** probabilities from the likeliest down, of equal ones the lower id first. A token stays as long
   as those *before* it sum to less than p. So the token that reaches p still stays, the likeliest always stays, and the
   one after a sum of exactly p goes. 1 keeps all, also where rounding brings the sum to a little more than 1.
6. What stays is divided by its sum.

Return `probs_V`: one probability for each id, in the order of the ids. `probs_V` has the dtype of `logits_V`. `top_k` is 1 or more, `top_p` above 0 and at
most 1. Roughly 12 lines.

With the probabilities 0.5, 0.25, 0.125, 0.125 and `top_p=0.75` two tokens stay, with 2/3 and 1/3; with `top_p=0.8` it is three.
""",
    hints=(
        "A token that is out has the probability 0. Which logit gives that? And does top-p look at "
        "the probabilities before or after the temperature, before or after top-k?",
        "Fill all but topk's ids with float('-inf'), then softmax. For top-p sort with "
        "descending=True, stable=True; the sum before each token is cumsum(0) minus the token "
        "itself. Zero those where it reaches p, and put them back in the order of ids.",
        "order_V = probs_V.argsort(descending=True, stable=True); sorted_V = probs_V[order_V]; "
        "out_V = order_V[sorted_V.cumsum(0) - sorted_V >= top_p]; probs_V[out_V] = 0; return probs_V "
        "/ probs_V.sum(). Before it: kept = scaled_V.topk(min(top_k, V)).indices, and for "
        "temperature 0 a row of zeros with 1 at logits_V.argmax().",
    ),
    imports=("torch",),
)


@Q.case
def case(rng):
    """Numbers for which every known mistake gives other probabilities than the right answer."""
    while True:
        vocabulary = rng.choice([8, 9, 11, 12])
        torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
        drawn = {
            "logits_V": 1.5 * torch.randn(vocabulary, generator=torch_rng, dtype=torch.float64),
            "temperature": rng.choice([0.6, 0.7, 1.4, 1.6]),
            "top_k": rng.randint(4, vocabulary - 2),
            "top_p": round(rng.uniform(0.6, 0.85), 2),
        }
        right_V = one_by_one(*drawn.values())
        told = (w.answer for w in Q.wrong if not getattr(w.answer, "rare", False))
        if 3 <= right_V.count_nonzero() < drawn["top_k"] and all(
            (answer(**drawn) - right_V).abs().max() > 1e-3 for answer in told
        ):
            return drawn


@Q.solution
def probabilities(logits_V, temperature, top_k, top_p):
    """Return probs_V, from which the next token is drawn."""
    ### BEGIN SOLUTION
    if temperature == 0:
        probs_V = torch.zeros_like(logits_V)
        probs_V[logits_V.argmax()] = 1.0
        return probs_V
    scaled_V = logits_V / temperature
    if top_k is not None and top_k < len(scaled_V):
        kept = scaled_V.topk(top_k).indices
        only_V = torch.full_like(scaled_V, float("-inf"))
        only_V[kept] = scaled_V[kept]
        scaled_V = only_V
    probs_V = scaled_V.softmax(0)
    if top_p < 1:
        sorted_V, order_V = probs_V.sort(descending=True, stable=True)
        out_V = sorted_V.cumsum(0) - sorted_V >= top_p
        probs_V[order_V[out_V]] = 0.0
        probs_V = probs_V / probs_V.sum()
    return probs_V
    ### END SOLUTION


@Q.right
def one_by_one(logits_V, temperature, top_k, top_p):
    """Ids in a list, the likeliest first; every rule takes some off its end."""
    ids = sorted(range(len(logits_V)), key=lambda i: (-float(logits_V[i]), i))
    if temperature == 0:
        ids, temperature, top_p = ids[:1], 1.0, 1.0
    ids = ids[:top_k]
    lifted = [float((logits_V[i] - logits_V.max()) / temperature) for i in ids]
    exps = torch.tensor(lifted, dtype=torch.float64).exp().tolist()
    whole, before, stay = sum(exps), 0.0, []
    for i, exp in zip(ids, exps, strict=True):
        if before >= top_p:
            break
        stay.append((i, exp))
        before += exp / whole
    probs_V = torch.zeros(len(logits_V), dtype=torch.float64)
    for i, exp in stay:
        probs_V[i] = exp / sum(e for _, e in stay)
    return probs_V


@Q.also_right
def by_ranks(logits, temperature, k, p):
    n = len(logits)
    order = torch.argsort(logits, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(n)
    if temperature == 0:
        return (rank == 0).to(logits.dtype)
    weights = torch.exp((logits - logits.max()) / temperature)
    weights = torch.where(rank < (k or n), weights, 0.0)
    weights = weights / weights.sum()
    if p < 1:
        earlier = (weights[None] * (rank[None] < rank[:, None])).sum(1)
        weights = weights * (earlier < p)
    return weights / weights.sum()


def _given(case, **other):
    return [{**case, **other}[name] for name in ("logits_V", "temperature", "top_k", "top_p")]


def shown(**other):
    """What a law calls with, where that is not the case's own."""

    def show(case):
        now = {**case, **other}
        return ", ".join(f"{k} {tuple(v.shape) if k == 'logits_V' else v}" for k, v in now.items())

    return show


ALONE = {
    "temperature alone": {"top_k": None, "top_p": 1.0},
    "greedy": {"temperature": 0.0, "top_k": None, "top_p": 1.0},
    "top-k alone": {"temperature": 1.0, "top_p": 1.0},
    "top-p alone": {"temperature": 1.0, "top_k": None},
    "a cold draw from many": {"temperature": 0.01, "top_k": None, "top_p": 1.0},
    "k is 1": {"top_k": 1},
    "k is beyond V": {"top_k": 99},
    "p is so small that one token stays": {"top_p": 1e-6, "top_k": None},
    "greedy, with top-k and top-p": {"temperature": 0},
}
for what, other in ALONE.items():

    @Q.law(what, shows=shown(**other))
    def _(answer, case, other=other):
        return {"probs_V": answer(*_given(case, **other))}


Q.agrees("all at once", "logits_V", "temperature", "top_k", "top_p", gives="probs_V")


@Q.law("k is V", shows=lambda case: shown(top_k=len(case["logits_V"]))(case))
def _(answer, case):
    return {"probs_V": answer(*_given(case, top_k=len(case["logits_V"])))}


@Q.law("p is 1, and rounding takes the sum past it", shows=lambda _: "6, 9 and 17 tokens, p 1")
def _(answer, case):
    rows = {n: torch.linspace(0, 1, n, dtype=torch.float64) for n in (6, 9, 17)}
    return {f"{n} tokens, probs_V": answer(x_V, 1.0, None, 1.0) for n, x_V in rows.items()}


@Q.law("two tie for the likeliest, greedy: the lower id", shows=shown(temperature=0))
def _(answer, case):
    tied_V = case["logits_V"].clone()
    tied_V[[2, 5]] = 9.0
    return {"probs_V": answer(*_given(case, logits_V=tied_V, temperature=0))}


@Q.law("p is exactly what two of four have", shows=lambda _: "0.25 at ids 1, 3, 4 and 6")
def _(answer, case):
    quarters_V = torch.full_like(case["logits_V"], -1e9)
    quarters_V[[1, 3, 4, 6]] = 2.0
    how = {"logits_V": quarters_V, "temperature": 1.0, "top_k": None}
    seen = {p: answer(*_given(case, **how, top_p=p)) for p in (0.5, 0.51, 0.25)}
    return {f"p {p}, probs_V": probs_V for p, probs_V in seen.items()}


@Q.law("they add up to 1")
def _(answer, case):
    return {"sum of probs_V": Near(1.0).of(float(as_tensor(answer(*_given(case))).sum()))}


_CLOSE = {"temperature": 0.01, "top_k": None, "top_p": 1.0}


@Q.law("a cold draw from tokens that are nearly alike", shows=shown(**_CLOSE))
def _(answer, case):
    """Divided by the temperature they are as far apart as the case's own."""
    return {"probs_V": answer(*_given(case, logits_V=case["logits_V"] / 100, **_CLOSE))}


@Q.law("the type of the logits stays", shows=lambda case: "logits_V of torch.float32")
def _(answer, case):
    seen = {}
    for what, other in {"greedy": {"temperature": 0}, "drawn": {}}.items():
        given = _given(case, logits_V=case["logits_V"].float(), **other)
        right_V = one_by_one(*given).float()
        found = answer(*given)
        seen[f"{what}, probs_V"] = Near(right_V, 1e-4, 1e-6).of(as_tensor(found))
        if isinstance(found, torch.Tensor):  # a list has none
            seen[f"{what}: the type"] = Near("torch.float32").of(str(found.dtype))
    return seen


# --- what goes wrong: each changes one thing of this ---


def _probs(
    logits_V, temperature, top_k, top_p, *, scale=lambda x, t: x / t, out=float("-inf"),
    stays=lambda before_V, probs_V, p: before_V < p, late=False, again=True, again_k=True,
    by_id=False, back=True, hot=False, first="k", guard=True,
    greedy=lambda x_V: torch.eye(len(x_V)).to(x_V)[x_V.argmax()],
):  # fmt: skip
    n = len(logits_V)
    if temperature == 0 and greedy:
        return greedy(logits_V)
    temperature = temperature or 1.0
    scaled_V = logits_V if late else scale(logits_V, temperature)
    in_V = torch.zeros(n, dtype=torch.bool)
    in_V[scaled_V.topk(min(top_k or n, n)).indices] = True
    full_V = scaled_V.softmax(0)
    only_V = torch.where(in_V, scaled_V, out).softmax(0)
    if not again_k:
        only_V = torch.where(in_V, full_V, 0.0)
    ranked_V = full_V if first == "p" else only_V
    ranked_V = logits_V.softmax(0) if hot else ranked_V
    order_V = torch.arange(n) if by_id else ranked_V.argsort(descending=True, stable=True)
    sorted_V = ranked_V[order_V]
    stay_V = stays(sorted_V.cumsum(0) - sorted_V, sorted_V, top_p)
    if top_p < 1 or not guard:
        gone_V = order_V[~stay_V]
        only_V = only_V.index_fill(0, gone_V, 0.0)
        only_V = only_V / only_V.sum() if again else only_V
    if late:
        only_V = (only_V.log() / temperature).softmax(0)
    return only_V if back else only_V.sort(descending=True).values


def rare(**how):
    """A mistake that shows in one law only, not with every number."""

    def answer(*args, **named):
        return _probs(*args, **named, **how)

    answer.rare = True
    return answer


Q.mistakes(
    _probs,
    {
        "the logits are multiplied by the temperature: a temperature above 1 flattens, so it "
        "divides.": {"scale": lambda x, t: x * t},
        "the temperature is left out.": {"scale": lambda x, t: x},
        "the probabilities are divided by the temperature: the logits are, before the softmax.": {
            "scale": lambda x, t: x.softmax(0) / t
        },
        "the temperature comes last. Top-p looks at the probabilities that the temperature made.": {
            "late": True
        },
        "top-p looks at the probabilities of temperature 1. It comes after the temperature.": {
            "hot": True
        },
        "tokens outside the top k get the logit 0, and so a probability. Minus infinity gives 0.": {
            "out": 0.0
        },
        "the token that reaches p is left out. It stays, so that what stays has p or more.": {
            "stays": lambda before_V, probs_V, p: before_V + probs_V < p
        },
        "one token too many: the sum of those before it has already reached p exactly.": rare(
            stays=lambda before_V, probs_V, p: before_V <= p
        ),
        "tokens stay whose own probability is above 1 - p: their sum is what counts.": {
            "stays": lambda before_V, probs_V, p: probs_V > 1 - p
        },
        "top-p goes through the ids in their order: it begins with the likeliest.": {"by_id": True},
        "what stays after top-p is not divided by its sum.": {"again": False},
        "top-p sums the probabilities from before top-k. Those that are left sum to 1 again "
        "first.": {"first": "p"},
        "what stays after top-k is not divided by its sum before top-p, which sums to less then.": {
            "again_k": False
        },
        "the probabilities are sorted: each belongs to its id, so they go back to its place.": {
            "back": False
        },
        "temperature 0 divides by 0, which gives nan: it is a case of its own, greedy.": rare(
            greedy=lambda x_V: torch.full_like(x_V, float("nan"))
        ),
        "temperature 0 draws as temperature 1 does. It is greedy: the likeliest gets 1.": rare(
            greedy=None
        ),
        "several are the likeliest and share: the lowest id gets 1.": rare(
            greedy=lambda x_V: (x_V == x_V.max()).to(x_V) / (x_V == x_V.max()).sum()
        ),
        "the token that takes the sum past p is left out, and with p = 1, which keeps all, the one "
        "at which rounding takes it past 1.": {
            "stays": lambda before_V, probs_V, p: probs_V.cumsum(0) <= p,
            "guard": False,
        },
        "greedy: of equal logits the last one wins; the lowest id should.": rare(
            greedy=lambda x_V: torch.eye(len(x_V)).to(x_V).flip(0)[x_V.flip(0).argmax()]
        ),
    },
)
