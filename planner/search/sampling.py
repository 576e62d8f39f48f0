"""Independent samples of whole answers: what `single`, `majority` and `best_of_n` share."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from planner.domain import Candidate, Expand, Grade, Result, Stopped, Task
from planner.search.base import Setup
from planner.search.gathering import Gathering
from planner.stopping import View


class Sampling(Gathering):
    """Up to `candidates` samples side by side, graded where the selector needs it, until a rule
    fires.

    A stopping rule that says how soon it could fire at the earliest bounds what is in flight:
    samples beyond that would be wasted if it did. Where candidates are to be given up under a
    floor, no more are in flight until it is found than it takes to find it.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._warm_up = setup.stop.warm_up(setup.candidates)
        self._asked = 0
        self._ended = 0
        self._sampling: dict[str, Expand] = {}
        self._grading: dict[str, Grade] = {}
        self._to_grade: deque[Candidate] = deque()

    @property
    def _wants_scores(self) -> bool:
        return self.setup.grades and self.setup.selector.needs_scores

    def _ask(self, room: int) -> Sequence[Task]:
        grades = [Grade(self._to_grade.popleft()) for _ in range(min(room, len(self._to_grade)))]
        self._grading.update((task.id, task) for task in grades)
        samples: list[Expand] = []
        if self._stopped is None:
            wanted = min(self._samples_wanted(), room - len(grades))
            floor = self._warm_up.floor
            samples = [Expand((self._asked + index,), floor=floor) for index in range(wanted)]
            self._sampling.update((task.id, task) for task in samples)
            self._asked += len(samples)
        return [*grades, *samples]

    def _tell(self, task: Task, result: Result) -> None:
        if self._sampling.pop(task.id, None) is not None:
            self._tell_sample(result)
        elif self._grading.pop(task.id, None) is None:
            return
        elif result.candidate is not None and result.status == "done":
            self._tally.grade(result.candidate)

    def _verdict(self) -> Stopped | None:
        return self.setup.stop.verdict(self._view())

    def surplus(self) -> Sequence[Task]:
        return () if self._stopped is None else tuple(self._sampling.values())

    @property
    def _complete(self) -> bool:
        if self._to_grade or self._grading:
            return False
        return self._stopped is not None or self._ended == self.setup.candidates

    def _tell_sample(self, result: Result) -> None:
        self._ended += 1
        candidate = result.candidate
        if candidate is None or result.status == "failed":
            return
        self._tally.add(replace(candidate, score=None))
        if not candidate.finished:
            return
        self._warm_up.saw(candidate)
        if self._wants_scores:
            self._to_grade.append(candidate)

    def widen(self, candidates: int) -> bool:
        if self._stopped is Stopped.CONFIDENT or candidates <= self.setup.candidates:
            return False
        # What was certain of so many candidates isn't of more.
        self._stopped = None
        self.setup = replace(self.setup, candidates=candidates)
        return True

    def _remarks(self) -> tuple[str, ...]:
        if not self.setup.stop.needs_logprobs:
            return ()
        if not self._warm_up.missing and self._warm_up.floor is None:
            return ("The workers gave no log-probabilities, so no candidate could be given up.",)
        given_up = self._tally.doubtful
        return (f"{given_up} of {self._ended} candidates were given up early for low confidence.",)

    def _samples_wanted(self) -> int:
        """How many more samples to start now."""
        left = self.setup.candidates - self._asked
        bounds = (self.setup.stop.horizon(self._view()), self._warm_up.missing or None)
        together = min((bound for bound in bounds if bound is not None), default=None)
        if together is None:
            return left
        return max(0, min(left, together - len(self._sampling)))

    def _view(self) -> View:
        ungraded = self._tally.finished - self._tally.graded if self._wants_scores else 0
        return View(
            self._tally,
            self.setup.selector,
            self.setup.candidates - self._ended + ungraded,
        )
