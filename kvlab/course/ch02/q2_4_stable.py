"""2.4: do the rows of a text stay when it grows? B texts, S queries and slots, C width of a token.

Long because rows move in many ways, and each of them is named.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from kvlab.course.author import Exercise, Near
from kvlab.course.ch02._suspects import Attention, Head, lent, off_by_one, row_open, square, window

Q = Exercise(
    "2.4",
    "Do old rows stay?",
    "is_prefix_stable",
    points=3,
    minutes=15,
    difficulty=2,
    statement="""
A function is prefix stable when adding tokens never moves the rows that are there already. You get a function of one text,
`attention(x_SC)`, which takes texts of any length from 1 on, and a text. Return `True` if its rows stay
for every beginning of this text, from its first token alone to all but the last, and `False` if not. Moves up to 1e-9 are
rounding. Roughly 4 lines.

Changing a token is not enough here: some of the functions depend on how *long* the text is.
""",
    hints=(
        "Do not change tokens: add them. What does the function give for the first n tokens alone?",
        "For every n from 1 to the length: attention(x_SC[:n]) must be the first n rows of "
        "attention(x_SC), but for rounding.",
        "whole = attention(x_SC); return all(bool(((attention(x_SC[:n]) - whole[:n]).abs() < "
        "1e-9).all()) for n in range(1, len(x_SC)))",
    ),
    size=lambda case: case["n_tokens"] * case["width"],
    imports=("torch",),
)


@Q.case
def case(rng):
    n_tokens, width = rng.choice([8, 10, 12]), rng.choice([4, 5, 6])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    return {
        "n_tokens": n_tokens,
        "width": width,
        "_x_SC": torch.randn(n_tokens, width, generator=torch_rng, dtype=torch.float64),
        "_seed": rng.randrange(2**31),
    }


@Q.solution
def is_prefix_stable(attention, x_SC):
    """Whether attention(x_SC[:n]) is the beginning of attention(x_SC), for every n."""
    ### BEGIN SOLUTION
    whole_SC = attention(x_SC)
    for n in range(1, len(x_SC)):
        if (attention(x_SC[:n]) - whole_SC[:n]).abs().max() > 1e-9:
            return False
    return True
    ### END SOLUTION


@Q.also_right
def token_by_token(attention, x_SC):
    far = 0.0
    for n in range(2, len(x_SC) + 1):
        older, newer = attention(x_SC[: n - 1]), attention(x_SC[:n])
        far = max(far, float((newer[:-1] - older).abs().max()))
    return far <= 1e-9


# --- the suspects ---


def _suspects(case) -> dict[str, tuple[Attention, bool]]:
    """By name: a function of texts, and whether its old rows stay."""
    n, head = case["n_tokens"], Head(case["width"], case["_seed"])

    def drifting(by):
        return lambda x: head.masked(square)(x) + by * x.shape[1]

    return {
        "causal": (head.masked(square), True),
        "query by query": (head.one_by_one, True),
        "a window of three": (head.masked(window), True),
        "all minus what comes later": (head.all_minus_later, True),
        "every token alone": (head.values, True),
        "always zero": (torch.zeros_like, True),
        "no mask": (head.masked(lambda n: square(n, n)), False),
        "masked after the softmax": (head.masked_after, False),
        "off by one": (head.masked(off_by_one), False),
        "hidden scores set to -8": (head.masked(square, hidden=-8.0), False),
        "one row open": (head.masked(row_open(2)), False),
        "open inside each half": (head.masked(_open_blocks(n // 2)), False),
        "open but to the last token": (head.masked(_open_blocks(n - 1)), False),
        "rises with every token": (drifting(0.1), False),
        "falls with every token": (drifting(-0.1), False),
        "moves by a thousandth": (drifting(1e-3), False),
        "moves by a ten-millionth": (lambda x: 10 + drifting(1e-7)(x), False),
        "moves by fifty billionths, near 0": (lambda x: 0 * x + 5e-8 * x.shape[1], False),
        "rounds by the text's length": (drifting(5e-11), True),
        "channel 1 alone rises": (lambda x: _in_channel_1(head, x), False),
        "a row moves when the next but one is added": (lambda x: _two_ahead(head, x), False),
        "moves in this text alone": (lambda x: _this_text_alone(head, x, case["_x_SC"]), False),
        "one channel rises, another falls": (lambda x: _against(head, x), False),
        "moves in the middle": (lambda x: _beside(head, x, n), False),
        "positions counted from the end": (lambda x: _causal(head, x, _from_the_end(x)), False),
        "scores divided by the text's length": (
            lambda x: _causal(head, x, 4 / x.shape[1] ** 0.5),
            False,
        ),
    }


def _from_the_end(x_BSC):
    return 1 + 0.2 * torch.arange(x_BSC.shape[1], 0, -1).double()


def _open_blocks(block):
    """Causal from block to block; inside a block everybody sees everybody."""

    def allowed(n):
        block_S = torch.arange(n) // block
        return block_S <= block_S[:, None]

    return allowed


def _in_channel_1(head, x_BSC):
    out_BSC = head.masked(square)(x_BSC)
    out_BSC[..., 1] += 0.1 * x_BSC.shape[1]
    return out_BSC


def _two_ahead(head, x_BSC):
    """Each row also has the value of the token after the next."""
    out_BSC = head.masked(square)(x_BSC)
    out_BSC[:, :-2] += head.values(x_BSC)[:, 2:]
    return out_BSC


def _this_text_alone(head, x_BSC, text_SC):
    """Stable in every text but the one that begins so."""
    out_BSC = head.masked(square)(x_BSC)
    return out_BSC + 0.1 * x_BSC.shape[1] if torch.equal(x_BSC[0, 0], text_SC[0]) else out_BSC


def _against(head, x_BSC):
    """Two channels move by as much, one up and one down: their mean stays."""
    out_BSC, by = head.masked(square)(x_BSC), 0.1 * x_BSC.shape[1]
    out_BSC[..., 0] += by
    out_BSC[..., 1] -= by
    return out_BSC


def _beside(head, x_BSC, whole):
    """Causal, but in texts that are shorter than `whole` the rows in the middle are off."""
    out_BSC = head.masked(square)(x_BSC)
    if x_BSC.shape[1] < whole:
        out_BSC[:, 1:-1] += 0.3
    return out_BSC


def _causal(head, x_BSC, loudness):
    """Causal, with all scores multiplied by this."""
    scores_BST = (head.scores(x_BSC) * loudness).masked_fill(~square(x_BSC.shape[1]), float("-inf"))
    return scores_BST.softmax(-1) @ head.values(x_BSC)


def _of_one_text(function):
    return lambda x_SC: function(x_SC[None])[0]


@Q.law("twenty-six suspects, seven of them stable")
def _(answer, case):
    return {
        f'old rows stay, the suspect "{kind}"': Near(stays).of(
            answer(lent(_of_one_text(function)), case["_x_SC"])
        )
        for kind, (function, stays) in _suspects(case).items()
    }


@Q.law("functions that are off at a single length")
def _(answer, case):
    """One for every beginning; and one that is never asked for so many tokens."""
    seen, n, head = {}, case["n_tokens"], Head(case["width"], case["_seed"])
    for off in range(1, n + 2):
        away = lent(_of_one_text(lambda x, off=off: head.values(x) - 0.3 * (x.shape[1] == off)))
        name = f"old rows stay, off in texts of {off} token{'s' * (off > 1)} alone"
        seen[name] = Near(off == n + 1).of(answer(away, case["_x_SC"]))
    return seen


@Q.law("a text of one token: nothing was there before it")
def _(answer, case):
    head = Head(case["width"], case["_seed"])
    return {
        "old rows stay": Near(True).of(answer(lent(_of_one_text(head.values)), case["_x_SC"][:1]))
    }


@Q.law("a move of 3e-9 in one number counts, and one of 3e-10 does not")
def _(answer, case):
    head, seen = Head(case["width"], case["_seed"]), {}
    for move in (3e-9, 3e-10):

        def nudged(x_BSC, move=move):
            out_BSC = head.values(x_BSC)
            if x_BSC.shape[1] < case["n_tokens"]:
                out_BSC[0, -1, 0] += move
            return out_BSC

        stays = answer(lent(_of_one_text(nudged)), case["_x_SC"])
        seen[f"old rows stay, one number moved by {move}"] = Near(move < 1e-9).of(stays)
    return seen


# --- what goes wrong: each changes one thing of this ---


def _near(a, b, move=1e-9):
    return ((a - b).abs() <= move).all()


def _front(x_SC, n):
    return x_SC[:n]


def _stable(
    attention, x_SC, *, lengths=lambda n: range(1, n), part=_front, rows=_front, same=_near
):
    whole_SC = attention(x_SC)
    return all(bool(same(attention(part(x_SC, n)), rows(whole_SC, n))) for n in lengths(len(x_SC)))


def _changes_tokens(attention, x_SC):
    changed_SC, whole_SC = x_SC.clone(), attention(x_SC)
    for j in range(len(x_SC) - 1, 0, -1):
        changed_SC[j] += 1.0
        if not _near(attention(changed_SC)[:j], whole_SC[:j]):
            return False
    return True


def _changes_the_last_token(attention, x_SC):
    changed_SC = x_SC.clone()
    changed_SC[-1] += 1.0
    return bool(_near(attention(changed_SC)[:-1], attention(x_SC)[:-1]))


def _token_before_alone(attention, x_SC):
    rows = [attention(x_SC[:n]) for n in range(1, len(x_SC) + 1)]
    return all(bool(_near(new[-2], old[-1])) for old, new in pairwise(rows))


def _back(x_SC, n):
    return x_SC[n:]


Q.mistakes(
    _stable,
    {
        "only one beginning is tried, half of the text. Some functions are stable there and "
        "nowhere else: try every length.": {"lengths": lambda n: [n // 2]},
        "only the text without its last token is tried. Some functions are stable there and "
        "nowhere else: try every length.": {"lengths": lambda n: [n - 1]},
        "only row 0 is compared; another old row may move.": {
            "same": lambda old, new: _near(old[0], new[0])
        },
        "of each beginning only the last row is compared. All of its rows have to stay.": {
            "same": lambda old, new: _near(old[-1], new[-1])
        },
        "only channel 0 is compared. All numbers of a row have to stay.": {
            "same": lambda old, new: _near(old[:, 0], new[:, 0])
        },
        "each row is compared once, with the text one token longer. It may move when a later one is added: compare all of its "
        "rows at every length.": _token_before_alone,
        "another text is tried, not the one that was given. A function may move rows in some texts alone.": lambda attention, x_SC: (
            _stable(attention, x_SC.flip(0) * 0.5)
        ),
        "a token is changed, not added. A function that depends on the text's length is not found "
        "that way.": _changes_tokens,
        "only the last token is changed, and none is added. Cut the text instead: x_SC[:n], for "
        "every n.": _changes_the_last_token,
        "the largest difference is taken without its absolute value, so rows that rise when tokens "
        "are added go unseen.": {"same": lambda old, new: (old - new).max() <= 1e-9},
        "the largest difference is taken without its absolute value, so rows that fall when tokens "
        "are added go unseen.": {"same": lambda old, new: (new - old).max() <= 1e-9},
        "moves are averaged with their signs, so those up and those down cancel. Take each one's size "
        "first, and then the largest.": {"same": lambda old, new: (old - new).mean().abs() <= 1e-9},
        "moves below a millionth are overlooked: everything above 1e-9 counts.": {
            "same": lambda old, new: _near(old, new, move=1e-6)
        },
        "the shortest beginning is left out: the first token alone is a text, too.": {
            "lengths": lambda n: range(2, n)
        },
        "the longest beginning is left out, the text without its last token. range(1, n) ends at n - "
        "1; range(1, n - 1) does not reach it.": {"lengths": lambda n: range(1, n - 1)},
        "torch.allclose allows a relative difference of 1e-5 unless told otherwise: give it "
        "rtol=0, atol=1e-9.": {"same": torch.allclose},
        "a beginning of n rows is compared with all rows of the whole. Its counterpart is "
        "whole[:n].": {"rows": lambda whole_SC, n: whole_SC},
        "rounding is taken for a move: rows of a longer text may add up in another order. Only "
        "moves above 1e-9 count.": {"same": torch.equal},
        "small moves are overlooked: everything above 1e-9 counts.": {
            "same": lambda old, new: _near(old, new, move=0.02)
        },
        "rows are compared from the end. Old rows are the first rows of the longer text: "
        "whole[:n].": {"rows": lambda whole_SC, n: whole_SC[-n:]},
        "tokens are taken away at the front. A text grows at its end: compare with x_SC[:n].": {
            "part": _back,
            "rows": _back,
        },
    },
)
