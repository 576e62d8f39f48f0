"""The ledger when Redis or the way to it fails: it says so soon, and its books stay true.

`tests.integration.proxy` stands between the ledger and a real Redis.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from redis.asyncio import Redis

from planner.domain import Budget, Cost
from planner.errors import LedgerUnavailable, UnknownBudget
from planner.ports import Commit, Hold, Ledger
from services.budget import RedisLedger, connect
from services.redis_server import RedisServer
from tests.integration.proxy import Fate, Proxy, socket_of


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A directory with a path short enough for sockets in it."""
    with TemporaryDirectory(prefix="lt-", dir="/tmp") as directory:
        yield Path(directory)


def tokens(count: int) -> Cost:
    return Cost(completion_tokens=count)


async def until_answered(ledger: Ledger, budget: str, holds: tuple[Hold, ...]) -> tuple[bool, ...]:
    """Hold again, by the same operations, for as long as the ledger is out of reach."""
    while True:
        try:
            return (await ledger.hold(budget, holds))[0]
        except LedgerUnavailable:
            continue


async def until_counted(ledger: Ledger, budget: str, commits: tuple[Commit, ...]) -> None:
    while True:
        try:
            await ledger.commit(budget, commits)
        except LedgerUnavailable:
            continue
        return


async def test_dropped_replies_leave_the_books_true(
    redis_url: str, ledger: Ledger, sockets: Path
) -> None:
    """With a reply in twenty lost on the wire, spent is what was granted and done, to the token."""
    chance = Random(20)
    proxy = Proxy(
        socket_of(redis_url),
        lambda: chance.choice(("swallow", "cut")) if chance.random() < 0.05 else "pass",
    )
    await ledger.open("r", Budget(completion_tokens=5_000, candidates=300))
    done = Cost()

    async def work(lossy: Ledger, worker: int) -> None:
        nonlocal done
        for turn in range(40):
            ops = [f"{worker}/{turn}/{index}" for index in range(3)]
            asked = [Cost(completion_tokens=chance.randint(1, 40), candidates=1) for _ in ops]
            granted = await until_answered(lossy, "r", tuple(map(Hold, ops, asked)))
            costs = [
                Cost(completion_tokens=chance.randint(0, cost.completion_tokens), candidates=1)
                if yes
                else Cost()
                for yes, cost in zip(granted, asked, strict=True)
            ]
            await until_counted(lossy, "r", tuple(map(Commit, ops, costs)))
            done = sum(costs, done)

    async with (
        proxy.at(sockets / "proxy") as url,
        connect(url, socket_timeout=0.1, max_connections=8) as client,
        asyncio.TaskGroup() as group,
    ):
        lossy = RedisLedger(client, lease_seconds=60)
        for worker in range(8):
            group.create_task(work(lossy, worker))

    account = await ledger.account("r")
    assert proxy.lost > 10
    assert (account.spent, account.held) == (done, Cost())
    assert account.spent.completion_tokens <= 5_000
    assert account.spent.candidates <= 300


async def test_a_lost_renewal_keeps_its_news(
    redis_url: str, brief: Ledger, ledger: Ledger, sockets: Path
) -> None:
    """A renewal whose first reply was lost still says, by its second, that a lease had run out."""
    fates: list[Fate] = ["cut"]
    proxy = Proxy(socket_of(redis_url))
    await ledger.open("r", Budget(completion_tokens=10))
    await ledger.renew("r")  # so that Redis has the script, and the reply lost is the renewal's
    await brief.hold("r", (Hold("a", tokens(1)),))
    await asyncio.sleep(0.1)
    async with proxy.at(sockets / "proxy") as url, connect(url) as client:
        lossy = RedisLedger(client)
        await lossy.account("r")
        proxy.fate = lambda: fates.pop() if fates else "pass"
        assert not await lossy.renew("r")
        assert proxy.lost == 1
        assert await lossy.renew("r")


async def test_a_cancelled_call_leaves_no_reply_behind(
    redis_url: str, ledger: Ledger, sockets: Path
) -> None:
    """After a call was cancelled while its reply was on the way, the next call gets its own."""
    proxy = Proxy(socket_of(redis_url))
    await ledger.open("r", Budget(completion_tokens=10))
    await ledger.hold("r", ())  # so that Redis has the script, and the late reply is the hold's
    async with (
        proxy.at(sockets / "proxy") as url,
        connect(url, max_connections=1) as client,
    ):
        slow = RedisLedger(client)
        await slow.account("r")
        proxy.fate = lambda: "late"
        call = asyncio.create_task(slow.hold("r", (Hold("a", tokens(4)),)))
        await proxy.late.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        proxy.fate = lambda: "pass"
        granted, account = await slow.hold("r", (Hold("b", tokens(7)), Hold("a", tokens(4))))
    assert granted == (False, True)
    assert account.held == tokens(4)


