"""What past requests found that more compute is worth, kept in Redis by model.

A hash of counts and sums, to which every request adds what it found; it lives for over a year after
the last of them. Where Redis can't be reached nothing is known, or learnt, and no request is held
up by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from planner.outlook import Lesson, Outlook

if TYPE_CHECKING:
    from redis.asyncio import Redis

_FRESH_SECONDS = 5.0
_TTL_SECONDS = 400 * 24 * 3600


class OutlookStore:
    """The outlook of one model."""

    def __init__(self, redis: Redis, model: str) -> None:
        self._redis = redis
        self._key = f"longthink:outlook:{model}"
        self._known = Outlook()
        self._read = -_FRESH_SECONDS

    async def current(self) -> Outlook:
        """What is known, at most a few seconds old; what was known last where Redis is away."""
        if monotonic() - self._read >= _FRESH_SECONDS:
            self._read = monotonic()
            try:
                self._known = _read(await self._redis.hgetall(self._key))
            except RedisError:
                return self._known
        return self._known

    async def learn(self, lessons: Sequence[Lesson]) -> None:
        """Add what a request found."""
        if not lessons:
            return
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                # A pipeline only notes its commands.
                for lesson in lessons:
                    _ = pipe.hincrby(self._key, f"{lesson.name}:count", 1)
                    _ = pipe.hincrbyfloat(self._key, f"{lesson.name}:gain", lesson.gain)
                _ = pipe.expire(self._key, _TTL_SECONDS)
                await pipe.execute()
        except RedisError:
            return  # it is one request's experience among many


def _read(fields: dict[Any, Any]) -> Outlook:
    values = {_text(name): float(value) for name, value in fields.items()}
    seen = {}
    for name, count in values.items():
        action, _, what = name.rpartition(":")
        if what == "count" and count > 0:
            seen[action] = (count, values.get(f"{action}:gain", 0.0) / count)
    return Outlook(seen)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
