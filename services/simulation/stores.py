"""What of a service is kept in Redis, kept in memory or not at all."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

from planner.outlook import Lesson, Outlook
from services.outlook import OutlookStore
from services.trace import Event, TraceStore


class NoTraces(TraceStore):
    """Keeps nothing: a trace is its request's own, in memory, and goes with it."""

    def __init__(self) -> None:
        super().__init__(Redis())  # never connected, as nothing is written to it

    def write(self, trace_id: str, event: Event, runner: str | None = None) -> None:
        """See `TraceStore.write`."""


class Outlooks(OutlookStore):
    """What past requests found, of this simulation alone."""

    def __init__(self) -> None:
        super().__init__(Redis(), "simulated")  # never connected, as nothing is read from it
        self._found: dict[str, tuple[float, float]] = {}

    async def current(self) -> Outlook:
        """See `OutlookStore.current`."""
        return Outlook(dict(self._found))

    async def learn(self, lessons: Sequence[Lesson]) -> None:
        """See `OutlookStore.learn`."""
        for lesson in lessons:
            count, mean = self._found.get(lesson.name, (0.0, 0.0))
            mean += (lesson.gain - mean) / (count + 1)
            self._found[lesson.name] = (count + 1, mean)
