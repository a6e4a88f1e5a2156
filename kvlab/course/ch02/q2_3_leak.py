"""2.3: which function lets a token look at a later one?

B texts, S queries and slots, C width of a token's vector.

Long because the functions that leak are a part of the question.
"""

from __future__ import annotations

import random

import torch

from kvlab.course.author import Exercise, Near
from kvlab.course.ch02._suspects import Attention, Head, lent, off_by_one, row_open, square, window

Q = Exercise(
    "2.3",
    "Find the leak",
    "first_leak",
    points=5,
    minutes=30,
    difficulty=4,
    statement="""
You are handed an attention function and cannot look inside. Call it with any texts `x_BSC` in float64, and it gives outputs
`out_BSC` of the same shape. In causal attention, output i of a text may depend on the tokens 0 to i of *that text*, and on nothing
else. So if output i moves when token j of the same text is changed, and j > i, it is a leak; if it moves when
any token j of *another* text is changed, that is a leak as well, whatever i and j are: `[0, 0]`, `[3, 1]` and `[0, 5]` are
possible there.

Return the first leak as `[i, j]`: of all leaks, in whichever text, the smallest i, and for that i the smallest j. Of
`[3, 4]` and `[0, 5]` that is `[0, 5]`. Return `None` if there is none. A move of more than 1e-9 counts; less is rounding. Try texts of `n_tokens` tokens, `n_texts` at
a time: some bugs show only there. The check lends you thirty-five functions and one more, and a false alarm is as wrong as a miss. Not every
text and not every change shows all leaks: one function takes each token's mean away first, one leaks where a token's channels differ. Roughly 12 lines.

An example: off by one, each query sees one token too many. The answer is `[0, 1]`.
""",
    hints=(
        "Compute the outputs once. Then change one token of one text, and compare. Which outputs "
        "may move, and which may not?",
        "Two loops, over all texts b and all tokens j. Changed output i of text b with i < j is a "
        "leak; so is any changed output of another text. 'Changed' means by more than 1e-9. Change a "
        "token to other random numbers: the same number added to all of its channels is not always seen.",
        "far_BS = (attention(changed) - before).abs().amax(-1); moves = far_BS > 1e-9; "
        "moves[b, j:] = False; every i in moves.any(0) gives a pair (i, j). At the end, "
        "min(pairs) as a list, or None.",
    ),
    n_cases=5,
    size=lambda case: case["n_texts"] * case["n_tokens"] * case["width"],
)


@Q.case
def case(rng):
    n_texts, n_tokens = rng.choice([2, 3]), rng.choice([7, 8])
    return {
        "n_texts": n_texts,
        "n_tokens": n_tokens,
        "width": rng.choice([4, 5, 6]),
        "_row": rng.randint(4, n_tokens - 3),
        "_seed": rng.randrange(2**31),
        "_order": rng.random(),
    }


@Q.solution
def first_leak(attention, n_texts, n_tokens, width):
    """Return the first leak [i, j] of attention(x_BSC), or None. x has shape (n_texts, n_tokens, width)."""
    ### BEGIN SOLUTION
    x_BSC = torch.randn(n_texts, n_tokens, width, dtype=torch.float64)
    before_BSC = attention(x_BSC)
    leaks = []
    for text in range(n_texts):
        for j in range(n_tokens):
            changed_BSC = x_BSC.clone()
            changed_BSC[text, j] = torch.randn(width, dtype=torch.float64)
            moves_BS = (attention(changed_BSC) - before_BSC).abs().amax(-1) > 1e-9
            moves_BS[text, j:] = False  # these may move
            leaks += [[i, j] for i in range(n_tokens) if moves_BS[:, i].any()]
    return min(leaks, default=None)
    ### END SOLUTION


@Q.also_right
def pair_by_pair(attention, n_texts, n_tokens, width):
    x = torch.linspace(-1, 1, n_texts * n_tokens * width, dtype=torch.float64).sin()
    x = torch.sin(17 * x).view(n_texts, n_tokens, width)
    before = attention(x)
    found = []
    for text in range(n_texts):
        for j in range(n_tokens):
            changed = x.clone()
            changed[text, j] = changed[text, j].flip(0) * -1.5 + 0.1
            far = (attention(changed) - before).abs().max(dim=2).values
            for other in range(n_texts):
                for i in range(n_tokens):
                    if far[other, i] > 1e-8 and (other != text or i < j):
                        found.append((i, j))
    return list(sorted(found)[0]) if found else None


