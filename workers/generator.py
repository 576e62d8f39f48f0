"""The deployment of a model that writes: each replica is one engine."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from workers.messages import Generate, GenerationEvent, Prompt
from workers.options import GeneratorOptions
from workers.replica import EngineReplica

if TYPE_CHECKING:
    from workers.sampling import Sampler


class Generator(EngineReplica):
    """Samples continuations, all of a batch side by side."""

    def __init__(self, options: GeneratorOptions) -> None:
        super().__init__(options)
        self._sampling = importlib.import_module("workers.sampling")
        self._sampler: Sampler = self._sampling.Sampler(self._llm, self._worker)

    async def prepare(
        self, messages: tuple[tuple[str, str], ...], avoid: tuple[str, ...] = ()
    ) -> Prompt:
        """The conversation in the model's own tokens; raises PromptTooLong or InvalidOption.

        `avoid` is for the router, as everywhere here: see `workers.routing`.
        """
        return await self._sampler.prepare(messages)

    async def encode(self, text: str, avoid: tuple[str, ...] = ()) -> tuple[int, ...]:
        """The text in the model's own tokens, with nothing around it."""
        return self._sampler.encode(text)

    async def generate(
        self, batch: tuple[Generate, ...], home: str = "", avoid: tuple[str, ...] = ()
    ) -> AsyncIterator[str | tuple[GenerationEvent, ...]]:
        """Run the batch: this replica's name, then groups of events.

        Closing it, or cancelling the task that reads it, drops what is still running. `home` is for
        the router, too: the replica that should run it, if that can be.
        """
        events: asyncio.Queue[GenerationEvent] = asyncio.Queue()
        calls = [self._sampling.Sampling(request, events.put_nowait) for request in batch]
        async with aclosing(self._carry(calls, self._sampler.run, events)) as groups:
            async for group in groups:
                yield group
