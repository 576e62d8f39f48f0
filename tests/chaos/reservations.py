"""10,000 reservations at once, from several processes, against one budget on a real redis-server.

    python -m tests.chaos.reservations [RESERVATIONS] [PROCESSES]

Each process sends all of its holds side by side, once everybody is ready. What must hold: granted
is exactly what the budget has room for in its scarcest dimension, and at no look in the meantime,
nor at the end, is more spent and held than the limit in any. Then the same again over a wire that
loses one reply in twenty, each process counting what it was granted and what it spent: the ledger
has the sum of that, to the token.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TypeVar

from planner.domain import Budget, Cost
from planner.errors import LedgerUnavailable
from planner.ports import Account, Commit, Hold
from services.budget import RedisLedger, connect
from services.budget.scripts import limits_vector, read_vector
from services.redis_server import RedisServer
from services.telemetry import configure_logging
from tests.chaos.figures import Figure, tell
from tests.integration.proxy import Fate, Proxy, socket_of

Answer = TypeVar("Answer")

ASKED = Cost(prompt_tokens=90, completion_tokens=7, reward_tokens=11, candidates=1, micro_usd=2)
PART = 0.45
"""How much of all that is asked for the scarcest dimension has room for; the others have more."""
LOSS = 0.05
PATIENCE = 600.0


@dataclass(frozen=True, slots=True)
class Sum:
    """What one process, or all of them, was granted and did."""

    granted: int = 0
    spent: Cost = Cost()

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.granted + other.granted, self.spent + other.spent)


def limits(reservations: int) -> Budget:
    """A budget with room for a part of so many, scarcest in reward tokens."""
    room = int(reservations * PART)
    return Budget(
        completion_tokens=room * 2 * ASKED.completion_tokens,
        reward_tokens=room * ASKED.reward_tokens + ASKED.reward_tokens - 1,
        candidates=room + reservations // 10,
        micro_usd=room * 2 * ASKED.micro_usd,
    )


async def holder(url: str, name: str, count: int) -> Sum:
    """One process: hold `count` times at once, then spend all of what was granted."""
    async with connect(url, max_connections=16) as client:
        ledger = RedisLedger(client, lease_seconds=PATIENCE, patience_seconds=PATIENCE)
        ops = [f"{name}/{index}" for index in range(count)]
        await _everybody()

        async def hold(op: str) -> bool:
            (granted,), _ = await _insist(lambda: ledger.hold("r", (Hold(op, ASKED),)))
            return granted

        held = await asyncio.gather(*map(hold, ops))
        granted = [op for op, yes in zip(ops, held, strict=True) if yes]
        await _everybody()

        async def commit(op: str) -> None:
            await _insist(lambda: ledger.commit("r", (Commit(op, ASKED),)))

        await asyncio.gather(*map(commit, granted))
        return Sum(len(granted), sum((ASKED for _ in granted), Cost()))


async def lossy(url: str, name: str, count: int) -> Sum:
    """One process on a bad wire: hold and commit `count` times, no two costs alike."""
    chance = Random(name)

    async def work(ledger: RedisLedger, op: str) -> Sum:
        asked = replace(ASKED, completion_tokens=chance.randint(1, 13))
        cost = replace(asked, completion_tokens=chance.randint(0, asked.completion_tokens))
        (granted,), _ = await _insist(lambda: ledger.hold("r", (Hold(op, asked),)))
        if not granted:
            return Sum()
        await _insist(lambda: ledger.commit("r", (Commit(op, cost),)))
        return Sum(1, cost)

    async with connect(url, max_connections=16, socket_timeout=0.2) as client:
        ledger = RedisLedger(client, lease_seconds=PATIENCE, patience_seconds=PATIENCE)
        await _everybody()
        done = await asyncio.gather(*(work(ledger, f"{name}/{at}") for at in range(count)))
        return sum(done, Sum())


async def _insist(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Call until the ledger answers: the same operation again, so it counts once."""
    while True:
        try:
            return await call()
        except LedgerUnavailable:
            await asyncio.sleep(0.01)


async def _everybody() -> None:
    """Say that this process is ready, and wait until all are."""
    _say("ready")
    await asyncio.to_thread(sys.stdin.readline)


