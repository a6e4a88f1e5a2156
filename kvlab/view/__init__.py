"""Figures and widgets of the book; they need its extra dependencies (`kvlab[book]`)."""

from kvlab.view.attention_grid import AttentionGrid
from kvlab.view.cache_grid import CacheGrid
from kvlab.view.panel import Panel

__all__ = ["AttentionGrid", "CacheGrid", "Panel"]
