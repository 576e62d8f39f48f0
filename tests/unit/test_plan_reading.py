"""Plans as models really write them: each is mended, or is no plan; none is an exception."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from planner.decompose.plan import MOST_STEPS, Plan, Step, faithfulness, known_question, read_plan
from tests.unit.spoiling import spoilt

QUESTION = "Anna has 3 pens and Ben has 4. Ben gives Anna 2. How many does Anna have?"

GOOD: dict[str, list[dict[str, Any]]] = {
    "steps": [
        {"id": "a", "question": "Anna has 3 pens and gets 2. How many?", "needs": []},
        {"id": "b", "question": "Ben has 4 pens and gives 2 away. How many?", "needs": []},
        {"id": "c", "question": "Anna has $a and Ben $b. How many have both?", "needs": ["a", "b"]},
    ]
}


def holds(plan: Plan) -> None:
    """All that a plan promises."""
    ids = [step.id for step in plan.steps]
    assert 1 <= len(ids) == len(set(ids)) <= MOST_STEPS + 1
    known: set[str] = set()
    for step in plan.steps:
        assert step.question.encode()
        assert set(step.needs) <= known
        known.add(step.id)
    useful = {plan.last.id}
    for step in reversed(plan.steps):
        assert step.id in useful
        useful.update(step.needs)


def read(text: str) -> Plan:
    plan = read_plan(text, QUESTION)
    assert plan is not None
    holds(plan)
    return plan


def test_half_of_a_character_is_replaced() -> None:
    """JSON can name one, and nothing that a plan goes into could be encoded."""
    text = json.dumps(GOOD).replace("3 pens", r"3 \ud83d pens")
    assert "3 ? pens" in read(text).steps[0].question


def test_a_good_plan_is_read_as_it_is() -> None:
    plan = read(json.dumps(GOOD))
    assert [step.id for step in plan.steps] == ["a", "b", "c"]
    assert plan.notes == ()
    assert plan.depth == 2
    assert [step.id for step in plan.ready({})] == ["a", "b"]
    assert [step.id for step in plan.ready({"a": 1, "b": 1})] == ["c"]


def test_prose_around_it_is_ignored() -> None:
    """Also prose with braces of its own."""
    text = (
        f"Sure! {{think}} Here's the plan:\n```json\n{json.dumps(GOOD, indent=2)}\n```\nGood luck."
    )
    assert read(text) == read(json.dumps(GOOD))


def test_what_breaks_off_ends_in_the_question_itself() -> None:
    text = json.dumps(GOOD)
    plan = read(text[: text.index('"c"')])
    assert [step.id for step in plan.steps] == ["a", "b", "answer"]
    assert plan.last.question.startswith(QUESTION)
    assert plan.last.fill({"a": "5", "b": "2"}).endswith(
        "- Anna has 3 pens and gets 2. How many? 5\n- Ben has 4 pens and gives 2 away. How many? 2"
    )
    assert "broke off" in plan.notes[0]


@pytest.mark.parametrize("text", ["", "No plan is needed.", "{", "[]", "null", '{"steps": []}'])
def test_nothing_is_no_plan(text: str) -> None:
    assert read_plan(text, QUESTION) is None


def test_a_circle_is_cut() -> None:
    steps = [
        {"id": "a", "question": "Half of $b?", "needs": ["b"]},
        {"id": "b", "question": "Twice $a?", "needs": ["a"]},
        {"id": "c", "question": "$a and $b?", "needs": ["a", "b", "c"]},
    ]
    plan = read(json.dumps({"steps": steps}))
    assert plan.steps[-1].id == "c"
    assert any("by way of others" in note for note in plan.notes)


def test_needs_that_are_nowhere_are_dropped_and_those_in_the_text_are_added() -> None:
    steps = [
        {"id": "a", "question": "One?", "needs": ["z"]},
        {"id": "b", "question": "$a, and $5 besides?", "needs": []},
    ]
    plan = read(json.dumps({"steps": steps}))
    assert [step.needs for step in plan.steps] == [(), ("a",)]
    assert plan.last.fill({"a": "7"}) == "7, and $5 besides?"


def test_a_digit_after_a_dollar_is_a_step_only_where_that_is_needed() -> None:
    """Else it is money."""
    steps = [
        {"id": "1", "question": "What does Ann pay for 3?", "needs": []},
        {"id": "2", "question": "Ben buys 5 at $1 each. What does he pay?", "needs": []},
        {"id": "3", "question": "What are $1 and $2 together?", "needs": ["1", "2"]},
    ]
    plan = read(json.dumps({"steps": steps}))
    assert [step.needs for step in plan.steps] == [(), (), ("s1", "s2")]
    filled = [step.fill({"s1": "6", "s2": "5"}) for step in plan.steps]
    assert filled[1:] == ["Ben buys 5 at $1 each. What does he pay?", "What are 6 and 5 together?"]


def test_two_steps_of_one_name_are_two() -> None:
    steps = [{"id": "a", "question": "One?"}, {"id": "a", "question": "Two, and $a?"}]
    plan = read(json.dumps({"steps": steps}))
    assert len(plan.steps) == 2
    assert plan.last.question == "Two, and $a?"


def test_steps_of_no_use_are_left_out() -> None:
    steps = [*GOOD["steps"][:2], {"id": "c", "question": "Only $a?", "needs": ["a"]}]
    plan = read(json.dumps({"steps": steps}))
    assert [step.id for step in plan.steps] == ["a", "c"]
    assert "of no use" in plan.notes[-1]


def test_five_hundred_steps_are_cut() -> None:
    steps = [{"id": f"s{n}", "question": f"What is {n}?", "needs": []} for n in range(500)]
    assert len(read(json.dumps({"steps": steps})).steps) == MOST_STEPS + 1


def test_faithfulness_falls_with_each_wrong_number() -> None:
    plan = read(json.dumps(GOOD))
    question = "Anna has 3 pens and gets 2, and Ben has 4 pens and gives 2 away. How many?"
    assert faithfulness(plan, question) == 1.0
    wrong = Plan((Step("a", "Anna has 8 pens"), *plan.steps[1:]))
    worse = Plan((Step("a", "Anna has 8 pens and 9"), *plan.steps[1:]))
    assert 1.0 > faithfulness(wrong, question) > faithfulness(worse, question)


def test_what_is_known_stands_after_the_question() -> None:
    assert known_question("How many?", []) == "How many?"
    assert known_question("How many?", [("Pens?", "3")]).endswith("What is known:\n- Pens? 3")


def test_a_thousand_spoilt_plans_are_plans_or_none() -> None:
    """Whatever is written, it is read in no time, and what is read holds."""
    dice, plans = random.Random(0), 0
    for _ in range(1000):
        plan = read_plan(spoilt(GOOD, dice), QUESTION)
        if plan is not None:
            holds(plan)
            plans += 1
            filled = [step.fill({"a": "1", "b": "2"}) for step in plan.steps]
            assert all(filled)
            assert 0.0 <= faithfulness(plan, QUESTION) <= 1.0
    assert plans > 200
