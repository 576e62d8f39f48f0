"""What tests of every kind share: a real Redis, empty for each test, that nobody litters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from hypothesis import settings
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from services.budget import RedisLedger, connect
from services.redis_server import RedisServer

# How long an example takes says more of the machine than of the code; pytest has a timeout.
settings.register_profile("longthink", deadline=None)
settings.load_profile("longthink")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One redis-server for the whole run. Ask for `redis_url` instead, to have it empty."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """An empty Redis. The test fails if it leaves a key without a time to live."""
    with Redis.from_url(redis_server.url) as admin:
        admin.flushall()
        yield redis_server.url
        leaked = [key for key in admin.scan_iter() if admin.ttl(key) == -1]
        assert not leaked, f"keys without a time to live: {leaked}"


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[AsyncRedis]:
    """A client of the empty Redis, as the service uses it."""
    async with connect(redis_url) as client:
        yield client


@pytest.fixture
def ledger(redis_client: AsyncRedis) -> RedisLedger:
    """A ledger with its defaults on the empty Redis."""
    return RedisLedger(redis_client)


@pytest.fixture
def leased(redis_client: AsyncRedis) -> Callable[[float], RedisLedger]:
    """Makes ledgers on the same Redis whose leases last as long as told, in seconds."""
    return lambda seconds: RedisLedger(redis_client, lease_seconds=seconds)


@pytest.fixture
def brief(leased: Callable[[float], RedisLedger]) -> RedisLedger:
    """A ledger on the same Redis whose leases run out almost at once."""
    return leased(0.05)
