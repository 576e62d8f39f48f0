"""No rule ends a search while answers await comparison, and none is forgotten for having waited."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from planner.domain import Candidate, Expand, Finish, Message, Query, Result, Stopped, Task, Verify
from planner.search import Search, Setup, search
from planner.selection import selector
from planner.stopping import parse

STRATEGIES = ["majority", "beam"]
FORMS = ("x+1", "1+x")


def begun(strategy: str, candidates: int) -> tuple[Search, list[Task]]:
    """A search that compares answers, and what it starts with."""
    query = Query((Message("user", "How many?"),))
    setup = Setup(query, candidates, selector("majority"), parse("certain"), False, verifies=True)
    under = search(strategy, setup)
    return under, list(under.ask(99))


def tell(under: Search, tasks: list[Task], answers: Sequence[str]) -> None:
    """The next of these tasks end with these answers."""
    for answer in answers:
        task = tasks.pop(0)
        assert isinstance(task, Expand)
        made = Candidate(task.path, f"#### {answer}", (1,), Finish.STOP)
        under.tell(task, Result(task.id, "done", made))


def comparison(under: Search) -> Verify:
    """The comparison that it asks for, alone."""
    (task,) = under.ask(99)
    assert isinstance(task, Verify)
    return task


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_certain_waits_for_the_comparison(strategy: str) -> None:
    """Six of twelve lead by three with two to come; but the others are one, and the two decide."""
    under, tasks = begun(strategy, 14)
    tell(under, tasks, ["7"] * 6 + [*FORMS] * 3)
    compared = comparison(under)
    assert (under.stopped, list(under.surplus())) == (None, [])
    under.tell(compared, Result(compared.id, "done", same=(FORMS,)))
    assert (under.stopped, list(under.surplus())) == (None, [])
    tell(under, tasks, FORMS[:1])
    assert under.stopped is None
    tell(under, tasks, FORMS[1:])
    assert (under.best().stopped, under.best().answer) == (Stopped.COMPLETE, "1+x")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_comparison_may_end_it(strategy: str) -> None:
    """Four votes for each of two that are one: eight of twelve, as soon as that is told."""
    under, tasks = begun(strategy, 12)
    tell(under, tasks, [*FORMS] * 4)
    compared = comparison(under)
    assert not under.done
    under.tell(compared, Result(compared.id, "done", same=(FORMS,)))
    assert (under.done, under.stopped) == (True, Stopped.CERTAIN)
    assert list(under.surplus()) == tasks


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_comparison_that_fails_holds_nothing_up(strategy: str) -> None:
    """Where it can't be told what is one, the votes are what they are."""
    under, tasks = begun(strategy, 14)
    tell(under, tasks, ["7"] * 6 + [*FORMS] * 3)
    compared = comparison(under)
    under.tell(compared, Result(compared.id, "failed", error="no time"))
    assert (under.done, under.stopped, under.best().answer) == (True, Stopped.CERTAIN, "7")
