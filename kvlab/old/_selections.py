"""Selections of elements as they were: functions of (score, place, ripe, sparsity)."""

import inspect
import warnings

import torch


def as_rule(select):
    """A function of the sparsity that gives a rule; the old form is made one, with a warning."""
    if _n_asked(select) != 4:
        return select
    name = getattr(select, "__name__", type(select).__name__)
    warnings.warn(
        f"The selection {name} takes (score, place, ripe, sparsity). A selection is a function of "
        "the sparsity now and gives a rule, an object with `unit` and `mask(score)`: see "
        "docs/how-to-add-a-format.md. The old form will go with the next release.",
        FutureWarning,
        stacklevel=4,
    )

    def rule(sparsity):
        return _Selected(select, sparsity)

    rule.__name__ = name
    return rule


def _n_asked(select):
    """How many arguments a function cannot do without."""
    try:
        asked = inspect.signature(select).parameters.values()
    except (TypeError, ValueError):
        return 0
    return sum(
        one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        for one in asked
    )


class _Selected:
    """An old selection as a rule without a form of its own: it sees the tokens that may lose."""

    unit = 1

    def __init__(self, select, sparsity):
        self._select, self._sparsity = select, sparsity

    def mask(self, score):
        n_slots = score.shape[2] if score.dim() == 4 else 1
        place = torch.arange(n_slots, device=score.device).expand(*score.shape[:2], n_slots)
        ripe = torch.full(score.shape[:1], n_slots, device=score.device)
        keep = self._select(score, place, ripe, self._sparsity)
        return keep.expand_as(score) if score.dim() == 4 else keep[:, :, 0]
