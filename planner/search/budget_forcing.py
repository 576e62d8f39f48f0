"""Budget forcing (s1: Muennighoff et al., arXiv 2501.19393): one long thought, made longer.

Where the model would end, "Wait" is put there instead and it goes on, so that it looks again at
what it wrote; at the limit it has to answer. Only what the model itself ended is extended: what
ran out of room has none to look again. Chains run side by side, and what they come to votes: in
the plain form after every extension, with thoughts only what follows them.
"""

from __future__ import annotations

from planner.domain import Candidate, Expand, Finish, Path
from planner.prompts import WAIT
from planner.search.base import Setup
from planner.search.tree import Tree

EXTENSIONS = 3
THINKING_ENDS = "</think>"

_ANSWER = 1
"""The last index in the path of an answer; a thought that goes on has 0."""


class BudgetForcing(Tree):
    """The plain form, for models that don't mark their thinking: the whole answer goes on."""

    _steers = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        for chain in range(-(-setup.candidates // (EXTENSIONS + 1))):
            self._write(Expand((chain,)))

    def _grown(self, node: Candidate) -> None:
        if node.finish is Finish.STOP and len(node.path) <= EXTENSIONS:
            self._write(Expand((*node.path, 0), node, append=f"\n{WAIT}\n"))

    def _lost(self, task: Expand) -> None:
        """The chain ends with what it had."""


class ThinkingBudgetForcing(Tree):
    """For models that end their thinking with `</think>`: it is extended before they may answer.

    All thoughts of a chain together take at most three quarters of `max_tokens`, so that its answer
    has at least the last quarter, less the few tokens that end the thinking. A thought that its
    length cut is answered from at once, and so is the one before an extension that failed.

    A thought is no candidate: it isn't counted, graded or voted with. Where nothing better comes of
    it, it is what there is.
    """

    _steers = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._for_thoughts = max(1, setup.query.sampling.max_tokens * 3 // 4)
        for chain in range(setup.candidates):
            self._think((chain,), None, self._for_thoughts)

    def _answers(self, path: Path) -> bool:
        return len(path) > 1 and path[-1] == _ANSWER

    def _grown(self, node: Candidate) -> None:
        if self._answers(node.path):
            return
        wait = f"\n{WAIT}"
        # No text has more tokens than letters, of such as these.
        left = self._for_thoughts - len(node.token_ids) - len(wait)
        if node.finish is Finish.STOP and len(node.path) <= EXTENSIONS and left > 0:
            self._think((*node.path, 0), node, left, wait)
        else:
            self._answer(node)

    def _lost(self, task: Expand) -> None:
        if task.parent is not None and not self._answers(task.path):
            self._answer(task.parent)

    def _think(self, path: Path, before: Candidate | None, most: int, append: str = "") -> None:
        self._write(
            Expand(
                path,
                before,
                append=append,
                stop=(THINKING_ENDS,),
                counts=False,
                max_tokens=most,
            )
        )

    def _answer(self, thought: Candidate) -> None:
        self._write(Expand((*thought.path, _ANSWER), thought, append=f"\n{THINKING_ENDS}\n\n"))
