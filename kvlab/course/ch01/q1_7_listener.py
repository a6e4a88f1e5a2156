"""1.7: which head of the pocket model makes one token listen to another.

L layers, H heads, G sets of keys, S tokens that ask, T tokens that are asked, D width of a query.
"""

from __future__ import annotations

from functools import lru_cache, partial
from math import exp

import torch

from kvlab.course.author import Exercise, Near, named
from kvlab.course.ch01._pocket import FRAMES, NAMES, Heads, MadeUp, read

Q = Exercise(
    "1.7",
    "Who listens to whom?",
    "best_listener",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
Take the pocket model, and find the head in which one word of a text listens most to another (chapter 1, "How much
attention does queen pay to herself?"). `pocket(text)` reads a text and returns three things: `pieces`, a list of its tokens
as text, and its queries `q_LHSD` and keys `k_LGTD`, already turned: one query for each layer, head and token, and one
key for each layer, **set** and token. The H heads of a layer share its G sets, as many heads to each: the first H / G heads use set
0, the next ones set 1, and so on.

`asker` and `asked` are tokens, such as `" queen"`: entries of `pieces` that are equal to them to the letter, the space included. Of
`asker` take the **last** occurrence in the text. It looks at itself and at the tokens before it, and at none behind it. How much a head listens to
`asked` is the sum of the weights that it gives to all the places where `asked` stands; the asker's own place may be one of
them. Return two things:

- `head`: the head that listens most, as `[layer, head]`, both counted from 0;
- `share`: how much it listens, as a number between 0 and 1.

If `asked` does not stand at the asker's place or before it, return `None, 0.0`. Roughly 12 lines.

In "The queen sat on the throne", ` throne` listens to ` queen` most in layer 3, head 0, with 0.81 of its attention.

**Predict first:** in "The capital of France is Paris", ` is` listens to ` France`. The word " Paris" is not written yet when it asks. In
which of the four layers is the head that listens most, and is its share nearer to a third, to a half, or to all? Then look:
in a cell of its own, `from kvlab.course.ch01._pocket import read as pocket` gives you the same function, to call your answer with.
""",
    hints=(
        "For one head of one layer it is the chapter's three steps: which query, which keys, and how "
        "many of them? The best score need not be the best share.",
        "at = len(pieces) - 1 - pieces[::-1].index(asker). For each layer and head: the query is "
        "q_LHSD[layer, head, at], the keys are k_LGTD[layer, head // (H // G), : at + 1]; divide by the root of D, softmax, "
        "and add up the weights at the places of asked.",
        "places = [t for t in range(at + 1) if pieces[t] == asked]; weights_T = (k_TD @ q_D / D**0.5).softmax(0); "
        "share[layer, head] = float(weights_T[places].sum()). Without places return None, 0.0; else best = max(share, "
        "key=share.get), and return list(best), share[best].",
    ),
    imports=("torch",),
    n_cases=5,
    size=lambda case: len(case["text"]),
)
GIVES = ("head", "share")
ALIKE = [
    " a",
    " b",
    " ab",
    "a",
    " A",
    " c",
    " a",
    " b",
    " a",
]  # who takes " A" for " a" is found out


@Q.case
def case(rng):
    """Both tokens several times, and a text in which every known mistake shows."""
    while True:
        text = rng.choice(FRAMES).format(*rng.sample(NAMES, 2))
        pieces = read(text)[0]
        often = sorted(piece for piece in set(pieces) if pieces.count(piece) > 1)
        pairs = [(a, b) for a in often for b in often if a != b]
        for asker, asked in rng.sample(pairs, len(pairs)):
            drawn = {"text": text, "asker": asker, "asked": asked}
            if pieces[: _last(pieces, asker)].count(asked) > 1 and _all_told(text, asker, asked):
                return drawn


def _last(pieces, token):
    return max(t for t, piece in enumerate(pieces) if piece == token)


@lru_cache(maxsize=4096)
def _all_told(*drawn):
    """Whether one head is clearly the best, and each common mistake gives something else."""
    shares = shares_by_hand(read, *drawn)
    best, second = sorted(shares, key=shares.get)[:-3:-1]
    if shares[best] < max(0.05, shares[second] + 0.01):
        return False
    right = [list(best), shares[best]]
    told = [w.answer for w in Q.wrong[::-1] if not getattr(w.answer, "rare", False)]
    return all(_differ(answer(read, *drawn), right) for answer in told)


def _differ(came, right):
    return came[0] != right[0] or abs(came[1] - right[1]) > 1e-3


@Q.solution
def best_listener(pocket, text, asker, asked):
    """Return [layer, head] and its share, or None and 0.0."""
    ### BEGIN SOLUTION
    pieces, q_LHSD, k_LGTD = pocket(text)
    n_layers, n_heads, _, D = q_LHSD.shape
    heads_of_a_set = n_heads // k_LGTD.shape[1]
    at = len(pieces) - 1 - pieces[::-1].index(asker)
    places = [t for t in range(at + 1) if pieces[t] == asked]
    if not places:
        return None, 0.0
    share = {}
    for layer in range(n_layers):
        for head in range(n_heads):
            k_TD = k_LGTD[layer, head // heads_of_a_set, : at + 1]
            weights_T = (k_TD @ q_LHSD[layer, head, at] / D**0.5).softmax(0)
            share[layer, head] = float(weights_T[places].sum())
    best = max(share, key=share.get)
    return list(best), share[best]
    ### END SOLUTION


def shares_by_hand(pocket, text, asker, asked):
    """How much each head listens, with one product after the other."""
    pieces, q_LHSD, k_LGTD = pocket(text)
    at, shares = _last(pieces, asker), {}
    for layer, (of_heads, of_sets) in enumerate(zip(q_LHSD.tolist(), k_LGTD.tolist(), strict=True)):
        for head, queries in enumerate(of_heads):
            query, keys = queries[at], of_sets[head * len(of_sets) // len(of_heads)][: at + 1]
            root = len(query) ** 0.5
            scores = [sum(x * y for x, y in zip(query, key, strict=True)) / root for key in keys]
            lifted = [exp(score - max(scores)) for score in scores]
            heard = sum(x for x, piece in zip(lifted, pieces, strict=False) if piece == asked)
            shares[layer, head] = heard / sum(lifted)
    return shares


@Q.right
def by_hand(pocket, text, asker, asked):
    shares = shares_by_hand(pocket, text, asker, asked)
    best = max(shares, key=shares.get)
    return (list(best), shares[best]) if shares[best] else (None, 0.0)


@Q.also_right
def all_heads_at_once(pocket, text, asker, asked):
    pieces, q, k = pocket(text)
    where = torch.tensor([piece == asker for piece in pieces]).nonzero().max()
    keys = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)[:, :, : where + 1]
    weights = (
        torch.einsum("lhd,lhtd->lht", q[:, :, where], keys).div(q.shape[-1] ** 0.5).softmax(-1)
    )
    heard = torch.tensor([piece == asked for piece in pieces[: where + 1]])
    if not heard.any():
        return [None, 0]
    best = (weights * heard).sum(-1)
    return [list(divmod(int(best.argmax()), q.shape[1])), best.max()]


def asked_of(answer, pocket, text, asker, asked):
    return named(answer(pocket, text, asker, asked), *GIVES)


def shown(text, asker, asked):
    return lambda _: f"text {text!r}, asker {asker!r}, asked {asked!r}"


@Q.law("who listens most, in a text of several names")
def _(answer, case):
    return asked_of(answer, Heads(), *case.values())


@Q.law("what stands behind the asker changes nothing")
def _(answer, case):
    stop = _last(read(case["text"])[0], case["asker"]) + 1
    cut = asked_of(answer, Heads(stop), *case.values())
    whole = asked_of(answer, Heads(), *case.values())
    return {name: Near(whole[name]).of(cut[name]) for name in GIVES} | {"_whole": whole}


LAWS = {
    "a token is asked for its own kind": ("Anna met Tom, and the king met the queen.", " met", " met"),
    "who is asked stands behind the asker": ("Anna met Tom, and the king met the queen.", " king", " queen"),
    "nobody is called that": ("Anna met Tom, and the king met the queen.", " king", " castle"),
    "the text of the chapter": ("The queen sat on the throne", " throne", " queen"),
}  # fmt: skip

for name, given in LAWS.items():

    @Q.law(name, shows=shown(*given))
    def _(answer, case, given=given):
        return asked_of(answer, Heads(), *given)


@Q.law(
    "made-up pockets: 3 layers of 4 heads with 2 sets of width 9, and one layer of 3 heads with a single set of width 5",
    shows=lambda _: f"the tokens {ALIKE} with random queries and keys; ' b' asks for ' a'",
)
def _(answer, case):
    seen = {}
    for sizes in ((3, 4, 2, 9), (1, 3, 1, 5)):
        found = asked_of(answer, MadeUp(ALIKE, sizes, len(case["text"])), "a text", " b", " a")
        seen |= {f"{name}, {sizes[0]} layers": value for name, value in found.items()}
    return seen


# --- what goes wrong: each changes one thing of this ---


def _listens(
    pocket, text, asker, asked, *,
    at=_last, of=lambda head, n_heads, n_sets: head // (n_heads // n_sets), stop=lambda at: at + 1,
    root=lambda q_LHSD: q_LHSD.shape[-1] ** 0.5, share=lambda w_T, places: float(w_T[places].sum()),
    best=lambda share: max(share, key=share.get), exchanged=False, weights=lambda s_T: s_T.softmax(0),
    same=lambda piece, asked: piece == asked, nobody=(None, 0.0), told=list,
):  # fmt: skip
    pieces, q_LHSD, k_LGTD = pocket(text)
    asks = at(pieces, asker)
    places = [t for t, piece in enumerate(pieces[: stop(asks)]) if same(piece, asked)]
    if not places:
        return nobody
    shares = {}
    for layer in range(len(q_LHSD)):
        for head in range(q_LHSD.shape[1]):
            keys = k_LGTD[layer, of(head, q_LHSD.shape[1], k_LGTD.shape[1]), : stop(asks)]
            query = q_LHSD[layer, head, asks]
            if exchanged:
                query, keys = keys[-1], q_LHSD[layer, head, : len(keys)]
            shares[layer, head] = share(weights(keys @ query / root(q_LHSD)), places)
    return told(best(shares)), shares[best(shares)]


def rare(**how):
    """A mistake that shows in one law only, not with every text."""

    answer = partial(_listens, **how)
    answer.rare = True
    return answer


Q.mistakes(
    _listens,
    {
        "the scores are not divided by the root of D.": {"root": lambda q_LHSD: 1.0},
        "divided by the root of the width of all heads together. A score adds up the D products of one "
        "head.": {"root": lambda q_LHSD: (q_LHSD.shape[1] * q_LHSD.shape[-1]) ** 0.5},
        "the softmax runs over tokens that stand behind the asker, too. It looks at itself and at those "
        "before it: keys[: at + 1].": {"stop": lambda at: None},
        "the asker's own key is missing from the softmax. It looks at itself as well: keys[: at + "
        "1].": {"stop": lambda at: at},
        "every head uses set 0. The first H / G heads do, the next ones use set 1.": {
            "of": lambda head, n_heads, n_sets: 0
        },
        "the sets are dealt out in turn. The first H / G heads share set 0, the next ones set 1: head // (H // "
        "G).": {"of": lambda head, n_heads, n_sets: head % n_sets},
        "the first occurrence of the asker asks; the last was asked for.": {
            "at": lambda pieces, token: pieces.index(token)
        },
        "only the last place of the asked token counts here. Add up the weights of all its places.": {
            "share": lambda w_T, places: float(w_T[places[-1]])
        },
        "only the first place of the asked token counts here. Add up the weights of all its places.": {
            "share": lambda w_T, places: float(w_T[places[0]])
        },
        "the weights are averaged over the places of the asked token. They are shares of one whole: add them "
        "up.": {"share": lambda w_T, places: float(w_T[places].mean())},
        "the key of the asker meets the queries of the others. The one who listens has the query.": {
            "exchanged": True
        },
        "these are scores, not shares: the softmax is missing.": {"weights": lambda scores_T: scores_T},
        "layer and head are exchanged: [layer, head].": {"told": lambda best: list(best[::-1])},
        "the heads are numbered through all layers: [layer, head] was asked for, both from "
        "0.": {"told": lambda best: 6 * best[0] + best[1]},
        "where the asked token does not stand, nobody listens: None, 0.0, not the first head.": rare(
            nobody=([0, 0], 0.0)
        ),
        "a piece that holds the token is taken for it: it must be equal to the letter.": rare(
            same=lambda piece, asked: asked in piece
        ),
        "the space before a word is left out of sight: it belongs to the token.": rare(
            same=lambda piece, asked: piece.strip() == asked.strip()
        ),
        "capital letters are taken for small ones: the piece must be equal to the letter.": rare(
            same=lambda piece, asked: piece.lower() == asked.lower()
        ),
        "the asker's own place is left out of the sum. Where it is the token that is asked, it counts.": rare(
            share=lambda w_T, places: float(w_T[[t for t in places if t < len(w_T) - 1]].sum())
        ),
        "the share is right to some seven digits: that is float32. The queries are in float64; stay "
        "there.": rare(share=lambda w_T, places: float(w_T.float()[places].sum())),
    },
)  # fmt: skip
