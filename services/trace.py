"""The trace: one ordered log of everything told about a request.

It is at once the live event stream, the picture, the checkpoint a retry resumes from and the audit
of what was spent. The request's own process appends and follows it in memory; a Redis stream keeps
it for everybody else. Appending never waits for Redis: a writer carries events over in order, and a
trace that can't be written costs the request nothing but its record.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from redis.exceptions import RedisError

from planner.errors import LedgerUnavailable, LongthinkError
from services import ending, recent
from services.ending import Endings
from services.recent import Recent
from services.tenants import LOCAL, Tenant

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline

SILENT_SECONDS = 120.0
"""A trace that isn't closed and hasn't grown for so long is given up: its service has died."""


class Kind(StrEnum):
    """What an event tells."""

    OPENED = "opened"  # query, effort, prompt_tokens; what else the search knew: see its `Setup`
    ASKED = "asked"  # room, tasks: the ids of what the search wants done
    TOKENS = "tokens"  # id of a call, after (characters), text: only live, `told` has it all again
    TOLD = "told"  # how one task ended: id, status, candidate, cost, worker, error
    PLANNED = "planned"  # this and the next two: what the search said, see `planner.domain.News`
    STEP = "step"
    DECIDED = "decided"
    HURRIED = "hurried"  # there was just time for one more pass, and the search was told so
    STANDING = "standing"  # finished, planned, running, answer, confidence, votes, spent
    HEDGED = "hedged"  # id of a task that takes long, call: the id of its second call, on the way
    CANCELLED = "cancelled"  # calls: the ids of those that are to end now; why they are
    # outcome, spent; reason, remarks: what of it the search couldn't know; unreported calls;
    # choosing_seconds: how long it took to choose the answer
    CLOSED = "closed"
    SETTLED = "settled"  # spent in the end, where calls had yet to report when it was closed
    SENT = "sent"  # budget, ops: what each call that may be sent now holds, see `services.journal`
    PAID = "paid"  # budget, ops: what each call that has ended cost
    PART = "part"  # what a task that goes on has made so far, as `told` says it
    LEFT = "left"  # nobody waits for the reply any more: it ends here until somebody asks again
    RESUMED = "resumed"  # again: tasks still to be done; lost: calls that nobody will hear of


_FENCED = """
local runner = redis.call('HGET', KEYS[2], 'runner')
if runner and runner ~= ARGV[1] then return 0 end
for i = 3, #ARGV, 4 do
  redis.call('XADD', KEYS[1], '*', 'seq', ARGV[i], 'seconds', ARGV[i + 1], 'kind', ARGV[i + 2],
    'data', ARGV[i + 3])
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""
"""Writes events, unless somebody else runs the request now."""

_Log: TypeAlias = tuple[str, str | None]
"""A trace, and the runner as whom it is written."""


@dataclass(frozen=True, slots=True)
class Event:
    """One entry: its place in the log, seconds since the request began, what kind, what it says.

    `data` is JSON: only str, int, float, bool, None, lists and dicts with string keys.
    """

    seq: int
    seconds: float
    kind: Kind
    data: Mapping[str, Any]


class Superseded(LongthinkError):
    """Another runner has taken the request over: this one must stop, and write nothing more."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the writer has to do: write `event`, or say on `kept` how it went."""

    trace_id: str
    runner: str | None
    event: Event | None = None
    kept: asyncio.Future[None] | None = None

    def answer(self, error: Exception | None) -> None:
        """Say how it went, if somebody still waits for that."""
        if self.kept is None or self.kept.done():
            return
        if error is None:
            self.kept.set_result(None)
        else:
            self.kept.set_exception(error)


class Trace:
    """The log of one request, in its own process.

    `begun` is what is in it already. With a `runner` nothing is written down once somebody else
    runs the request (see `services.idempotency.Lease`).
    """

    def __init__(
        self,
        trace_id: str,
        store: TraceStore | None = None,
        *,
        begun: Sequence[Event] = (),
        runner: str | None = None,
    ) -> None:
        self.id = trace_id
        self.events: list[Event] = list(begun)
        self.closed = False
        self._store = store
        self._runner = runner
        self._next = begun[-1].seq + 1 if begun else 0
        self._began = time.monotonic() - (begun[-1].seconds if begun else 0)
        self._more = asyncio.Event()

    @property
    def resumable(self) -> bool:
        """Whether another process may go on from it."""
        return self._runner is not None

    def append(self, kind: Kind, **data: Any) -> Event:
        """Write one event. Nobody waits; followers are woken."""
        event = Event(self._next, time.monotonic() - self._began, kind, data)
        if self._store is not None and kind is not Kind.TOKENS:
            self._store.write(self.id, event, self._runner)
        self.add(event)
        if self._store is not None:
            self._store.seen(self, event)
        return event

    def add(self, event: Event) -> None:
        """Take in an event that is written down already."""
        self.events.append(event)
        self._next = event.seq + 1
        if event.kind is Kind.CLOSED:
            self.closed = True
        self._more.set()
        self._more = asyncio.Event()

    async def kept(self) -> None:
        """Return when Redis has all that was written so far. Raises as `TraceStore.kept` does."""
        if self._store is not None:
            await self._store.kept(self.id, self._runner)

    async def follow(self) -> AsyncIterator[Event]:
        """Every event from the first, then each as it comes, until the trace is closed."""
        seen = 0
        while True:
            while seen < len(self.events):
                yield self.events[seen]
                seen += 1
            if self.closed:
                return
            await self._more.wait()

    async def grown(self, seen: int, seconds: float) -> list[Event]:
        """The events beyond the first `seen`; none, if none comes within `seconds`."""
        if seen >= len(self.events):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._more.wait()
        return self.events[seen:]


