"""What every replica of a Serve deployment with a vLLM engine has in common.

Owns the engine's life inside the replica and the calls that run on it. One Serve call carries a
batch; inside, each of its requests runs by itself, so that each is heard of as soon as it ends.
What always holds:

- each request of a batch ends in exactly one result;
- a cancelled request is aborted in the engine and then read to its end, never dropped, since only
  its last output says how many of its tokens the engine's counters have;
- when whoever reads a batch goes away, all that is left of it is dropped in the engine.

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
from workers.options import EngineOptions
from workers.routing import name_of

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

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
        self._llm: AsyncLLM = self._engine.start_engine(options, **arguments)
        self._worker = name_of(serve.get_replica_context().replica_id)
        self._running: dict[str, Call] = {}

    async def _carry(
        self,
        calls: Collection[AnyCall],
        run: Callable[[AnyCall], Coroutine[Any, Any, Event]],
        events: asyncio.Queue[Event],
    ) -> AsyncGenerator[str | tuple[Event, ...], None]:
        """Run a batch. First comes this replica's name, then what is in `events`, in groups.

        What `run` returns is the last event of its call.
        """
        # Waits before the first batch of all only. Otherwise a call would wait for this between
        # its start and its place in the engine, where no cancellation could find it.
        await self._llm.get_supported_tasks()
        self._running.update((call.id, call) for call in calls)
        tasks = {asyncio.create_task(self._end(call, run, events)) for call in calls}
        try:
            yield self._worker
            while tasks or not events.empty():
                group = [await events.get()]
                while not events.empty():
                    group.append(events.get_nowait())
                yield tuple(group)
                tasks = {task for task in tasks if not task.done()}
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

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
        return self._worker, self._engine.read_metrics()

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica where it raises."""
        await self._llm.check_health()

    def _leave_if_dead(self) -> None:
        """An engine that has died stays dead, and the replica with it.

        Leaving at once, not after three failed checks of its health, keeps a replica that fails
        every call in no time from seeming the least busy one.
        """
        if self._llm.errored:
            asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, os._exit, 1)
