"""Tallies for the tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence

from planner.domain import Candidate, Finish
from planner.selection import selector
from planner.stopping import View
from planner.tally import Tally


def tally_of(answers: Sequence[int | None], scores: Sequence[float] | None = None) -> Tally:
    """A tally of finished candidates with these answers (None: gives none)."""
    tally = Tally()
    for index, answer in enumerate(answers):
        score = None if scores is None else scores[index]
        tally.add(finished(index, answer, score))
    return tally


def finished(index: int, answer: int | None, score: float | None = None) -> Candidate:
    """A finished candidate with this answer."""
    text = "no idea" if answer is None else f"#### {answer}"
    return Candidate((index,), text, finish=Finish.STOP, score=score)


def counted(v1: int, v2: int, all_of_them: int, remaining: int) -> View:
    """What a rule sees of so many votes for the first two, among so many candidates."""
    tally = Tally(finished=all_of_them, leader_count=v1, runner_up_count=v2)
    return View(tally, selector("majority"), remaining)
