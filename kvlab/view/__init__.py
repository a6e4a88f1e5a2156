"""Figures and widgets of the book; they need its extra dependencies (`kvlab[book]`)."""

from kvlab.view.cache_grid import CacheGrid
from kvlab.view.panel import Panel
from kvlab.view.pruning import Pruning

__all__ = ["CacheGrid", "Panel", "Pruning"]
