"""Pruning a cache: what a score may look at, which tokens or elements stay, and doing it.

Three words. A score says what each token (or element, or channel) is worth, higher is better; it is
a function of `Evidence`. A selection turns scores into a mask of an exact size. A policy joins the
two with a budget, and says what is protected and when it is applied: `Evict` drops whole tokens,
`Sparsify` zeroes elements or channels. Protection is a part of the mask and never a large score, so
that no tie can evict a protected token. `scores` holds the published ones.
"""

from kvlab.old._names import former
from kvlab.prune.density import Density, density, seen_in
from kvlab.prune.elements import Elements, Sparsify, per_channel, per_token, whole_channels
from kvlab.prune.evidence import (
    Evidence,
    Needs,
    Score,
    attention_mass,
    check_window,
    needs,
    needs_of,
)
from kvlab.prune.masks import Masks, name_of, unwrapped
from kvlab.prune.parts import check_once, parts_of
from kvlab.prune.policy import Policy, Then
from kvlab.prune.pruner import Pruner, apply, prune
from kvlab.prune.tokens import (
    Evict,
    Layers,
    Select,
    across_heads,
    all_heads,
    per_head,
    ranks,
    uniform,
)

__all__ = [
    "Density", "Elements", "Evict", "Evidence", "Layers", "Masks", "Needs", "Policy", "Pruner",
    "Score", "Select", "Sparsify", "Then", "across_heads", "all_heads", "apply", "attention_mass",
    "check_once", "check_window", "density", "name_of", "needs", "needs_of", "parts_of",
    "per_channel", "per_head", "per_token", "prune", "ranks", "seen_in", "uniform", "unwrapped",
    "whole_channels",
]  # fmt: skip

__getattr__ = former(__name__, attention="attention_mass")
