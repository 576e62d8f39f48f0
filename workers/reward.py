"""The deployment of a model that grades: each replica is one engine.

One Serve call carries a frontier, so that its candidates are read side by side. When whoever reads
a batch goes away, everything of it is dropped in the engine.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from workers.messages import Grade, Graded
from workers.options import RewardOptions
from workers.replica import EngineReplica

if TYPE_CHECKING:
    from workers.scoring import Scorer


class Reward(EngineReplica):
    """The batches that are being scored on one engine."""

    def __init__(self, options: RewardOptions) -> None:
        super().__init__(options, runner="pooling")
        scoring = importlib.import_module("workers.scoring")
        self._scorer: Scorer = scoring.Scorer(self._llm, options, self._worker)

    async def grade(self, batch: tuple[Grade, ...]) -> AsyncIterator[str | tuple[Graded, ...]]:
        """Score the batch. The name of this replica comes first, then results, as they are there.

        Closing it, or cancelling the task that reads it, drops what is still being read.
        """
        tasks = [asyncio.create_task(self._scorer.run(request)) for request in batch]
        unfinished = set(tasks)
        try:
            yield self._worker
            while unfinished:
                done, unfinished = await asyncio.wait(
                    unfinished, return_when=asyncio.FIRST_COMPLETED
                )
                yield tuple(task.result() for task in done)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._leave_if_dead()
