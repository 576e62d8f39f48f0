"""What every replica of a Serve deployment with a vLLM engine has in common.

Owns the engine's life inside the replica and the calls that run on it. One Serve call carries a
batch; inside, each of its requests runs by itself, so that each is heard of as soon as it ends.
What always holds:

- each request of a batch ends in exactly one result;
- a cancelled request is aborted in the engine and then read to its end, never dropped, since only
  its last output says how many of its tokens the engine's counters have;
- when whoever reads a batch goes away, all that is left of it is dropped in the engine;
- whoever reads a batch hears something every second, as long as the engine gets on with its work;
- an engine that has died, or hangs, takes its replica with it: Serve puts another in its place.

vLLM is imported here, in the replica, and nowhere in the processes that call it.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ray import serve

from workers.environment import set_environment
from workers.heart import Heart
from workers.options import EngineOptions
from workers.routing import name_of

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

PULSE_SECONDS = 1.0
"""How often whoever reads a batch is told that the engine gets on, where there is nothing else."""

_LAST_WORDS_SECONDS = 0.5
"""How long a replica whose engine died still has to say what became of its calls."""

Event = TypeVar("Event")


class Call(Protocol):
    """One request and what has come of it so far."""

    id: str
    cancelled: bool


AnyCall = TypeVar("AnyCall", bound=Call)


class EngineReplica:
    """One engine. Serve starts as many of these as the options say."""

    def __init__(self, options: EngineOptions, **arguments: Any) -> None:
        set_environment(options)
        self._engine = importlib.import_module("workers.engine")
        self._heart = Heart(self._busy)
        self._llm: AsyncLLM = self._engine.start_engine(options, self._heart.beat, **arguments)
        self._worker = name_of(serve.get_replica_context().replica_id)
        self._running: dict[str, Call] = {}
        self._silence = options.silence_seconds

    async def _carry(
        self,
        calls: Collection[AnyCall],
        run: Callable[[AnyCall], Coroutine[Any, Any, Event]],
        events: asyncio.Queue[Event],
    ) -> AsyncGenerator[str | tuple[Event, ...], None]:
        """Run a batch. First comes this replica's name, then what is in `events`, in groups.

        What `run` returns is the last event of its call. An empty group is a sign of life.
        """
        # Waits before the first batch of all only. Otherwise a call would wait for this between
        # its start and its place in the engine, where no cancellation could find it.
        await self._llm.get_supported_tasks()
        self._heart.still()
        self._running.update((call.id, call) for call in calls)
        tasks = {asyncio.create_task(self._end(call, run, events)) for call in calls}
        try:
            yield self._worker
            while tasks or not events.empty():
                yield await self._next(events)
                tasks = {task for task in tasks if not task.done()}
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(self, events: asyncio.Queue[Event]) -> tuple[Event, ...]:
        """All events that there are once there is one; none, as a sign of life, after a while.

        While the engine doesn't move, nothing is said.
        """
        while events.empty():
            try:
                async with asyncio.timeout(PULSE_SECONDS):
                    first = await events.get()
            except TimeoutError:
                if self._heart.still() < 2 * PULSE_SECONDS:
                    return ()
            else:
                return (first, *_all_of(events))
        return _all_of(events)

    async def _end(
        self,
        call: AnyCall,
        run: Callable[[AnyCall], Coroutine[Any, Any, Event]],
        events: asyncio.Queue[Event],
    ) -> None:
        try:
            ended = await run(call)
        finally:
            self._running.pop(call.id, None)
        events.put_nowait(ended)
        self._leave_if_dead()

    async def cancel(self, ids: Collection[str], replica: str | None = None) -> None:
        """End these now; each still comes to its result. Unknown ids are ignored.

        `replica` is where the router was to bring this: another one knows none of the ids.
        """
        if replica in (None, self._worker):
            calls = [self._running[call_id] for call_id in ids if call_id in self._running]
            for call in calls:
                call.cancelled = True
            await self._llm.abort([call.id for call in calls])

    async def counters(self) -> tuple[str, dict[str, int]]:
        """The name of this replica, and what its engine counted: see `workers.engine`."""
        return self._worker, self._engine.read_counters()

    async def metrics(self) -> tuple[str, str]:
        """The name of this replica, and all its engine measures in Prometheus' text format."""
        text = self._engine.read_metrics() + self._engine.read_kept(self._llm)
        return self._worker, text

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica where it raises.

        One whose engine died or hangs leaves by itself at once: no check of its health could bring
        it back, and its calls are heard of as soon as it is gone.
        """
        still = self._heart.still()
        if still > self._silence:
            self._leave()
            raise RuntimeError(f"The engine has finished no step for {still:.0f} seconds.")
        self._leave_if_dead()
        await self._llm.check_health()

    def _busy(self) -> bool:
        """Whether the engine has anything to do."""
        return bool(self._llm.output_processor.has_unfinished_requests())

    def _leave_if_dead(self) -> None:
        """An engine that has died stays dead, and the replica with it.

        Leaving at once, not after three failed checks of its health, keeps a replica that fails
        every call in no time from seeming the least busy one.
        """
        if self._llm.errored:
            self._leave()

    @staticmethod
    def _leave() -> None:
        """End this process, and with it the engine's, after a last word."""
        asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, os._exit, 1)


def _all_of(events: asyncio.Queue[Event]) -> tuple[Event, ...]:
    """What is in the queue now."""
    return tuple(events.get_nowait() for _ in range(events.qsize()))
