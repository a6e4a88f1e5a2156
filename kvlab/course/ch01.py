"""Chapter 1, "What is a token asking for?": its exercises and how they are judged.

S tokens that ask, T tokens that are asked, N examples, C embedding width, D width of a query and a
key, E width of a value. Cases are in float64, so that a right answer agrees to nine digits and a
wrong one cannot hide in rounding.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from kvlab.course import ch01_answers as given
from kvlab.course.author.compare import AtLeast, AtMost, Near, brief
from kvlab.course.author.spec import Case, Exercise, Law, Outcome, Wrong, agrees, named
from kvlab.course.sandbox.answer import Answer, NotData


def _normal(rng: random.Random):
    """A function that draws float64 normals of a shape."""
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    return lambda *shape: torch.randn(shape, generator=torch_rng, dtype=torch.float64)


def _matrix(value: object, name: str) -> Tensor:
    """An answer's result as a matrix, or NotData."""
    if not isinstance(value, Tensor) or value.dim() != 2:
        raise NotData(f"your code returned {name} as {brief(value)}; expected a tensor of 2 axes.")
    return value


# --- 1.1 three readings of one token --------------------------------------------------------------


def _projection_case(rng: random.Random) -> Case:
    s, c, d, e = rng.sample([2, 3, 4, 5, 6, 7], 4)
    normal = _normal(rng)
    return {"x_SC": normal(s, c), "w_q": normal(d, c), "w_k": normal(d, c), "w_v": normal(e, c)}


