"""9.5: attention of which each process has a share of the heads.

S tokens, C model width, H query heads, G key/value heads, D head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kvlab.course.author import AtMost, Exercise, LentFunction

Q = Exercise(
    "9.5",
    "A share of the heads",
    "attention_share",
    points=5,
    minutes=30,
    difficulty=4,
    statement="""
Compute causal attention as **one of `n` processes** that share its heads (chapter 9, "Cut a layer, not the text"). You are process `rank`, from 0. All processes have x_SC, and you are given the whole matrices, of which you may use your share only: w_q_HDC, w_k_GDC, w_v_GDC (one matrix of D rows for each head), w_o_CHD (which columns belong to which head), and
the bias b_o_C, which belongs to the output as a whole.

- The query heads are dealt out in order, H / n of them to each process (H is divisible by n). Query head h reads key/value head h // (H / G), as in chapter 3; a process needs those that its query heads read, whether another one needs them too or not.
- What you get from your heads and their columns of w_o is one term of a sum over all processes. `add(part_SC)` is how you meet the others: it takes your term and returns the sum of all. It may be called **once**.
- Return out_SC, the output of the whole attention, the same in every process. The bias is added once in all, not once in each process; whether after the sum, or before it in one process's term or in parts, is your choice.

Scores are divided by the root of D; there is no rope. About 15 lines. With H = 4, G = 2 and n = 2, process 1 has the query heads 2 and 3 and the key/value head 1. With H = 6, G = 2 and n = 3, process 1 has the query heads 2 and 3, of which the first reads key/value head 0 and the second head 1.
""",
    hints=(
        "Which rows of which matrices do your query heads need, and which columns of w_o? What is the same in all processes and must not be summed?",
        "own = the numbers of your query heads; for each, its queries, the keys and values of head h // (H / G), its mixture of width D, and w_o_CHD[:, h] @ it. Add those up; that is your part. Then one call of add, and then the bias.",
        "part = 0; for h in range(rank * H // n, (rank + 1) * H // n): g = h // (H // G); q, k, v = x_SC @ w_q_HDC[h].T, x_SC @ w_k_GDC[g].T, x_SC @ w_v_GDC[g].T; scores = q @ k.T / D**0.5, masked above the diagonal with -inf; "
        "part = part + scores.softmax(-1) @ v @ w_o_CHD[:, h].T. return add(part) + b_o_C.",
    ),
    imports=("torch",),
)

SHAPES = [(4, 2, 2), (6, 2, 3), (6, 3, 2), (8, 2, 4), (4, 1, 2), (6, 6, 3), (8, 4, 2), (6, 1, 3)]
MATRICES = ("w_q_HDC", "w_k_GDC", "w_v_GDC", "w_o_CHD", "b_o_C")


@Q.case
def case(rng):
    """Heads shared and not, more processes than key/value heads and fewer."""
    H, G, n = rng.choice(SHAPES)
    S, D, C = rng.sample([3, 5, 7, 9], 3)
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def drawn(*shape):
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    case = {"rank": rng.randrange(n), "n": n, "x_SC": drawn(S, C), "w_q_HDC": drawn(H, D, C)}
    case |= {"w_k_GDC": drawn(G, D, C), "w_v_GDC": drawn(G, D, C), "w_o_CHD": drawn(C, H, D)}
    return case | {"b_o_C": drawn(C)}


@Q.solution
def attention_share(rank, n, x_SC, w_q_HDC, w_k_GDC, w_v_GDC, w_o_CHD, b_o_C, add):
    """Return the whole attention's out_SC, as one of n processes."""
    ### BEGIN SOLUTION
    H, D, _ = w_q_HDC.shape
    S, R = len(x_SC), H // len(w_k_GDC)
    later_SS = torch.ones(S, S, dtype=torch.bool).triu(1)
    part_SC = torch.zeros_like(x_SC)
    for h in range(rank * H // n, (rank + 1) * H // n):
        q_SD = x_SC @ w_q_HDC[h].T
        k_SD, v_SD = x_SC @ w_k_GDC[h // R].T, x_SC @ w_v_GDC[h // R].T
        scores_SS = (q_SD @ k_SD.T / D**0.5).masked_fill(later_SS, -torch.inf)
        part_SC = part_SC + scores_SS.softmax(-1) @ v_SD @ w_o_CHD[:, h].T
    return add(part_SC) + b_o_C
    ### END SOLUTION


@Q.also_right
def all_own_heads_at_once(rank, n, x, w_q, w_k, w_v, w_o, b_o, add):
    heads = torch.arange(w_q.shape[0]).chunk(n)[rank]
    kv = torch.div(heads, w_q.shape[0] // w_k.shape[0], rounding_mode="floor")
    q = torch.einsum("sc,hdc->hsd", x, w_q[heads])
    k, v = (torch.einsum("sc,hdc->hsd", x, w[kv]) for w in (w_k, w_v))
    out = torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=True
    )
    part = torch.einsum("hsd,chd->sc", out[0], w_o[:, heads])
    return add(part + b_o / n)


# --- laws ---


def _heads(case, own):
    """The term of some query heads, by torch's own function: part_SC."""
    x_SC, R = case["x_SC"], len(case["w_q_HDC"]) // len(case["w_k_GDC"])
    total = torch.zeros_like(x_SC)
    for h in own:
        q, k, v = (
            x_SC @ w.T
            for w in (case["w_q_HDC"][h], case["w_k_GDC"][h // R], case["w_v_GDC"][h // R])
        )
        mixed = F.scaled_dot_product_attention(
            q[None, None], k[None, None], v[None, None], is_causal=True
        )
        total = total + mixed[0, 0] @ case["w_o_CHD"][:, h].T
    return total


def _own(case, rank):
    each = len(case["w_q_HDC"]) // case["n"]
    return range(rank * each, (rank + 1) * each)


def _as_process(answer, case, rank, others):
    """The answer as one process, where the others' terms come to this; and what it gave to add."""
    given = []

    def add(part_SC):
        if not isinstance(part_SC, torch.Tensor) or part_SC.shape != case["x_SC"].shape:
            raise ValueError(f"add takes a tensor of shape (S, C) = {tuple(case['x_SC'].shape)}")
        given.append(part_SC)
        return part_SC + others

    lent = LentFunction(add)
    matrices = (case[name] for name in MATRICES)
    return answer(rank, case["n"], case["x_SC"], *matrices, lent), given, lent.calls


def _bias_in_terms(answer, case):
    """What each process has put of the bias into its term, if their sum has it once; else zeros."""
    found, none_SC = [], torch.zeros_like(case["x_SC"])
    for rank in range(case["n"]):
        _, given, _ = _as_process(answer, case, rank, none_SC)
        term_SC = given[0].double() if given else none_SC
        found.append(term_SC - _heads(case, _own(case, rank)))
    same = all(torch.allclose(more, more[:1], atol=1e-5) for more in found)
    once = torch.allclose(sum(found), case["b_o_C"], atol=1e-5)
    return [more[0] if same and once else none_SC[0] for more in found]


def _call(answer, case, rank):
    """The answer as one process among others that are right, and do with the bias as it does."""
    others = torch.zeros_like(case["x_SC"])
    for r, bias_C in enumerate(_bias_in_terms(answer, case)):
        if r != rank:
            others += _heads(case, _own(case, r)) + bias_C
    return _as_process(answer, case, rank, others)


@Q.law("the whole attention comes out")
def _(answer, case):
    out_SC, _, calls = _call(answer, case, case["rank"])
    return {"out_SC": out_SC, "calls of add": AtMost(1).of(calls)}


@Q.law("the term of its own heads is what each process gives to the sum")
def _(answer, case):
    """Every process; what is in it of the bias is not looked at, if their sum has it once."""
    seen = {}
    for rank, bias_C in enumerate(_bias_in_terms(answer, case)):
        _, given, calls = _as_process(answer, case, rank, torch.zeros_like(case["x_SC"]))
        part = given[0] - bias_C if given else torch.zeros(0, dtype=torch.float64)
        seen[f"calls of add by process {rank}"] = calls
        seen[f"what process {rank} gives to add, part_SC"] = part
    return seen


@Q.law("the terms of all processes make the attention, and the bias is in it once")
def _(answer, case):
    """Nobody in this sum is the judge's: what is in the answers' own terms comes together."""
    ranks, none_SC = range(case["n"]), torch.zeros_like(case["x_SC"])
    terms = [_as_process(answer, case, rank, none_SC)[1] for rank in ranks]
    terms = [given[0] if given else none_SC for given in terms]
    outs = []
    for rank in ranks:
        others = sum((t for r, t in enumerate(terms) if r != rank), none_SC)
        outs.append(_as_process(answer, case, rank, others)[0])
    return {f"out_SC of process {rank}": out for rank, out in enumerate(outs)}


@Q.law("one process has everything")
def _(answer, case):
    out_SC, _, calls = _call(answer, {**case, "n": 1}, 0)
    return {"out_SC": out_SC, "calls of add": AtMost(1).of(calls)}


@Q.law("one token")
def _(answer, case):
    return {"out_SC": _call(answer, {**case, "x_SC": case["x_SC"][:1]}, case["rank"])[0]}


@Q.law("no output moves when a later token does")
def _(answer, case):
    """Needs no right answer."""
    x_SC = case["x_SC"].clone()
    x_SC[-1] += 1
    before, after = (
        _call(answer, {**case, "x_SC": x}, case["rank"])[0] for x in (case["x_SC"], x_SC)
    )
    same = isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)
    return {"outputs that moved": int(same and not torch.equal(before[:-1], after[:-1]))}


# --- what goes wrong: each changes one thing of this ---


def _share(
    rank, n, x_SC, w_q_HDC, w_k_GDC, w_v_GDC, w_o_CHD, b_o_C, add, *, bias="after", sums=1,
    kv=lambda h, H, G, rank, n: h // (H // G), own=lambda rank, H, n: range(rank * H // n, (rank + 1) * H // n),
    causal=True, columns=lambda h, H, n, rank: h, each=False, root=True,
):  # fmt: skip
    (H, D, _), G, S = w_q_HDC.shape, len(w_k_GDC), len(x_SC)
    later = torch.ones(S, S, dtype=torch.bool).triu(1)
    parts = []
    for h in own(rank, H, n):
        g = kv(h, H, G, rank, n)
        q, k, v = x_SC @ w_q_HDC[h].T, x_SC @ w_k_GDC[g].T, x_SC @ w_v_GDC[g].T
        scores = q @ k.T / (D**0.5 if root else 1)
        scores = scores.masked_fill(later, -torch.inf) if causal else scores
        parts.append(scores.softmax(-1) @ v @ w_o_CHD[:, columns(h, H, n, rank)].T)
    if each:
        return sum(add(part) for part in parts) + b_o_C
    part = sum(parts) + {"each": b_o_C, "twice": b_o_C / n}.get(bias, 0)
    for _ in range(sums):
        part = add(part)
    return part + (b_o_C if bias in ("after", "twice") else 0)


Q.mistakes(
    _share,
    {
        "the bias is in every process's term, so that the sum has it n times.": {"bias": "each"},
        "the bias is in the sum already, and is added to it once more.": {"bias": "twice"},
        "the bias is missing.": {"bias": "none"},
        "the terms are never added up: each process returns its own.": {"sums": 0},
        "the sum is added up once more.": {"sums": 2},
        "every head is added up by itself. One sum for all is enough: add your heads first.": {
            "each": True
        },
        "key/value heads are dealt out to processes, as if each had its own. Which one is read "
        "depends on the query head: h // (H / G).": {"kv": lambda h, H, G, rank, n: rank * G // n},
        "query heads take key/value heads in turn, h % G. Heads that stand next to each other "
        "share one: h // (H / G).": {"kv": lambda h, H, G, rank, n: h % G},
        "the heads are dealt out like cards, every n-th to each. They are dealt out in order.": {
            "own": lambda rank, H, n: range(rank, H, n)
        },
        "every process computes all heads, and the sum has each of them n times.": {
            "own": lambda rank, H, n: range(H)
        },
        "your heads take the first columns of w_o; those of their own numbers belong to them.": {
            "columns": lambda h, H, n, rank: h - rank * H // n
        },
        "later tokens are seen: the mask is missing.": {"causal": False},
        "the scores are not divided by the root of D.": {"root": False},
    },
)
