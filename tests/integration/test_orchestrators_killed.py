"""Orchestrators that are killed in mid-search: what they held comes back by itself."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from services.budget import RedisLedger
from tests.chaos.orchestrators import CANDIDATES, kill_one, returned, still_held

LEASE_SECONDS = 2.0


async def test_holds_of_killed_orchestrators_come_back(redis_url: str, redis_client: Redis) -> None:
    """Three processes with sixteen candidates each are killed; soon nothing is held any more."""
    ledger = RedisLedger(redis_client, lease_seconds=LEASE_SECONDS)
    turn = asyncio.Semaphore(3)

    async def one(name: str) -> float:
        death = await kill_one(redis_url, name, LEASE_SECONDS, turn)
        account = await ledger.account(name)
        assert account.held.candidates == CANDIDATES
        return await returned(ledger, death)

    took = await asyncio.gather(*(one(f"killed-{at}") for at in range(3)))
    # How long it takes is measured by the script; a busy machine may be late here.
    assert max(took) < LEASE_SECONDS + 10
    assert await still_held(redis_client) == 0
