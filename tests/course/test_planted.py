"""Wrong answers that once passed, or passed with some seeds, lose; right ones that lost pass."""

# ruff: noqa: E501

import pytest

from kvlab.course.author.lending import LentModel
from tests.conftest import tiny_model
from tests.course.answering import BY_NUMBER, local

WRONG = {
    "1.1, values as wide as keys": ("1.1", {"x_SC @ w_v.T": "(x_SC @ w_v.T)[:, : len(w_k)]"}),
    "2.4, moves of 1e-8 are rounding": ("2.4", {"1e-9": "1e-8"}),
    "2.4, the mean move": ("2.4", {".abs().max()": ".abs().mean()"}),
    "4.2, moves of 1e-7 are rounding": ("4.2", {"> 1e-9": "> 1e-7"}),
    "4.2, from rows of its own": (
        "4.2",
        {"before_SC = part": "x_SC = torch.randn_like(x_SC)\n    before_SC = part"},
    ),
    "4.4, in float64": ("4.4", {"logits_V / temp": "logits_V.double() / temp"}),
    "4.4, cold is greedy": ("4.4", {"temperature == 0": "temperature < 0.1"}),
    "6.1, the capacity is the class's": ("6.1", {"self.capacity = capacity": "KVCache.capacity = capacity"}),
    "6.5, the shape is the class's": ("6.5", {"self.shape = (": "ForkingCache.shape = ("}),
    "6.5, the last layer says how far": ("6.5", {"<= min(self.used)": "<= self.used[-1]"}),
    "8.1, types slide without a window": (
        "8.1",
        {"    if window:": "    if window or config.get('layer_types'):\n        window = window or 0"},
    ),
    "8.1, whole bytes of MLA": ("8.1", {"each * bits // 8": "each * (bits // 8)"}),
    "8.3, tables are the class's": ("8.3", {"self.table, self.n =": "Blocks.table, Blocks.n ="}),
    "8.4, what is known is the class's": (
        "8.4",
        {"self.known, self.name =": "SharingPool.known, SharingPool.name ="},
    ),
    "8.4, sums of what came before": (
        "8.4",
        {"tuple(tokens[:end])": "(sum(tokens[:end]), *tokens[end - self.size : end])"},
    ),
    "8.7, what is known is the class's": (
        "8.7",
        {"self.known, self.name =": "MyPool.known, MyPool.name ="},
    ),
    "9.4, stop strings are the class's": (
        "9.4",
        {"self.stops, self.held": "Shown.stops, self.held"},
    ),
    "9.4, the last one counts": ("9.4", {"text.find(s)": "text.rfind(s)"}),
    "9.4, two characters are held": ("9.4", {"(1, len(text) + 1)": "(1, min(3, len(text) + 1))"}),
    "9.4, in any letters": ("9.4", {"if s in text]": "if s.lower() in text.lower()]"}),
    "10.3, sizes are the class's": (
        "10.3",
        {"self.window, self.n_keep =": "DenseWindow.window, DenseWindow.n_keep ="},
    ),
    "11.3, any of equal masses": (
        "11.3",
        {"contest_GT.argsort(dim=-1, descending=True, stable=True)": "contest_GT.topk(n_tokens).indices"},
    ),
    "12.2, in the order of the text": (
        "12.2",
        {"(~keep_BGT).byte().argsort": "torch.where(keep_BGT, pos_BGT, 10**6).argsort"},
    ),
    "12.4, the width is the class's": ("12.4", {"self.width = x_TD": "PackedRows.width = x_TD"}),
    "13.4, equal slopes meet": ("13.4", {"s_way >= s_dense": "s_way > s_dense"}),
}  # fmt: skip


@pytest.mark.parametrize("planted", WRONG)
def test_each_loses_whatever_the_seed(planted):
    number, changes = WRONG[planted]
    exercise = BY_NUMBER[number]
    source = exercise.cell
    for right, wrong in changes.items():
        assert right in source
        source = source.replace(right, wrong)
    assert {local(exercise, source, seed).state for seed in (2, 3)} == {"failed"}


KL_IN_NUMPY = """
import numpy as np

def rank_words(weights_LHST, logits, n_tokens):
    def logs(hidden):
        raised_V = np.asarray(logits(hidden), dtype=float)
        raised_V = raised_V - raised_V.max()
        return raised_V - np.log(np.exp(raised_V).sum())

    full_V = logs(None)
    need = [(np.exp(full_V) * (full_V - logs(t))).sum() for t in range(n_tokens - 1)]
    looked_at = np.asarray(weights_LHST)[:, :, -1, :-1].mean((0, 1))
    return np.argsort(-looked_at), np.argsort(-np.array(need))
"""


@pytest.mark.parametrize("seed", [3, 11, 14, 15, 16, 21])
def test_what_costs_nothing_may_stand_in_any_order(seed):
    """With these seeds rounding decides about positions that nobody misses."""
    assert local(BY_NUMBER["2.5"], KL_IN_NUMPY, seed).passed


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (([[1, 2]], [[0, 1]]), r"tokens_BS is .*expected a tensor \(B, S\) of whole numbers"),
        ((None, None), r"tokens_BS is None; expected a tensor"),
        (("ids", "pos", "cache"), r"tokens_BS is 'ids'"),
    ],
)
def test_a_lent_model_says_what_it_takes(given, expected):
    with pytest.raises(ValueError, match=expected):
        LentModel(tiny_model())(*given)


def test_a_lent_models_cache_has_whole_numbers_as_sizes():
    lent = LentModel(tiny_model())
    for sizes, expected in (((None, 8), "batch is None"), ((1, "8"), "capacity is '8'")):
        with pytest.raises(ValueError, match=f"{expected}; expected a whole number of at least 1"):
            lent.new_cache(*sizes)