# --- the suspects ---


def _suspects(case) -> dict[str, tuple[Attention, list[int] | None]]:
    """By name: an attention function, and its first leak."""
    n, row, head = case["n_tokens"], case["_row"], Head(case["width"], case["_seed"])
    clean, values = head.masked(square), head.values
    far, near, nearer = {0: n - 2}, {2: 3}, {0: 2}  # a row that sees a later token
    return {
        "query by query": (head.one_by_one, None),
        "masked before the softmax": (head.masked(square), None),
        "masked after and divided again": (lambda x: _divided_again(head, x), None),
        "all minus what comes later": (head.all_minus_later, None),
        "a window of three": (head.masked(window), None),
        "only what is before itself": (head.masked(lambda n: square(n, -1)), None),
        "rounds by the next token": (lambda x: clean(x) + 1e-10 * _next(x.tanh()), None),
        "channel 1 alone sees the next token": (lambda x: _channels(head, x, [0, 1]), [0, 1]),
        "two channels see it, one up and one down": (lambda x: _channels(head, x, [1, -1]), [0, 1]),
        "one channel of the next token is seen": (
            lambda x: clean(x) + 0.2 * _next(x.tanh())[..., 1:2],
            [0, 1],
        ),
        "a token whose channels differ sees the next one": (
            lambda x: clean(x) + 0.2 * (x.tanh()[..., :1] - x.tanh()[..., 1:2]) * _next(x.tanh()),
            [0, 1],
        ),
        "masked after the softmax": (head.masked_after, [0, 1]),
        "off by one": (head.masked(off_by_one), [0, 1]),
        "hidden scores set to 0": (head.masked(square, hidden=0.0), [0, 1]),
        "no mask, behind a norm": (lambda x: _behind_a_norm(head, x), [0, 1]),
        "hidden scores set to -8": (head.masked(square, hidden=-8.0), [0, 1]),
        "the mask upside down": (head.masked(lambda n: square(n).T), [0, 1]),
        "the next token's value mixed in": (lambda x: _with_next_value(head, x), [0, 1]),
        "one row open": (head.masked(row_open(row)), [row, row + 1]),
        "open beyond a length": (head.masked(row_open(row, None)), [row, row + 1]),
        "everybody gets the last value": (
            lambda x: clean(x) + 0.2 * values(x)[:, -1:],
            [0, n - 1],
        ),
        "a window that wraps around": (head.masked(_wrapped_window), [0, n - 2]),
        "one row sees far, one sees near": (_peeping(head, far | near, far | near), [0, n - 2]),
        "one text sees far, one sees near": (_peeping(head, far, near), [0, n - 2]),
        "one text sees near, one sees far": (_peeping(head, near, far), [0, n - 2]),
        "one row, far in one text and near in the next": (_peeping(head, far, nearer), [0, 2]),
        "one row, near in one text and far in the next": (_peeping(head, nearer, far), [0, 2]),
        "a faint leak": (lambda x: clean(x) + 3e-8 * _next(x), [0, 1]),
        "each channel rises with the next token": (_loud(head, 0.2), [0, 1]),
        "each channel falls with the next token": (_loud(head, -0.2), [0, 1]),
        "the last output sees another text": (_across(head, n - 1, 0), [n - 1, 0]),
        "an output sees an earlier token of another text": (_across(head, row, 1), [row, 1]),
        "a text is compared with another": (
            lambda x: _at(head.masked(square)(x), 0, 0.2 * (x.roll(1, 0) - x)[:, 2]),
            [0, 2],
        ),
        "texts in one row": (lambda x: _in_one_row(head, x), [0, 0]),
        "texts in one row, backwards": (lambda x: _in_one_row(head, x.flip(0)).flip(0), [0, 0]),
    }


def _divided_again(head, x_BSC):
    weights_BST = head.scores(x_BSC).softmax(-1).tril()
    return weights_BST / weights_BST.sum(-1, keepdim=True) @ head.values(x_BSC)


def _behind_a_norm(head, x_BSC):
    """No mask at all, of tokens whose mean was taken away."""
    return head.masked(lambda n: square(n, n))(
        torch.nn.functional.layer_norm(x_BSC, x_BSC.shape[-1:])
    )