@dataclass(frozen=True, slots=True)
class Tail:
    """What a stored trace has beyond a mark, the new mark, and how long ago it last grew."""

    events: tuple[Event, ...]
    mark: str
    silent_seconds: float


class TraceStore:
    """Traces in Redis streams, each with a time to live of `ttl_seconds`.

    `lost` is told how many events Redis didn't take, and why, each time that happens. `seen` is
    told every event of the traces that are written here, as it happens.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        ttl_seconds: int = 3600,
        lost: Callable[[int, Exception], None] = lambda *_: None,
        seen: Callable[[Trace, Event], None] = lambda *_: None,
    ) -> None:
        self._redis = redis
        self._ttl = ttl_seconds
        self._queue: asyncio.Queue[_Entry] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None
        self._lost = lost
        self.seen = seen
        self._endings: Endings | None = None
        self._late: list[_Entry] = []

    def heed(self, end: Callable[[str], object]) -> None:
        """Have `end` called with each id for which `end` is called on a store, on any replica."""
        self._endings = Endings(self._redis, end)

    async def end(self, trace_id: str) -> bool:
        """Ask the replica that runs it to end a search. False where none listens.

        Raises redis.exceptions.RedisError when Redis can't be reached.
        """
        return await ending.publish(self._redis, trace_id)

    def write(self, trace_id: str, event: Event, runner: str | None = None) -> None:
        """Have the writer carry `event` to Redis, with a `runner` only while that one runs it."""
        if self._endings is not None:
            self._endings.listen()
        self._put(_Entry(trace_id, runner, event))

    async def kept(self, trace_id: str, runner: str | None = None) -> None:
        """Return when Redis has all that was written to a trace.

        Raises LedgerUnavailable where Redis didn't take the last of it, and Superseded where
        `runner` doesn't run it any more.
        """
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Entry(trace_id, runner, kept=kept))
        await kept

    def _put(self, entry: _Entry) -> None:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write())
        self._queue.put_nowait(entry)

    async def flush(self) -> None:
        """Return when everything written so far is in Redis, or lost."""
        await self._queue.join()

    async def aclose(self) -> None:
        """Flush, and end the writer."""
        await self.flush()
        if self._writer is not None:
            self._writer.cancel()
            with suppress(asyncio.CancelledError):
                await self._writer
        if self._endings is not None:
            await self._endings.aclose()

    async def read(self, trace_id: str) -> list[Event] | None:
        """The stored events of a trace, or None where there is no such trace.

        Raises redis.exceptions.RedisError when Redis can't be reached.
        """
        events, _ = await self.after(trace_id, "-")
        # A batch whose reply was lost on the wire may have been written twice.
        return sorted({event.seq: event for event in events}.values(), key=_seq) or None

    async def tail(self, trace_id: str, mark: str | None = None) -> Tail | None:
        """What was stored after `mark`, or None where there is no such trace.

        An event may come twice; its `seq` tells. Raises redis.exceptions.RedisError when Redis
        can't be reached.
        """
        async with self._redis.pipeline(transaction=False) as pipe:
            _ = pipe.xrange(self._key(trace_id), "-" if mark is None else f"({mark}")
            _ = pipe.time()
            entries, (seconds, micro) = await pipe.execute()
        if not entries and mark is None:
            return None
        mark = _str(entries[-1][0]) if entries else mark or "0-0"
        silent = seconds + micro / 1e6 - _added(mark)
        return Tail(tuple(_decode(fields) for _, fields in entries), mark, silent)

    async def recent(self, most: int, tenant: Tenant = LOCAL) -> list[Recent]:
        """The newest requests that a tenant may see, newest first.

        Raises redis.exceptions.RedisError when Redis can't be reached.
        """
        listed: list[Any] = await self._redis.zrevrange(
            recent.INDEX if tenant.operator else recent.index(tenant.id), 0, most - 1
        )
        ids = [_str(one) for one in listed]
        async with self._redis.pipeline(transaction=False) as pipe:
            _ = pipe.time()
            for trace_id in ids:
                _ = pipe.hgetall(recent.key(trace_id))
                _ = pipe.xrevrange(self._key(trace_id), count=1)
            (now, _), *found = await pipe.execute()
        rows = []
        for trace_id, facts, last in zip(ids, found[::2], found[1::2], strict=True):
            growing = bool(last) and now - _added(last[0][0]) < SILENT_SECONDS
            told = {_str(name): _str(value) for name, value in facts.items()}
            rows.append(recent.recent(trace_id, told, growing=growing))
        return [row for row in rows if row is not None]

    async def after(self, trace_id: str, place: str) -> tuple[list[Event], str]:
        """The events stored after a place, as they come, and the place after them.

        Places are Redis's; the first is "-". Raises as `read` does.
        """
        entries = await self._redis.xrange(self._key(trace_id), place) or []
        events = [_decode(fields) for _, fields in entries if fields is not None]
        return events, f"({_str(last)}" if entries and (last := entries[-1][0]) else place

    async def _write(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                # Sent twice, an event counts once: see `read`.
                refused = await self._send([*self._late, *batch])
                self._late.clear()
            except RedisError as error:
                self._failed(batch, error)
            except Exception as error:  # noqa: BLE001  the writer serves all requests
                self._failed(batch, error, again=False)
            else:
                for entry in batch:
                    taken = (entry.trace_id, entry.runner) in refused
                    entry.answer(Superseded("Another runner took it over.") if taken else None)
            finally:
                for _ in batch:
                    self._queue.task_done()

    def _failed(self, batch: list[_Entry], error: Exception, *, again: bool = True) -> None:
        """Tell of events that Redis didn't take, and keep those that a trace mustn't lack: but not
        where they can't be written at all.
        """
        events = [entry for entry in batch if entry.event is not None]
        late = [entry for entry in events if again and entry.runner is not None]
        self._late += late
        if lost := len(events) - len(late):
            self._lost(lost, error)
        for entry in batch:
            entry.answer(LedgerUnavailable(f"A trace can't be written: {error}"))

    async def _send(self, batch: list[_Entry]) -> set[_Log]:
        """Carry events over, in their order; returns the logs that another one writes now."""
        logs: dict[_Log, list[Event]] = {}
        for entry in batch:
            events = logs.setdefault((entry.trace_id, entry.runner), [])
            if entry.event is not None:
                events.append(entry.event)
        fenced = [(log, log[1]) for log in logs if log[1] is not None]
        async with self._redis.pipeline(transaction=False) as pipe:
            # A pipeline only notes its commands; what they return means nothing yet.
            for log, runner in fenced:
                words = [word for event in logs[log] for word in _encode(event).values()]
                keys = (self._key(log[0]), runner_key(log[0]))
                _ = pipe.eval(_FENCED, 2, *keys, runner, self._ttl, *words)
            for (trace_id, writer), events in logs.items():
                if writer is None:
                    for event in events:
                        _ = pipe.xadd(self._key(trace_id), _encode(event))
                    _ = pipe.expire(self._key(trace_id), self._ttl)
            # The index comes last: of the replies, the first are those of the fenced.
            for (trace_id, _), events in logs.items():
                for event in events:
                    self._index(pipe, trace_id, event)
            replies = await pipe.execute()
        return {log for (log, _), written in zip(fenced, replies, strict=False) if not written}

    def _index(self, pipe: Pipeline, trace_id: str, event: Event) -> None:
        if event.kind is Kind.OPENED:
            recent.note_opened(pipe, trace_id, event.data, now=time.time(), ttl=self._ttl)
        elif event.kind is Kind.CLOSED:
            seconds = event.seconds
            recent.note_closed(pipe, trace_id, event.data, seconds=seconds, ttl=self._ttl)

    @staticmethod
    def _key(trace_id: str) -> str:
        return f"longthink:{{{trace_id}}}:trace"


def runner_key(trace_id: str) -> str:
    """The key under which Redis knows who runs a request."""
    return f"longthink:{{{trace_id}}}:runner"


def _seq(event: Event) -> int:
    return event.seq


def _encode(event: Event) -> dict[Any, Any]:
    return {
        "seq": event.seq,
        "seconds": repr(event.seconds),
        "kind": event.kind.value,
        "data": json.dumps(event.data),  # in ASCII, so that nothing in it can fail to be encoded
    }


def _decode(fields: Mapping[Any, Any]) -> Event:
    text = {_str(key): _str(value) for key, value in fields.items()}
    return Event(
        int(text["seq"]), float(text["seconds"]), Kind(text["kind"]), json.loads(text["data"])
    )


def _added(entry: bytes | str) -> float:
    """When an entry was added: its id begins with that, in milliseconds of Redis' clock."""
    return int(_str(entry).partition("-")[0]) / 1000


def _str(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
