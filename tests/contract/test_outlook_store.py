"""What past requests found is kept in Redis by model, and nobody waits for it without Redis."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from planner.outlook import Lesson, Outlook
from services.outlook import OutlookStore

LESSONS = (Lesson("lean", "widen", 0.4, 900), Lesson("lean", "widen", 0.2, 300))


async def test_what_is_learnt_is_known_to_the_next_service(redis_client: Redis) -> None:
    """As a count and a mean, of this model alone."""
    await OutlookStore(redis_client, "one").learn(LESSONS)
    known = await OutlookStore(redis_client, "one").current()
    assert known.seen["lean/widen"] == pytest.approx((2.0, 0.3))
    assert await OutlookStore(redis_client, "other").current() == Outlook()


async def test_without_redis_nothing_is_known_and_nothing_fails() -> None:
    """A request is never held up by what others found."""
    nowhere = Redis(port=1, socket_connect_timeout=0.2)
    store = OutlookStore(nowhere, "one")
    await store.learn(LESSONS)
    assert await store.current() == Outlook()
    await nowhere.aclose()
