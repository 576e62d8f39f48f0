"""Traces as clients follow them: server-sent events, from the first to the last, and an early end.

A stream reads the log that is there anyway, at its own pace: the search knows nothing of it, so a
follower that is slow or gone costs it nothing. Every stream ends. It ends when the trace is closed
(and settled, where that comes within a moment), or else with the event `lost`, once the trace can't
grow any more: its search has failed, or it has been silent for so long that its service has died.

Each event has its `seq` as its id, so that a browser that lost its connection goes on where it was.
`tokens` events are only in the streams of the process that runs the search.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from http import HTTPStatus
from time import monotonic
from typing import Any, Protocol

from pydantic_core import to_json
from redis.exceptions import RedisError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.api.errors import ApiError, unavailable
from services.api.limits import Limits
from services.reasoning import Reasoner
from services.recent import Recent
from services.resume import owner
from services.run import Run
from services.tenants import Tenant
from services.trace import SILENT_SECONDS, Event, Kind, Tail

_FLUSH_SECONDS = 1.0
_SETTLE_SECONDS = 2.0
"""How long a stream waits for `settled` after `closed`."""
_POLL_SECONDS = 0.2
"""How often a trace that grows in another replica is looked at."""
_LOOK_SECONDS = 0.1
"""How often it is looked whether a run that wrote nothing is still there."""

_AT_ONCE = 32
"""So many events are written before others of this process have their turn: searches, above all."""

_HEARTBEAT = b": nothing new\n\n"


class Store(Protocol):
    """Where traces are kept for everybody: `services.trace.TraceStore`.

    All but `flush` and `heed` raise redis.exceptions.RedisError when Redis can't be reached.
    """

    def heed(self, end: Any) -> None:
        """Have `end` called with the id of each search that a replica is asked to end."""

    async def end(self, trace_id: str) -> bool:
        """Ask the replica that runs it to end a search. False where none listens."""

    async def flush(self) -> None:
        """Return when everything written so far can be read, or is lost."""

    async def read(self, trace_id: str) -> list[Event] | None:
        """The events of a trace, or None."""

    async def tail(self, trace_id: str, mark: str | None = None) -> Tail | None:
        """What a trace has beyond a mark, or None where there is no such trace."""

    async def recent(self, most: int, tenant: Tenant) -> list[Recent]:
        """The newest requests that a tenant may see, newest first."""


class Source(Protocol):
    """A trace that may grow. `over` once nothing more is to come, `lost` if that is no good end."""

    over: bool
    lost: str | None

    async def more(self, seconds: float) -> Sequence[Event]:
        """What came since the last time; nothing, if nothing comes within so many seconds."""


class Traces:
    """The traces of this service's requests, wherever they run.

    To a tenant that may not see a trace, there is no such trace.
    """

    def __init__(
        self, reasoner: Reasoner, store: Store, limits: Limits, *, over: asyncio.Event
    ) -> None:
        """Streams end when `over` is set, as their service does."""
        self._over = over
        self._reasoner = reasoner
        self._store = store
        self._limits = limits
        store.heed(self._end_here)

    async def read(self, trace_id: str, tenant: Tenant) -> list[Event]:
        """All events of a trace so far. Raises ApiError, 404 or 503."""
        await self._flushed()
        try:
            events = await self._store.read(trace_id)
        except RedisError:
            raise self._unavailable() from None
        if events is None or not tenant.may_see(owner(events)):
            raise unknown()
        return events

    async def recent(self, most: int, tenant: Tenant) -> list[Recent]:
        """The newest requests. Raises ApiError, 503."""
        await self._flushed()
        try:
            return await self._store.recent(most, tenant)
        except RedisError:
            raise self._unavailable() from None

    async def follow(self, trace_id: str, after: int, tenant: Tenant) -> Response:
        """A stream of the events after the one numbered `after`. Raises ApiError, 404 or 503."""
        source = await self._source(trace_id, tenant)
        first = [event for event in await source.more(0) if event.seq > after]
        if source.over and not first and after >= 0:
            # What an EventSource that lost its connection after the end takes for an end.
            return Response(status_code=HTTPStatus.NO_CONTENT)
        return Feed(_feed(source, first, after, self._limits.heartbeat_seconds), self._over)

    async def end(self, trace_id: str, tenant: Tenant) -> None:
        """End a search early. Raises ApiError: 404, 409 if it is over, 503."""
        run = self._reasoner.find(trace_id)
        if run is not None and not tenant.may_see(run.tenant.id):
            raise unknown()
        if self._end_here(trace_id):
            return
        events = await self.read(trace_id, tenant)
        if any(event.kind is Kind.CLOSED for event in events):
            raise ApiError(
                HTTPStatus.CONFLICT,
                "This search is over already.",
                code="trace_closed",
                param="trace_id",
            )
        try:
            heard = await self._store.end(trace_id)
        except RedisError:
            raise self._unavailable() from None
        if not heard:
            raise self._unavailable("The replica that runs this search can't be reached.")

    def _end_here(self, trace_id: str) -> bool:
        """End a search if it is this process that runs it."""
        run = self._reasoner.find(trace_id)
        if run is None or run.trace.closed:
            return False
        run.cancel()
        return True

    async def _source(self, trace_id: str, tenant: Tenant) -> Source:
        run = self._reasoner.find(trace_id)
        if run is not None and not tenant.may_see(run.tenant.id):
            raise unknown()
        if run is not None:
            return _Here(run, self._reasoner)
        await self._flushed()
        try:
            tail = await self._store.tail(trace_id)
        except RedisError:
            raise self._unavailable() from None
        if tail is None or not tenant.may_see(owner(tail.events)):
            raise unknown()
        return _Elsewhere(trace_id, self._store, tail)

    async def _flushed(self) -> None:
        """A client that asks right after its reply should find the end of the log, too."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._store.flush()

    def _unavailable(self, message: str = "Traces can't be read at present.") -> ApiError:
        return unavailable(message, "traces_unavailable", self._limits.retry_seconds)


