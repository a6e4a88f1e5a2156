"""4.3: logits of each text's last row and of no other. B texts, S rows of the longest, C, V."""

from __future__ import annotations

import torch

from kvlab.course.author import AtMost, Exercise, LentFunction, Near

Q = Exercise(
    "4.3",
    "Last rows only",
    "next_logits",
    points=2,
    minutes=10,
    difficulty=2,
    statement="""
B texts went through all layers and the final norm together. `x_BSC` has the rows; the shorter texts are filled up with rows
that mean nothing **at their end**. `length_B` is a tensor of B whole numbers; text b has `length_B[b]` real tokens, 1 or more, so its
last real row is number `length_B[b] - 1`.

`head(x)` turns rows into logits: the last axis goes in as C and comes out as V, and all axes before it stay. It is the
largest matrix of the model (chapter 4, "One row is enough"), so put through it what the next tokens need and nothing
else: at most B rows in all. Return `logits_BV`. One or two lines.

With `x_BSC` of shape (2, 5, C) and `length_B = torch.tensor([5, 3])` the head gets two rows: number 4 of text 0 and number 2 of text 1.
""",
    hints=(
        "Which row of a text has seen the whole text? Take it out before the head is called.",
        "x_BSC[:, -1] is right only for texts that fill all S rows. An index on two axes picks one "
        "row from each text: x_BSC[which text, which row].",
        "return head(x_BSC[torch.arange(len(x_BSC)), length_B - 1])",
    ),
    imports=("torch",),
)


@Q.case
def case(rng):
    """Some texts are shorter than the longest, one of them by more than a row."""
    n_texts, n_rows, width = rng.sample([3, 4, 5, 6, 7], 3)
    lengths = [n_rows, rng.randint(2, n_rows - 1)]
    lengths += [rng.randint(1, n_rows) for _ in range(n_texts - 2)]
    rng.shuffle(lengths)
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    vocabulary = rng.choice([11, 13, 17])
    return {
        "x_BSC": torch.randn(n_texts, n_rows, width, generator=torch_rng, dtype=torch.float64),
        "length_B": torch.tensor(lengths),
        "_w_VC": torch.randn(vocabulary, width, generator=torch_rng, dtype=torch.float64),
    }


class Head(LentFunction):
    """The head, which counts the rows that go through it."""

    def __init__(self, w_VC):
        super().__init__(lambda x: x @ w_VC.T)
        self.rows = 0

    def __call__(self, x):
        logits = super().__call__(x)
        self.rows += logits.numel() // logits.shape[-1]
        return logits


@Q.solution
def next_logits(x_BSC, length_B, head):
    """Return logits_BV, those of each text's last real row."""
    ### BEGIN SOLUTION
    return head(x_BSC[torch.arange(len(x_BSC)), length_B - 1])
    ### END SOLUTION


@Q.right
def text_by_text(x_BSC, length_B, head):
    return torch.stack([head(x_BSC[b, int(n) - 1]) for b, n in enumerate(length_B)])


@Q.also_right
def gathered(x, lengths, head):
    rows = (lengths - 1)[:, None, None].expand(-1, 1, x.shape[-1])
    return head(x.gather(1, rows))[:, 0]


def _through(answer, case, x_BSC, length_B):
    head = Head(case["_w_VC"])
    logits_BV = answer(x_BSC, length_B, head)
    return logits_BV, head.rows


@Q.law("the last real row of each text, and no more rows through the head")
def _(answer, case):
    logits_BV, rows = _through(answer, case, case["x_BSC"], case["length_B"])
    return {"logits_BV": logits_BV, "rows through the head": AtMost(len(case["x_BSC"])).of(rows)}


@Q.law("what stands after a text's end changes nothing")
def _(answer, case):
    x_BSC, length_B = case["x_BSC"], case["length_B"]
    after_BS = torch.arange(x_BSC.shape[1]) >= length_B[:, None]
    other_BSC = torch.where(after_BS[..., None], 100.0, x_BSC)
    same_BV, _ = _through(answer, case, x_BSC, length_B)
    logits_BV, _ = _through(answer, case, other_BSC, length_B)
    return {"logits_BV": Near(same_BV).of(logits_BV), "_same_BV": same_BV}


@Q.law("one text; texts of one token; texts of the same length")
def _(answer, case):
    x_BSC, length_B = case["x_BSC"], case["length_B"]
    n_rows = x_BSC.shape[1]
    return {
        f"{what}, logits_BV": _through(answer, case, some_BSC, lengths)[0]
        for what, some_BSC, lengths in (
            ("of one text", x_BSC[:1], length_B[:1]),
            ("of one token each", x_BSC, torch.ones_like(length_B)),
            ("of the same length", x_BSC, torch.full_like(length_B, n_rows)),
            ("where one row is all there is", x_BSC[:, :1], torch.ones_like(length_B)),
        )
    }


def _each(x_BSC, length_B, row):
    return torch.stack([row(x_SC, int(n)) for x_SC, n in zip(x_BSC, length_B, strict=True)])


Q.mistakes(
    None,
    {
        "the last row of the longest text is taken of all; for a shorter text it means nothing.": (
            lambda x_BSC, length_B, head: head(x_BSC[:, -1])
        ),
        "one too far: a text of n tokens ends in row n - 1.": lambda x_BSC, length_B, head: head(
            _each(x_BSC, length_B, lambda x_SC, n: x_SC[min(n, len(x_SC) - 1)])
        ),
        "one too far: row length_B[b] comes after the text, and one that fills all rows has none "
        "there. Its last is length_B[b] - 1.": lambda x_BSC, length_B, head: head(
            x_BSC[torch.arange(len(x_BSC)), length_B]
        ),
        "one too early: a text of n tokens ends in row n - 1.": lambda x_BSC, length_B, head: head(
            _each(x_BSC, length_B, lambda x_SC, n: x_SC[max(n - 2, 0)])
        ),
        "all rows go through the head, and all but B results are thrown away.": (
            lambda x_BSC, length_B, head: _each(
                head(x_BSC), length_B, lambda logits_SV, n: logits_SV[n - 1]
            )
        ),
        "the real rows of a text are averaged; its last one knows all of it.": (
            lambda x_BSC, length_B, head: head(
                _each(x_BSC, length_B, lambda x_SC, n: x_SC[:n].mean(0))
            )
        ),
        "the first row is taken: it has seen nothing but the first token.": (
            lambda x_BSC, length_B, head: head(x_BSC[:, 0])
        ),
        "these are all pairs of a text and a length. Index both axes at once, with "
        "torch.arange(B) for the first.": (
            lambda x_BSC, length_B, head: head(x_BSC[:, length_B - 1])
        ),
        "those are the likeliest tokens; logits were asked for.": (
            lambda x_BSC, length_B, head: head(
                x_BSC[torch.arange(len(x_BSC)), length_B - 1]
            ).argmax(-1)
        ),
    },
)
