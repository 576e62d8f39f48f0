"""Which plan is followed: the one most faithful to its question, and none that isn't of it."""

from __future__ import annotations

import json
from dataclasses import replace

from planner.decompose.plan import known_question
from planner.domain import Candidate, Cost, Expand, Finish, Message, Query, Result
from planner.search import Search, Setup, search
from planner.search.drafting import DRAFTS, FIRST_DRAFTS
from planner.selection import selector
from planner.stopping import parse

QUESTION = "Anna has 3 pens and buys 4. Ben has 5 pens. How many have both?"
QUERY = Query((Message("user", QUESTION),), seed=1)
SETUP = Setup(QUERY, 32, selector("majority"), parse("none"), grades=False)


def plan(first: str, second: str) -> str:
    """A plan of two steps, as a model writes it."""
    steps = [
        {"id": "a", "question": first, "needs": []},
        {"id": "b", "question": second, "needs": ["a"]},
    ]
    return json.dumps({"steps": steps})


FAITHFUL = plan(
    "Anna has 3 pens and buys 4. How many has Anna?",
    "Anna has $a pens and Ben has 5 pens. How many have both?",
)
NEARLY = plan(
    "Anna has 3 pens and buys 4. How many has Anna?",
    "Anna has $a pens and Ben has 5 pens and 6 hats. How many have both?",
)
FOREIGN = plan("Carl has 9 cats. How many has Carl?", "Carl had $a cats, and 8 left. How many?")


def draft(under: Search, written: list[str]) -> list[Expand]:
    """Have each plan that is asked for written, in turn; the tasks that come after all."""
    drafts = [task for task in under.ask(64) if isinstance(task, Expand) and task.schema]
    for task, text in zip(drafts, written, strict=True):
        made = Candidate(task.path, text, (1,), Finish.STOP)
        under.tell(task, Result(task.id, "done", made, Cost(completion_tokens=20)))
    return [task for task in under.ask(64) if isinstance(task, Expand)]


def asked(tasks: list[Expand]) -> set[str]:
    """The questions that tasks ask; that of the request itself is empty."""
    return {task.messages[-1].content if task.messages else "" for task in tasks}


def test_the_most_faithful_plan_is_followed() -> None:
    under = search("plan", SETUP)
    tasks = draft(under, [FOREIGN, NEARLY, FAITHFUL, *[FOREIGN] * (DRAFTS - 3)])
    assert asked(tasks) == {"Anna has 3 pens and buys 4. How many has Anna?"}
    (planned,) = [one.data for one in under.news() if one.kind == "planned"]
    assert planned["steps"][1]["question"].endswith("Ben has 5 pens. How many have both?")


def test_a_plan_of_another_question_is_not_followed() -> None:
    """The question is searched as it is, and the note says how little the best plan kept of it."""
    under = search("plan", SETUP)
    assert asked(draft(under, [FOREIGN] * DRAFTS)) == {""}
    assert any("None of 8 plans is one of the question" in note for note in under.best().notes)


def test_how_sure_answers_are_is_not_for_a_plan_to_keep_to() -> None:
    """Of a step that is planned in turn, only the question is what the plan has to be one of."""
    known = known_question(QUESTION, [("Dora had 88 cats, and 9 left. How many?", "79 (70% sure)")])
    setup = replace(SETUP, query=Query((Message("user", known),), seed=1), doubts=True)
    first = "Anna has 3 pens and buys 4. How many has Anna?"
    for plain, questions in ((QUESTION, {first}), (None, {""})):
        under = search("plan", replace(setup, plain=plain))
        assert asked(draft(under, [FAITHFUL] * DRAFTS)) == questions


def test_a_trial_ends_after_a_few_plans_that_show_no_promise() -> None:
    """Whoever only tries a plan has other ways to go."""
    under = search("plan", replace(SETUP, trial=True))
    assert draft(under, [FOREIGN] * FIRST_DRAFTS) == []
    assert under.done
    assert under.best().best is None


def test_a_trial_goes_on_to_more_plans_where_the_first_show_promise() -> None:
    under = search("plan", replace(SETUP, trial=True))
    more = draft(under, [NEARLY, FOREIGN])
    assert [task.schema is not None for task in more] == [True] * (DRAFTS - FIRST_DRAFTS)
    for task in more:
        made = Candidate(task.path, FAITHFUL, (1,), Finish.STOP)
        under.tell(task, Result(task.id, "done", made, Cost(completion_tokens=20)))
    following = [task for task in under.ask(64) if isinstance(task, Expand)]
    assert asked(following) == {"Anna has 3 pens and buys 4. How many has Anna?"}


def test_a_trial_that_nothing_can_pay_for_is_over_at_once() -> None:
    under = search("plan", replace(SETUP, trial=True, tokens=5, likely=20))
    assert under.done
    assert list(under.ask(8)) == []


def test_a_trial_of_atoms_answers_the_question_that_it_has_made_smaller() -> None:
    """A plan was followed by then: what is left of the question can't be left to other ways."""
    smaller = "Anna has 7 pens and Ben has 5 pens. How many have both?"
    under = search("atoms", replace(SETUP, trial=True))
    drafts, waiting = 0, list(under.ask(64))
    while not under.done:
        task = waiting.pop(0)
        assert isinstance(task, Expand)
        text = "#### 7"
        if task.schema is not None:
            drafts += 1
            text = FAITHFUL if drafts <= DRAFTS else FOREIGN
        elif not task.counts:
            text = smaller
        elif smaller in asked([task]):
            text = "#### 12"
        made = Candidate(task.path, text, (1,), Finish.STOP)
        under.tell(task, Result(task.id, "done", made, Cost(completion_tokens=20, candidates=1)))
        waiting += under.ask(64)
    assert under.best().answer == "12"
