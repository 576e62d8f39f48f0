"""100 orchestrators killed with SIGKILL in mid-search: their holds come back by themselves.

    python -m tests.chaos.orchestrators [PROCESSES] [AT_ONCE] [LEASE_SECONDS]

Each is a process of its own, with the reasoner and the driver of the service on a real redis-server
and a worker that never finishes what it is asked, so that all it holds is held until the end. Once
it has begun it is killed, at any moment between two renewals of its leases. What must hold: its
request holds nothing any more after the lease and a second, and in the end Redis has no hold left.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass

from redis.asyncio import Redis

from planner.domain import Budget, Message, Prices, Query, Sampling
from planner.effort import Options
from services.budget import RedisLedger, connect
from services.driver import Manner
from services.reasoning import Reasoner
from services.redis_server import RedisServer
from services.telemetry import configure_logging
from services.trace import Kind, TraceStore
from tests.chaos.figures import Figure, tell
from workers.fake import FakePool, Script

CANDIDATES = 16
QUERY = Query((Message("user", "How many?"),), Sampling(max_tokens=400), seed=5)


@dataclass(frozen=True, slots=True)
class Death:
    """One process that was killed: the name of its request, and when it died."""

    budget: str
    died: float


async def orchestrate(url: str, name: str, lease_seconds: float) -> None:
    """One orchestrator: search, and say so once there are holds; it never ends by itself."""
    async with connect(url) as client:
        ledger, traces = RedisLedger(client, lease_seconds=lease_seconds), TraceStore(client)
        pool = FakePool(lambda _: Script("a" * 300, seconds=3600))
        manner = Manner(prices=Prices(completion=0.2), lease_seconds=lease_seconds)
        reasoner = Reasoner(pool, ledger, traces, manner)
        budget = Budget(candidates=CANDIDATES, completion_tokens=8000)
        options = Options(strategy="majority", stop="none", budget=budget)
        run = await reasoner.start(QUERY, options, trace_id=name)
        while not any(event.kind is Kind.ASKED for event in run.trace.events):
            await asyncio.sleep(0.01)
        while not (await ledger.account(name)).held.candidates:
            await asyncio.sleep(0.01)
        sys.stdout.write("searching\n")
        sys.stdout.flush()
        await run.reply()


async def kill_one(url: str, name: str, lease_seconds: float, turn: asyncio.Semaphore) -> Death:
    """Start one, let it search for a while, and kill it."""
    async with turn:
        command = [sys.executable, "-m", "tests.chaos.orchestrators", "one", url, name]
        process = await asyncio.create_subprocess_exec(
            *command, str(lease_seconds), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        if await process.stdout.readline() != b"searching\n":
            raise RuntimeError("An orchestrator ended before it searched.")
        await asyncio.sleep(random.uniform(0, lease_seconds))
        process.kill()
        await process.wait()
        return Death(name, time.monotonic())


async def returned(ledger: RedisLedger, death: Death) -> float:
    """Seconds after its death until a request holds nothing.

    Every look is a script, which takes back what ran out, as any use of the budget would.
    """
    while (await ledger.account(death.budget)).held.candidates:
        await asyncio.sleep(0.05)
    return time.monotonic() - death.died


async def still_held(client: Redis) -> int:
    """The holds that are left in Redis itself, of all budgets."""
    return sum([await client.zcard(key) async for key in client.scan_iter("longthink:*:leases:*")])


async def deaths(processes: int, at_once: int, lease_seconds: float) -> list[Figure]:
    """Kill so many, and watch what they held."""
    async with RedisServer() as server, connect(server.url) as client:
        ledger = RedisLedger(client, lease_seconds=lease_seconds, calls_at_once=16)
        turn = asyncio.Semaphore(at_once)
        held: list[int] = []

        async def one(name: str) -> float:
            death = await kill_one(server.url, name, lease_seconds, turn)
            held.append((await ledger.account(name)).held.candidates)
            return await returned(ledger, death)

        took = await asyncio.gather(*(one(f"killed-{at}") for at in range(processes)))
        left = await still_held(client)
        keys = [key async for key in client.scan_iter("*")]
        forever = [key for key in keys if await client.ttl(key) == -1]
    what = f"{processes} orchestrators killed in mid-search"
    limit = lease_seconds + 1
    return [
        Figure(
            f"{what}: holds back",
            f"within {limit:g} s (lease + 1)",
            f"{max(took):.2f} s at most; {sum(held):,} candidates were held",
            max(took) <= limit and all(held),
        ),
        Figure(f"{what}: holds left", "0", str(left), left == 0),
        Figure(f"{what}: keys without a time to live", "0", str(len(forever)), not forever),
    ]


def main(processes: int = 100, at_once: int = 8, lease_seconds: float = 3.0) -> int:
    """The deaths, and their figures."""
    return tell(asyncio.run(deaths(processes, at_once, lease_seconds)))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["one"]:
        _, url, name, lease = arguments
        configure_logging(level="error")  # what this process says is read by the other one
        asyncio.run(orchestrate(url, name, float(lease)))
    else:
        sys.exit(main(*map(int, arguments[:2]), *map(float, arguments[2:3])))
