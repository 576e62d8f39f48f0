"""Budget forcing (s1: Muennighoff et al., arXiv 2501.19393): one long thought, made longer.

Where the model would end, "Wait" is put there instead and it goes on, so that it looks again at
what it wrote; at the limit it has to answer. Chains of it run side by side, and what each comes
to after every extension votes.
"""

from __future__ import annotations

from planner.domain import Candidate, Expand, Path
from planner.prompts import WAIT
from planner.search.base import Setup
from planner.search.tree import Tree

EXTENSIONS = 3
THINKING_ENDS = "</think>"


class BudgetForcing(Tree):
    """The plain form, for models that don't mark their thinking: the whole answer goes on."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        for chain in range(-(-setup.candidates // (EXTENSIONS + 1))):
            self._write(Expand((chain,)))

    def _grown(self, node: Candidate) -> None:
        if len(node.path) <= EXTENSIONS:
            self._write(Expand((*node.path, 0), node, append=f"\n{WAIT}\n"))

    def _lost(self, task: Expand) -> None:
        """The chain ends with what it had."""


class ThinkingBudgetForcing(Tree):
    """For models that end their thinking with `</think>`: it is extended before they may answer.

    A thought is no answer, but where nothing better comes of it, it is what there is.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        for chain in range(setup.candidates):
            self._write(Expand((chain,), stop=(THINKING_ENDS,)))

    def _answers(self, path: Path) -> bool:
        return len(path) > EXTENSIONS + 1

    def _grown(self, node: Candidate) -> None:
        if len(node.path) <= EXTENSIONS:
            self._write(Expand((*node.path, 0), node, append=f"\n{WAIT}", stop=(THINKING_ENDS,)))
        elif len(node.path) == EXTENSIONS + 1:
            self._write(Expand((*node.path, 0), node, append=f"\n{THINKING_ENDS}\n\n"))

    def _lost(self, task: Expand) -> None:
        """The chain ends with what it had."""