async def test_a_batch_is_one_round_trip(redis_url: str, ledger: Ledger, sockets: Path) -> None:
    """Holding or committing any number of operations sends one request and waits for one reply."""
    proxy = Proxy(socket_of(redis_url))
    async with proxy.at(sockets / "proxy") as url, connect(url) as client:
        near = RedisLedger(client)
        await near.open("r", Budget(completion_tokens=10))
        await near.hold("r", (Hold("first", tokens(1)),))
        await near.commit("r", (Commit("first", tokens(1)),))
        before = proxy.requests
        await near.hold("r", tuple(Hold(str(index), tokens(1)) for index in range(16)))
        await near.commit("r", tuple(Commit(str(index), tokens(1)) for index in range(16)))
    assert proxy.requests == before + 2


async def test_many_callers_share_few_connections(redis_url: str) -> None:
    """Callers beyond the number of connections wait their turn; none fails."""
    async with connect(redis_url, max_connections=4) as client:
        ledger = RedisLedger(client, calls_at_once=4, patience_seconds=60)
        await ledger.open("r", Budget(candidates=200))
        calls = (ledger.hold("r", (Hold(str(op), Cost(candidates=1)),)) for op in range(400))
        verdicts = [granted for (granted,), _ in await asyncio.gather(*calls)]
    assert sum(verdicts) == 200


async def test_scripts_survive_a_flush(redis_client: Redis, ledger: Ledger) -> None:
    """A Redis that forgot the scripts is given them again, unnoticed."""
    await ledger.open("r", Budget(completion_tokens=10))
    for op in ("a", "b"):
        await redis_client.script_flush()
        assert await ledger.hold("r", (Hold(op, tokens(1)),))
        await redis_client.script_flush()
        await ledger.commit("r", (Commit(op, tokens(1)),))
    assert (await ledger.account("r")).spent == tokens(2)


async def test_a_restarted_redis_is_found_again(sockets: Path) -> None:
    """While Redis is away calls fail closed; back without its data, budgets are unknown."""
    link = sockets / "redis"
    async with connect(f"unix://{link}") as client:
        ledger = RedisLedger(client)
        with RedisServer() as server:
            link.symlink_to(socket_of(server.url))
            await ledger.open("r", Budget(completion_tokens=10))
        with pytest.raises(LedgerUnavailable):
            await ledger.hold("r", (Hold("a", tokens(1)),))
        link.unlink()
        with RedisServer() as server:
            link.symlink_to(socket_of(server.url))
            with pytest.raises(UnknownBudget):
                await until_answered(ledger, "r", (Hold("a", tokens(1)),))
            await ledger.open("r", Budget(completion_tokens=10))
            granted, _ = await ledger.hold("r", (Hold("a", tokens(1)),))
            assert granted == (True,)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "unix:///nowhere/redis.sock"])
async def test_a_refused_connection_is_told_within_half_a_second(url: str) -> None:
    """Where nobody listens, LedgerUnavailable comes at once and says what to check."""
    async with connect(url) as client:
        ledger = RedisLedger(client)
        start = time.perf_counter()
        with pytest.raises(LedgerUnavailable, match="REDIS_URL"):
            await ledger.open("r", Budget())
        assert time.perf_counter() - start < 0.5


async def test_a_silent_redis_is_given_up(redis_url: str, sockets: Path) -> None:
    """A Redis that takes connections and never answers costs a caller half a second at most."""
    proxy = Proxy(socket_of(redis_url), lambda: "swallow")
    async with (
        proxy.at(sockets / "proxy") as url,
        connect(url, answer_seconds=0.2) as client,
    ):
        ledger = RedisLedger(client)
        start = time.perf_counter()
        with pytest.raises(LedgerUnavailable):
            await ledger.open("r", Budget())
        assert 0.1 < time.perf_counter() - start < 1


async def test_a_way_that_swallows_connections_is_given_up() -> None:
    """Where a connection is neither made nor refused, nobody waits for it to time out."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:  # those that nobody accepts fill the queue; what comes then is dropped
            one.setblocking(False)
            one.connect_ex(address)
        async with connect(f"redis://127.0.0.1:{address[1]}", socket_timeout=30) as client:
            start = time.perf_counter()
            with pytest.raises(LedgerUnavailable):
                await RedisLedger(client, patience_seconds=60).open("r", Budget())
            assert time.perf_counter() - start < 5
        for one in waiting:
            one.close()


async def test_a_redis_that_refuses_is_unavailable() -> None:
    """A Redis that answers, but with an error (here: out of memory), can't meter either."""
    async with RedisServer() as server, connect(server.url) as client:
        ledger = RedisLedger(client)
        await ledger.open("r", Budget())
        await client.config_set("maxmemory", "1")
        with pytest.raises(LedgerUnavailable, match="OOM"):
            await ledger.hold("r", (Hold("a", tokens(1)),))
