"""Chapter 2, "Who may look at whom?": its exercises and how they are judged.

B texts, H heads, S queries, T slots, C width of a token's vector, D width of one head, L layers, V
vocabulary. Cases are in float64, so that a right answer agrees to nine digits.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from kvlab.course import ch02_answers as answers
from kvlab.course.author.compare import Near
from kvlab.course.author.lending import LentFunction
from kvlab.course.author.spec import (
    Case,
    Exercise,
    Law,
    Outcome,
    Wrong,
    agrees,
    choice,
    claims,
    named,
)
from kvlab.course.sandbox.answer import Answer

# --- 2.1 a rectangular mask ---------------------------------------------------------------------


def _mask_case(rng: random.Random) -> Case:
    n_new = rng.randint(3, 6)  # with 2, one too many is all there are
    return {"n_new": n_new, "n_slots": n_new + rng.randint(2, 6)}


def _loop_mask(n_new: int, n_slots: int) -> Tensor:
    """Slot by slot: may the query use it?"""
    allowed_ST = torch.zeros(n_new, n_slots, dtype=torch.bool)
    for s in range(n_new):
        for t in range(n_slots):
            allowed_ST[s, t] = t <= n_slots - n_new + s
    return allowed_ST


def _run_corner(answer: Answer, case: Case) -> Outcome:
    n_new, n_slots = case["n_new"], case["n_slots"]
    return {
        "mask of the last queries, allowed_ST": answer(n_new, n_slots),
        "_square": answer(n_slots, n_slots),
    }


def _expect_corner(case: Case, outcome: Outcome) -> Outcome:
    return {"mask of the last queries, allowed_ST": outcome["_square"][-case["n_new"] :]}


MASK = Exercise(
    number="2.1",
    title="A rectangular mask",
    name="causal_mask",
    points=2,
    minutes=10,
    difficulty=1,
    cases=_mask_case,
    laws=(
        agrees("same as slot by slot", _loop_mask, "n_new", "n_slots", gives="allowed_ST"),
        Law("it is the end of the square mask", _run_corner, _expect_corner),
    ),
    hints=(
        "The new tokens are the last ones of the text. At which position does the first of them "
        "stand?",
        "Query row s stands at position n_slots - n_new + s. It may use slot t if t is at most "
        "that.",
        "positions = torch.arange(n_slots - n_new, n_slots); return torch.arange(n_slots) <= "
        "positions[:, None]",
    ),
    wrong=(
        Wrong(answers.mask_top_left, "the mask starts at the top left, as if the new tokens were "
              "the first of the text. It must end at the bottom right."),
        Wrong(answers.mask_without_itself, "a token may not look at itself here. Its own position "
              "belongs to what it may use."),
        Wrong(answers.mask_one_too_far, "each query sees one token too many: the one after it."),
        Wrong(answers.mask_inverted, "yes and no are the wrong way round: True says that a slot "
              "may be used."),
        Wrong(answers.mask_square, "this is the mask of the whole text, a row for every token. "
              "Only the last n_new tokens have queries here."),
        Wrong(answers.mask_transposed, "rows and columns are exchanged: a row is a query, a column "
              "is a slot."),
        Wrong(answers.mask_hides_the_past, "the new tokens see each other and nothing of the past; "
              "all older slots may be used, too."),
        Wrong(answers.mask_shows_all_new, "nothing is hidden: of several new tokens the first must "
              "not see the others."),
        Wrong(answers.mask_of_numbers, "these are numbers to add to the scores (0 and minus "
              "infinity); True and False were asked for."),
    ),
    second=answers.SECOND_MASK,
)  # fmt: skip


# --- 2.2 causal attention by positions ----------------------------------------------------------


def _attention_case(rng: random.Random) -> Case:
    """Texts of different lengths, padded in front; one slot of each was thrown away.

    Text 0 has so much padding that its first query is padding, too, and may see nothing. The slots
    of each text are mixed, so that who counts slots goes wrong in another way than who forgets
    that padding is hidden.
    """
    batch, n_heads, n_new = rng.sample([2, 3, 4, 5], 3)
    width, n_slots = rng.choice([6, 7]), rng.choice([8, 9, 10])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(n: int) -> Tensor:
        return torch.randn(batch, n_heads, n, width, generator=torch_rng, dtype=torch.float64)

    pads = [n_slots - n_new + 1] + [rng.randint(1, 2) for _ in range(batch - 1)]
    pos_BT = torch.stack([(torch.arange(n_slots) - p).clamp(min=-1) for p in pads])
    pos_BT[1:, n_slots - n_new :] += 1  # where the gap is, a token was thrown away
    mixed_BT = torch.rand(pos_BT.shape, generator=torch_rng).argsort(-1)
    return {
        "q_BHSD": normal(n_new),
        "k_BHTD": normal(n_slots),
        "v_BHTD": normal(n_slots),
        "q_pos_BS": pos_BT[:, -n_new:].clone(),
        "pos_BT": pos_BT.gather(1, mixed_BT),
    }


def _loop_attention(
    q_BHSD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, q_pos_BS: Tensor, pos_BT: Tensor
) -> Tensor:
    """Every query alone, over the slots that it may use and nothing else."""
    out_BHSD = torch.zeros_like(q_BHSD)
    batch, n_heads, n_new, width = q_BHSD.shape
    for b in range(batch):
        for s in range(n_new):
            seen_T = (pos_BT[b] >= 0) & (pos_BT[b] <= q_pos_BS[b, s])
            if seen_T.any():
                for h in range(n_heads):
                    score_T = k_BHTD[b, h, seen_T] @ q_BHSD[b, h, s] / width**0.5
                    out_BHSD[b, h, s] = score_T.softmax(0) @ v_BHTD[b, h, seen_T]
    return out_BHSD


_ATTENTION = ("q_BHSD", "k_BHTD", "v_BHTD", "q_pos_BS", "pos_BT")


def _run_loud(answer: Answer, case: Case) -> Outcome:
    """Once as it is, and once with loud keys and values wherever no query may look."""
    allowed_BST = (case["pos_BT"][:, None] >= 0) & (
        case["pos_BT"][:, None] <= case["q_pos_BS"][..., None]
    )
    unseen_BT = ~allowed_BST.any(1)
    loud = {
        name: case[name].masked_fill(unseen_BT[:, None, :, None], 50.0)
        for name in ("k_BHTD", "v_BHTD")
    }
    return {
        "out_BHSD": answer(*({**case, **loud}[a] for a in _ATTENTION)),
        "_calm": answer(*(case[a] for a in _ATTENTION)),
    }


ATTENTION = Exercise(
    number="2.2",
    title="Causal attention by positions",
    name="causal_attention",
    points=4,
    minutes=20,
    difficulty=3,
    cases=_attention_case,
    forbids=("scaled_dot_product_attention",),
    laws=(
        agrees("same as query by query", _loop_attention, *_ATTENTION, gives="out_BHSD"),
        Law(
            "what no query may see can be anything",
            _run_loud,
            lambda _, outcome: {"out_BHSD": Near(outcome["_calm"])},
        ),
    ),
    hints=(
        "The rule has two halves, 0 <= position and position <= the query's position. Give both "
        "tensors of positions the axes (batch, head, query, slot), with 1 where one is missing.",
        "pos = pos_BT[:, None, None, :]; allowed = (pos >= 0) & (pos <= q_pos_BS[:, None, :, "
        "None]). Scores, masked_fill(~allowed, -inf), softmax over the last axis. What comes out "
        "of a row that is all minus infinity?",
        "weights = (q @ k.mT / D**0.5).masked_fill(~allowed, float('-inf')).softmax(-1); weights = "
        "weights.masked_fill(~allowed, 0.0) makes the NaN of rows with nothing to see zeros; "
        "return weights @ v.",
    ),
    wrong=(
        Wrong(answers.attention_unscaled, "the scores are not divided by the square root of D."),
        Wrong(answers.attention_masks_after, "the mask comes after the softmax, so what is hidden "
              "still counts in the denominator."),
        Wrong(answers.attention_top_left, "rows and columns are counted from the top left instead "
              "of comparing positions."),
        Wrong(answers.attention_counts_slots, "slots are counted, as if slot t held position t. "
              "Ask for their positions: some are padding, and they may stand in any order."),
        Wrong(answers.attention_no_mask, "nothing is hidden: every query sees every slot. The "
              "positions have to be used."),
        Wrong(answers.attention_mask_inverted, "what may be used is hidden, and the rest is seen. "
              "masked_fill writes where its mask is True: give it ~allowed."),
        Wrong(answers.attention_positions_of_text_0, "the positions of text 0 are used for all "
              "texts. Each has its own; keep the first axis."),
        Wrong(answers.attention_without_head_axis, "the mask has the axes batch, query, slot, and "
              "torch lines its batch up with the heads. Put an axis of length 1 where the heads "
              "are: [:, None]."),
        Wrong(answers.attention_sees_padding, "padding is seen: its position, -1, is smaller than "
              "every query's. The rule has a lower end, too."),
        Wrong(answers.attention_without_itself, "a query does not see its own slot."),
        Wrong(answers.attention_nan_row, "a query that may see nothing gives NaN: the softmax of "
              "minus infinities only. It must give zeros."),
        Wrong(answers.attention_large_number, "hidden scores are a large negative number, so a "
              "query that may see nothing mixes all slots alike. It must give zeros."),
        Wrong(answers.attention_softmax_over_queries, "the softmax runs over the queries; the "
              "weights of one query, over its slots, sum to 1."),
    ),
    second=answers.SECOND_ATTENTION,
)  # fmt: skip


# --- 2.3 find the leak --------------------------------------------------------------------------

Attention = Callable[[Tensor], Tensor]


class _Head:
    """One head over texts x_BSC, whose parts the suspects put together.

    Inputs pass through tanh, so that no change of a token makes a score overflow.
    """

    def __init__(self, width: int, seed: int) -> None:
        torch_rng = torch.Generator().manual_seed(seed)
        scale = 1.5 * width**-0.5
        w = torch.randn(3, width, width, generator=torch_rng, dtype=torch.float64) * scale
        self._w_q, self._w_k, self._w_v = w

    def scores(self, x_BSC: Tensor) -> Tensor:
        x_BSC = x_BSC.tanh()
        return (x_BSC @ self._w_q) @ (x_BSC @ self._w_k).mT / x_BSC.shape[-1] ** 0.5

    def values(self, x_BSC: Tensor) -> Tensor:
        return x_BSC.tanh() @ self._w_v

    def over(self, x_BSC: Tensor, allowed_ST: Tensor, hidden: float = float("-inf")) -> Tensor:
        """Attention over what is allowed; a row with nothing to see is 0."""
        weights_BST = self.scores(x_BSC).masked_fill(~allowed_ST, hidden).softmax(-1)
        return weights_BST.nan_to_num(0.0) @ self.values(x_BSC)

    def one_by_one(self, x_BSC: Tensor) -> Tensor:
        """Clean: each query meets its own beginning of the text, without a mask."""
        rows = []
        for s in range(x_BSC.shape[1]):
            start_BSC = x_BSC[:, : s + 1]
            rows.append((self.scores(start_BSC)[:, -1:].softmax(-1) @ self.values(start_BSC))[:, 0])
        return torch.stack(rows, dim=1)

    def after(self, x_BSC: Tensor, *, divide: bool) -> Tensor:
        weights_BST = self.scores(x_BSC).softmax(-1).tril()
        if divide:
            weights_BST = weights_BST / weights_BST.sum(-1, keepdim=True)
        return weights_BST @ self.values(x_BSC)

    def all_minus_later(self, x_BSC: Tensor) -> Tensor:
        """Clean but for rounding: the sum over everything, less the sum over what comes later."""
        mass_BST, v_BSC = 1e3 * self.scores(x_BSC).exp(), self.values(x_BSC)
        later_BST = mass_BST.triu(1)
        mixed_BSC = mass_BST @ v_BSC - later_BST @ v_BSC
        return mixed_BSC / (mass_BST.sum(-1) - later_BST.sum(-1))[..., None]

    def in_one_row(self, x_BSC: Tensor) -> Tensor:
        row_1SC = x_BSC.flatten(0, 1)[None]
        return self.over(row_1SC, _square(row_1SC.shape[1]))[0].unflatten(0, x_BSC.shape[:2])


def _square(n: int, shift: int = 0) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).tril(shift)


def _window(n: int, wraps: bool) -> Tensor:
    """Each query and the two before it; `wraps`: before the first comes the last."""
    back_ST = torch.arange(n)[:, None] - torch.arange(n)
    back_ST = back_ST % n if wraps else back_ST
    return (back_ST >= 0) & (back_ST < 3)


def _row_open(n: int, row: int, onwards: bool) -> Tensor:
    """Causal, but for one row (or all from it onwards), which sees everything."""
    allowed_ST = _square(n)
    allowed_ST[row : None if onwards else row + 1] = True
    return allowed_ST


def _peeping(x_BSC: Tensor, even: dict[int, int], odd: dict[int, int]) -> Tensor:
    """Causal, but that some rows (keys) see one later token (values), in even and in odd texts."""
    n_texts, n = x_BSC.shape[:2]
    allowed_BST = _square(n).repeat(n_texts, 1, 1)
    for b in range(n_texts):
        for row, token in (odd if b % 2 else even).items():
            allowed_BST[b, row, token : token + 1] = True
    return allowed_BST


def _with_next_value(head: _Head, x_BSC: Tensor) -> Tensor:
    v_BSC = head.values(x_BSC)
    next_BSC = torch.cat((v_BSC[:, 1:], torch.zeros_like(v_BSC[:, :1])), dim=1)
    weights_BST = head.scores(x_BSC).masked_fill(~_square(x_BSC.shape[1]), float("-inf"))
    return weights_BST.softmax(-1) @ (v_BSC + 0.5 * next_BSC)


def _suspects(case: Case) -> dict[str, tuple[Attention, list[int] | None]]:
    """By name: an attention function, and its first leak."""
    n, row, head = case["n_tokens"], case["_row"], _Head(case["width"], case["_seed"])

    def over(allowed: Callable[[int], Tensor], **named: float) -> Attention:
        return lambda x: head.over(x, allowed(x.shape[1]), **named)

    def all_get_the_last(x_BSC: Tensor) -> Tensor:
        return head.one_by_one(x_BSC) + 0.2 * head.values(x_BSC)[:, -1:]

    def peeping(even: dict[int, int], odd: dict[int, int]) -> Attention:
        return lambda x: head.over(x, _peeping(x, even, odd))

    def faint(x_BSC: Tensor) -> Tensor:
        next_BSC = torch.cat((x_BSC[:, 1:], torch.zeros_like(x_BSC[:, :1])), dim=1)
        return head.one_by_one(x_BSC) + 3e-8 * next_BSC

    first, second = {0: n - 2}, {2: 3}
    return {
        "query by query": (head.one_by_one, None),
        "masked before the softmax": (over(_square), None),
        "masked after and divided again": (lambda x: head.after(x, divide=True), None),
        "all minus what comes later": (head.all_minus_later, None),
        "a window of three": (over(lambda n: _window(n, wraps=False)), None),
        "only what is before itself": (over(lambda n: _square(n, -1)), None),
        "masked after the softmax": (lambda x: head.after(x, divide=False), [0, 1]),
        "off by one": (over(lambda n: _square(n, 1)), [0, 1]),
        "hidden scores set to 0": (over(_square, hidden=0.0), [0, 1]),
        "hidden scores set to -8": (over(_square, hidden=-8.0), [0, 1]),
        "the mask upside down": (over(lambda n: _square(n).T), [0, 1]),
        "the next token's value mixed in": (lambda x: _with_next_value(head, x), [0, 1]),
        "one row open": (
            over(lambda n: _row_open(n, row, onwards=False)), [row, row + 1]),
        "open beyond a length": (over(lambda n: _row_open(n, row, onwards=True)), [row, row + 1]),
        "everybody gets the last value": (all_get_the_last, [0, n - 1]),
        "a window that wraps around": (over(lambda n: _window(n, wraps=True)), [0, n - 2]),
        "one row sees far, one sees near": (
            peeping(first | second, first | second), [0, n - 2]),
        "one text sees far, one sees near": (peeping(first, second), [0, n - 2]),
        "one text sees near, one sees far": (peeping(second, first), [0, n - 2]),
        "a faint leak": (faint, [0, 1]),
        "texts in one row": (head.in_one_row, [0, 0]),
        "texts in one row, backwards": (lambda x: head.in_one_row(x.flip(0)).flip(0), [0, 0]),
    }  # fmt: skip


MAX_NUMBERS = 2**12


def _lent(function: Attention) -> LentFunction:
    """The function for an answer to call, with inputs of a bounded size."""

    def call(x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or x.numel() > MAX_NUMBERS:
            raise ValueError(f"expected one tensor of at most {MAX_NUMBERS} numbers")
        return function(x.double())

    return LentFunction(call)


def _leak_case(rng: random.Random) -> Case:
    n_texts, n_tokens = rng.choice([2, 3]), rng.choice([7, 8])
    return {
        "n_texts": n_texts,
        "n_tokens": n_tokens,
        "width": rng.choice([4, 5, 6]),
        "_row": rng.randint(4, n_tokens - 3),
        "_seed": rng.randrange(2**31),
        "_order": rng.random(),
    }


def _said(found: object) -> object:
    """A pair in words, which a message can show; anything else in a list of its own."""
    if found is None:
        return "no leak"
    if isinstance(found, list) and [type(n) for n in found] == [int, int]:
        return f"output {found[0]} moves with token {found[1]}"
    return [found]


def _run_leaks(answer: Answer, case: Case) -> Outcome:
    suspects = list(_suspects(case).items())
    random.Random(case["_order"]).shuffle(suspects)
    sizes = (case["n_texts"], case["n_tokens"], case["width"])
    return {
        f"first leak, {kind}": _said(answer(_lent(function), *sizes))
        for kind, (function, _) in suspects
    }


def _expect_leaks(case: Case, _outcome: Outcome) -> Outcome:
    return {f"first leak, {kind}": _said(first) for kind, (_, first) in _suspects(case).items()}


LEAK = Exercise(
    number="2.3",
    title="Find the leak",
    name="first_leak",
    points=5,
    minutes=30,
    difficulty=4,
    cases=_leak_case,
    n_cases=5,
    size=lambda case: case["n_texts"] * case["n_tokens"] * case["width"],
    laws=(Law("twenty-two suspects, six of them clean", _run_leaks, _expect_leaks),),
    hints=(
        "Compute the outputs once. Then change one token of one text, and compare. Which outputs "
        "may move, and which may not?",
        "Two loops, over all texts b and all tokens j. Changed output i of text b with i < j is a "
        "leak; so is any changed output of another text. 'Changed' means by more than 1e-9, and "
        "the change must be a finite number.",
        "far_BS = (attention(changed) - before).abs().amax(-1); moves = far_BS > 1e-9; "
        "moves[b, j:] = False; every i in moves.any(0) gives a pair (i, j). At the end, "
        "min(pairs) as a list, or None.",
    ),
    wrong=(
        Wrong(answers.leak_last_token_only, "only the last token is changed, so leaks from others "
              "go unseen, or are put down to the wrong token."),
        Wrong(answers.leak_short_texts, "the texts that are tried are shorter than n_tokens. Some "
              "masks are right for short texts only."),
        Wrong(answers.leak_one_text, "only the text that was changed is looked at. A batch may mix "
              "its texts."),
        Wrong(answers.leak_first_text_only, "tokens of text 0 are changed, and of no other. A leak "
              "may go from a later text to an earlier one only."),
        Wrong(answers.leak_text_0_alone, "only text 0 is changed, and only text 0 is looked at. "
              "The leak may be in another text, or lead from one text to another."),
        Wrong(answers.leak_all_texts_together, "token j is changed in all texts at once, so a leak "
              "from one text to another cannot be told from a token's own effect."),
        Wrong(answers.leak_by_nan, "the change is not a finite number. Zero times NaN is NaN, so "
              "clean attention seems to leak."),
        Wrong(answers.leak_coarse, "small moves are overlooked. A faint leak is a leak: everything "
              "above 1e-9 counts."),
        Wrong(answers.leak_faint_one_missed, "the faintest leak is missed. Either the tolerance "
              "is wider than 1e-9, or tokens are changed by so little that what moves is below it: "
              "change them by about 1."),
        Wrong(answers.leak_without_copy, "the changes add up, because the texts are changed in "
              "place: y = x is no copy. Start each change from x.clone()."),
        Wrong(answers.leak_smallest_token_first, "the pairs are ordered by j, then by i. Of all "
              "leaks the smallest i counts first: [0, 5] comes before [2, 3]."),
        Wrong(answers.leak_first_met, "this is the first leak that the loops meet. Another one "
              "may have a smaller i, perhaps in another text: collect all, then take the "
              "smallest."),
        Wrong(answers.leak_by_bits, "the last bit is taken for a leak. Rounding may differ; only "
              "moves above 1e-9 count."),
        Wrong(answers.leak_counts_itself, "output j may move when token j changes: a token sees "
              "itself."),
        Wrong(answers.leak_swapped, "the pair is the wrong way round: the output i that moves, "
              "then the token j that was changed."),
        Wrong(answers.leak_pairs_of_token_and_output, "the pairs hold the changed token first. It "
              "comes second: [i, j], where output i moves with token j."),
    ),
    second=answers.SECOND_LEAK,
)  # fmt: skip


# --- 2.4 do old rows stay? ----------------------------------------------------------------------


def _by_distance_from_the_end(head: _Head, x_BSC: Tensor) -> Tensor:
    """Causal, but positions are counted from the end of the text."""
    n = x_BSC.shape[1]
    from_end_S = torch.arange(n, 0, -1, dtype=torch.float64)
    allowed_ST = _square(n)
    scores_BST = head.scores(x_BSC) * (1 + 0.2 * from_end_S)
    return scores_BST.masked_fill(~allowed_ST, float("-inf")).softmax(-1) @ head.values(x_BSC)


def _scaled_by_length(head: _Head, x_BSC: Tensor) -> Tensor:
    """Causal, but scores are divided by the root of the text's length."""
    n = x_BSC.shape[1]
    scores_BST = (4 * head.scores(x_BSC) / n**0.5).masked_fill(~_square(n), float("-inf"))
    return scores_BST.softmax(-1) @ head.values(x_BSC)