def _projected(x_SC: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> tuple[Tensor, ...]:
    """One dot product per number."""

    def by_hand(w: Tensor) -> Tensor:
        rows = [[sum((w[i] * x_C).tolist()) for i in range(w.shape[0])] for x_C in x_SC]
        return torch.tensor(rows, dtype=torch.float64)

    return by_hand(w_q), by_hand(w_k), by_hand(w_v)


def _run_alone(answer: Answer, case: Case) -> Outcome:
    """The last token read by itself, and as one of all."""
    weights = case["w_q"], case["w_k"], case["w_v"]
    names = "q_SD", "k_SD", "v_SE"
    alone = named(answer(case["x_SC"][-1:], *weights), *names)
    every = named(answer(case["x_SC"], *weights), *names)
    return alone | {f"_{name}": _matrix(value, name)[-1:] for name, value in every.items()}


PROJECT = Exercise(
    number="1.1",
    title="Three readings of one token",
    name="project",
    points=2,
    minutes=10,
    difficulty=1,
    cases=_projection_case,
    laws=(
        agrees("the same as one dot product per number", _projected, "x_SC", "w_q", "w_k", "w_v",
               gives=("q_SD", "k_SD", "v_SE")),
        Law("a token has the same vectors whoever stands before it", _run_alone,
            lambda _, seen: {n: seen[f"_{n}"] for n in ("q_SD", "k_SD", "v_SE")}),
    ),
    hints=(
        "Write the shapes beside each other: x is (S, C), w_q is (D, C), and you want (S, D). "
        "Which axis do they share?",
        "A product of matrices adds over the last axis of the first and the first axis of the "
        "second. For w that has to be C, and C stands last.",
        "q_SD = x_SC @ w_q.T, and the same with w_k and w_v; return the three.",
    ),
    second=given.SECOND_PROJECT,
    wrong=(
        Wrong(given.project_transposed, "the weights have shape (D, C), outputs first, as PyTorch "
              "stores them; x @ w would need (C, D). Transpose them: w.T."),
        Wrong(given.project_reshaped, "reshape is no transposition: it keeps the order of the "
              "numbers in memory and cuts the rows elsewhere. Use w.T."),
        Wrong(given.project_shares_w_q, "the keys are made with w_q. A token would then show the "
              "very thing that it looks for; keys have a matrix of their own, w_k."),
        Wrong(given.project_swaps_k_and_v, "keys and values are swapped. The order is queries, "
              "keys, values."),
        Wrong(given.project_keeps_x_as_value, "the values are the embeddings themselves. What a "
              "token hands over is a reading of its embedding, too: w_v."),
        Wrong(given.project_w_times_table, "w @ x_C is for one token. In x_SC every row is a "
              "token, and C stands last in both: x_SC @ w.T does all rows at once."),
        Wrong(given.project_result_transposed, "every result lies on its side: a column for each "
              "token, not a row. w @ x.T is the transpose of x @ w.T."),
        Wrong(given.project_values_by_w_k, "the values are made with w_k. They have a matrix of "
              "their own, w_v, and a width of their own, E."),
        Wrong(given.project_last_query_only, "only the last token has a query. Every token asks."),
    ),
)  # fmt: skip


# --- 1.2 scores that keep their size --------------------------------------------------------------


def _score_case(rng: random.Random) -> Case:
    s, c, d = rng.sample([3, 5, 6, 7, 8], 3)
    normal = _normal(rng)
    return {"x_SC": normal(s, c), "w_q": normal(d, c), "w_k": normal(d, c),
            "_seed": rng.randrange(2**31)}  # fmt: skip


def _scores_by_hand(x_SC: Tensor, w_q: Tensor, w_k: Tensor) -> Tensor:
    """One pair of tokens after the other."""
    scores_ST = torch.zeros(len(x_SC), len(x_SC), dtype=torch.float64)
    for s, asking_C in enumerate(x_SC):
        for t, asked_C in enumerate(x_SC):
            products = (w_q @ asking_C) * (w_k @ asked_C)
            scores_ST[s, t] = sum(products.tolist()) / math.sqrt(len(products))
    return scores_ST


_WIDTHS = (4, 16, 64, 256)


def _run_spread(answer: Answer, case: Case) -> Outcome:
    """How far scores of random tokens spread; the rows of the weights have length 1."""
    torch_rng = torch.Generator().manual_seed(case["_seed"])

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    w_q, w_k = torch.linalg.qr(normal(2, max(_WIDTHS), max(_WIDTHS)))[0]
    seen = {}
    for d in _WIDTHS:
        scores_ST = _matrix(answer(normal(48, max(_WIDTHS)), w_q[:d], w_k[:d]), "scores_ST")
        seen[f"spread of the scores at D = {d}"] = scores_ST.std().item()
    return seen


SCORES = Exercise(
    number="1.2",
    title="Scores that keep their size",
    name="scaled_scores",
    points=2,
    minutes=10,
    difficulty=1,
    cases=_score_case,
    laws=(
        agrees("the same as pair by pair", _scores_by_hand, "x_SC", "w_q", "w_k",
               gives="scores_ST"),
        Law("random tokens have scores of spread 1 at any width", _run_spread,
            lambda _, seen: {name: Near(1.0, rtol=0.0, atol=0.4) for name in seen}),
    ),
    hints=(
        "Three steps: project to queries and keys, compare each query with each key, divide. How "
        "many products does one score add up?",
        "All pairs at once are one product of matrices: (S, D) @ (D, T). The divisor is the root "
        "of the number of products in a score, and that is neither C nor S.",
        "q_SD = x_SC @ w_q.T; k_TD = x_SC @ w_k.T; return q_SD @ k_TD.T / w_q.shape[0] ** 0.5",
    ),
    second=given.SECOND_SCORES,
    wrong=(
        Wrong(given.scores_unscaled, "the scores are not divided, so they grow with the width: "
              "their spread is the root of D."),
        Wrong(given.scores_by_root_of_c, "divided by the root of C, the width of the model. A "
              "score adds up D products, one per channel of a query."),
        Wrong(given.scores_by_d, "divided by D. Spreads add as squares, so the sum of D products "
              "spreads like the root of D."),
        Wrong(given.scores_by_root_of_s, "divided by the root of the number of tokens. That is no "
              "sum over tokens; it is one over channels."),
        Wrong(given.scores_times_root_of_d, "multiplied by the root of D where it should be "
              "divided."),
        Wrong(given.scores_keys_ask, "transposed: rows are those who ask, columns those who are "
              "asked. Row s belongs to query s."),
        Wrong(given.scores_without_transpose, "queries are (S, D), and so are keys: (T, D). To "
              "compare each with each, the second has to be (D, T): k_TD.T."),
        Wrong(given.scores_cosine, "queries and keys are cut to length 1, which makes it a cosine. "
              "A key may be loud; only the width is divided out."),
    ),
)  # fmt: skip


# --- 1.3 a softmax that survives ------------------------------------------------------------------


def _softmax_case(rng: random.Random) -> Case:
    s, t = rng.sample([3, 4, 5, 6, 7], 2)
    normal = _normal(rng)
    hidden_ST = normal(s, t) > 0.7
    hidden_ST[:, rng.randrange(t)] = False  # somebody is left to look at
    hidden_ST[rng.randrange(s)] = True  # but not for this row
    return {"scores_ST": 2 * normal(s, t), "_hidden_ST": hidden_ST, "_shift_S1": normal(s, 1)}


def _run_softmax(change):
    """Run the answer on changed scores."""
    return lambda answer, case: {"weights_ST": answer(change(case))}


def _expect_softmax(change):
    """torch's own, with zeros for rows that may look at nothing."""

    def expect(case: Case, _outcome: Outcome) -> Outcome:
        return {"weights_ST": torch.softmax(change(case), dim=-1).nan_to_num(0.0)}

    return expect


def _as_they_are(case: Case) -> Tensor:
    return case["scores_ST"].clone()


def _huge(case: Case) -> Tensor:
    return case["scores_ST"] * 1e4


def _with_hidden(case: Case) -> Tensor:
    return _huge(case).masked_fill(case["_hidden_ST"], float("-inf"))


def _run_shifted(answer: Answer, case: Case) -> Outcome:
    scores_ST = case["scores_ST"]
    return {
        "weights_ST": answer(scores_ST + 1e4 * case["_shift_S1"]),
        "_unshifted": answer(scores_ST),
    }


SOFTMAX = Exercise(
    number="1.3",
    title="A softmax that survives",
    name="stable_softmax",
    points=3,
    minutes=15,
    difficulty=2,
    cases=_softmax_case,
    forbids=("softmax", "log_softmax", "softmin", "logsumexp"),
    laws=(
        Law("the same as torch's", _run_softmax(_as_they_are), _expect_softmax(_as_they_are)),
        Law("scores of ten thousand", _run_softmax(_huge), _expect_softmax(_huge)),
        Law("adding a number to all scores of a row changes nothing", _run_shifted,
            lambda _, seen: {"weights_ST": Near(seen["_unshifted"], rtol=1e-6, atol=1e-9)}),
        Law("hidden scores, and a row with nothing else", _run_softmax(_with_hidden),
            _expect_softmax(_with_hidden)),
    ),
    hints=(
        "What is the largest number whose exponential a machine can hold? And what may you "
        "subtract from a row without changing its weights?",
        "Subtract each row's own largest score; then the largest exponential is 1. In a row that "
        "is all minus infinity that gives nan: replace such a maximum by 0, and mind the sum.",
        "top = scores_ST.amax(-1, keepdim=True); top = top.masked_fill(top == float('-inf'), 0.0); "
        "lifted = (scores_ST - top).exp(); total = lifted.sum(-1, keepdim=True); return lifted / "
        "total.masked_fill(total == 0, 1.0)",
    ),
    second=given.SECOND_SOFTMAX,
    wrong=(
        Wrong(given.softmax_naive, "the exponential overflows, or every one of a row is 0. "
              "Subtract each row's largest score before it."),
        Wrong(given.softmax_down_the_columns, "the shares add up to 1 down each column, over those "
              "who ask. They should do so along each row, over those who are asked."),
        Wrong(given.softmax_one_sum_for_all, "there is one sum for the whole table. Each row is "
              "shared out by itself."),
        Wrong(given.softmax_one_maximum_for_all, "one maximum is subtracted from all rows. A row "
              "far below it is left with zeros only; take each row's own."),
        Wrong(given.softmax_clamped, "scores are clamped to a range where the exponential is "
              "safe. That changes the weights of large scores; a shift does not."),
        Wrong(given.softmax_without_exponential, "scores are divided by their sum without the "
              "exponential. Negative scores then give negative weights."),
        Wrong(given.softmax_maximum_at_least_zero, "the maximum that is subtracted is never below "
              "0. In a row of scores around -10,000 every exponential is 0 then: subtract the "
              "row's own maximum, whatever its sign."),
        Wrong(given.softmax_added_to_the_sum, "a small number is added to the sum, so the shares "
              "add up to less than 1. Treat the row without anything to see by itself instead."),
        Wrong(given.softmax_no_keepdim, "one maximum per row has shape (S,), and torch lines that "
              "up with the columns. With keepdim=True it is (S, 1), one for each row."),
        Wrong(given.softmax_max_without_values, "torch's max along an axis gives two things, the "
              "values and where they stand. Take .values of it, or use amax."),
        Wrong(given.softmax_empty_rows_nan, "a row of nothing but minus infinity gives nan: "
              "infinity minus infinity. It should be all zeros."),
        Wrong(given.softmax_empty_rows_uniform, "a row in which everything is hidden comes out as "
              "equal shares. That is what a large negative number in place of minus infinity "
              "gives, or 1 / T in place of nan. It should be all zeros."),
    ),
)  # fmt: skip


# --- 1.4 one head ---------------------------------------------------------------------------------


def _attend_case(rng: random.Random) -> Case:
    s, t, d, e = rng.sample([2, 3, 4, 5, 6, 7], 4)
    normal = _normal(rng)
    order_T = torch.tensor([*range(1, t), 0])  # every key and every value moves
    return {"q_SD": normal(s, d), "k_TD": normal(t, d), "v_TE": normal(t, e), "_order_T": order_T}


def _attend_by_hand(q_SD: Tensor, k_TD: Tensor, v_TE: Tensor) -> Tensor:
    """Number by number."""
    out_SE = torch.zeros(len(q_SD), v_TE.shape[1], dtype=torch.float64)
    for s, q_D in enumerate(q_SD.tolist()):
        scores = [sum(a * b for a, b in zip(q_D, k_D, strict=True)) / math.sqrt(len(q_D))
                  for k_D in k_TD.tolist()]  # fmt: skip
        lifted = [math.exp(score) for score in scores]
        for t, one in enumerate(lifted):
            out_SE[s] += one / sum(lifted) * v_TE[t]
    return out_SE


def _run_within(answer: Answer, case: Case) -> Outcome:
    out_SE = _matrix(answer(case["q_SD"], case["k_TD"], case["v_TE"]), "out_SE")
    low_E, high_E = case["v_TE"].amin(0), case["v_TE"].amax(0)
    return {
        "numbers below the smallest value of their channel": int((out_SE < low_E - 1e-9).sum()),
        "numbers above the largest value of their channel": int((out_SE > high_E + 1e-9).sum()),
    }


def _run_reordered(answer: Answer, case: Case) -> Outcome:
    q, k, v, order = case["q_SD"], case["k_TD"], case["v_TE"], case["_order_T"]
    before = _matrix(answer(q, k, v), "out_SE")
    keys_only = _matrix(answer(q, k[order], v), "out_SE")
    return {
        "out_SE": answer(q, k[order], v[order]),
        "the output moves when only the keys are put in another order": bool(
            ((keys_only - before).abs() > 1e-6).any()
        ),
        "_before": before,
    }


def _expect_reordered(_case: Case, seen: Outcome) -> Outcome:
    moves = "the output moves when only the keys are put in another order"
    return {"out_SE": seen["_before"], moves: True}


ATTEND = Exercise(
    number="1.4",
    title="One head",
    name="attend",
    points=3,
    minutes=15,
    difficulty=2,
    cases=_attend_case,
    forbids=("scaled_dot_product_attention",),
    laws=(
        agrees("the same as number by number", _attend_by_hand, "q_SD", "k_TD", "v_TE",
               gives="out_SE"),
        Law("a mixture lies between the values", _run_within,
            lambda _, seen: dict.fromkeys(seen, 0)),
        Law("the order of the pairs does not matter, the pairs do", _run_reordered,
            _expect_reordered),
    ),
    hints=(
        "Scores, weights, mixture: write the shape that each of the three should have before any "
        "code. The result has E channels. Whose width is E?",
        "Weights are shares of one query's attention: along which axis of (S, T) do they add up "
        "to 1? The divisor belongs to the scores, so it is made of D.",
        "weights_ST = (q_SD @ k_TD.T / q_SD.shape[1] ** 0.5).softmax(dim=1); return weights_ST @ "
        "v_TE",
    ),
    second=given.SECOND_ATTEND,
    wrong=(
        Wrong(given.attend_mixes_keys, "the keys are mixed. They only decide the weights; what "
              "flows is the values."),
        Wrong(given.attend_winner_takes_all, "each query gets the one value with the highest "
              "score. Attention mixes all of them, each by its weight."),
        Wrong(given.attend_unscaled, "the scores are not divided by the root of D."),
        Wrong(given.attend_by_d, "the scores are divided by D; it should be the root of D, as in "
              "1.2."),
        Wrong(given.attend_by_root_of_t, "the scores are divided by the root of T, the number of "
              "keys. A score adds up D products, one per channel."),
        Wrong(given.attend_causal, "some keys are hidden from some queries. Nothing is hidden "
              "here: every query may use all T pairs. (Chapter 2 hides some.)"),
        Wrong(given.attend_keys_ask, "the table of scores lies on its side: (T, S). Rows are those "
              "who ask: q_SD @ k_TD.T."),
        Wrong(given.attend_weights_only, "these are the weights, (S, T). What was asked for is "
              "what flows: the values mixed by them, (S, E)."),
        Wrong(given.attend_scaled_by_values, "the scores are divided by the root of E, the width "
              "of a value. A score adds up D products."),
        Wrong(given.attend_shares_over_queries, "the weights add up to 1 over the queries. Each "
              "query shares out its own attention, over the keys."),
        Wrong(given.attend_no_softmax, "there is no softmax: the scores themselves mix the values, "
              "so weights are negative and do not add up to 1."),
        Wrong(given.attend_never_divides_by_the_sum, "the exponentials are never divided by their "
              "sum, so the weights do not add up to 1."),
        Wrong(given.attend_plain_mean, "every value gets the same weight, whoever asks: the "
              "queries are not used."),
    ),
)  # fmt: skip


# --- 1.5 a key that gets picked -------------------------------------------------------------------

_UNSEEN = 200


def _key_case(rng: random.Random) -> Case:
    """Two kinds of query that have most in common, and the keys of the other tokens."""
    n, t = rng.sample([20, 24, 30, 36], 1)[0], rng.randint(3, 7)
    d = rng.choice([9, 11, 13])
    normal = _normal(rng)
    shared_D, one_D, other_D = torch.linalg.qr(normal(d, 3))[0].T

    def queries(own_D: Tensor, count: int) -> Tensor:
        return 3 * shared_D + 2 * own_D + 0.3 * normal(count, d)

    return {
        "wanted_ND": queries(one_D, n),
        "unwanted_ND": queries(other_D, n + 1),
        "others_TD": normal(t, d),
        "length": math.ceil(8 * d**0.5),
        "_unseen_wanted": queries(one_D, _UNSEEN),
        "_unseen_unwanted": queries(other_D, _UNSEEN),
    }


def _run_key(answer: Answer, case: Case) -> Outcome:
    names = "wanted_ND", "unwanted_ND", "others_TD", "length"
    key_D = answer(*(case[name] for name in names))
    d = case["others_TD"].shape[1]
    if not isinstance(key_D, Tensor) or key_D.shape != (d,) or not key_D.isfinite().all():
        raise NotData(f"your code returned {brief(key_D)}; expected {d} finite numbers: key_D.")
    keys_TD = torch.cat((case["others_TD"], key_D.double()[None]))

    def attention(queries_ND: Tensor) -> float:
        return (queries_ND @ keys_TD.T / d**0.5).softmax(-1)[:, -1].mean().item()

    return {
        "length of the key": key_D.double().norm().item(),
        "attention from unseen queries that want it": attention(case["_unseen_wanted"]),
        "attention from unseen queries that do not": attention(case["_unseen_unwanted"]),
        "_key_D": key_D,
    }


KEY = Exercise(
    number="1.5",
    title="A key that gets picked",
    name="design_key",
    points=4,
    minutes=20,
    difficulty=2,
    cases=_key_case,
    laws=(
        Law("the key is not longer than allowed", _run_key,
            lambda case, _: {"length of the key": AtMost(case["length"] * (1 + 1e-9))}),
        Law("those who want it pick it, the others do not", _run_key, lambda case, _: {
            "attention from unseen queries that want it": AtLeast(0.9),
            "attention from unseen queries that do not": AtMost(0.1)}),
    ),
    hints=(
        "A score is large when key and query point the same way. All queries here have something "
        "in common. If the key points along that, who picks it?",
        "What tells the two kinds apart? Look at the mean of each. Noise of single examples goes "
        "away in a mean.",
        "direction_D = wanted_ND.mean(0) - unwanted_ND.mean(0); return direction_D / "
        "direction_D.norm() * length",
    ),
    second=given.SECOND_KEY,
    wrong=(
        Wrong(given.key_mean_of_wanted, "the key points at the mean of the wanted queries, and "
              "most of that the unwanted ones have too, so they pick it as well. Point along what "
              "tells the two apart."),
        Wrong(given.key_mean_as_it_is, "the key is the mean of the wanted queries as it is. Most "
              "of that the unwanted ones have too, and it is shorter than it may be. Point along "
              "what tells the two apart, and use the length."),
        Wrong(given.key_difference_as_it_is, "the direction is right, but the key has the length "
              "that the difference happens to have. Stretch it: divide by its norm, then multiply "
              "by length."),
        Wrong(given.key_one_wanted_query, "the key is a copy of one wanted query, stretched: with "
              "what it shares with all others, and with its own noise."),
        Wrong(given.key_loud_everywhere, "the key is equally loud in every channel. That is a "
              "direction like any other; who picks it is left to chance."),
        Wrong(given.key_against_other_keys, "the key is set apart from the other keys. It is the "
              "queries that have to tell it apart."),
        Wrong(given.key_wrong_way_round, "the difference is the wrong way round: those who do not "
              "want it pick it."),
        Wrong(given.key_too_short, "the direction is right, but at length 1 the key whispers: the "
              "other keys drown it. Use the length that is allowed."),
        Wrong(given.key_too_long, "the key is longer than allowed. Cut it: divide by its norm, "
              "then multiply by length."),
    ),
)  # fmt: skip


# --- 1.6 train the three matrices -----------------------------------------------------------------

_N_KNOWN, _N_HELD_OUT, _N_LISTS = 100, 20, 1024
_BAR, _SAME = 0.8, "the same matrices from the same seed"
_ZEROS = "w_q or w_k is all zeros"
_SWAPPED = "it works with w_q and w_k exchanged"
_BY_HEART = "it answers a few lists of the training exactly, and no others"
_BY_CHANCE = "it finds the right pair about as often as chance does"


def _recall_case(rng: random.Random) -> Case:
    """Lists of pairs to learn from, and lists whose names occur in none of those."""
    width, n_pairs = rng.choice([8, 10, 12]), rng.choice([3, 4, 5])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    names = normal(_N_KNOWN + _N_HELD_OUT, width)
    turn = torch.linalg.qr(normal(width, width))[0]  # a name looks different in a question

    def lists(n: int, first: int, count: int) -> tuple[Tensor, ...]:
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


def _trained(answer: Answer, case: Case) -> list[Tensor]:
    inputs = (case[name] for name in ("pairs_NTC", "asks_NC", "answers_NE", "seed"))
    found = named(answer(*inputs), "w_q", "w_k", "w_v")
    w_q, w_k, w_v = (_matrix(w, name).double() for name, w in found.items())
    c, e = case["pairs_NTC"].shape[2], case["answers_NE"].shape[1]
    if w_q.shape != w_k.shape or w_q.shape[1] != c or tuple(w_v.shape) != (e, c):
        raise NotData(
            f"your code returned w_q {tuple(w_q.shape)}, w_k {tuple(w_k.shape)} and w_v "
            f"{tuple(w_v.shape)}; expected (D, {c}) twice, with one D for both, and ({e}, {c})."
        )
    return [w_q, w_k, w_v]


def _recalled(w_q: Tensor, w_k: Tensor, w_v: Tensor, lists: tuple[Tensor, ...]) -> list[Tensor]:
    """For each list: the attention on the right pair, and the cosine with the right word."""
    pairs_NTC, asks_NC, answers_NE, pick_N = lists
    scores_NT = torch.einsum("nd,ntd->nt", asks_NC @ w_q.T, pairs_NTC @ w_k.T)
    weights_NT = (scores_NT / w_q.shape[0] ** 0.5).softmax(-1)
    out_NE = torch.einsum("nt,nte->ne", weights_NT, pairs_NTC @ w_v.T)
    cosine_N = torch.nn.functional.cosine_similarity(out_NE, answers_NE)
    mass_N = weights_NT[torch.arange(len(pick_N)), pick_N]
    return [mass_N.nan_to_num(0.0), cosine_N.nan_to_num(0.0)]


def _run_recall(answer: Answer, case: Case) -> Outcome:
    """Train, then ask for names that no list of the training had; if found, train once more.

    An outcome that tells by itself what went wrong is returned alone: two trainings that fail in
    the same way need not agree in their numbers.
    """
    w_q, w_k, w_v = trained = _trained(answer, case)
    known_N, known_cosine_N = _recalled(w_q, w_k, w_v, case["_known"])
    mass_N, cosine_N = _recalled(w_q, w_k, w_v, case["_held_out"])
    n_pairs = case["pairs_NTC"].shape[1]
    seen = {
        "attention on the right pair, names of the training": _tenths(known_N),
        "attention on the right pair, names never seen": _tenths(mass_N),
        "cosine of what comes out with the right word": _tenths(cosine_N),
    }
    if min(seen.values()) >= _BAR:
        same = all(map(torch.equal, trained, _trained(answer, case)))
        return {**seen, _SAME: True} if same else {_SAME: False}
    if not (w_q.any() and w_k.any()):
        return {_ZEROS: True}
    if _tenths(_recalled(w_k, w_q, w_v, case["_held_out"])[0]) >= _BAR:
        return {_SWAPPED: True}
    exactly, nearly = (int((known_cosine_N > bar).sum()) for bar in (0.99, 0.9))
    if 2 <= exactly <= 32 and nearly < 2 * exactly:
        return {_BY_HEART: True}
    return {_BY_CHANCE: True} if known_N.mean() < 1 / n_pairs + 0.1 else seen


def _expect_recall(_case: Case, seen: Outcome) -> Outcome:
    faults = dict.fromkeys((_ZEROS, _SWAPPED, _BY_HEART, _BY_CHANCE), False)
    return {name: (faults | {_SAME: True}).get(name, AtLeast(_BAR)) for name in seen}


def _tenths(some_N: Tensor) -> float:
    """The mean, cut to one digit, so that two trainings that fail alike are told to be alike."""
    return max(0, math.floor(some_N.mean().item() * 10)) / 10


TRAIN = Exercise(
    number="1.6",
    title="Train the three matrices",
    name="train",
    points=5,
    minutes=25,
    difficulty=3,
    cases=_recall_case,
    n_cases=5,
    size=lambda case: case["pairs_NTC"].numel(),
    laws=(
        Law("names that were never seen are found, by the seed alone", _run_recall,
            _expect_recall),
    ),
    hints=(
        "It is the training loop of the chapter with another loss. What comes out should be "
        "answers_NE; how far off it is, squared and averaged, is a loss.",
        "Draw three random matrices from a generator with the seed, call requires_grad_() on each, "
        "give them to torch.optim.Adam with lr=0.05, and take a hundred steps on 64 lists drawn "
        "at random. Attention: einsum('nd,ntd->nt', q, k), divide by the root of D, softmax, "
        "einsum('nt,nte->ne', weights, v).",
        "Each step: i = torch.randint(len(pairs_NTC), (64,), generator=rng); q = asks_NC[i] @ "
        "w_q.T; k = pairs_NTC[i] @ w_k.T; v = pairs_NTC[i] @ w_v.T; weights and out as in hint 2; "
        "loss = ((out - answers_NE[i]) ** 2).mean(); optimizer.zero_grad(); loss.backward(); "
        "optimizer.step(). Return the three, detached.",
    ),
    second=given.SECOND_TRAIN,
    wrong=(
        Wrong(given.train_never_steps, "it has not learned to look. Did the optimizer get all "
              "three matrices, is step() called in the loop, does the softmax run over the T pairs "
              "of a list, and are the steps large enough? Adam's own lr, 0.001, needs far more of "
              "them than 0.05, and SGD more still."),
        Wrong(given.train_starts_at_zero, "the matrices begin as zeros. The slope of w_q is made "
              "of w_k and the other way round, so neither can begin to move. Draw small random "
              "numbers."),
        Wrong(given.train_never_zeroes_slopes, "the slopes of all steps add up: backward() adds to "
              "what is there. Call optimizer.zero_grad() in every step."),
        Wrong(given.train_softmax_over_lists, "the softmax runs over the lists of a batch. A "
              "question shares its attention among the T pairs of its own list: the last axis."),
        Wrong(given.train_without_slopes, "torch was not told to keep slopes. Call "
              "requires_grad_() on each matrix before it goes to the optimizer."),
        Wrong(given.train_in_float32, "the matrices are float32 and the lists float64. Draw them "
              "with dtype=torch.float64."),
        Wrong(given.train_one_matrix_for_two, "queries and keys come from one matrix. A name looks "
              "different in a question and in a list, so each needs a reading of its own."),
        Wrong(given.train_few_lists, "it trained on a handful of lists again and again and knows "
              "those by heart. Draw other lists for each step."),
        Wrong(given.train_forgets_values, "attention finds the right pair, but w_v does not hand "
              "over the word. Train all three matrices, and return the trained ones."),
        Wrong(given.train_swaps_q_and_k, "w_q and w_k came back in each other's place."),
        Wrong(given.train_ignores_the_seed, "two trainings with one seed gave different matrices. "
              "Draw all random numbers from a generator that the seed was given to."),
    ),
)  # fmt: skip

EXERCISES = (PROJECT, SCORES, SOFTMAX, ATTEND, KEY, TRAIN)