class Feed(Response):
    """Sends chunks as they come, for as long as the client is there."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes, None], over: asyncio.Event) -> None:
        # No proxy may hold it back, and no cache may keep it.
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application does."""
        sending = asyncio.create_task(self._send(send))
        ending = [
            asyncio.create_task(_disconnect(receive)),
            asyncio.create_task(self._over.wait()),
        ]
        try:
            await asyncio.wait((sending, *ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            # Some servers raise OSError when there is nobody to send to.
            with suppress(OSError, asyncio.CancelledError):
                await sending
        if self._over.is_set() and sending.cancelled():
            # As a whole response, so that the client asks for the rest elsewhere.
            with suppress(OSError):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send) -> None:
        async with aclosing(self._chunks) as chunks:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def told(event: Event) -> dict[str, Any]:
    """An event as clients get it."""
    return {"seq": event.seq, "seconds": event.seconds, "kind": event.kind, "data": event.data}


def unknown() -> ApiError:
    """There is no such trace."""
    return ApiError(
        HTTPStatus.NOT_FOUND,
        "There is no such trace. Traces are kept for a limited time.",
        code="trace_not_found",
        param="trace_id",
    )


class _Here:
    """A search of this process."""

    def __init__(self, run: Run, reasoner: Reasoner) -> None:
        self.over = False
        self.lost: str | None = None
        self._trace = run.trace
        self._reasoner = reasoner
        self._seen = 0
        self._settled = _Settling()

    async def more(self, seconds: float) -> Sequence[Event]:
        until = monotonic() + seconds
        while True:
            # Whether it is gone is asked first: what it wrote before that is all there then.
            gone = self._reasoner.find(self._trace.id) is None
            left = max(0.0, until - monotonic())
            events = await self._trace.grown(self._seen, 0 if gone else min(left, _LOOK_SECONDS))
            self._seen += len(events)
            self._settled.see(events)
            if self._settled.over or (gone and not events):
                self.over = True
                if not self._trace.closed:
                    self.lost = "The search failed."
            if events or self.over or left == 0:
                return events


class _Elsewhere:
    """A stored trace: one that is over, or one that grows in another replica."""

    def __init__(self, trace_id: str, store: Store, tail: Tail) -> None:
        self.over = False
        self.lost: str | None = None
        self._id = trace_id
        self._store = store
        self._tail = tail
        self._seen = -1
        self._settled = _Settling()
        self._first = True

    async def more(self, seconds: float) -> Sequence[Event]:
        if self._first:
            self._first = False
            events = self._fresh()
            # One that was closed some time ago has been settled, too, if it ever will be.
            self.over |= self._tail.silent_seconds > _SETTLE_SECONDS and self._settled.closed
            return events
        until = monotonic() + seconds
        while True:
            events = await self._poll()
            if events or self.over or monotonic() >= until:
                return events
            await asyncio.sleep(_POLL_SECONDS)

    async def _poll(self) -> Sequence[Event]:
        try:
            tail = await self._store.tail(self._id, self._tail.mark)
        except RedisError:
            self.over, self.lost = True, "The trace can't be read any more."
            return ()
        if tail is not None:
            self._tail = tail
        return self._fresh()

    def _fresh(self) -> Sequence[Event]:
        events = []
        for event in self._tail.events:
            if event.seq > self._seen:
                events.append(event)
                self._seen = event.seq
        self._settled.see(events)
        self.over = self._settled.over
        if not self._settled.closed and self._tail.silent_seconds > SILENT_SECONDS:
            self.over = True
            self.lost = (
                f"Nothing was heard of this search for {SILENT_SECONDS:.0f} seconds: the service "
                "that ran it has died, or is cut off."
            )
        return events


class _Settling:
    """Whether a trace is over: it is settled, or was closed a moment ago."""

    def __init__(self) -> None:
        self._until: float | None = None
        self._settled = False

    def see(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.kind is Kind.CLOSED:
                self._until = monotonic() + _SETTLE_SECONDS
            self._settled |= event.kind is Kind.SETTLED

    @property
    def closed(self) -> bool:
        return self._until is not None

    @property
    def over(self) -> bool:
        return self._settled or (self._until is not None and monotonic() >= self._until)


async def _feed(
    source: Source, first: Sequence[Event], after: int, heartbeat_seconds: float
) -> AsyncGenerator[bytes, None]:
    events = first
    while True:
        for start in range(0, len(events), _AT_ONCE):
            yield b"".join(map(_sent, events[start : start + _AT_ONCE]))
            await asyncio.sleep(0)
        if source.over:
            break
        came = await source.more(heartbeat_seconds)
        events = [event for event in came if event.seq > after]
        if not came and not source.over:
            yield _HEARTBEAT
    if source.lost is not None:
        yield b"event: lost\ndata: " + to_json({"reason": source.lost}) + b"\n\n"


def _sent(event: Event) -> bytes:
    data = to_json(told(event), inf_nan_mode="null")
    return f"id: {event.seq}\nevent: {event.kind.value}\ndata: ".encode() + data + b"\n\n"


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
