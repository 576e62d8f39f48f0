"""A thousand spoilt plans, each written for a search: it ends, and has an answer each time."""

from __future__ import annotations

import random

import pytest

from planner.domain import Candidate, Cost, Expand, Finish, Grade, Message, Query, Result, Task
from planner.search import Search, Setup, search
from planner.selection import selector
from planner.stopping import parse
from tests.unit.spoiling import spoilt
from tests.unit.test_plan_reading import GOOD, QUESTION

PLANS = 1000
MOST_TASKS = 400
"""More than any of these searches may ask for: eight candidates, and what plans they draft."""


def setup(seed: int) -> Setup:
    query = Query((Message("user", QUESTION),), seed=seed)
    return Setup(query, 8, selector("weighted"), parse("beta:0.95"), grades=True)


def outcome(task: Task, dice: random.Random) -> Result:
    """What a worker makes of a task: spoilt plans, and answers of which some say nothing."""
    if isinstance(task, Grade):
        return Result(task.id, "done", task.candidate.graded((0.8,), 0.8))
    assert isinstance(task, Expand)
    if task.schema is not None:
        finish = dice.choice([Finish.STOP, Finish.LENGTH])
        drafted = Candidate(task.path, spoilt(GOOD, dice), (1, 2), finish)
        return Result(task.id, "done", drafted, Cost(completion_tokens=40))
    said = dice.choice(["#### 5", "#### 5", "#### 7", "who knows"])
    before = task.parent.text if task.parent else ""
    made = Candidate(task.path, before + said, (1, 2), Finish.STOP)
    return Result(task.id, "done", made, Cost(completion_tokens=7, candidates=1))


def end(under: Search, dice: random.Random) -> int:
    """Drive it to its end; how many answers to steps it asked for."""
    waiting: list[Task] = []
    tasks = steps = 0
    while not under.done:
        asked = under.ask(64)
        tasks += len(asked)
        steps += sum(
            isinstance(one, Expand) and bool(one.messages and not one.schema) for one in asked
        )
        waiting += asked
        assert tasks <= MOST_TASKS
        assert waiting, "it asks for nothing and awaits nothing"
        task = waiting.pop(dice.randrange(len(waiting)))
        under.tell(task, outcome(task, dice))
        unwanted = {one.id for one in under.surplus()}
        for one in [one for one in waiting if one.id in unwanted]:
            waiting.remove(one)
            under.tell(one, Result(one.id, "cancelled"))
    return steps


@pytest.mark.parametrize("strategy", ["plan", "least_to_most", "atoms"])
def test_every_spoilt_plan_comes_to_an_answer(strategy: str) -> None:
    """Whether it is mended, drafted again or done without: something is answered at the end."""
    planned = 0
    for seed in range(PLANS):
        under = search(strategy, setup(seed))
        planned += end(under, random.Random(seed)) > 0
        best = under.best()
        assert best.best is not None
        assert best.finished
    assert 0 < planned < PLANS, "some were mended, and some done without"