def _next(y_BSC):
    """Each token's successor, and zeros behind the last."""
    return torch.cat((y_BSC[:, 1:], torch.zeros_like(y_BSC[:, :1])), dim=1)


def _with_next_value(head, x_BSC):
    v_BSC = head.values(x_BSC)
    weights_BST = head.scores(x_BSC).masked_fill(~square(x_BSC.shape[1]), float("-inf"))
    return weights_BST.softmax(-1) @ (v_BSC + 0.5 * _next(v_BSC))


def _loud(head, by):
    """All channels of an output move the same way with the mean of the next token."""
    clean = head.masked(square)
    return lambda x: clean(x) + by * _next(x.tanh().mean(-1, keepdim=True))


def _at(out_BSC, row, more_BC):
    """Something more in one row."""
    out_BSC[:, row] += more_BC
    return out_BSC


def _channels(head, x_BSC, by):
    """Causal, but that the first channels move so with the next token."""
    out_BSC, next_BS = (
        head.masked(square)(x_BSC),
        _next(x_BSC.tanh().mean(-1, keepdim=True))[..., 0],
    )
    for channel, much in enumerate(by):
        out_BSC[..., channel] += 0.2 * much * next_BS
    return out_BSC


def _across(head, row, token, away=1):
    """Causal, but that one row sees a token of another text, so many texts before its own.

    With more than one between, the first texts see nothing.
    """
    clean = head.masked(square)

    def attention(x_BSC):
        seen_BC = 0.2 * head.values(x_BSC).roll(away, 0)[:, token]
        if away > 1:
            seen_BC[:away] = 0
        return _at(clean(x_BSC), row, seen_BC)

    return attention


def _wrapped_window(n):
    """Each query and the two before it; before the first comes the last."""
    return (torch.arange(n)[:, None] - torch.arange(n)) % n < 3


def _peeping(head, even, odd):
    """Causal, but that some rows (keys) see one later token (values), in even and in odd texts."""

    def attention(x_BSC):
        n_texts, n = x_BSC.shape[:2]
        allowed_BST = square(n).repeat(n_texts, 1, 1)
        for b in range(n_texts):
            for row, token in (odd if b % 2 else even).items():
                allowed_BST[b, row, token : token + 1] = True
        return head.masked(lambda _: allowed_BST)(x_BSC)

    return attention


def _in_one_row(head, x_BSC):
    row_1SC = x_BSC.flatten(0, 1)[None]
    return head.masked(square)(row_1SC)[0].unflatten(0, x_BSC.shape[:2])


def _said(found):
    """A pair in words, which a message can show; anything else in a list of its own."""
    if found is None:
        return "no leak"
    found = found.tolist() if isinstance(found, torch.Tensor) else found
    if isinstance(found, list) and [type(n) for n in found] == [int, int]:
        return f"output {found[0]} moves with token {found[1]}"
    return [found]


@Q.law("thirty-five suspects, seven of them clean")
def _(answer, case):
    suspects = _suspects(case)
    order = list(suspects)
    random.Random(case["_order"]).shuffle(order)
    sizes = (case["n_texts"], case["n_tokens"], case["width"])
    found = {kind: answer(lent(suspects[kind][0]), *sizes) for kind in order}
    return {
        f'first leak of the suspect "{kind}"': Near(_said(first)).of(_said(found[kind]))
        for kind, (_, first) in suspects.items()
    }


@Q.law("three texts, of which the third sees the first", shows=lambda _: "3 texts of 4 tokens")
def _(answer, case):
    across = _across(Head(case["width"], case["_seed"]), 2, 1, away=2)
    return {"first leak": Near(_said([2, 1])).of(_said(answer(lent(across), 3, 4, case["width"])))}


# --- what goes wrong: each changes one thing of this ---


