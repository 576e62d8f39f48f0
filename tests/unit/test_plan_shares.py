"""What steps of a plan may spend: by how hard they turn out to be, and no deeper than it helps."""

from __future__ import annotations

import json
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.decompose.shares import divide, weight
from planner.domain import Candidate, Cost, Expand, Finish, Message, Query, Result, Task
from planner.errors import InvalidOption
from planner.search import Setup, known, search
from planner.selection import selector
from planner.stopping import parse

PLAN = json.dumps(
    {
        "steps": [
            {"id": "a", "question": "How many first?", "needs": []},
            {"id": "b", "question": "And then, with $a?", "needs": ["a"]},
        ]
    }
)


@given(
    st.integers(0, 500),
    st.dictionaries(st.text(min_size=1, max_size=2), st.floats(0.01, 1e4), max_size=12),
)
def test_all_of_what_is_left_is_shared_out(left: int, weights: dict[str, float]) -> None:
    """Nothing more, nothing less; nobody gets none where there are enough; more for more weight."""
    parts = divide(left, weights)
    assert parts.keys() == weights.keys()
    assert sum(parts.values()) == (left if weights else 0)
    if left >= len(weights):
        assert all(part >= 1 for part in parts.values())
    ranked = sorted(weights, key=weights.__getitem__)
    for less, more in pairwise(ranked):
        assert parts[less] <= parts[more] or weights[less] == weights[more]


def test_a_step_that_is_unsure_weighs_more() -> None:
    question = "How many are left?"
    assert weight(question, 0.0) < weight(question, None) < weight(question, 1.0)
    assert weight(question, 0.3) < weight(f"{question} And how many of the others?", 0.3)


def states(answers: dict[str, list[str]], candidates: int = 32) -> list[tuple[str, str]]:
    """Which step came to which state in a plan, whose steps are answered so, then by the last."""
    query = Query((Message("user", "How many?"),), seed=1)
    setup = Setup(query, candidates, selector("majority"), parse("none"), grades=False)
    under = search("plan(majority@none)", setup)
    told: list[tuple[str, str]] = []
    waiting: list[Task] = []
    numbers = count()
    while not under.done:
        waiting += under.ask(64)
        task = waiting.pop(0)
        assert isinstance(task, Expand)
        if task.schema is not None:
            text = PLAN
        else:
            asked = () if task.messages is None else task.messages
            first = [one.content for one in asked] == ["How many first?"]
            said = answers["a" if first else "b"]
            text = f"#### {said.pop(0) if len(said) > 1 else said[0]}"
        made = Candidate(task.path, text, (next(numbers),), Finish.STOP)
        under.tell(task, Result(task.id, "done", made, Cost(completion_tokens=10, candidates=1)))
        told += [(it.data["id"], it.data["state"]) for it in under.news() if it.kind == "step"]
    return told


def test_a_step_that_comes_out_unsure_has_more() -> None:
    """One whose answers differ goes on with what the plan has left; one that is sure doesn't."""
    unsure = states({"a": [*map(str, range(40))], "b": ["5"]})
    assert ("a", "again") in unsure
    assert ("b", "again") not in unsure
    sure = states({"a": ["4"], "b": ["5"]})
    assert not [one for one in sure if one[1] == "again"]
    assert [one for one in sure if one[1] == "ended"] == [("a", "ended"), ("b", "ended")]


def test_plans_are_nested_only_so_deep() -> None:
    known("plan(plan(plan(majority)))")
    with pytest.raises(InvalidOption, match="3 deep"):
        known("plan(plan(plan(plan(majority))))")
