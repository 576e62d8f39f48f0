"""Diverse verifier tree search (Beeching et al., search-and-learn): beams that never mix.

N / M independent subtrees. Each samples M continuations of its node, keeps the best, and so on.
Where the best has finished, that was the last step: all M are answers then, and those that haven't
finished are written to their ends. None waits for another, and none takes another's candidates: one
that finished and wasn't the best counts against the M of its own.
"""

from __future__ import annotations

from collections import Counter

from planner.domain import Candidate, Expand, Path
from planner.search.base import Setup
from planner.search.beam import BEAM_WIDTH
from planner.search.levels import unfinished
from planner.search.tree import Tree, value


class Dvts(Tree):
    """N / M greedy searches side by side, each M wide (M = 4)."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        candidates = min(setup.candidates, self._affordable(0))
        self._width = min(BEAM_WIDTH, candidates)
        self._subtrees = -(-candidates // self._width)
        self._level: dict[int, list[Candidate]] = {}
        self._awaited: Counter[int] = Counter(map(self._subtree, zip(range(candidates))))
        """How many children of each subtree are still to be heard of."""
        self._left = Counter(self._awaited)
        """How many candidates each subtree may still come to."""
        self._grow(None, candidates)

    def _grown(self, node: Candidate) -> None:
        self._level.setdefault(self._subtree(node.path), []).append(node)
        self._heard(node.path)

    def _lost(self, task: Expand) -> None:
        self._heard(task.path)

    def _heard(self, path: Path) -> None:
        """Once all children in a subtree have been heard of, the best of them goes on, or all."""
        subtree = self._subtree(path)
        self._awaited[subtree] -= 1
        if self._awaited[subtree]:
            return
        level = sorted(self._level.pop(subtree, []), key=lambda node: (-value(node), node.path))
        growing = unfinished(level)
        self._left[subtree] -= len(level) - len(growing)
        if not growing or not self._left[subtree]:
            return
        subtrees = 1 + sum(count > 0 for count in self._awaited.values())
        afforded = max(1, self._affordable(len(growing[0].token_ids)) // subtrees)
        most = min(self._width, self._left[subtree], afforded)
        if level[0].finished:
            for node in growing[:most]:
                self._grow(node, whole=True)
            self._awaited[subtree] = min(most, len(growing))
        else:
            self._grow(level[0], most)
            self._awaited[subtree] = most

    def _subtree(self, path: Path) -> int:
        """Which subtree a node belongs to: by its first step, as the steps are dealt out."""
        return path[0] % self._subtrees
