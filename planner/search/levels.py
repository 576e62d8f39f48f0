"""Search level by level: every node of a depth is there before it is decided what grows next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from statistics import fmean

from planner.domain import Candidate, Expand
from planner.search.base import Setup
from planner.search.tree import Tree


class Levels(Tree):
    """Starts `candidates` wide, or as wide as the budget lets it be, and gets narrower with that.
    A strategy says which nodes of a level grow, and how many children each has.

    Nodes of a level are handed over in the order of their paths, whatever order they came in.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._level: list[Candidate] = []
        self._planned = min(setup.candidates, self._affordable(0))
        """How many candidates it is to come to: what the budget can bring to their ends."""
        self._afforded = self._planned
        """The same for the nodes of the present level. What is left over is kept for long ones."""
        self._awaited = self._planned
        self._grow(None, self._planned)

    @abstractmethod
    def _next_level(self, level: Sequence[Candidate]) -> Sequence[tuple[Candidate, int]]:
        """The nodes of this level that grow, each with the number of its children."""

    def _grown(self, node: Candidate) -> None:
        self._level.append(node)
        self._end_level()

    def _lost(self, task: Expand) -> None:
        self._end_level()

    def _end_level(self) -> None:
        """Once all of a level have been heard of, starts the next."""
        self._awaited -= 1
        if self._awaited:
            return
        level = sorted(self._level, key=lambda node: node.path)
        self._level = []
        if growing := unfinished(level):
            depth = fmean(len(node.token_ids) for node in growing)
            self._afforded = min(self._afforded, self._affordable(depth))
        for node, share in self._next_level(level):
            self._grow(node, share)
            self._awaited += share

    @property
    def _width(self) -> int:
        """How many candidates are still to finish."""
        return min(self._planned - self._tally.finished, self._afforded)


def unfinished(level: Sequence[Candidate]) -> list[Candidate]:
    """The nodes that can be continued."""
    return [node for node in level if not node.finished]
