"""Sequential correction (Madaan et al., arXiv 2303.17651; Snell et al., arXiv 2408.03314).

Chains side by side: each begins with an answer and has it shown to the model again and again, to
check every step and write the right one. All versions vote.
"""

from __future__ import annotations

from planner.domain import Candidate, Expand
from planner.search.base import Setup
from planner.search.correcting import Correcting

ROUNDS = 4
"""The versions that a chain comes to."""


class Refine(Correcting):
    """N / 4 chains of 4 versions each."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        for chain in range(-(-setup.candidates // ROUNDS)):
            self._write(Expand((chain,)))

    def _grown(self, node: Candidate) -> None:
        if len(node.path) < ROUNDS:
            self._correct((*node.path, 0), [node])

    def _lost(self, task: Expand) -> None:
        """The chain ends with the version before."""
