"""Diverse verifier tree search (Beeching et al., search-and-learn): beams that never mix.

N / M independent subtrees. Each samples M continuations of its node, keeps the best, and so on;
the last step gives all of its M. None waits for another.
"""

from __future__ import annotations

from planner.domain import Candidate, Expand, Path
from planner.search.base import Setup
from planner.search.beam import BEAM_WIDTH
from planner.search.tree import Tree, value


class Dvts(Tree):
    """N / M greedy searches side by side, each M wide (M = 4)."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        candidates = min(setup.candidates, self._affordable(0))
        self._width = min(BEAM_WIDTH, candidates)
        self._subtrees = -(-candidates // self._width)
        self._level: dict[int, list[Candidate]] = {}
        self._awaited: dict[int, int] = {}
        self._grow(None, candidates)
        for root in range(candidates):
            subtree = self._subtree((root,))
            self._awaited[subtree] = self._awaited.get(subtree, 0) + 1

    def _grown(self, node: Candidate) -> None:
        self._level.setdefault(self._subtree(node.path), []).append(node)
        self._heard(node.path)

    def _lost(self, task: Expand) -> None:
        self._heard(task.path)

    def _heard(self, path: Path) -> None:
        """Once all children in a subtree have been heard of, the best of them goes on.

        It is over where the best has finished.
        """
        subtree = self._subtree(path)
        self._awaited[subtree] -= 1
        if self._awaited[subtree]:
            return
        level = self._level.pop(subtree, [])
        if not level:
            return
        best = min(level, key=lambda node: (-value(node), node.path))
        if not best.finished:
            subtrees = 1 + sum(map(bool, self._awaited.values()))
            share = self._affordable(len(best.token_ids)) // subtrees
            self._awaited[subtree] = max(1, min(self._width, share))
            self._grow(best, self._awaited[subtree])

    def _subtree(self, path: Path) -> int:
        """Which subtree a node belongs to: by its first step, as the steps are dealt out."""
        return path[0] % self._subtrees
