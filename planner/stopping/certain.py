"""Stop when nothing still to come could change the answer. Exact: it never costs accuracy."""

from __future__ import annotations

from planner.domain import Stopped
from planner.stopping.base import View


class Certain:
    """The leader's lead exceeds what is still to come."""

    def verdict(self, view: View) -> Stopped | None:
        if view.selector.settled(view.tally, view.remaining):
            return Stopped.CERTAIN
        return None

    def horizon(self, view: View) -> int | None:
        return None
