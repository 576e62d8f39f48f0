"""One contract over every strategy in the registry: a new one gets all of this by being there."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.confidence import lowest_group
from planner.domain import (
    Candidate,
    Cost,
    Expand,
    Finish,
    Grade,
    Message,
    Query,
    Result,
    Stopped,
    Task,
    Verify,
)
from planner.search import STRATEGIES, Search, Setup, search
from planner.selection import SELECTORS, selector
from planner.stopping import parse


@dataclass(frozen=True)
class Case:
    """A configuration, and a die that decides everything the workers do."""

    strategy: str
    selector: str
    stop: str
    candidates: int
    grades: bool
    verifies: bool
    seed: int
    room: int
    failing: float
    twice: bool
    tokens: int | None

    def search(self) -> Search:
        """A fresh search of this configuration."""
        setup = Setup(
            query=Query((Message("user", "How many?"),), seed=self.seed),
            candidates=self.candidates,
            selector=selector(self.selector),
            stop=parse(self.stop),
            grades=self.grades,
            verifies=self.verifies,
            tokens=self.tokens,
            likely=20,
        )
        return search(self.strategy, setup)


CASES = st.builds(
    Case,
    strategy=st.sampled_from(sorted(STRATEGIES)),
    selector=st.sampled_from(sorted(SELECTORS)),
    stop=st.sampled_from(
        [
            "none",
            "certain",
            "beta:0.95",
            "beta:0.6",
            "window:2",
            "consensus:3",
            "marginal",
            "beta+deadline",
            "confidence:50:4+beta:0.8",
        ]
    ),
    candidates=st.integers(1, 20),
    grades=st.booleans(),
    verifies=st.booleans(),
    seed=st.integers(0, 2**32),
    room=st.integers(1, 30),
    failing=st.sampled_from([0.0, 0.2, 0.9, 1.0]),
    twice=st.booleans(),
    tokens=st.none() | st.integers(1, 400),
)


def outcome_of(task: Task, seed: int, failing: float) -> Result:
    """What becomes of a task: the same for the same task and seed, whenever it is run."""
    dice = random.Random(f"{seed}/{task.id}")
    fate = dice.random()
    if fate < failing:
        cut = Candidate(getattr(task, "path", ()), "12 * 8", finish=Finish.CANCELLED)
        ends = (
            Result(task.id, "failed", error="the worker was lost"),
            Result(task.id, "cancelled", cut if isinstance(task, Expand) else None),
        )
        return dice.choice(ends)
    if isinstance(task, Verify):
        first, *others = task.answers
        return Result(task.id, "done", same=((first, dice.choice(others)),) if others else ())
    if isinstance(task, Expand) and task.schema is not None:
        return Result(task.id, "done", plan_of(task, dice), Cost(completion_tokens=40))
    if isinstance(task, Grade):
        scores = tuple(dice.random() for _ in range(3))
        return Result(task.id, "done", task.candidate.graded(scores, scores[-1]))
    finish = dice.choice([Finish.STOP, Finish.STOP, Finish.STOP, Finish.LENGTH, Finish.BUDGET])
    parent = task.parent.text if task.parent else ""
    sure = tuple(dice.uniform(0.0, 20.0) for _ in range(6))
    if task.floor and lowest_group(sure, task.floor.window) < task.floor.confidence:
        finish = Finish.DOUBTFUL
    if task.until == "step" and dice.random() < 0.6:
        made = Candidate(task.path, parent + "1 + 1 = 2\n", (1, 2), Finish.STEP)
    else:
        text = dice.choice(["#### 1", "#### 2", "#### x+1", "#### 1+x", "who knows"])
        made = Candidate(task.path, parent + text, (1, 2), finish, token_confidences=sure)
    return Result(task.id, "done", made, Cost(completion_tokens=7, candidates=1))


def plan_of(task: Expand, dice: random.Random) -> Candidate:
    """A plan of a few steps, each of which may need any before it; or something else."""
    ids = "abcdef"[: dice.randint(1, 6)]
    steps = [
        {"id": name, "question": f"What is {place}?", "needs": dice.sample(ids[:place], place // 2)}
        for place, name in enumerate(ids)
    ]
    text = dice.choice([json.dumps({"steps": steps})] * 3 + ["", json.dumps(steps)[:-9], "{}"])
    return Candidate(task.path, text, (1, 2), dice.choice([Finish.STOP, Finish.LENGTH]))


@dataclass
class Journey:
    """Everything that was asked and told, in order."""

    asked: list[str] = field(default_factory=list)
    told: list[tuple[Task, Result]] = field(default_factory=list)
    candidates: int = 0
    finished: bool = False


def drive(case: Case, under: Search) -> Journey:
    """Drive a search as the driver would, with results in any order."""
    dice, journey = random.Random(case.seed), Journey()
    in_flight: list[Task] = []
    for _ in range(10_000):
        if under.done:
            return journey
        asked = under.ask(case.room)
        assert len(asked) <= case.room
        in_flight.extend(asked)
        journey.asked.extend(task.id for task in asked)
        if not in_flight:  # it asks nothing and awaits nothing, so it had better be done
            return journey
        task = in_flight.pop(dice.randrange(len(in_flight)))
        result = outcome_of(task, case.seed, case.failing)
        under.tell(task, result)
        journey.told.append((task, result))
        if isinstance(task, Expand) and result.candidate and result.candidate.finished:
            journey.finished |= task.counts
        if case.twice and journey.told:
            under.tell(*dice.choice(journey.told))
        assert {task.id for task in under.surplus()} <= {task.id for task in in_flight}
        best = under.best()
        assert best.best is not None or not journey.finished
        assert 0.0 <= best.confidence <= 1.0
    raise AssertionError("it doesn't end")


@given(CASES)
def test_search_ends_and_has_an_answer_from_the_first_candidate_on(case: Case) -> None:
    """Any order, any failures, any room, results told twice: it ends, and always has its best."""
    under = case.search()
    drive(case, under)
    assert under.done
    assert under.stopped in (Stopped.CERTAIN, Stopped.CONFIDENT, Stopped.COMPLETE)
    assert list(under.ask(case.room)) == []


@given(CASES)
def test_every_task_is_asked_once(case: Case) -> None:
    """No task is asked twice, and no more samples than were allowed."""
    under = case.search()
    journey = drive(case, under)
    assert len(journey.asked) == len(set(journey.asked))
    roots = [name for name in journey.asked if name.startswith("expand:") and "." not in name]
    assert len(roots) <= case.candidates


@given(CASES)
def test_no_more_candidates_finish_than_were_asked_for(case: Case) -> None:
    """With what is surplus cancelled at once, a budget of so many candidates is never short."""
    under, dice = case.search(), random.Random(case.seed)
    in_flight: dict[str, Task] = {}
    finished = 0
    while not under.done:
        in_flight.update((task.id, task) for task in under.ask(case.room))
        if not in_flight:
            break
        task = in_flight.pop(dice.choice(list(in_flight)))
        result = outcome_of(task, case.seed, case.failing)
        if isinstance(task, Expand) and task.counts and result.candidate:
            finished += result.candidate.finished
        under.tell(task, result)
        for surplus in [*under.surplus()]:
            under.tell(in_flight.pop(surplus.id), Result(surplus.id, "cancelled"))
        assert finished <= case.candidates
        assert under.progress()[0] <= under.progress()[1]


@given(CASES)
def test_same_tells_give_same_asks_and_same_outcome(case: Case) -> None:
    """A recorded search replays to the very same end."""
    first, again = case.search(), case.search()
    journey = drive(case, first)
    assert drive(case, again) == journey
    assert again.best() == first.best()


@given(CASES)
def test_what_is_told_twice_changes_nothing(case: Case) -> None:
    """After the end, telling all of it again leaves the outcome as it is."""
    under = case.search()
    journey = drive(case, under)
    before = under.best()
    for task, result in journey.told:
        under.tell(task, result)
    assert under.best() == before


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_surplus_names_what_can_no_longer_matter(strategy: str) -> None:
    """Once it is over, the samples in flight are surplus, and nothing is before that."""
    case = Case(strategy, "majority", "certain", 8, False, False, 0, 99, 0.0, False, None)
    under = case.search()
    tasks = list(under.ask(99))
    assert list(under.surplus()) == []
    while not under.done:
        tasks = tasks or list(under.ask(99))
        task = tasks.pop(0)
        assert isinstance(task, Expand)
        under.tell(
            task, Result(task.id, "done", Candidate(task.path, "#### 1", finish=Finish.STOP))
        )
    assert under.done
    assert {task.id for task in under.surplus()} == {task.id for task in tasks}


def calls_a_candidate(strategy: str, candidates: int) -> float:
    """How many functions the planner calls for each candidate; results are as in `outcome_of`."""
    case = Case(strategy, "weighted", "none", candidates, True, True, 7, 64, 0.0, False, None)
    dice, calls = random.Random(7), 0
    in_flight: list[Task] = []

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    under, done = case.search(), False
    while not done:
        place = dice.randrange(len(in_flight)) if in_flight else 0
        told = [(in_flight[place], outcome_of(in_flight[place], 7, 0.0))] if in_flight else []
        in_flight[place : place + 1] = []
        sys.setprofile(count)
        try:
            for task, result in told:
                under.tell(task, result)
            under.surplus()
            done = under.done
            asked = under.ask(64 - len(in_flight))
        finally:
            sys.setprofile(None)
        in_flight.extend(asked)
    return calls / under.progress()[1]


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_a_candidate_costs_the_same_among_many(strategy: str) -> None:
    """Eight times the candidates take hardly more of the planner for each of them."""
    assert calls_a_candidate(strategy, 512) < 2 * calls_a_candidate(strategy, 64)
