"""Requests with an `Idempotency-Key`: however often one is sent, it is thought about once.

While a runner drives it, here or in another process, whoever repeats the request attaches to it.
Where its runner died, or all its clients left, the next one goes on from its trace. Once it has
ended, it is told again what came of it, at no cost.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias
from weakref import WeakValueDictionary

from redis.exceptions import RedisError

from planner.domain import Cost, Stopped
from planner.errors import LedgerUnavailable
from planner.replay import Diverged
from services.admission import Admission, Refused
from services.allowance import OverLimit
from services.gate import Door, Gate
from services.idempotency import Key, KeyCrowded, KeyOutdated, Keys, Lease
from services.reasoning import Reasoner
from services.resume import BrokenTrace, Saved, kept
from services.run import Admitted, Reply, Run
from services.tenants import LOCAL
from services.trace import Event, Superseded, Trace, TraceStore

Start: TypeAlias = Callable[[str, Lease], Awaitable[Run]]
"""Starts a request anew, as the trace of this id."""

_LOOK_SECONDS = 0.05
"""How often what another process does is looked at."""

MOST_WAITING = 256
"""So many requests with one key may wait in one process; more are refused."""

_AWAY_SECONDS, _AWAY_PAUSE = 30.0, 0.5
"""So long a request that another process runs is waited for while Redis is away, and how often it
is looked at then: what became of it is written down when Redis is back."""


class Once:
    """Answers requests that have a key."""

    def __init__(
        self,
        reasoner: Reasoner,
        keys: Keys,
        traces: TraceStore,
        *,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self.reasoner = reasoner
        self._most_waiting = most_waiting
        self._following: Counter[str] = Counter()
        self._keys = keys
        self._traces = traces
        self._shared: dict[str, _Shared] = {}
        self._turns: WeakValueDictionary[tuple[str, str], _Turns] = WeakValueDictionary()

    async def run(
        self,
        key: Key,
        start: Start,
        *,
        trace_id: str,
        stream_tokens: bool = False,
        door: Door | None = None,
    ) -> Run:
        """The run of the request that the key stands for; `trace_id` is its trace's if it is new.

        What is taken up goes in by the `door`, as `start` must by itself. Raises KeyReused,
        KeyCrowded, KeyOutdated, what the door raises, and what starting it raises: the key stands
        for nothing then. A refusal is that of all who waited for it to begin.
        """
        door = door or Gate(Admission()).door(LOCAL)
        turns = self._turns.setdefault((key.record, key.digest), _Turns())
        self.admit(len(turns))
        async with turns.turn():
            while True:
                # The key is forgotten where another process was refused, and then it is our turn.
                claimed = await self._keys.claim(key, trace_id)
                run = await self.join(key, claimed, door, start, stream_tokens=stream_tokens)
                if run is not None:
                    return run
                if followed := await self.follow(key, claimed, door):
                    return followed
                # Somebody has begun who has not written anything yet.
                await asyncio.sleep(_LOOK_SECONDS)

    async def join(
        self,
        key: Key,
        trace_id: str,
        door: Door,
        start: Start | None = None,
        *,
        stream_tokens: bool = False,
    ) -> Run | None:
        """Attach to a request that is run here, take it up, or begin it.

        None while another process runs it, or there is nothing to take up and no way to begin.
        """
        shared = self._shared.get(trace_id)
        if shared is not None and not shared.run.over.is_set():
            if not shared.run.left:
                return shared.attach(door)
            await shared.run.over.wait()
        lease = await self._keys.take(key, trace_id)
        if lease is None:
            return None
        return await self._take(lease, door, start, stream_tokens=stream_tokens)

    async def follow(self, key: Key, trace_id: str, door: Door) -> Run | None:
        """A request that another process runs; None as long as it has no trace."""
        self.admit(self._following[trace_id])
        with _readable():
            saved = await self.reasoner.saved(trace_id)
        if saved is None:
            return None
        self._following[trace_id] += 1
        return _Followed(self, key, saved, self._traces, door)

    def admit(self, waiting: int) -> None:
        """Raise KeyCrowded where so many wait already."""
        if waiting >= self._most_waiting:
            raise KeyCrowded(
                "Too many requests with this Idempotency-Key wait for the same answer already."
            )

    def unfollow(self, trace_id: str) -> None:
        """One that followed waits no more."""
        self._following[trace_id] -= 1
        if not self._following[trace_id]:
            del self._following[trace_id]

    async def _take(
        self, lease: Lease, door: Door, start: Start | None, *, stream_tokens: bool
    ) -> Run | None:
        """What there is to do where nobody runs it. What has ended needs no place."""
        run: Run | None = None
        begun = _Begun()
        try:
            with _readable():
                saved = await self.reasoner.saved(lease.trace_id)
                if saved is not None and saved.ended:
                    await self.reasoner.settle(saved, lease)
                    return _Told(saved, _reply(saved, self.reasoner))
            if saved is not None:
                resume = partial(
                    self.reasoner.resume, saved, lease=lease, stream_tokens=stream_tokens
                )

                async def begin(admitted: Admitted) -> Run:
                    with _readable():
                        return await resume(admitted=admitted)

                run = await lease.while_kept(begun.by(door(saved.effort, begin)))
            elif start is None or not await self._stands(lease):
                return None
            else:
                run = await self._start(start, lease, begun)
        except Superseded:
            return None  # somebody else took it while this one waited for its turn
        finally:
            if begun.run is None:
                with suppress(LedgerUnavailable):
                    await lease.release()
            elif run is None:
                begun.run.leave()  # it lets go of the lease at its end
        shared = self._shared[lease.trace_id] = _Shared(self, lease.key, run)
        return shared.attach(door)

    async def _stands(self, lease: Lease) -> bool:
        """Whether the key stands for what the lease is for. Whoever had it may have been refused
        meanwhile, and have forgotten the key: then others ask for it under another trace.
        """
        return await self._keys.claim(lease.key, lease.trace_id) == lease.trace_id

    async def _start(self, start: Start, lease: Lease, begun: _Begun) -> Run:
        """Begin; the key of a request that is refused stands for nothing."""
        try:
            return await lease.while_kept(begun.by(start(lease.trace_id, lease)))
        except Superseded:
            raise
        except BaseException:
            if begun.run is None:
                with suppress(LedgerUnavailable):
                    await self._keys.forget(lease.key)
            raise

    def drop(self, shared: _Shared) -> None:
        """A run that was shared is over."""
        trace_id = shared.run.trace.id
        if self._shared.get(trace_id) is shared:
            del self._shared[trace_id]


@dataclass(slots=True)
class _Begun:
    """The run that was begun, if one was: also where nobody is there any more to be handed it."""

    run: Run | None = None

    async def by(self, work: Awaitable[Run]) -> Run:
        """What `work` makes."""
        self.run = await work
        return self.run


class _Turns:
    """Who asks for one request here, one after the other; with those whose turn it is not yet.

    The first may wait long until it begins, and the others with it. Where it is refused so are
    they, at once: none of them would fare better, had it waited as long again.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._inside: list[_Place] = []

    def __len__(self) -> int:
        return len(self._inside)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Inside, it is the caller's turn. Raises the refusal of whom it waited for."""
        place = _Place()
        self._inside.append(place)
        try:
            async with self._lock:
                if place.refused is not None:
                    raise place.refused
                with self._refusing_all():
                    yield
        finally:
            self._inside.remove(place)

    @contextmanager
    def _refusing_all(self) -> Iterator[None]:
        try:
            yield
        except (Refused, OverLimit) as refused:
            for place in self._inside:
                place.refused = refused
            raise


