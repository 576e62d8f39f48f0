"""What all strategies share: a tally of what has finished, and the outcome chosen from it.

Answers that are new to the tally are compared with the others wherever they could be the same in
another form; one comparison is in flight at a time, and a search isn't done before it has ended.
Nor does a rule say anything while answers await comparison: the votes may not be what they seem.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from planner.domain import Outcome, Result, Stopped, Task, Verify
from planner.equivalence import Comparisons
from planner.search.base import Search, Setup
from planner.tally import Tally

_REMARKS = 16
"""What a reply says of how its answers compared, at most."""


class Gathering(Search):
    """A search whose finished candidates are tallied, and whose selector chooses among them."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        code = setup.query.code
        self._tally = Tally(code=code is not None)
        self._stopped: Stopped | None = None
        self._comparing: Verify | None = None
        self._comparisons = Comparisons(code)
        self._remarks_on_answers: dict[str, None] = {}

    @abstractmethod
    def _ask(self, room: int) -> Sequence[Task]:
        """What else to start now, see `ask`."""

    @abstractmethod
    def _tell(self, task: Task, result: Result) -> None:
        """How any other task has ended, see `tell`."""

    @abstractmethod
    def _verdict(self) -> Stopped | None:
        """What the stopping rules say of the votes so far."""

    @property
    @abstractmethod
    def _complete(self) -> bool:
        """Whether it is done but for the comparison of answers."""

    def ask(self, room: int) -> Sequence[Task]:
        if room < 1 or self._comparing is not None or not self._comparisons.due:
            return self._ask(room)
        self._comparing = self._comparisons.question()
        return [self._comparing, *self._ask(room - 1)]

    def tell(self, task: Task, result: Result) -> None:
        if not isinstance(task, Verify):
            self._tell(task, result)
            if self.setup.verifies:
                for answer in self._tally.take_new():
                    self._comparisons.saw(answer)
        elif task == self._comparing:
            self._comparing = None
            for first, *others in result.same:
                for other in others:
                    self._tally.merge(first, other)
            self._comparisons.answered(task, self._tally.name)
            self._remark(*result.notes, result.error)
            if result.status == "cancelled":
                self._remark("The end came before all answers were compared.")
        if self._stopped is None and self._compared:
            self._stopped = self._verdict()

    @property
    def _compared(self) -> bool:
        """Whether it is known of all answers so far which of them are one."""
        return self._comparing is None and not self._comparisons.due

    @property
    def done(self) -> bool:
        return self._compared and self._complete

    @property
    def stopped(self) -> Stopped | None:
        return self._stopped or (Stopped.COMPLETE if self.done else None)

    def best(self) -> Outcome:
        chosen = self.setup.selector.choose(self._tally)
        ranked = tuple(group.best for group in chosen.ranked)
        notes = chosen.notes
        if not ranked and self._tally.partial is not None:
            ranked = (self._tally.partial,)
            notes = (*notes, "No candidate could finish; this is as far as the longest one came.")
        if self.setup.selector.needs_scores and not self.setup.grades:
            notes = ("The profile has no reward model.", *notes)
        if self.setup.query.code is not None and not self.setup.verifies:
            notes = (
                *notes,
                "There is nothing to run programs: only those of the same text are one.",
            )
        notes = (*notes, *self._remarks(), *self._remarks_on_answers)
        return Outcome(
            ranked=ranked,
            answer=chosen.ranked[0].answer if chosen.ranked else None,
            confidence=chosen.confidence,
            votes=tuple(group.vote() for group in chosen.ranked if group.answer is not None),
            stopped=self.stopped,
            selector=self.setup.selector.name,
            notes=notes,
            silent=self._tally.silent.count if self._tally.silent else 0,
        )

    def _remark(self, *remarks: str | None) -> None:
        """Have the reply say these of how the answers compared, once each; the first few do."""
        for remark in filter(None, remarks):
            if len(self._remarks_on_answers) < _REMARKS:
                self._remarks_on_answers.setdefault(remark)

    def _remarks(self) -> tuple[str, ...]:
        """What else the reply should say of how the search went."""
        if self.setup.stop.needs_logprobs:
            return ("Only independent samples can be given up for low confidence; these aren't.",)
        return ()

    def progress(self) -> tuple[int, int]:
        return self._tally.finished, self.setup.candidates
