"""The book's schematics: each a function from a config's real shapes to a drawing.

A drawing shows itself in a notebook, in light and in dark; its title says what to see in it, `alt`
says it to who cannot see it, and `save` writes it as SVG.
"""

from kvlab.view.schematics.attention import mask, meeting
from kvlab.view.schematics.calls import phases
from kvlab.view.schematics.drawing import Drawing
from kvlab.view.schematics.guessing import guesses
from kvlab.view.schematics.heads import building
from kvlab.view.schematics.holding import four_ways
from kvlab.view.schematics.layers import block
from kvlab.view.schematics.memory import cache_in_memory
from kvlab.view.schematics.model import PLACES, whole
from kvlab.view.schematics.paging import block_map, strips
from kvlab.view.schematics.turning import rope_arrows

__all__ = [
    "PLACES",
    "Drawing",
    "block",
    "block_map",
    "building",
    "cache_in_memory",
    "four_ways",
    "guesses",
    "mask",
    "meeting",
    "phases",
    "rope_arrows",
    "strips",
    "whole",
]