def _say(line: str) -> None:
    """To the process that started this one."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def crowd(url: str, kind: str, reservations: int, processes: int) -> Sum:
    """Have so many processes share the work, side by side; what all of them did."""
    each = reservations // processes
    command = [sys.executable, "-m", "tests.chaos.reservations", kind, url]
    pipe = asyncio.subprocess.PIPE
    started = [
        await asyncio.create_subprocess_exec(*command, f"p{at}", str(each), stdin=pipe, stdout=pipe)
        for at in range(processes)
    ]
    for _ in range(2 if kind == "holder" else 1):
        for process in started:
            assert process.stdout is not None
            if await process.stdout.readline() != b"ready\n":
                raise RuntimeError("A process ended before it was ready.")
        for process in started:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
    said = [await process.communicate() for process in started]
    sums = [json.loads(out) for out, _ in said]
    return sum((Sum(granted, Cost(*spent)) for granted, spent in sums), Sum())


def over(account: Account) -> int:
    """By how much it is overspent, in the dimension where that is most."""
    used: tuple[int, ...] = astuple(account.spent + account.held)
    allowed = read_vector(limits_vector(account.limits))
    beyond = [use - most for use, most in zip(used, allowed, strict=True) if most is not None]
    return max([0, *beyond])


async def watch(ledger: RedisLedger, seen: list[int]) -> None:
    """Look at the budget again and again; note by how much it was overspent."""
    while True:
        seen.append(over(await ledger.account("r")))
        await asyncio.sleep(0.01)


async def exact(reservations: int, processes: int) -> list[Figure]:
    """A good wire: granted exactly what there is."""
    allowed = limits(reservations)
    room = (allowed.reward_tokens or 0) // ASKED.reward_tokens
    async with RedisServer() as server, connect(server.url) as client:
        ledger, seen = RedisLedger(client, patience_seconds=PATIENCE), list[int]()
        await ledger.open("r", allowed)
        watching = asyncio.create_task(watch(ledger, seen))
        began = perf_counter()
        done = await crowd(server.url, "holder", reservations, processes)
        seconds = perf_counter() - began
        watching.cancel()
        account = await ledger.account("r")
    what = f"{reservations:,} reservations at once from {processes} processes"
    worst = max(*seen, over(account))
    true = account.spent == done.spent and account.held == Cost()
    seen_looks = f"{worst} in {len(seen):,} looks, {seconds:.1f} s"
    return [
        Figure(f"{what}: granted", f"{room:,}", f"{done.granted:,}", done.granted == room),
        Figure(f"{what}: overspent", "0 in every dimension", seen_looks, worst == 0),
        Figure(f"{what}: the ledger's books", "the clients' own", _books(account, done), true),
    ]


async def dropped(reservations: int, processes: int) -> list[Figure]:
    """A bad wire: the books stay true."""
    chance = Random(5)

    def fate() -> Fate:
        return chance.choice(("swallow", "cut")) if chance.random() < LOSS else "pass"

    async with RedisServer() as server, connect(server.url) as client:
        ledger = RedisLedger(client, patience_seconds=PATIENCE)
        await ledger.open("r", limits(reservations))
        proxy = Proxy(socket_of(server.url), fate)
        with TemporaryDirectory(prefix="lt-") as folder:
            async with proxy.at(Path(folder) / "wire") as url:
                done = await crowd(url, "lossy", reservations, processes)
        account = await ledger.account("r")
    true = account.spent == done.spent and account.held == Cost() and over(account) == 0
    what = f"{LOSS:.0%} of Redis' replies dropped ({proxy.lost:,}): the ledger's books"
    held = true and proxy.lost > reservations * LOSS / 2
    return [Figure(what, "the clients' own", _books(account, done), held)]


def _books(account: Account, done: Sum) -> str:
    said = "the same" if account.spent == done.spent else f"{account.spent}, not {done.spent}"
    return f"{said}, {account.spent.completion_tokens:,} tokens; {account.held.candidates} held"


def main(reservations: int = 10_000, processes: int = 4) -> int:
    """Both, and their figures."""
    figures = asyncio.run(exact(reservations, processes))
    figures += asyncio.run(dropped(reservations // 4, processes))
    return tell(figures)


if __name__ == "__main__":
    kinds = {"holder": holder, "lossy": lossy}
    if sys.argv[1:] and sys.argv[1] in kinds:
        _, kind, url, name, count = sys.argv
        configure_logging(level="error")  # what this process says is read by the other one
        did = asyncio.run(kinds[kind](url, name, int(count)))
        _say(json.dumps([did.granted, astuple(did.spent)]))
    else:
        sys.exit(main(*map(int, sys.argv[1:])))
