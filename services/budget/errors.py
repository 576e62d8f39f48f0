"""What opening a budget can run into, besides a Redis that doesn't answer."""

from __future__ import annotations

from planner.errors import LongthinkError


class BudgetConflict(LongthinkError):
    """The budget is open already, with other limits or under another parent."""


class BudgetRefused(LongthinkError):
    """The parent has ended, or has less left than the child would set aside."""
