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


_ALL_TOKENS = {"tok_pooling_type": "ALL"}
"""What a process reward model pools: the scores of all tokens that it computes. vLLM's step pooling
would look for step tags among those that come from the prefix cache, too."""


class Reward(EngineReplica):
    """Scores candidates, all of a batch side by side."""

    def __init__(self, options: RewardOptions) -> None:
        pooler = _ALL_TOKENS if options.kind == "process" else None
        super().__init__(options, runner="pooling", pooler_config=pooler)
        self._scoring = importlib.import_module("workers.scoring")
        self._scorer: Scorer = self._scoring.Scorer(self._llm, options, self._worker)

    async def grade(
        self, batch: tuple[Grade, ...], home: str = "", avoid: tuple[str, ...] = ()
    ) -> AsyncIterator[str | tuple[Graded, ...]]:
        """Score the batch: this replica's name, then groups of results.

        Closing it, or cancelling the task that reads it, drops what is still being read. `home` and
        `avoid` are for the router: the replica that should run it, and those that should not.
        """
        calls = [self._scoring.Scoring(request) for request in batch]
        async with aclosing(self._carry(calls, self._scorer.run, asyncio.Queue())) as groups:
            async for group in groups:
                yield group
