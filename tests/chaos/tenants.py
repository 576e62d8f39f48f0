"""One tenant's window under orchestrators that ask all they can and are killed, on a real Redis.

    python -m tests.chaos.tenants [SECONDS] [PROCESSES]

Each process drives requests of the same tenant side by side, with the real reasoner, ledger and
allowances before scripted workers. All the time one of them is killed with SIGKILL and another
started. What must hold: at no look is more spent and held than the limit, in any dimension; what
the ledgers of all requests have is within it, and charged to the window in full; and once nobody
runs, all that the dead had set aside is back within their lease and a second.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress
from random import Random
from time import monotonic

from redis.asyncio import Redis

from planner.domain import Budget, Cost, Message, Query, Sampling
from planner.effort import Options
from planner.errors import LedgerUnavailable
from services.allowance import OverLimit, Usage
from services.allowance.need import DIMENSIONS
from services.budget.scripts import read_cost
from services.redis_server import RedisServer
from services.tenants import Tenant, TenantLimits
from tests.chaos.figures import Figure, tell
from tests.contract.test_tenants import Bench

LEASE_SECONDS = 5.0
AT_ONCE = 6
LIMITS = TenantLimits(
    window_seconds=3600,
    completion_tokens=100_000_000,
    candidates=60_000,
    micro_usd=1_000_000,
    requests=40,
    candidates_at_once=300,
)
TENANT = Tenant("greedy", limits=LIMITS)


async def orchestrate(url: str, name: str) -> None:
    """Ask all that may be asked, until the window is used up."""
    bench = Bench(Redis.from_url(url), seconds=0.05, lease_seconds=LEASE_SECONDS)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    query = Query((Message("user", "How many?"),), Sampling(max_tokens=400), seed=5)

    async def ask(number: int) -> None:
        dice = Random(f"{name}/{number}")
        for count in range(1_000_000):
            budget = Budget(candidates=dice.choice([None, 4, 40]))
            options = Options(strategy="majority", stop="none", effort="low", budget=budget)
            trace_id = f"{name}-{number}-{count}"
            try:
                run = await bench.reasoner.start(query, options, trace_id=trace_id, tenant=TENANT)
            except OverLimit as over:
                if over.of_quota and (over.retry_seconds or 3600) > 60:
                    return
                await asyncio.sleep(0.2)
            except LedgerUnavailable:  # a busy machine; nothing was started
                await asyncio.sleep(0.1)
            else:
                await run.reply()

    await asyncio.gather(*(ask(number) for number in range(AT_ONCE)))
    await bench.reasoner.drain(10)


async def started(url: str, name: str) -> asyncio.subprocess.Process:
    """One more orchestrator, once it has begun."""
    command = (sys.executable, "-m", "tests.chaos.tenants", "--orchestrate", url, name)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    return process


async def kill(process: asyncio.subprocess.Process) -> None:
    """Kill it, if it hasn't ended by itself."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    await process.wait()


def over(usage: Usage) -> bool:
    """Whether there is more spent and held than may be."""
    beyond = [usage.requests, usage.candidates_at_once, *usage.window.values()]
    return any(used.limit is not None and used.spent + used.held > used.limit for used in beyond)


async def ledgers(redis: Redis) -> Cost:
    """What all requests have spent, by their own budgets."""
    whole = Cost()
    async for key in redis.scan_iter("longthink:{*}:budget:"):
        spent = await redis.hget(key, "spent")
        whole += read_cost(spent) if spent else Cost()
    return whole


async def main(seconds: float, processes: int) -> int:
    """Kill and start orchestrators for so long; 0 if the figures hold."""
    dice, killed, overs, looks, number = Random(1), 0, 0, 0, processes
    with RedisServer() as server:
        redis = Redis.from_url(server.url)
        bench = Bench(redis, lease_seconds=LEASE_SECONDS)
        names = (f"p{index}" for index in range(processes))
        running = await asyncio.gather(*(started(server.url, name) for name in names))
        until, next_kill = monotonic() + seconds, monotonic() + 1

        async def look() -> None:
            nonlocal looks, overs
            while True:
                looks, overs = looks + 1, overs + over(await bench.allowances.usage(TENANT))
                await asyncio.sleep(0.05)

        looking = asyncio.create_task(look())
        while monotonic() < until:
            await asyncio.sleep(0.1)
            if monotonic() > next_kill:
                victim = running.pop(dice.randrange(len(running)))
                killed += victim.returncode is None
                await kill(victim)
                running.append(await started(server.url, f"p{number}"))
                number, next_kill = number + 1, monotonic() + 1
        for one in running:
            await kill(one)
        ended = monotonic()
        looking.cancel()
        left = (await bench.allowances.usage(TENANT)).requests.held
        while (usage := await bench.allowances.usage(TENANT)).requests.held:
            if monotonic() - ended > 30:
                break
            await asyncio.sleep(0.05)
        back = monotonic() - ended
        truth = await ledgers(redis)
        await redis.aclose()
    spent = {name: usage.window[name].spent for name in DIMENSIONS}
    within = all(
        getattr(truth, name) <= spent[name] <= (getattr(LIMITS, name) or spent[name])
        for name in DIMENSIONS
    )
    within = within and truth.completion_tokens > 0
    told = ", ".join(f"{name} {getattr(truth, name):,} of {spent[name]:,}" for name in DIMENSIONS)
    return tell(
        [
            Figure(
                f"a tenant's window, {processes} processes, {killed} killed",
                "never more than its limits",
                f"{overs} times in {looks:,} looks",
                held=not overs and killed > 0,
            ),
            Figure("what requests spent is charged", "all of it", told, held=within),
            Figure(
                f"reservations of the dead ({left})",
                f"back in {LEASE_SECONDS + 1:g} s",
                f"{usage.requests.held} left after {back:.1f} s",
                held=not usage.requests.held and back <= LEASE_SECONDS + 1,
            ),
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--orchestrate"]:
        asyncio.run(orchestrate(sys.argv[2], sys.argv[3]))
    else:
        said = [float(word) for word in sys.argv[1:]]
        sys.exit(asyncio.run(main(said[0] if said else 60.0, int(said[1]) if said[1:] else 4)))