@dataclass(eq=False, slots=True)
class _Place:
    """One who waits for a turn, and what whoever had it before was refused with."""

    refused: Refused | OverLimit | None = None


class _Shared:
    """A run of this process, for all who wait for it. With the last of them that leaves it ends."""

    def __init__(self, once: Once, key: Key, run: Run) -> None:
        self.run = run
        self._once = once
        self._key = key
        self._attached: set[_Attached] = set()
        self._ending = asyncio.create_task(self._end())

    def attach(self, door: Door) -> Run:
        """One more who waits. To the first it is booked; for others nothing new was spent.

        Where another process takes it over and dies, it gets in by the `door` once more.
        """
        self._once.admit(sum(not one.answered for one in self._attached))
        attached = _Attached(self, door.unattended(), booked=not self._attached)
        self._attached.add(attached)
        return attached

    def detach(self, attached: _Attached) -> None:
        """One has left."""
        self._attached.discard(attached)
        if not self._attached and not self.run.left:
            self.run.leave()

    async def elsewhere(self, door: Door) -> Run | None:
        """The same request, as the process runs it that took it over."""
        return await self._once.follow(self._key, self.run.trace.id, door)

    async def _end(self) -> None:
        await self.run.over.wait()
        self._once.drop(self)


class _Attached(Run):
    """A shared run, as one of those sees it who wait for it."""

    def __init__(self, shared: _Shared, door: Door, *, booked: bool) -> None:
        self.trace = shared.run.trace
        self.tenant, self.allowance = shared.run.tenant, shared.run.allowance
        self.effort = shared.run.effort
        self.answered = False
        self._shared = shared
        self._door = door
        self._booked = booked
        self._elsewhere: Run | None = None

    async def reply(self) -> Reply:
        """See `Run.reply`. Where another process took the run over, it is that one's."""
        try:
            reply = await self._shared.run.reply()
        except Superseded:
            self._elsewhere = await self._shared.elsewhere(self._door)
            if self._elsewhere is None:
                raise
            return await self._elsewhere.reply()
        finally:
            self.answered = True
        return reply if self._booked else _again(reply)

    def cancel(self, reason: Stopped = Stopped.CANCELLED) -> None:
        """Wait no more."""
        if self._elsewhere is not None:
            self._elsewhere.cancel(reason)
        else:
            self._shared.detach(self)


