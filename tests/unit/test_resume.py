"""What a runner leaves behind, as its trace has it."""

from __future__ import annotations

from dataclasses import astuple

from planner.domain import Cost
from planner.ports import Commit
from services.resume import Unsettled
from services.trace import Event, Kind

HELD = Cost(prompt_tokens=10, completion_tokens=100, candidates=1)
"""What the call of a candidate may cost."""
TWIN = Cost(prompt_tokens=10, completion_tokens=100)
"""The same for a second call of the same candidate."""


def sent(op: str, cost: Cost) -> Event:
    return Event(0, 0.0, Kind.SENT, {"budget": "r", "ops": {op: list(astuple(cost))}})


def paid(op: str, cost: Cost) -> Event:
    return Event(0, 0.0, Kind.PAID, {"budget": "r", "ops": {op: list(astuple(cost))}})


def told(task: str, status: str, finish: str = "stop") -> Event:
    candidate = {"path": [0], "finish": finish}
    return Event(0, 0.0, Kind.TOLD, {"id": task, "status": status, "candidate": candidate})


def test_the_candidate_of_a_lost_call_is_left_to_who_does_it_again() -> None:
    """All that it may have cost is charged, but a task is one candidate, whoever does it."""
    left = Unsettled.of([sent("expand:0#1", HELD)])
    assert left.lost == {"r": (Commit("expand:0#1", TWIN),)}


def test_the_candidate_of_a_lost_call_counts_where_another_did_its_task() -> None:
    """Of two calls for one task the second had ended, at no candidate: nobody does it again."""
    left = Unsettled.of(
        [
            sent("expand:0#1", HELD),
            sent("expand:0#2", TWIN),
            told("expand:0", "done"),
            paid("expand:0#2", TWIN),
        ]
    )
    assert left.paid == {"r": (Commit("expand:0#2", TWIN),)}
    assert left.lost == {"r": (Commit("expand:0#1", HELD),)}


def test_a_step_of_a_partial_candidate_is_none() -> None:
    """Whoever did it was charged none, and so is the call that was beaten."""
    left = Unsettled.of([sent("expand:0#1", HELD), told("expand:0", "done", finish="step")])
    assert left.lost == {"r": (Commit("expand:0#1", TWIN),)}


def test_what_is_cut_is_done_again() -> None:
    """A task that was told of as cancelled goes on, and counts then."""
    left = Unsettled.of([sent("expand:0#1", HELD), told("expand:0", "cancelled")])
    assert left.lost == {"r": (Commit("expand:0#1", TWIN),)}
