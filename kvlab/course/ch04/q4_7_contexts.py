"""4.7: the same token in two contexts of the pocket model. L layers, S tokens, C width."""

from __future__ import annotations

import torch

from kvlab.course.author import AtMost, Exercise, Near, named
from kvlab.course.ch04._pocket import Pocket, read

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

`token` is a piece such as `" is"`. It stands in both texts, perhaps several times and at different places: take its **last**
occurrence in each text. Return two things:

- `cosines`, a list of five: how alike its two vectors are at each stage. The cosine of a and b is their
  product, `(a * b).sum()`, divided by both lengths.
- `first`, the number of the first stage (0 is the embedding) at which the two are not the same vector any more: where some
  number differs by more than 1e-6. `None` if there is no such stage.

Call `pocket` once for each text. Roughly 8 lines.

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

FRAMES = (
    ("Facts: The capital of {} is far away. The king and the queen live in the castle.", " is"),
    ("The password of {} is on the table, and the code of the box is not.", " of"),
    ("In the evening {} went to the market. The weather of the day was cold.", " the"),
    ("Today the weather in {} is so cold. The queen and the king stay in the castle.", " the"),
    ("Story: {} and the queen went to the castle. The king was in the garden.", " king"),
)
NAMES = ("France", "Spain", "Egypt", "Japan", "Anna", "Tom", "Lucy", "Norway", "Ruth", "Peter")
# the last occurrence stands in a part that both texts begin with
SAME = (
    ("The king and the queen live in the castle", "The king and the queen went out", " queen"),
    ("Today's weather is so cold", "Today's weather is far better than that", " is"),
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


ALIKE = ("The king and the queen", "Today the king and the queen", " queen")


@Q.law("the same words, one place further", shows=shown(*ALIKE))
def _(answer, case):
    return asked(answer, *ALIKE)


_FAR = (
    "Story: {} went to the market. In the evening the king ate the lemon at the tower. The queen "
    "bought a small watch. It was late, and the weather was"
)
FAINT = (_FAR.format("Tom"), _FAR.format("Peter"), " was")


@Q.law("a name far back, which moves no number by more than 1", shows=shown(*FAINT))
def _(answer, case):
    return asked(answer, *FAINT)


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
    found=lambda apart: apart.index(True) if True in apart else None, count=0, beyond=1e-6,
):  # fmt: skip
    a_LC, b_LC = _vectors(pocket, text_a, text_b, token, at, at_b)
    a_LC, b_LC = a_LC[stages], b_LC[stages]
    first = found(((a_LC - b_LC).abs().amax(-1) > beyond).tolist())
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
            beyond=0.1
        ),
        "where the two never differ, `first` is None.": rare(
            found=lambda apart: apart.index(True) if True in apart else len(apart)
        ),
    },
)
