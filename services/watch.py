"""What happens in requests, put together from their traces and from the calls of the workers.

A trace tells when a task was asked for and how it ended; the pool, as `services.observed` has it,
tells of the calls between. Out of both come facts that whoever watches can do with as they are: a
request began, a task of it ended, with its calls; it closed. What always holds: a request that is
told of as begun is told of as closed once, and nothing is kept of one that is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Literal, Protocol, TypeAlias

from services.trace import Event, Kind, Trace
from workers.messages import Generate, Generated, Grade, Graded, Verified, Verify

CallKind: TypeAlias = Literal["generate", "grade", "verify"]
AnyCall: TypeAlias = Generate | Grade | Verify
AnyEnd: TypeAlias = Generated | Graded | Verified

LATE_SECONDS = 60.0
"""How long after its reply a request may still be heard of: far more than its driver waits."""


@dataclass(frozen=True, slots=True)
class Called:
    """One call that is over, between two moments of the monotonic clock.

    `made` is how it ended, None where nobody heard of that.
    """

    call: AnyCall
    made: AnyEnd | None
    sent: float
    ended: float

    @property
    def kind(self) -> CallKind:
        match self.call:
            case Generate():
                return "generate"
            case Grade():
                return "grade"
            case Verify():
                return "verify"

    @property
    def finish(self) -> str:
        """As the worker says it, or "lost" with its worker, or "unreported"."""
        if self.made is None:
            return "unreported"
        if not isinstance(self.made, Verified) and self.made.lost:
            return "lost"
        return self.made.finish

    @property
    def written_off(self) -> int:
        """Tokens that are charged though nobody knows if they were made: all it was held for."""
        known = self.finish not in ("lost", "unreported")
        return 0 if known or isinstance(self.call, Verify) else self.call.max_tokens


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that has ended, as its trace tells it (`told`), and the calls it took.

    `asked` and `ended` are on the monotonic clock; `asked` is None for one that was asked for
    before this process ran the request. `why` says what a call of it was cancelled for, if one was.
    """

    id: str
    told: Mapping[str, Any]
    asked: float | None
    ended: float
    calls: tuple[Called, ...] = ()
    why: str | None = None

    @property
    def kind(self) -> str:
        """`expand`, `grade` or `verify`."""
        return self.id.partition(":")[0]


@dataclass(slots=True)
class Request:
    """A request under way. `began` and `closed` are on the monotonic clock.

    `opened` is what its trace opens with. `left` says that nobody waits for it any more, though it
    may be gone on with.
    """

    id: str
    opened: Mapping[str, Any]
    began: float
    resumed: bool = False
    left: bool = False
    closed: float | None = None
    asked: dict[str, float] = field(default_factory=dict)
    calls: dict[str, list[Called]] = field(default_factory=dict)
    unwanted: dict[str, str] = field(default_factory=dict)
    """By call, why it was cancelled."""
    answered: bool = False
    """Whether any task of it is done."""

    @property
    def strategy(self) -> str:
        """The outermost one; what it searches with inside is the client's to combine."""
        return strategy_name(self.opened["effort"]["strategy"])


def strategy_name(written: str) -> str:
    """A strategy without what stands in its brackets: of these there are only so many."""
    return written.partition("(")[0]


class Watcher(Protocol):
    """Whoever wants to know."""

    def began(self, request: Request) -> None:
        """A request began, or is gone on with."""

    def said(self, request: Request, event: Event) -> None:
        """Its trace has one more event."""

    def called(self, call: Called) -> None:
        """A call is over, of a request or of what is left of one."""

    def ended(self, request: Request, task: Ended) -> None:
        """A task is over."""

    def closed(self, request: Request, said: Mapping[str, Any] | None) -> None:
        """It came to what its trace says at its end, or failed (None)."""

    def over(self, request: Request) -> None:
        """Nothing more will be heard of it; it was closed before."""


class Watch:
    """Puts together what is heard and tells it to all watchers, in their order."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = watchers
        self._requests: dict[str, Request] = {}

    def saw(self, trace: Trace, event: Event) -> None:
        """A trace that is written here has one more event."""
        now = monotonic()
        if event.kind in (Kind.OPENED, Kind.RESUMED):
            self._begin(trace, event, now)
        request = self._requests.get(trace.id)
        if request is None:
            return
        for watcher in self._watchers:
            watcher.said(request, event)
        self._note(request, event, now)

    def _note(self, request: Request, event: Event, now: float) -> None:
        match event.kind:
            case Kind.ASKED:
                request.asked.update(dict.fromkeys(event.data["tasks"], now))
            case Kind.CANCELLED:
                request.unwanted.update(dict.fromkeys(event.data["calls"], event.data["why"]))
            case Kind.LEFT:
                request.left = True
            case Kind.TOLD:
                self._end(request, event.data, now)
            case Kind.CLOSED:
                self._close(request, event.data, now)
                if not event.data["unreported"]:
                    self._drop(request)
            case Kind.SETTLED:
                self._drop(request)
            case _:  # says nothing of when and why
                pass

    def called(self, call: Called) -> None:
        """A call is over."""
        for watcher in self._watchers:
            watcher.called(call)
        trace_id, _, op = call.call.id.partition("/")
        if request := self._requests.get(trace_id):
            request.calls.setdefault(op.rpartition("#")[0], []).append(call)

    def failed(self, trace_id: str) -> None:
        """A request came to no end that its trace could tell. One that did is left alone."""
        request = self._requests.get(trace_id)
        if request is not None and request.closed is None:
            self._close(request, None, monotonic())
            self._drop(request)

    def _begin(self, trace: Trace, event: Event, now: float) -> None:
        """Take a request up. What was left of those that are long over goes."""
        for late in list(self._requests.values()):
            if late.closed is not None and now - late.closed > LATE_SECONDS:
                self._drop(late)
        if (earlier := self._requests.get(trace.id)) is not None:
            # It was to be gone on with before, and couldn't be.
            if earlier.closed is None:
                self._close(earlier, None, now)
            self._drop(earlier)
        resumed = event.kind is Kind.RESUMED
        opened = event if not resumed else trace.events[0]
        self._requests[trace.id] = request = Request(trace.id, opened.data, now, resumed)
        if resumed:
            request.asked.update(dict.fromkeys(event.data["again"], now))
        for watcher in self._watchers:
            watcher.began(request)

    def _end(self, request: Request, told: Mapping[str, Any], now: float) -> None:
        task_id: str = told["id"]
        calls = tuple(request.calls.pop(task_id, ()))
        why = [request.unwanted.pop(call.call.id, None) for call in calls]
        task = Ended(
            task_id,
            told,
            request.asked.pop(task_id, None),
            now,
            calls,
            next((one for one in reversed(why) if one), None),
        )
        for watcher in self._watchers:
            watcher.ended(request, task)
        request.answered |= told["status"] == "done"

    def _drop(self, request: Request) -> None:
        del self._requests[request.id]
        for watcher in self._watchers:
            watcher.over(request)

    def _close(self, request: Request, said: Mapping[str, Any] | None, now: float) -> None:
        request.closed = now
        for watcher in self._watchers:
            watcher.closed(request, said)
