"""Ending a search that another replica of the edge runs: a Redis channel all of them listen to.

Whoever wants a search ended publishes its id; the replica that runs it hears that and ends it, and
the others know no such run. A replica listens from its first search on. A message is heard at once
or not at all: while a replica's connection is broken, nothing reaches it, and asking again does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from redis.asyncio import Redis

CHANNEL = "longthink:end"
_AGAIN_SECONDS = 1.0


class Endings:
    """This replica's ear on the channel. `heed` is called with each id that is published."""

    def __init__(self, redis: Redis, heed: Callable[[str], object]) -> None:
        self._redis = redis
        self._heed = heed
        self._listening: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Listen from now on, if that isn't so already."""
        if self._listening is None or self._listening.done():
            self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def aclose(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening

    async def _listen(self) -> None:
        while True:
            # Out of reach, Redis is tried again and again: searches go on without it for a while.
            with suppress(RedisError):
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(CHANNEL)
                    async for message in channel.listen():
                        if message["type"] == "message":
                            self._heed(_text(message["data"]))
            await asyncio.sleep(_AGAIN_SECONDS)


async def publish(redis: Redis, trace_id: str) -> bool:
    """Ask for the end of a search. False where no replica listens; raises RedisError."""
    return bool(await redis.publish(CHANNEL, trace_id))


def _text(data: bytes | str) -> str:
    return data.decode() if isinstance(data, bytes) else data
