"""Selectors: one a file, all of them here."""

from __future__ import annotations

from planner.errors import InvalidOption
from planner.selection.base import Selection, Selector
from planner.selection.best import Best
from planner.selection.confidence import Confidence
from planner.selection.judge import Judge
from planner.selection.majority import Majority
from planner.selection.weighted import Weighted

SELECTORS: dict[str, Selector] = {
    selector.name: selector for selector in (Majority(), Weighted(), Best(), Confidence(), Judge())
}


def selector(name: str) -> Selector:
    """The selector of that name."""
    if name not in SELECTORS:
        known = ", ".join(SELECTORS)
        raise InvalidOption(f"selector must be one of {known}, not {name!r}.", "longthink.selector")
    return SELECTORS[name]


__all__ = ["SELECTORS", "Selection", "Selector", "selector"]
