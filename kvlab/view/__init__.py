"""Figures and widgets of the book; they need its extra dependencies (`book` in pyproject.toml)."""

from kvlab.view.attention_grid import AttentionGrid
from kvlab.view.bytes import StepBytes
from kvlab.view.cache_grid import CacheGrid
from kvlab.view.live_roofline import LiveRoofline
from kvlab.view.panel import Panel
from kvlab.view.pruning import Pruning
from kvlab.view.query_dial import QueryDial
from kvlab.view.timeline import Timeline

__all__ = [
    "AttentionGrid",
    "CacheGrid",
    "LiveRoofline",
    "Panel",
    "Pruning",
    "QueryDial",
    "StepBytes",
    "Timeline",
]
