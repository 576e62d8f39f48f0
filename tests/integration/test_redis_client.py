"""The Redis client: whoever uses it can be cancelled at any moment."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis


@pytest.mark.parametrize("turns", range(12))
async def test_whoever_sends_a_command_can_be_cancelled_at_any_moment(
    redis_client: Redis, turns: int
) -> None:
    """A cancellation that was taken in is never lost, and its reply is taken for no other's."""
    await redis_client.set("name", "7", ex=9)

    async def use() -> None:
        while True:
            await redis_client.get("name")

    for _ in range(20):
        task = asyncio.create_task(use())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=1)
        assert done == {task}
        assert task.cancelled()
        assert await redis_client.echo("other") == b"other"
