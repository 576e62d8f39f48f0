"""What every replica of a Serve deployment with a vLLM engine has in common.

Owns the engine's life inside the replica: its start, its health, its counters, and leaving when it
has died. vLLM is imported here, in the replica, and nowhere in the processes that call it.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from typing import TYPE_CHECKING, Any

from ray import serve

from workers.environment import set_environment
from workers.options import EngineOptions

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_LAST_WORDS_SECONDS = 0.5
"""How long a replica whose engine died still has to say what became of its calls."""


class EngineReplica:
    """One engine. Serve starts as many of these as the options say."""

    def __init__(self, options: EngineOptions, **arguments: Any) -> None:
        set_environment(options)
        self._engine = importlib.import_module("workers.engine")
        self._llm: AsyncLLM = self._engine.start_engine(options, **arguments)
        self._worker: str = serve.get_replica_context().replica_id.unique_id

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
