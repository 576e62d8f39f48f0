"""Search over partial answers: what all tree strategies share.

A node is a candidate, and its children continue it by one step. A strategy says what to grow; it
hears of each node once that is there and graded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from math import exp, isfinite
from sys import maxsize
from typing import Literal

from planner.domain import Candidate, Expand, Finish, Grade, Path, Result, Stopped, Task
from planner.search.base import Setup
from planner.search.gathering import Gathering
from planner.stopping import View

MAX_STEPS = 40
"""A node as deep as this is continued to the end in one go (as in search-and-learn)."""


_MARGIN = 4 / 3
"""A candidate is taken to be so much longer than is likely."""

_LINGERING = 0.1
"""One that is longer than that already is taken to go on for such a share of its length, and once
it is far longer, for as much as it was longer: what was expected said nothing of this question."""


class Tree(Gathering):
    """Grows nodes and has them graded, until there are enough finished candidates.

    A strategy calls `_grow` from its constructor and from `_grown` and `_lost`, in which it hears
    how each growth went; one that decides only when there is room overrides `_refill`.
    """

    _steers = True
    """Whether scores say where it goes on, and not only which answer is chosen."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._grades = setup.grades and (self._steers or setup.selector.needs_scores)
        self._waiting: deque[Task] = deque()
        self._flying: dict[str, Task] = {}
        self._last_grades: dict[str, Task] = {}
        """What else is in flight: grades of finished candidates, which are never surplus."""
        self._children: Counter[Path] = Counter()
        self._ungraded = 0
        """Finished candidates whose grade is still to come."""
        self._spent = setup.spent
        """The completion tokens of all that it grew, and of what was spent before."""

    @abstractmethod
    def _grown(self, node: Candidate) -> None:
        """A node has come to be; it is graded if it may be and there is a reward model."""

    @abstractmethod
    def _lost(self, task: Expand) -> None:
        """A node could not come to be: its growth failed or was cut."""

    def _answers(self, path: Path) -> bool:
        """Whether the node there is an answer, once it has finished. What isn't isn't graded."""
        return True

    def _affordable(self, depth: float) -> int:
        """How many nodes of `depth` tokens each the budget can bring to their ends; at least one.

        A search that is as wide as that from the start, and narrower as it learns that the answer
        is longer than most, has some whole answers in the end, not the beginnings of many.
        """
        setup = self.setup
        if setup.tokens is None or setup.likely is None:
            return maxsize
        whole = max(_MARGIN * setup.likely, setup.long or 0)
        rest = max(whole - depth, _LINGERING * depth, depth - whole, 1.0)
        ends = (setup.tokens - self._spent) / rest
        # A plan may be half a candidate too wide: there is time to narrow it.
        return max(1, int(ends) if depth else round(ends))

    def _refill(self) -> None:
        """Called where nothing waits and there is room: the chance to `_grow` something."""

    def _grow(self, parent: Candidate | None, count: int = 1, *, whole: bool = False) -> None:
        """Have `count` children of `parent` (of the query, if None) sampled: steps, or all else."""
        path: Path = parent.path if parent else ()
        for _ in range(count):
            child = (*path, self._children[path])
            self._children[path] += 1
            until: Literal["step", "end"] = "end" if whole or len(child) >= MAX_STEPS else "step"
            self._waiting.append(Expand(child, parent, until=until))

    def _write(self, task: Expand) -> None:
        """Have something other than a child's next step written, a whole answer say."""
        self._waiting.append(task)

    @property
    def needs_logprobs(self) -> bool:
        # Without a reward model the model's own confidence has to say what is promising.
        return super().needs_logprobs or (self._steers and not self.setup.grades)

    def _ask(self, room: int) -> Sequence[Task]:
        tasks: list[Task] = []
        while len(tasks) < room:
            if not self._waiting and not self._over:
                self._refill()
            if not self._waiting:
                break
            task = self._waiting.popleft()
            self._flying_like(task)[task.id] = task
            tasks.append(task)
        return tasks

    def tell(self, task: Task, result: Result) -> None:
        was_over = self._over
        super().tell(task, result)
        if self._over and not was_over:
            self._waiting = deque(task for task in self._waiting if _counts(task))

    def _tell(self, task: Task, result: Result) -> None:
        if self._flying_like(task).pop(task.id, None) is None:
            return
        if isinstance(task, Expand):
            self._tell_growth(task, result)
        elif isinstance(task, Grade):
            self._tell_grade(task, result)

    def _tell_growth(self, task: Expand, result: Result) -> None:
        self._spent += result.cost.completion_tokens
        node = result.candidate
        if node is not None and not self._answers(task.path):
            self._tally.keep(node)
        elif node is not None:
            self._tally.add(node)
        if node is None or result.status != "done" or node.finish is Finish.BUDGET:
            if not self._over:
                self._lost(task)
        elif not (self._grades and self._answers(task.path)):
            self._arrive(node)
        elif node.finished or not self._over:
            self._waiting.appendleft(Grade(node))
            self._ungraded += node.finished

    def _tell_grade(self, task: Grade, result: Result) -> None:
        self._ungraded -= task.candidate.finished
        graded = result.candidate if result.status == "done" else None
        if graded is not None and graded.finished:
            self._tally.grade(graded)
        self._arrive(graded or task.candidate)

    def _arrive(self, node: Candidate) -> None:
        if not self._over:
            self._grown(node)

    def surplus(self) -> Sequence[Task]:
        return tuple(self._flying.values()) if self._over else ()

    def _flying_like(self, task: Task) -> dict[str, Task]:
        return self._last_grades if _counts(task) else self._flying

    @property
    def _complete(self) -> bool:
        if self._over:
            return self._ungraded == 0
        return not (self._waiting or self._flying or self._last_grades) and self._exhausted

    @property
    def _exhausted(self) -> bool:
        """Whether nothing more can be grown, given that nothing waits and nothing is in flight."""
        return True

    @property
    def _over(self) -> bool:
        """Whether it is enough: a rule has fired, or all candidates are there."""
        return self._stopped is not None or self._tally.finished >= self.setup.candidates

    def _verdict(self) -> Stopped | None:
        remaining = self._remaining + self._ungraded
        return self.setup.stop.verdict(View(self._tally, self.setup.selector, remaining))

    @property
    def _remaining(self) -> int:
        """How many more candidates may finish at most."""
        return max(0, self.setup.candidates - self._tally.finished)


def value(node: Candidate) -> float:
    """How promising a node is, in [0, 1]: its score, or else the model's own confidence.

    That is the geometric mean of its tokens' probabilities.
    """
    if node.score is not None and isfinite(node.score):
        return node.score
    if node.logprob is None or not isfinite(node.logprob) or not node.token_ids:
        return 0.5
    return exp(min(0.0, node.logprob / len(node.token_ids)))


def _counts(task: Task) -> bool:
    """Whether a task in flight can still change the outcome once the search is over."""
    return isinstance(task, Grade) and task.candidate.finished
