"""The deployment of a model that grades: each replica is one engine."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from workers.messages import Grade, Graded
from workers.options import RewardOptions
from workers.replica import EngineReplica

if TYPE_CHECKING:
    from workers.scoring import Scorer


class Reward(EngineReplica):
    """Scores candidates, all of a batch side by side."""

    def __init__(self, options: RewardOptions) -> None:
        super().__init__(options, runner="pooling")
        self._scoring = importlib.import_module("workers.scoring")
        self._scorer: Scorer = self._scoring.Scorer(self._llm, options, self._worker)

    async def grade(
        self, batch: tuple[Grade, ...], home: str = ""
    ) -> AsyncIterator[str | tuple[Graded, ...]]:
        """Score the batch: this replica's name, then groups of results.

        Closing it, or cancelling the task that reads it, drops what is still being read. `home` is
        for the router: the replica that should run it, if that can be.
        """
        calls = [self._scoring.Scoring(request) for request in batch]
        async with aclosing(self._carry(calls, self._scorer.run, asyncio.Queue())) as groups:
            async for group in groups:
                yield group
