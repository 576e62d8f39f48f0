"""What the ledger leaves in Redis: keys of one request, on one slot, that die by themselves."""

from __future__ import annotations

import re

import pytest
from redis.asyncio import Redis

from planner.domain import Budget, Cost
from planner.ports import Account, Commit, Hold, Ledger
from services.budget import RedisLedger
from services.budget.scripts import text


def tokens(count: int) -> Cost:
    return Cost(completion_tokens=count)


async def lives(client: Redis) -> dict[str, int]:
    """The milliseconds that each key has left."""
    return {text(key): await client.pttl(key) for key in await client.keys()}


async def shorten(client: Redis) -> None:
    """Let every key be about to die."""
    for key in await client.keys():
        await client.pexpire(key, 20_000)


async def test_keys_share_the_hash_tag_of_their_request(
    redis_client: Redis, ledger: Ledger
) -> None:
    """All keys of a request, its children's too, carry the request's name as their hash tag."""
    await ledger.open("r", Budget(completion_tokens=10))
    await ledger.open("r/x", Budget(completion_tokens=5), parent="r")
    await ledger.hold("r/x", (Hold("a", tokens(1)),))
    keys = await lives(redis_client)
    assert len(keys) == 6
    assert all(re.fullmatch(r"longthink:\{r\}:(budget|ops|leases):x?", key) for key in keys)


async def test_every_use_lets_all_keys_live_on(redis_client: Redis) -> None:
    """Using a child renews the life of its own keys and its parent's, and no key outlives it."""
    ledger = RedisLedger(redis_client, ttl_seconds=60)
    await ledger.open("r", Budget(completion_tokens=10))
    await ledger.hold("r", (Hold("a", tokens(1)),))
    await ledger.open("r/x", Budget(completion_tokens=5), parent="r")
    uses = (
        lambda: ledger.hold("r/x", (Hold("b", tokens(1)),)),
        lambda: ledger.commit("r/x", (Commit("c", tokens(1)),)),
        lambda: ledger.renew("r/x"),
        lambda: ledger.account("r/x"),
        lambda: ledger.open("r/x", Budget(completion_tokens=5), parent="r"),
    )
    for use in uses:
        await shorten(redis_client)
        await use()
        assert all(50_000 < left <= 60_000 for left in (await lives(redis_client)).values())


async def test_a_parents_renewal_lets_idle_children_live_on(redis_client: Redis) -> None:
    """The keys of children that only their parent keeps, and of theirs, live on with it."""
    ledger = RedisLedger(redis_client, ttl_seconds=60)
    await ledger.open("r", Budget(completion_tokens=10))
    await ledger.open("r/x", Budget(completion_tokens=5), parent="r")
    await ledger.open("r/x/y", Budget(completion_tokens=5), parent="r/x")
    await shorten(redis_client)
    await ledger.renew("r")
    assert all(left > 50_000 for left in (await lives(redis_client)).values())


async def test_a_child_that_vanished_counts_as_spent(redis_client: Redis, ledger: Ledger) -> None:
    """A child whose keys Redis lost could have spent all it had, so its parent counts all of it."""
    await ledger.open("r", Budget(completion_tokens=10))
    await ledger.open("r/x", Budget(completion_tokens=6), parent="r")
    await redis_client.delete("longthink:{r}:budget:x")
    await redis_client.zadd("longthink:{r}:leases:", {"child:x": 0})
    account = await ledger.account("r")
    assert (account.spent, account.held) == (tokens(6), Cost())


async def test_a_client_may_decode_its_replies(redis_url: str) -> None:
    """The ledger works the same on a client that turns bytes into text."""
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        ledger = RedisLedger(client)
        limits = Budget(completion_tokens=10, deadline_seconds=1.5)
        await ledger.open("r", limits)
        granted, account = await ledger.hold("r", (Hold("a", tokens(4)), Hold("b", tokens(7))))
    assert granted == (True, False)
    assert account == Account(limits, Cost(), tokens(4))


@pytest.mark.parametrize(("ttl", "lease"), [(10, 10), (10, 11), (10, 0)])
def test_a_lease_must_end_before_the_keys_do(redis_client: Redis, ttl: float, lease: float) -> None:
    """A ledger whose keys would die with holds in them is not made."""
    with pytest.raises(ValueError, match="lease"):
        RedisLedger(redis_client, ttl_seconds=ttl, lease_seconds=lease)
