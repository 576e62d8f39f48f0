"""Requests with an `Idempotency-Key`: however often one is sent, it is thought about once.

While a runner drives it, here or in another process, whoever repeats the request attaches to it.
Where its runner died, or all its clients left, the next one goes on from its trace. Once it has
ended, it is told again what came of it, at no cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias
from weakref import WeakValueDictionary

from redis.exceptions import RedisError

from planner.domain import Cost, Stopped
from planner.errors import LedgerUnavailable
from services.idempotency import Key, Keys, Lease
from services.reasoning import Reasoner, Reply, Run
from services.resume import Saved, kept
from services.trace import Event, Superseded, Trace, TraceStore

Start: TypeAlias = Callable[[str, Lease], Awaitable[Run]]
"""Starts a request anew, as the trace of this id."""

_LOOK_SECONDS = 0.05
"""How often what another process does is looked at."""


class Once:
    """Answers requests that have a key."""

    def __init__(self, reasoner: Reasoner, keys: Keys, traces: TraceStore) -> None:
        self.reasoner = reasoner
        self._keys = keys
        self._traces = traces
        self._shared: dict[str, _Shared] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(
        self, key: Key, start: Start, *, trace_id: str, stream_tokens: bool = False
    ) -> Run:
        """The run of the request that the key stands for; `trace_id` is its trace's if it is new.

        Raises KeyReused, and what starting it raises: the key stands for nothing then.
        """
        turn = self._turns.setdefault(key.record, asyncio.Lock())
        async with turn:
            claimed = await self._keys.claim(key, trace_id)
            while True:
                if run := await self.join(key, claimed, start, stream_tokens=stream_tokens):
                    return run
                if followed := await self.follow(key, claimed):
                    return followed
                # Somebody has begun who has not written anything yet.
                await asyncio.sleep(_LOOK_SECONDS)

    async def join(
        self, key: Key, trace_id: str, start: Start | None = None, *, stream_tokens: bool = False
    ) -> Run | None:
        """Attach to a request that is run here, take it up, or begin it.

        None while another process runs it, or there is nothing to take up and no way to begin.
        """
        shared = self._shared.get(trace_id)
        if shared is not None and not shared.run.over.is_set():
            if not shared.run.left:
                return shared.attach()
            await shared.run.over.wait()
        lease = await self._keys.take(key, trace_id)
        if lease is None:
            return None
        return await self._take(lease, start, stream_tokens=stream_tokens)

    async def follow(self, key: Key, trace_id: str) -> Run | None:
        """A request that another process runs; None as long as it has no trace."""
        saved = await self.reasoner.saved(trace_id)
        return None if saved is None else _Followed(self, key, saved, self._traces)

    async def _take(self, lease: Lease, start: Start | None, *, stream_tokens: bool) -> Run | None:
        """What there is to do where nobody runs it."""
        run: Run | None = None
        try:
            saved = await self.reasoner.saved(lease.trace_id)
            if saved is not None and saved.ended:
                await self.reasoner.settle(saved, lease)
                return _Told(saved, self.reasoner)
            if saved is not None:
                run = await self.reasoner.resume(saved, lease=lease, stream_tokens=stream_tokens)
            elif start is not None:
                run = await self._start(start, lease)
            else:
                return None
        finally:
            if run is None:
                with suppress(LedgerUnavailable):
                    await lease.release()
        shared = self._shared[lease.trace_id] = _Shared(self, lease.key, run)
        return shared.attach()

    async def _start(self, start: Start, lease: Lease) -> Run:
        """Begin; the key of a request that is refused stands for nothing."""
        try:
            return await start(lease.trace_id, lease)
        except BaseException:
            with suppress(LedgerUnavailable):
                await self._keys.forget(lease.key)
            raise

    def drop(self, shared: _Shared) -> None:
        """A run that was shared is over."""
        trace_id = shared.run.trace.id
        if self._shared.get(trace_id) is shared:
            del self._shared[trace_id]


class _Shared:
    """A run of this process, for all who wait for it. With the last of them that leaves it ends."""

    def __init__(self, once: Once, key: Key, run: Run) -> None:
        self.run = run
        self._once = once
        self._key = key
        self._attached: set[_Attached] = set()
        self._ending = asyncio.create_task(self._end())

    def attach(self) -> Run:
        """One more who waits. To the first it is booked; for others nothing new was spent."""
        attached = _Attached(self, booked=not self._attached)
        self._attached.add(attached)
        return attached

    def detach(self, attached: _Attached) -> None:
        """One has left."""
        self._attached.discard(attached)
        if not self._attached and not self.run.left:
            self.run.leave()

    async def elsewhere(self) -> Run | None:
        """The same request, as the process runs it that took it over."""
        return await self._once.follow(self._key, self.run.trace.id)

    async def _end(self) -> None:
        await self.run.over.wait()
        self._once.drop(self)


class _Attached(Run):
    """A shared run, as one of those sees it who wait for it."""

    def __init__(self, shared: _Shared, *, booked: bool) -> None:
        self.trace = shared.run.trace
        self.effort = shared.run.effort
        self._shared = shared
        self._booked = booked
        self._elsewhere: Run | None = None

    async def reply(self) -> Reply:
        """See `Run.reply`. Where another process took the run over, it is that one's."""
        try:
            reply = await self._shared.run.reply()
        except Superseded:
            self._elsewhere = await self._shared.elsewhere()
            if self._elsewhere is None:
                raise
            return await self._elsewhere.reply()
        return reply if self._booked else _again(reply)

    def cancel(self, reason: Stopped = Stopped.CANCELLED) -> None:
        """Wait no more."""
        if self._elsewhere is not None:
            self._elsewhere.cancel(reason)
        else:
            self._shared.detach(self)


class _Told(Run):
    """A request that has ended, told again."""

    def __init__(self, saved: Saved, reasoner: Reasoner) -> None:
        self.trace = Trace(saved.id, begun=saved.recorded)
        self.trace.closed = True
        self.effort = saved.effort
        self._saved = saved
        self._reasoner = reasoner

    async def reply(self) -> Reply:
        """What came of it."""
        return _again(_reply(self._saved, self._reasoner))

    def cancel(self, reason: Stopped = Stopped.CANCELLED) -> None:
        """There is nothing to end."""


class _Followed(Run):
    """A request that another process runs, seen through its trace; taken over if that one dies."""

    def __init__(self, once: Once, key: Key, saved: Saved, traces: TraceStore) -> None:
        self.trace = Trace(saved.id, begun=saved.recorded)
        self.effort = saved.effort
        self._once = once
        self._key = key
        self._traces = traces
        self._place = "-"
        self._taken: Run | None = None
        self._following = asyncio.create_task(self._follow())

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
        while True:
            await self._look()
            saved = Saved.of(self.trace.id, self.trace.events)
            if saved.ended:
                return _again(_reply(saved, self._once.reasoner))
            self._taken = await self._once.join(self._key, self.trace.id)
            if self._taken is not None:
                return await self._forwarded(self._taken)
            await asyncio.sleep(_LOOK_SECONDS)

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