def _detect(
    attention,
    n_texts,
    n_tokens,
    width,
    *,
    texts=None,
    tokens=None,
    by=1.0,
    along=torch.cos,
    move=1e-9,
    together=False,
    across=True,
    itself=False,
    copy=True,
    choose=min,
    excuses=False,
    far=torch.abs,
    spread=1.0,
    level=0.0,
):
    torch_rng = torch.Generator().manual_seed(5)
    x = (
        torch.randn(n_texts, n_tokens, width, generator=torch_rng, dtype=torch.float64) * spread
        + level
    )
    before, found = attention(x), []
    for b in texts or range(n_texts):
        for j in range(n_tokens)[tokens or slice(None)]:
            changed = x.clone() if copy else x
            changed[slice(None) if together else b, j] += by * along(torch.arange(width) + 1.0)
            moves = ~(far(attention(changed) - before).amax(-1) <= move)
            moves[b, j + itself :] = False
            if together or excuses:
                moves[:, j:] = False
            if not across:
                moves = moves[b : b + 1]
            found += [[i, j] for i in moves.any(0).nonzero().flatten().tolist()]
    return choose(found) if found else None


def _smallest_token(pairs):
    return min(pairs, key=lambda pair: pair[::-1])


Q.mistakes(
    _detect,
    {
        "only the last token is changed, so leaks from others go unseen, or are put down to the "
        "wrong token.": {"tokens": slice(-1, None)},
        "the texts that are tried are shorter than n_tokens. Some masks are right for short texts "
        "only.": lambda attention, n_texts, n_tokens, width: _detect(attention, n_texts, 4, width),
        "only the text that was changed is looked at. A batch may mix its texts.": {
            "across": False
        },
        "only channel 0 of the outputs is looked at. A leak may show in any channel.": {
            "far": lambda moved_BSC: moved_BSC[..., :1].abs()
        },
        "the moves of a row's channels are added up with their signs, and may cancel. Take the largest absolute one.": {
            "far": lambda moved_BSC: moved_BSC.sum(-1, keepdim=True).abs()
        },
        "only channel 0 of a token is changed. A function may look at another one: change the whole token.": {
            "along": lambda c_C: (c_C == 1).double()
        },
        "tokens of text 0 are changed, and of no other. A leak may go from a later text to an "
        "earlier one only.": {"texts": [0]},
        "the same number is added to all channels of a token, and a function that takes each token's mean away does not see "
        "it. Change the token to other numbers altogether.": {"along": torch.ones_like},
        "only text 0 is changed, and only text 0 is looked at. The leak may be in another text, or "
        "lead from one text to another.": {"texts": [0], "across": False},
        "token j is changed in all texts at once, so a leak from one text to another cannot be "
        "told from a token's own effect.": {"together": True},
        "a leak from one text to another is missed where i >= j: in the other texts nothing may move, "
        "whatever its position. Only the changed text's own rows from j on may move.": {
            "excuses": True
        },
        "the largest difference is taken without its absolute value, so an output that falls in all "
        "channels goes unseen.": {"far": lambda moved_BSC: moved_BSC},
        "the texts are zeros before the change. A softmax of equal scores, times values of 0, hides "
        "much: try random texts.": {"spread": 0.0},
        "the texts hold one and the same number everywhere. A leak may show only where a token's channels differ: try random "
        "texts.": {"spread": 0.0, "level": 1.0},
        "the change is not a finite number. Zero times NaN is NaN, so clean attention seems to "
        "leak.": {"by": float("nan")},
        "small moves are overlooked. A faint leak is a leak: everything above 1e-9 counts.": {
            "move": 0.02
        },
        "the faintest leak is missed. Either the tolerance is wider than 1e-9, or tokens are "
        "changed by so little that what moves is below it: change them by about 1.": {"move": 1e-6},
        "the changes add up, because the texts are changed in place: y = x is no copy. Start each "
        "change from x.clone().": {"copy": False},
        "the pairs are ordered by j, then by i. Of all leaks the smallest i counts first: [0, 5] "
        "comes before [2, 3].": {"choose": _smallest_token},
        "this is the first leak that the loops meet. Another one may have a smaller i, perhaps in "
        "another text: collect all, then take the smallest.": {"choose": lambda pairs: pairs[0]},
        "the last bit is taken for a leak. Rounding may differ; only moves above 1e-9 count.": {
            "move": 0.0
        },
        "output j may move when token j changes: a token sees itself.": {"itself": True},
        "the pair is the wrong way round: the output i that moves, then the token j that was "
        "changed.": {"choose": lambda pairs: min(pairs)[::-1]},
        "the pairs hold the changed token first. It comes second: [i, j], where output i moves "
        "with token j.": {"choose": lambda pairs: _smallest_token(pairs)[::-1]},
    },
)
