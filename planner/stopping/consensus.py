"""Consensus: stop after so many equal answers in a row.

Dynasor (Fu et al., arXiv 2412.20993) asks one chain of thought for its answer again and again and
stops when that no longer changes: after 8, 5, 3 or 2 equal answers, by effort. Here the answers are
those of the candidates, in the order in which they finish. A run may begin anywhere, unlike the
windows of ESC; another answer, or none, ends it.
"""

from __future__ import annotations

from planner.domain import Stopped
from planner.stopping.base import View


class Consensus:
    """Stop once the latest `answers` candidates (5) all give the same answer."""

    def __init__(self, answers: int = 5) -> None:
        self.answers = answers

    def verdict(self, view: View) -> Stopped | None:
        if view.tally.streak >= self.answers:
            return Stopped.CONFIDENT
        return None

    def horizon(self, view: View) -> int | None:
        return max(1, self.answers - view.tally.streak)
