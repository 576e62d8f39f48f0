"""What a watch makes of traces and calls: who is told what, once, and that nothing stays behind."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

import pytest

from services.trace import Event, Kind, Trace
from services.watch import LATE_SECONDS, Called, Ended, Request, Watch
from workers.messages import Generate, Generated

OPENED: dict[str, Any] = {"effort": {"strategy": "plan(beam)"}}
CLOSED: dict[str, Any] = {"outcome": {}, "spent": {}, "unreported": 0}


class Notes:
    """A watcher that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.tasks: list[Ended] = []
        self.requests: list[Request] = []

    def began(self, request: Request) -> None:
        """See `services.watch.Watcher`."""
        self.requests.append(request)
        self.told.append("began")

    def said(self, request: Request, event: Event) -> None:
        """See `services.watch.Watcher`."""

    def called(self, call: Called) -> None:
        """See `services.watch.Watcher`."""
        self.told.append(call.finish)

    def ended(self, request: Request, task: Ended) -> None:
        """See `services.watch.Watcher`."""
        self.tasks.append(task)
        self.told.append(task.id)

    def closed(self, request: Request, said: Mapping[str, Any] | None) -> None:
        """See `services.watch.Watcher`."""
        self.told.append("failed" if said is None else "closed")

    def over(self, request: Request) -> None:
        """See `services.watch.Watcher`."""
        self.told.append("over")


class Scene:
    """A trace that is watched."""

    def __init__(self) -> None:
        self.notes = Notes()
        self.watch = Watch([self.notes])
        self.trace = Trace("abc")

    def append(self, kind: Kind, **data: Any) -> None:
        """Write an event, as a driver does."""
        self.watch.saw(self.trace, self.trace.append(kind, **data))

    def call(self, op: str, finish: Any = "stop", *, lost: bool = False) -> None:
        """Have a call end."""
        call = Generate(f"abc/{op}", (1,), max_tokens=50)
        now = monotonic()
        self.watch.called(Called(call, Generated(call.id, finish, lost=lost), now - 1, now))


def told(task: str, status: str = "done") -> dict[str, Any]:
    return {"id": task, "status": status}


def test_a_task_is_told_with_its_calls() -> None:
    """All calls that it took are told with it, in their order, and no other's."""
    scene = Scene()
    scene.append(Kind.OPENED, **OPENED)
    scene.append(Kind.ASKED, room=2, tasks=["expand:0", "expand:1"])
    scene.call("expand:0#0", "failed", lost=True)
    scene.call("expand:1#1")
    scene.call("expand:0#2")
    scene.append(Kind.TOLD, **told("expand:0"))
    (task,) = scene.notes.tasks
    assert [call.finish for call in task.calls] == ["lost", "stop"]
    assert [call.written_off for call in task.calls] == [50, 0]
    assert task.asked is not None
    assert task.asked <= task.ended
    assert scene.notes.requests[0].strategy == "plan"


def test_why_a_call_was_cancelled_is_told() -> None:
    """It is the reason of the last of its calls that has one."""
    scene = Scene()
    scene.append(Kind.OPENED, **OPENED)
    scene.append(Kind.CANCELLED, calls=["abc/expand:0#0"], why="deadline")
    scene.call("expand:0#0", "cancelled")
    scene.append(Kind.TOLD, **told("expand:0", "cancelled"))
    assert scene.notes.tasks[0].why == "deadline"


def test_a_request_is_over_once_all_have_reported() -> None:
    """That is when it is closed, or else when it is settled."""
    scene = Scene()
    scene.append(Kind.OPENED, **OPENED)
    scene.append(Kind.CLOSED, **{**CLOSED, "unreported": 1})
    assert scene.notes.told == ["began", "closed"]
    scene.append(Kind.TOLD, **told("expand:0", "cancelled"))
    scene.append(Kind.SETTLED, spent={})
    assert scene.notes.told == ["began", "closed", "expand:0", "over"]
    scene.append(Kind.TOLD, **told("expand:1"))
    assert scene.notes.told[-1] == "over"


@pytest.mark.parametrize("closed", [False, True])
def test_a_request_that_fails_is_closed_all_the_same(closed: bool) -> None:
    """And one that came to its end doesn't fail after that."""
    scene = Scene()
    scene.append(Kind.OPENED, **OPENED)
    if closed:
        scene.append(Kind.CLOSED, **CLOSED)
    scene.watch.failed("abc")
    scene.watch.failed("abc")
    assert scene.notes.told == ["began", "closed" if closed else "failed", "over"]


def test_a_request_that_is_gone_on_with_begins_anew() -> None:
    """What is asked again counts from now."""
    scene = Scene()
    begun = [Event(0, 0.0, Kind.OPENED, OPENED), Event(1, 1.0, Kind.LEFT, {})]
    scene.trace = Trace("abc", begun=begun)
    scene.append(Kind.RESUMED, again=["expand:3"], lost=[])
    scene.append(Kind.TOLD, **told("expand:3"))
    (request,) = scene.notes.requests
    assert request.resumed
    assert request.opened == OPENED
    assert scene.notes.tasks[0].asked is not None


def test_what_could_not_be_gone_on_with_is_closed_when_it_is() -> None:
    """A request that was resumed in vain is told of as failed once it is resumed again."""
    scene = Scene()
    scene.append(Kind.OPENED, **OPENED)
    for _ in range(2):
        scene.append(Kind.RESUMED, again=[], lost=[])
    scene.append(Kind.CLOSED, **CLOSED)
    began_in_vain = ["began", "failed", "over"]
    assert scene.notes.told == [*began_in_vain, *began_in_vain, "began", "closed", "over"]


def test_what_is_never_settled_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the next request that begins, some time after."""
    scene = Scene()
    scene.append(Kind.OPENED, **OPENED)
    scene.append(Kind.CLOSED, **{**CLOSED, "unreported": 1})
    scene.trace = Trace("later")
    later = monotonic() + LATE_SECONDS + 1
    monkeypatch.setattr("services.watch.monotonic", lambda: later)
    scene.append(Kind.OPENED, **OPENED)
    assert scene.notes.told == ["began", "closed", "over", "began"]


def test_calls_of_unknown_requests_are_told_and_forgotten() -> None:
    """They count, wherever they come from."""
    scene = Scene()
    scene.call("expand:0#0")
    assert scene.notes.told == ["stop"]