class _Told(Run):
    """A request that has ended, told again."""

    def __init__(self, saved: Saved, reply: Reply) -> None:
        self.trace = Trace(saved.id, begun=saved.recorded)
        self.trace.closed = True
        self.effort = saved.effort
        self._again = _again(reply)

    async def reply(self) -> Reply:
        """What came of it."""
        return self._again

    def cancel(self, reason: Stopped = Stopped.CANCELLED) -> None:
        """There is nothing to end."""


class _Followed(Run):
    """A request that another process runs, seen through its trace; taken over if that one dies."""

    def __init__(self, once: Once, key: Key, saved: Saved, traces: TraceStore, door: Door) -> None:
        self.trace = Trace(saved.id, begun=saved.recorded)
        self.effort = saved.effort
        self._once = once
        self._key = key
        self._traces = traces
        self._door = door.unattended()
        self._place = "-"
        self._taken: Run | None = None
        self._following = asyncio.create_task(self._follow())
        self._following.add_done_callback(lambda _: once.unfollow(saved.id))

    async def reply(self) -> Reply:
        """Wait for the reply, whoever gives it."""
        return await asyncio.shield(self._following)

    def cancel(self, reason: Stopped = Stopped.CANCELLED) -> None:
        """Wait no more."""
        if self._taken is not None:
            self._taken.cancel(reason)
        else:
            self._following.cancel()

    async def _follow(self) -> Reply:
        loop = asyncio.get_running_loop()
        away: float | None = None
        while True:
            try:
                reply = await self._ended_or_taken()
            except LedgerUnavailable:
                away = away or loop.time()
                if loop.time() - away > _AWAY_SECONDS:
                    raise
                await asyncio.sleep(_AWAY_PAUSE)
                continue
            if reply is not None:
                return reply
            if self._taken is not None:
                return await self._forwarded(self._taken)
            away = None
            await asyncio.sleep(_LOOK_SECONDS)

    async def _ended_or_taken(self) -> Reply | None:
        """The reply, if it has ended; else take it over, if nobody runs it. Raises
        LedgerUnavailable.
        """
        await self._look()
        with _readable():
            saved = Saved.of(self.trace.id, self.trace.events)
            if saved.ended:
                return _again(_reply(saved, self._once.reasoner))
        self._taken = await self._once.join(self._key, self.trace.id, self._door)
        return None

    async def _look(self) -> None:
        """Take in what was written since the last time."""
        try:
            events, self._place = await self._traces.after(self.trace.id, self._place)
        except RedisError as error:
            raise LedgerUnavailable(f"Traces can't be read: {error}") from error
        for event in events:
            self._see(event)

    def _see(self, event: Event) -> None:
        if event.seq > self.trace.events[-1].seq:
            self.trace.add(event)

    async def _forwarded(self, run: Run) -> Reply:
        """The reply of a run of this process, and its events as they come."""

        async def forward() -> None:
            async for event in run.trace.follow():
                self._see(event)

        forwarding = asyncio.create_task(forward())
        try:
            return await run.reply()
        finally:
            forwarding.cancel()


@contextmanager
def _readable() -> Iterator[None]:
    """Say of a trace that this service reads otherwise than the one that wrote it what to do."""
    try:
        yield
    except (Diverged, BrokenTrace) as error:
        raise KeyOutdated(
            "What came of the request with this Idempotency-Key can't be gone on from: it is of "
            "another version of the service, or in part lost. Send the request with a new key."
        ) from error


def _reply(saved: Saved, reasoner: Reasoner) -> Reply:
    """The reply that was given at the end."""
    closed, outcome = saved.closed or {}, saved.outcome()
    return Reply(
        saved.id,
        outcome,
        saved.effort,
        Cost(**closed["spent"]),
        saved.effort.budget,
        closed["unreported"],
        reasoner.calibrated(saved.effort, outcome),
        reused=kept(saved.events),
        before=saved.before,
    )


def _again(reply: Reply) -> Reply:
    """The same reply for somebody for whom nothing new was spent."""
    return replace(reply, paid_before=reply.spent)
