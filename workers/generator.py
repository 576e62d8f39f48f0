"""The deployment of a model that writes: each replica is one engine.

One Serve call carries a batch. Inside, each `Generate` is an engine request of its own, so it is
heard of as soon as it finishes, and all share the cache of what their prompts share. When whoever
reads a batch goes away, everything of it is dropped in the engine.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING, TypeAlias

from workers.messages import Generate, Generated, GenerationEvent, Prompt
from workers.options import GeneratorOptions
from workers.replica import EngineReplica

if TYPE_CHECKING:
    from workers.sampling import Call, Sampler

Group: TypeAlias = tuple[GenerationEvent, ...]


class Generator(EngineReplica):
    """The batches that are running on one engine."""

    def __init__(self, options: GeneratorOptions) -> None:
        super().__init__(options, scheduling_policy="priority")
        self._sampling = importlib.import_module("workers.sampling")
        self._sampler: Sampler = self._sampling.Sampler(self._llm, self._worker)
        self._running: dict[str, Call] = {}

    async def prepare(self, messages: tuple[tuple[str, str], ...]) -> Prompt:
        """The conversation in the model's own tokens; raises PromptTooLong or InvalidOption."""
        return await self._sampler.prepare(messages)

    async def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[str | Group]:
        """Run the batch. The name of this replica comes first, then events, as many as there are.

        Closing it, or cancelling the task that reads it, drops what is still running.
        """
        await self._sampler.ready()
        events: asyncio.Queue[GenerationEvent] = asyncio.Queue()
        calls: list[Call] = [self._sampling.Call(it, events.put_nowait) for it in batch]
        self._running.update((call.request.id, call) for call in calls)
        tasks = [asyncio.create_task(self._run(call, events)) for call in calls]
        try:
            yield self._worker
            unfinished = len(calls)
            while unfinished:
                group = [await events.get()]
                while not events.empty():
                    group.append(events.get_nowait())
                unfinished -= sum(isinstance(event, Generated) for event in group)
                yield tuple(group)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, call: Call, events: asyncio.Queue[GenerationEvent]) -> None:
        try:
            ended = await self._sampler.run(call)
        finally:
            self._running.pop(call.request.id, None)
        events.put_nowait(ended)
        self._leave_if_dead()

    async def cancel(self, ids: Collection[str], replica: str | None = None) -> None:
        """End these now; each still comes to its `Generated`. Unknown ids are ignored.

        `replica` is where the router was to bring this: another one knows none of the ids.
        """
        if replica in (None, self._worker):
            await self._sampler.abort([self._running[it] for it in ids if it in self._running])
