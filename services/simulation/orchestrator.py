"""One core of an orchestrator: it does one thing after another, each for its time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from services.simulation.cores import Cores


class Orchestrator:
    """What it is given to do it does in order; `cores` are those of a machine that it shares."""

    def __init__(self, cores: Cores | None = None, wanted: float = 1.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._cores = cores or Cores(None)
        self._wanted = wanted
        self._queue: deque[tuple[float, Callable[[], object]]] = deque()
        self._left = 0.0
        self._since = 0.0
        self._speed = 1.0
        self._timer: asyncio.TimerHandle | None = None
        self.busy_seconds = 0.0

    def do(self, seconds: float, then: Callable[[], object]) -> None:
        """Call `then` once it has spent so many seconds on this, after all that came before."""
        if seconds <= 0 and self._timer is None:
            then()
            return
        self._queue.append((seconds, then))
        if self._timer is None:
            self._cores.take(self, self._wanted)
            self._speed = self._cores.speed
            self._begin()

    async def spend(self, seconds: float) -> None:
        """Return once it has spent so many seconds, after all that came before."""
        done = asyncio.Event()
        self.do(seconds, done.set)
        await done.wait()

    def respeed(self, speed: float) -> None:
        """See `cores.Runner`."""
        if self._timer is None:
            return  # it is only about to begin, and sees then how fast it is
        now = self._loop.time()
        self._left -= (now - self._since) * self._speed
        self.busy_seconds += now - self._since
        self._since, self._speed = now, speed
        self._timer.cancel()
        self._expect()

    def _begin(self) -> None:
        self._left, self._since = self._queue[0][0], self._loop.time()
        self._expect()

    def _expect(self) -> None:
        at = self._since + max(0.0, self._left) / self._speed
        self._timer = self._loop.call_at(at, self._end)

    def _end(self) -> None:
        self.busy_seconds += self._loop.time() - self._since
        self._timer = None
        _, then = self._queue.popleft()
        if self._queue:
            self._begin()
        else:
            self._cores.leave(self)
        then()
