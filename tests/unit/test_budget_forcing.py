"""Budget forcing: what is extended, what has to answer at once, and what room it has for that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from planner.domain import (
    Candidate,
    Expand,
    Finish,
    Grade,
    Message,
    Query,
    Result,
    Sampling,
    Task,
)
from planner.search import Search, Setup, search
from planner.selection import selector
from planner.stopping import parse

QUERY = Query((Message("user", "How many?"),), Sampling(max_tokens=400), seed=3)
THOUGHTS = 300
"""Three quarters of its tokens."""

End = Callable[[Expand], Result]


def begin(strategy: str, candidates: int, *, grades: bool = False) -> Search:
    """A search that nothing stops early."""
    setup = Setup(QUERY, candidates, selector("majority"), parse("none"), grades)
    return search(strategy, setup)


def run(under: Search, end: End) -> list[Task]:
    """Drive it in the order of asking; all that it asked."""
    asked: list[Task] = []
    while not under.done:
        for task in under.ask(99):
            asked.append(task)
            assert isinstance(task, Expand)
            under.tell(task, end(task))
    return asked


def ending(finish: Finish, tokens: int = 10) -> End:
    """Every task adds so many tokens and ends like that."""

    def end(task: Expand) -> Result:
        before = task.parent.token_ids if task.parent else ()
        made = Candidate(task.path, "#### 1", (*before, *range(tokens)), finish)
        return Result(task.id, "done", made)

    return end


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.BUDGET, Finish.CANCELLED])
def test_only_what_the_model_ended_goes_on(finish: Finish) -> None:
    """What its length, the budget or somebody cut is not told to wait."""
    under = begin("budget_forcing", 4)
    assert len(run(under, ending(finish))) == 1


def test_what_the_model_ended_goes_on_after_wait() -> None:
    """An answer that the model ended is extended, each time it does."""
    asked = run(begin("budget_forcing", 4), ending(Finish.STOP))
    assert [task.append for task in asked if isinstance(task, Expand)] == ["", *["\nWait\n"] * 3]


def test_a_thought_is_no_candidate() -> None:
    """Thoughts aren't counted and not graded; the answers are both."""
    under = begin("budget_forcing_thinking", 2, grades=True)
    waiting = list(under.ask(99))
    thoughts = 0
    while not under.done:
        task = waiting.pop(0)
        if isinstance(task, Expand):
            assert task.counts is not bool(task.stop)
            thoughts += not task.counts
            under.tell(task, ending(Finish.STOP)(task))
        else:
            assert isinstance(task, Grade)
            assert len(task.candidate.path) == 5
            under.tell(task, Result(task.id, "failed"))
        waiting += under.ask(99)
    assert thoughts == 2 * 4
    assert under.progress() == (2, 2)


def test_a_thought_that_its_length_cut_is_answered_from_at_once() -> None:
    """It has no room to wait in: what follows it is the end of thinking."""
    asked = run(begin("budget_forcing_thinking", 1), ending(Finish.LENGTH))
    thought, answer = asked
    assert isinstance(thought, Expand)
    assert isinstance(answer, Expand)
    assert (thought.append, thought.stop) == ("", ("</think>",))
    assert (answer.append, answer.stop, answer.counts) == ("\n</think>\n\n", (), True)
    assert answer.parent is not None
    assert answer.parent.path == thought.path


@pytest.mark.parametrize("tokens", [10, 80, 120, 299, 300])
def test_thoughts_leave_room_for_the_answer(tokens: int) -> None:
    """However long they are, all thoughts and what is put between them keep to their share."""
    asked = run(begin("budget_forcing_thinking", 1), ending(Finish.STOP, tokens))
    *thoughts, answer = asked
    for task in thoughts:
        assert isinstance(task, Expand)
        before = len(task.parent.token_ids) if task.parent else 0
        assert task.max_tokens is not None
        assert before + len(task.append) + task.max_tokens == THOUGHTS
        assert task.max_tokens > 0
    assert isinstance(answer, Expand)
    assert answer.append == "\n</think>\n\n"
    assert answer.max_tokens is None


def test_an_extension_that_fails_leaves_an_answer() -> None:
    """The thought before it is answered from, and that is the answer there is."""

    def end(task: Expand) -> Result:
        if task.append == "\nWait":
            return Result(task.id, "failed", error="the worker was lost")
        return ending(Finish.STOP)(task)

    under = begin("budget_forcing_thinking", 1)
    asked = run(under, end)
    assert [task.append for task in asked if isinstance(task, Expand)] == [
        "",
        "\nWait",
        "\n</think>\n\n",
    ]
    assert under.best().answer == "1"


def test_a_first_thought_that_fails_is_the_end_of_its_chain() -> None:
    """Where there is nothing to answer from, nothing is asked."""
    under = begin("budget_forcing_thinking", 2)
    assert len(run(under, lambda task: Result(task.id, "failed", error="lost"))) == 2
    assert under.best().best is None