def _beside(head: _Head, x_BSC: Tensor, whole: int) -> Tensor:
    """Causal, but in texts that are shorter than `whole` the rows in the middle are off."""
    out_BSC = head.one_by_one(x_BSC)
    if x_BSC.shape[1] < whole:
        out_BSC[:, 1:-1] += 0.3
    return out_BSC


def _in_blocks(n: int, block: int) -> Tensor:
    """Causal from block to block; inside a block everybody sees everybody."""
    block_S = torch.arange(n) // block
    return block_S <= block_S[:, None]


def _growing(case: Case) -> dict[str, tuple[Attention, bool]]:
    """By name: an attention function over one text x_SC, and whether its old rows stay."""
    n, head = case["n_tokens"], _Head(case["width"], case["_seed"])

    def over(allowed: Callable[[int], Tensor], **named: float) -> Attention:
        return lambda x: head.over(x, allowed(x.shape[1]), **named)

    def drifting(by: float) -> Attention:
        return lambda x: head.one_by_one(x) + by * x.shape[1]

    texts = {
        "causal": (over(_square), True),
        "query by query": (head.one_by_one, True),
        "a window of three": (over(lambda n: _window(n, wraps=False)), True),
        "all minus what comes later": (head.all_minus_later, True),
        "every token alone": (head.values, True),
        "always zero": (torch.zeros_like, True),
        "no mask": (over(lambda n: _square(n, n)), False),
        "masked after the softmax": (lambda x: head.after(x, divide=False), False),
        "off by one": (over(lambda n: _square(n, 1)), False),
        "hidden scores set to -8": (over(_square, hidden=-8.0), False),
        "one row open": (over(lambda n: _row_open(n, 2, onwards=False)), False),
        "open inside each half": (over(lambda m: _in_blocks(m, n // 2)), False),
        "open but to the last token": (over(lambda m: _in_blocks(m, n - 1)), False),
        "rises with every token": (drifting(0.1), False),
        "falls with every token": (drifting(-0.1), False),
        "moves by a thousandth": (drifting(1e-3), False),
        "moves by a ten-millionth": (lambda x: 10 + drifting(1e-7)(x), False),
        "moves in the middle": (lambda x: _beside(head, x, n), False),
        "positions counted from the end": (lambda x: _by_distance_from_the_end(head, x), False),
        "scores divided by the text's length": (lambda x: _scaled_by_length(head, x), False),
    }
    return {kind: (_of_one_text(function), stays) for kind, (function, stays) in texts.items()}


def _of_one_text(function: Attention) -> Attention:
    return lambda x_SC: function(x_SC[None])[0]


def _stable_case(rng: random.Random) -> Case:
    n_tokens, width = rng.choice([8, 10, 12]), rng.choice([4, 5, 6])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    return {
        "n_tokens": n_tokens,
        "width": width,
        "_x_SC": torch.randn(n_tokens, width, generator=torch_rng, dtype=torch.float64),
        "_seed": rng.randrange(2**31),
    }


def _run_stable(answer: Answer, case: Case) -> Outcome:
    return {
        f"old rows stay, {kind}": answer(_lent(function), case["_x_SC"])
        for kind, (function, _) in _growing(case).items()
    }


def _expect_stable(case: Case, _outcome: Outcome) -> Outcome:
    return {f"old rows stay, {kind}": stays for kind, (_, stays) in _growing(case).items()}


STABLE = Exercise(
    number="2.4",
    title="Do old rows stay?",
    name="is_prefix_stable",
    points=3,
    minutes=15,
    difficulty=2,
    cases=_stable_case,
    size=lambda case: case["n_tokens"] * case["width"],
    laws=(Law("twenty suspects, six of them stable", _run_stable, _expect_stable),),
    hints=(
        "Do not change tokens: add them. What does the function give for the first n tokens alone?",
        "For every n from 1 to the length: attention(x_SC[:n]) must be the first n rows of "
        "attention(x_SC), but for rounding.",
        "whole = attention(x_SC); return all(bool(((attention(x_SC[:n]) - whole[:n]).abs() < "
        "1e-9).all()) for n in range(1, len(x_SC)))",
    ),
    wrong=(
        Wrong(answers.stable_half, "only one beginning is tried, half of the text. Some functions "
              "are stable there and nowhere else: try every length."),
        Wrong(answers.stable_one_shorter, "only the text without its last token is tried. Some "
              "functions are stable there and nowhere else: try every length."),
        Wrong(answers.stable_first_row, "only row 0 is compared; another old row may move."),
        Wrong(answers.stable_last_rows, "of each beginning only the last row is compared. All of "
              "its rows have to stay."),
        Wrong(answers.stable_changes_a_token, "a token is changed, not added. A function that "
              "depends on the text's length is not found that way."),
        Wrong(answers.stable_changes_the_last_token, "only the last token is changed, and none is "
              "added. Cut the text instead: x_SC[:n], for every n."),
        Wrong(answers.stable_without_abs, "the largest difference is taken without its absolute "
              "value, so rows that rise when tokens are added go unseen."),
        Wrong(answers.stable_without_abs_the_other_way, "the largest difference is taken without "
              "its absolute value, so rows that fall when tokens are added go unseen."),
        Wrong(answers.stable_relative_tolerance, "torch.allclose allows a relative difference of "
              "1e-5 unless told otherwise: give it rtol=0, atol=1e-9."),
        Wrong(answers.stable_whole_not_cut, "a beginning of n rows is compared with all rows of "
              "the whole. Its counterpart is whole[:n]."),
        Wrong(answers.stable_by_bits, "rounding is taken for a move: rows of a longer text may add "
              "up in another order. Only moves above 1e-9 count."),
        Wrong(answers.stable_coarse, "small moves are overlooked: everything above 1e-9 counts."),
        Wrong(answers.stable_from_the_end, "rows are compared from the end. Old rows are the first "
              "rows of the longer text: whole[:n]."),
        Wrong(answers.stable_drops_the_front, "tokens are taken away at the front. A text grows at "
              "its end: compare with x_SC[:n]."),
    ),
    second=answers.SECOND_STABLE,
)  # fmt: skip


# --- 2.5 looked at, or needed? ------------------------------------------------------------------


def _rank_case(rng: random.Random) -> Case:
    """Weights and logits for which every usual mistake gives a ranking of its own.

    There are ten words or more, so that other mistakes do not hit on one of those by chance.
    """
    while True:
        case = _some_words(rng)
        rankings = [_rankings(case, rank) for rank in (_loop_rank, *_CONFUSED)]
        if len({str(ranking) for ranking in rankings}) == len(rankings):
            return case


def _some_words(rng: random.Random) -> Case:
    n_layers, n_heads, n_tokens = rng.choice([2, 3]), rng.choice([4, 5]), rng.choice([10, 11, 12])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    scores_LHST = 2 * normal(n_layers, n_heads, n_tokens, n_tokens)
    weights_LHST = scores_LHST.masked_fill(~_square(n_tokens), float("-inf")).softmax(-1)
    full_V = 2 * normal(15)
    without_TV = full_V + normal(n_tokens, 15) * (0.3 + 1.5 * normal(n_tokens, 1).abs())
    # logits are free up to a constant, and each reading of the model may have its own
    logits_TV = torch.cat((without_TV, full_V[None])) + 5 * normal(n_tokens + 1, 1)
    return {"weights_LHST": weights_LHST, "n_tokens": n_tokens, "_logits_TV": logits_TV}


def _logits(case: Case, more: float = 0.0) -> LentFunction:
    """The next token's logits, by the position that is hidden (None: nothing is)."""
    rows, n_tokens = case["_logits_TV"], case["n_tokens"]

    def logits(hidden: int | None = None) -> Tensor:
        if hidden is not None and not 0 <= hidden < n_tokens:
            raise ValueError(f"position {hidden} was to be hidden; there are 0 to {n_tokens - 1}")
        row = n_tokens if hidden is None else hidden
        return rows[row] + more * row

    return LentFunction(logits)


def _loop_rank(weights_LHST: Tensor, logits: Callable, n_tokens: int) -> list[list[int]]:
    """Sums over layers, heads and tokens, one by one."""
    looked_at, missed = [], []
    full_V = logits(None).softmax(-1).tolist()
    for t in range(n_tokens - 1):
        looked_at.append(sum(float(w) for layer in weights_LHST for w in layer[:, -1, t]))
        other_V = logits(t).softmax(-1)
        missed.append(
            sum(p * float(torch.log(p / q)) for p, q in zip(full_V, other_V, strict=True))
        )
    context = range(n_tokens - 1)
    return [sorted(context, key=lambda t, of=of: -of[t]) for of in (looked_at, missed)]


_CONFUSED = (
    answers.rank_all_queries, answers.rank_strongest_head, answers.rank_last_layer,
    answers.rank_first_row, answers.rank_who_looks, answers.rank_reversed_kl,
    answers.rank_top_word, answers.rank_top_probability, answers.rank_kl_of_logits,
    answers.rank_raw_logits, answers.rank_lists_exchanged,
)  # fmt: skip


def _rankings(case: Case, rank: Callable) -> list[list[int]]:
    return rank(case["weights_LHST"], _logits(case), case["n_tokens"])


_RANKS = ("by attention", "by need")


def _run_rank(answer: Answer, case: Case) -> Outcome:
    got = answer(case["weights_LHST"], _logits(case), case["n_tokens"])
    return named(got, *_RANKS)


def _run_shifted(answer: Answer, case: Case) -> Outcome:
    """Logits with another constant added in each reading mean the same probabilities."""
    got = answer(case["weights_LHST"], _logits(case, more=3.0), case["n_tokens"])
    same = answer(case["weights_LHST"], _logits(case), case["n_tokens"])
    return {**named(got, *_RANKS), "_same": same}


RANK = Exercise(
    number="2.5",
    title="Looked at, or needed?",
    name="rank_words",
    points=4,
    minutes=20,
    difficulty=3,
    cases=_rank_case,
    laws=(
        Law(
            "same as by hand",
            _run_rank,
            lambda case, _: named(_rankings(case, _loop_rank), *_RANKS),
        ),
        Law(
            "a constant added to all logits changes nothing",
            _run_shifted,
            lambda _, outcome: named(outcome["_same"], *_RANKS),
        ),
    ),
    hints=(
        "Attention: which row of weights_LHST belongs to the token that asks? Need: what does the "
        "model say with nothing hidden, and what with one position hidden?",
        "weights_LHST[:, :, -1].mean((0, 1)) has one number per position; leave the last position "
        "out. For the need, turn logits into log-probabilities with log_softmax(-1) first.",
        "full = logits(None).log_softmax(-1); other = logits(t).log_softmax(-1); kl = (full.exp() "
        "* (full - other)).sum(). Sort range(n_tokens - 1) by each, the largest first.",
    ),
    wrong=(
        Wrong(answers.rank_all_queries, "attention is averaged over all queries. Earlier tokens "
              "are seen by more of them; the last token alone is asked about."),
        Wrong(answers.rank_strongest_head, "the largest weight of any head is taken; the mean over "
              "layers and heads was asked for."),
        Wrong(answers.rank_last_layer, "only the last layer's heads are averaged."),
        Wrong(answers.rank_who_looks, "queries and slots are exchanged: this is who looks at "
              "position 0, not whom the last token looks at."),
        Wrong(answers.rank_first_row, "by attention, the positions come in the order of the text. "
              "That is the row of the first token, or the column of the last: both are 0 nearly "
              "everywhere. The row of the last token is [:, :, -1]."),
        Wrong(answers.rank_lists_exchanged, "the two lists are in each other's place: by "
              "attention first, then by need."),
        Wrong(answers.rank_with_itself, "the last token is ranked, too. It is the one that asks; "
              "only the n_tokens - 1 before it are context."),
        Wrong(answers.rank_smallest_first, "the smallest comes first; the largest should."),
        Wrong(answers.rank_reversed_kl, "the divergence is the wrong way round: weigh by the "
              "probabilities of the full prediction."),
        Wrong(answers.rank_top_word, "only the likeliest word is looked at. The divergence adds up "
              "over the whole vocabulary."),
        Wrong(answers.rank_top_probability, "only the probability of the likeliest word is "
              "compared. The divergence adds up over the whole vocabulary."),
        Wrong(answers.rank_kl_of_logits, "the formula got logits where it needs probabilities and "
              "their logarithms: log_softmax(-1) first, then exp() for p."),
        Wrong(answers.rank_raw_logits, "logits are compared as they are. They mean something up to "
              "a constant only: take log_softmax first."),
    ),
    second=answers.SECOND_RANK,
)  # fmt: skip


# --- 2.6 and 2.7 quizzes ------------------------------------------------------------------------

QUERY_FOUR = choice(
    number="2.6",
    title="The query at position 4",
    name="query_at_position_4",
    points=1,
    minutes=3,
    difficulty=1,
    right="c",
    wrong={
        "a": "without its own key and value a query could not take anything from its own token, "
        "and position 0 would have nothing to see.",
        "b": "that is the token alone: it would know nothing of the text.",
        "d": "positions after 4 are not there yet while the model writes; to use them in training "
        "is a leak.",
        "e": "that counts from 1 and starts too late: position 0 is the first token and may be "
        "used by everybody.",
    },
    because="0 <= position <= 4: five keys and five values, its own among them.",
    hints=(
        "Use the rule: 0 <= the slot's position <= the query's position.",
        "Is the query's own position among them? Does counting start at 0 or at 1?",
        "The fifth token stands at position 4. It may use its own slot and the four before it.",
    ),
)

ALL_POSITIONS = claims(
    number="2.7",
    title="All positions",
    name="about_all_positions",
    points=2,
    minutes=5,
    difficulty=2,
    right=(False, True, False, False, True, False),
    wrong=(
        "the query is right; what it may reach is not. Without a mask every output moves when the "
        "last token changes.",
        "in training the next token stands in the text: with all keys in reach it can be copied.",
        "a struck-out weight was still in the denominator that all others were divided by.",
        "e to the power of minus infinity is 0, and 0 times a number is 0: not small, but nothing.",
        "the only query then is the last token, and it may use every slot there is.",
        "a flag that aligns at the top left takes the new token for the first of its text.",
    ),
    because="What may be used is decided by positions alone, before the softmax.",
    hints=(
        "Each of the claims is settled by a cell of the chapter.",
        "Which outputs of `without_mask` moved, and which of `mask_after`? What was the largest "
        "weight on a later token?",
        "Three of the false ones are about: all keys without a mask, striking out after the "
        "softmax, and 'almost nothing'. The fourth is about one of torch's flags.",
    ),
)

EXERCISES = (MASK, ATTENTION, LEAK, STABLE, RANK, QUERY_FOUR, ALL_POSITIONS)
