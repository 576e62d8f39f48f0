"""How long a hold and a commit take, one at a time and sixteen in a batch, alone and in a crowd.

Run it as a script: `python tests/bench/ledger.py [REDIS_URL]`. Without a URL it starts a
redis-server of its own on a unix socket. It prints milliseconds a call: what the caller waits,
what of the processor's time the caller's side takes, and what the script takes in Redis. The last
two are means, and say something on a busy machine too.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from statistics import quantiles
from typing import TypeAlias
from uuid import uuid4

from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from planner.domain import Budget, Cost
from planner.ports import Commit, Hold
from services.budget import RedisLedger, connect
from services.redis_server import RedisServer

CALLS = 1_000
COST = Cost(prompt_tokens=100, completion_tokens=64, candidates=1, micro_usd=20)
LIMITS = Budget(completion_tokens=2**40, candidates=2**40, micro_usd=2**40)

Operation: TypeAlias = Callable[[RedisLedger, str, tuple[str, ...]], Awaitable[object]]


async def hold(ledger: RedisLedger, budget: str, ops: tuple[str, ...]) -> None:
    await ledger.hold(budget, tuple(Hold(op, COST) for op in ops))


async def commit(ledger: RedisLedger, budget: str, ops: tuple[str, ...]) -> None:
    await ledger.commit(budget, tuple(Commit(op, COST) for op in ops))


async def timed(calls: Iterator[Awaitable[object]], at_once: int) -> list[float]:
    """Milliseconds of each call, with `at_once` of them in flight."""
    took: list[float] = []

    async def caller() -> None:
        for call in calls:
            start = time.perf_counter()
            await call
            took.append((time.perf_counter() - start) * 1000)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(caller())
    return took


async def in_redis(client: Redis) -> float:
    """Milliseconds that Redis has spent in scripts so far."""
    stats = await client.info("commandstats")
    return float(stats["cmdstat_evalsha"]["usec"]) / 1000


async def measure(client: Redis, table: Table, batch: int, at_once: int) -> None:
    """Hold, then commit, the same operations; a row of the table for each."""
    ledger = RedisLedger(client, ttl_seconds=120, lease_seconds=60)
    budget = f"bench-{uuid4().hex}"
    await ledger.open(budget, LIMITS)
    batches = [tuple(f"{call}/{index}" for index in range(batch)) for call in range(CALLS)]
    operations: tuple[Operation, ...] = (hold, commit)
    for operation in operations:
        server, busy = await in_redis(client), time.process_time()
        took = await timed((operation(ledger, budget, ops) for ops in batches), at_once)
        busy, server = time.process_time() - busy, await in_redis(client) - server
        cuts = quantiles(took, n=100)
        figures = cuts[49], cuts[98], max(took), busy / CALLS * 1000, server / CALLS
        table.add_row(operation.__name__, str(batch), str(at_once), *(f"{f:.3f}" for f in figures))
    await ledger.close(budget)


async def main(url: str) -> None:
    table = Table(
        "call", "batch", "at once", "p50 ms", "p99 ms", "max ms", "caller's cpu", "in Redis"
    )
    async with connect(url) as client:
        for batch, at_once in ((1, 1), (16, 1), (1, 64), (16, 64)):
            await measure(client, table, batch, at_once)
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(main(sys.argv[1]))
    else:
        with RedisServer() as server:
            asyncio.run(main(server.url))
