"""4.7: the same token in two contexts of the pocket model. L layers, S tokens, C width."""

from __future__ import annotations

import torch

from kvlab.course.author import AtMost, Exercise, Near, named
from kvlab.course.ch04._pocket import Pocket, read
from kvlab.course.ch04._texts import ALIKE, FAINT, FRAMES, LOOK_ALIKE, NAMES, SAME, made_up

Q = Exercise(
    "4.7",
    "One token, two contexts",
    "layer_by_layer",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
Take the pocket model, and follow one token in two texts (chapter 4, "The same token in two contexts"). `pocket(text)` reads a
text and returns two things: `pieces`, a list of its tokens as text, and `stream_LSC`, the residual stream at **L = 5**
stages, the embeddings first and then the output of each of the four blocks, with one row for each token.

`token` is a piece such as `" is"`: an entry of `pieces` that is equal to it to the letter, the space included (`" there"` is not
`" the"`). It stands in both texts, perhaps several times and at different places: take its **last** occurrence in each
text. Return two things:

- `cosines`, a list of five: how alike its two vectors are at each stage. The cosine of a and b is their
  product, `(a * b).sum()`, divided by both lengths.
- `first`, the number of the first stage (0 is the embedding) at which the two are not the same vector any more: where some
  number differs by more than 1e-6. `None` if there is no such stage.

The stream is in float64; return the cosines as Python floats, at that precision. Call `pocket` once for each text. Roughly
8 lines.

**Predict first:** for `" is"` in "The capital of France is" and "The capital of Spain is", where is the first
difference, and at which stage are the two the least alike? Then look: in a cell of its own, `from kvlab.course.ch04._pocket
import read as pocket` gives you the same function, to call your answer with.
""",
    hints=(
        "At which index does the token stand in each text? At stage 0 its vector is the row of a table "
        "that its id looks up; what could make that differ?",
        "The last index of token in pieces is len(pieces) - 1 - pieces[::-1].index(token). Then "
        "a_LC = stream_LSC[:, i] and b_LC the same of the other text: five pairs of vectors.",
        "cosines = ((a_LC * b_LC).sum(-1) / (a_LC.norm(dim=-1) * b_LC.norm(dim=-1))).tolist(); apart = "
        "((a_LC - b_LC).abs().amax(-1) > 1e-6).tolist(); first = apart.index(True) if True in apart "
        "else None; return cosines, first",
    ),
    imports=("torch",),
    size=lambda case: len(case["text_a"]) + len(case["text_b"]),
)


@Q.case
def case(rng):
    """Two texts of two frames, so that the token stands at different places; or more often."""
    while True:
        (frame_a, token), (frame_b, _) = rng.sample(FRAMES, 2)
        name_a, name_b = rng.sample(NAMES, 2)
        texts = frame_a.format(name_a), frame_b.format(name_b)
        drawn = {"text_a": texts[0], "text_b": texts[1], "token": token}
        found = [pieces.count(token) for pieces, _ in map(read, texts)]
        right = row_by_row(read, *drawn.values()) if min(found) else None
        if right and max(found) > 1 and _all_told(drawn, right):
            return drawn


def _all_told(drawn, right):
    """Whether every known mistake gives something else than the right answer."""
    told = [wrong.answer for wrong in Q.wrong if not getattr(wrong.answer, "rare", False)]
    return all(_differ(answer(read, *drawn.values()), right) for answer in told)


def _differ(came, right):
    cosines, first = came
    far = (
        len(cosines) != 5 or max(abs(a - b) for a, b in zip(cosines, right[0], strict=True)) > 1e-3
    )
    return far or first != right[1]


@Q.solution
def layer_by_layer(pocket, text_a, text_b, token):
    """Return five cosines, and the first stage at which the two vectors differ, or None."""

    ### BEGIN SOLUTION
    def last(text):
        pieces, stream_LSC = pocket(text)
        return stream_LSC[:, len(pieces) - 1 - pieces[::-1].index(token)]

    a_LC, b_LC = last(text_a), last(text_b)
    lengths_L = a_LC.norm(dim=-1) * b_LC.norm(dim=-1)
    apart = ((a_LC - b_LC).abs().amax(-1) > 1e-6).tolist()
    first = apart.index(True) if True in apart else None
    return ((a_LC * b_LC).sum(-1) / lengths_L).tolist(), first
    ### END SOLUTION


@Q.right
def row_by_row(pocket, text_a, text_b, token):
    """Stage by stage, number by number."""
    rows = []
    for text in (text_a, text_b):
        pieces, stream_LSC = pocket(text)
        at = max(i for i, piece in enumerate(pieces) if piece == token)
        rows.append(stream_LSC[:, at].tolist())
    cosines, first = [], None
    for stage, (a, b) in enumerate(zip(*rows, strict=True)):
        product = sum(x * y for x, y in zip(a, b, strict=True))
        lengths = [sum(x * x for x in v) ** 0.5 for v in (a, b)]
        cosines.append(product / lengths[0] / lengths[1])
        if first is None and any(abs(x - y) > 1e-6 for x, y in zip(a, b, strict=True)):
            first = stage
    return cosines, first


@Q.also_right
def by_torchs_own(pocket, a, b, token):
    found = []
    for text in (a, b):
        pieces, stream = pocket(text)
        (where,) = torch.tensor([p == token for p in pieces]).nonzero(as_tuple=True)
        found.append(stream[:, where[-1]])
    cosines = torch.nn.functional.cosine_similarity(*found, dim=1)
    different = [
        i for i in range(len(cosines)) if torch.dist(*(f[i] for f in found), p=torch.inf) > 1e-6
    ]
    return [float(c) for c in cosines], min(different, default=None)


def asked(answer, text_a, text_b, token):
    pocket = Pocket()
    seen = named(answer(pocket, text_a, text_b, token), "cosines", "first")
    return {**seen, "calls of pocket": AtMost(2).of(pocket.calls)}


@Q.law("the last occurrence in two texts")
def _(answer, case):
    return asked(answer, case["text_a"], case["text_b"], case["token"])


@Q.law("the texts change places: the same again")
def _(answer, case):
    there = asked(answer, case["text_b"], case["text_a"], case["token"])
    same = asked(answer, case["text_a"], case["text_b"], case["token"])
    return {n: Near(same[n]).of(there[n]) for n in ("cosines", "first")} | {"_same": same}


def shown(text_a, text_b, token):
    return lambda _: f"text_a {text_a!r}, text_b {text_b!r}, token {token!r}"


for i, texts in enumerate(SAME, 1):

    @Q.law(
        f"two texts that begin alike, up to the token ({i}): never another vector",
        shows=shown(*texts),
    )
    def _(answer, case, texts=texts):
        seen = asked(answer, *texts)
        return {
            "cosines": Near([1.0] * 5).of(seen["cosines"]),
            "first": Near(None).of(seen["first"]),
        }


@Q.law("the same words, one place further", shows=shown(*ALIKE))
def _(answer, case):
    return asked(answer, *ALIKE)


@Q.law("a name far back, which moves no number by more than 1", shows=shown(*FAINT))
def _(answer, case):
    return asked(answer, *FAINT)


@Q.law("pieces that are nearly the token", shows=shown(*LOOK_ALIKE))
def _(answer, case):
    return asked(answer, *LOOK_ALIKE)


@Q.law(
    "a made-up pocket: one number of one stage differs, upwards or down",
    shows=lambda _: (
        "streams of five stages that are alike but for one number of 1000, and the last"
    ),
)
def _(answer, case):
    seen = {}
    for what, by in (("1 lower", -1.0), ("2e-6 higher", 2e-6), ("2e-7 higher", 2e-7)):
        found = named(answer(made_up(2, 3, by), "a", "b", " b"), "cosines", "first")
        again = named(answer(made_up(2, 3, by), "b", "a", " b"), "cosines", "first")
        seen |= {f"{what}, {n}": v for n, v in found.items()}
        seen |= {f"{what}, texts exchanged, {n}": v for n, v in again.items()}
    return seen


# --- what goes wrong: each changes one thing of this ---


def _vectors(pocket, text_a, text_b, token, at, at_b=None):
    rows = []
    for text in (text_a, text_b):
        pieces, stream_LSC = pocket(text)
        index = at(pieces, token) if at_b is None or not rows else rows[0][0]
        rows.append((min(index, len(pieces) - 1), stream_LSC))
    return [stream_LSC[:, index] for index, stream_LSC in rows]


def _last(pieces, token):
    return len(pieces) - 1 - pieces[::-1].index(token)


def _cosine(a_LC, b_LC):
    return (a_LC * b_LC).sum(-1) / (a_LC.norm(dim=-1) * b_LC.norm(dim=-1))


def _layers(
    pocket, text_a, text_b, token, *, at=_last, at_b=None, alike=_cosine, stages=slice(None),
    found=lambda apart: apart.index(True) if True in apart else None, count=0,
    apart=lambda a_LC, b_LC: (a_LC - b_LC).abs().amax(-1) > 1e-6,
):  # fmt: skip
    a_LC, b_LC = _vectors(pocket, text_a, text_b, token, at, at_b)
    a_LC, b_LC = a_LC[stages], b_LC[stages]
    first = found(apart(a_LC, b_LC).tolist())
    return alike(a_LC, b_LC).tolist(), first if first is None else first + count


def rare(**how):
    """A mistake that shows in one law only, not with every pair of texts."""

    def answer(*args):
        return _layers(*args, **how)

    answer.rare = True
    return answer


Q.mistakes(
    _layers,
    {
        "the first occurrence is taken; the last was asked for.": {
            "at": lambda pieces, token: pieces.index(token)
        },
        "the index in the first text is used in both: the token may stand elsewhere in the "
        "second.": {"at_b": "a's"},
        "the last row of the text is taken: the token need not be its last one.": {
            "at": lambda pieces, token: len(pieces) - 1
        },
        "one row too far: the token's own row was asked for.": {
            "at": lambda pieces, token: min(_last(pieces, token) + 1, len(pieces) - 1)
        },
        "that is the product alone. A cosine is divided by both lengths.": {
            "alike": lambda a_LC, b_LC: (a_LC * b_LC).sum(-1)
        },
        "the product is divided by one of the two lengths only.": {
            "alike": lambda a_LC, b_LC: (a_LC * b_LC).sum(-1) / a_LC.norm(dim=-1).square()
        },
        "that is how far apart the two are. The cosine was asked for.": {
            "alike": lambda a_LC, b_LC: (a_LC - b_LC).norm(dim=-1)
        },
        "the embeddings are left out: stage 0 comes before the first block.": {
            "stages": slice(1, None)
        },
        "stages are counted from 1; the embedding is stage 0.": {"count": 1},
        "that is the last stage at which they are still the same, not the first at which they "
        "differ.": {"count": -1},
        "a difference of a tenth is passed over. Any number that differs by more than 1e-6 counts.": rare(
            apart=lambda a_LC, b_LC: (a_LC - b_LC).abs().amax(-1) > 0.1
        ),
        "`first` is read off the cosines, or off the angle. Two vectors that differ a little have a cosine "
        "of 1, to many digits: look at the numbers.": rare(
            apart=lambda a_LC, b_LC: _cosine(a_LC, b_LC) < 1 - 1e-6
        ),
        "a number that is lower differs as well: look at the absolute value of the difference.": rare(
            apart=lambda a_LC, b_LC: (a_LC - b_LC).amax(-1) > 1e-6
        ),
        "a large number may differ by more here: torch.allclose adds a share of the number itself, "
        "rtol, to what it lets pass. 1e-6 was asked for.": rare(
            apart=lambda a_LC, b_LC: ~torch.isclose(a_LC, b_LC, atol=1e-6).all(-1)
        ),
        "a piece that holds the token is taken for it: it must be equal to the letter.": rare(
            at=lambda pieces, token: max(i for i, p in enumerate(pieces) if token in p)
        ),
        "the space before a word is left out of sight: it belongs to the token.": rare(
            at=lambda pieces, token: _last([p.strip() for p in pieces], token.strip())
        ),
        "capital letters are taken for small ones: the piece must be equal to the letter.": rare(
            at=lambda pieces, token: _last([p.lower() for p in pieces], token.lower())
        ),
        "the cosines are right to some seven digits: that is float32. The stream is in float64; "
        "stay there.": rare(alike=lambda a_LC, b_LC: _cosine(a_LC.float(), b_LC.float())),
        "where the two never differ, `first` is None.": rare(
            found=lambda apart: apart.index(True) if True in apart else len(apart)
        ),
    },
)
