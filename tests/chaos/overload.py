"""Three times the load that the service can bear, and a greedy tenant: others hardly notice.

    python -m tests.chaos.overload [SECONDS [hard|short]]

starts the embedded service with two tenants, and has requests come at random, whether or not the
ones before them were answered (Poisson, SECONDS (30) at each rate): hard questions, of eight
candidates each, and after that easy ones of a single candidate, unless one kind is named. First
they come at some rates around what a closed loop of clients gets through: the one with the most
correct answers in time a second is what the service can bear. Then three times as many come, and
last a tenant asks ten times its three quarters of that while another asks for its quarter. What
must hold:

- at three times the load, goodput is at least 90% of its peak;
- of what is refused there, 99% is within 50 ms, and all of it with Retry-After;
- the median latency of the modest tenant grows by 10% at most through the other's greed.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from redis.asyncio import Redis

from services.app import Service
from services.keyring import Keyring
from services.redis_server import RedisServer
from services.settings import RedisSettings, ServiceSettings, Settings
from tests.chaos.figures import Figure, console, tell
from tests.chaos.real_service import CHAT, MODEL
from workers.reference.synthetic import Kind, queries

AROUND = (0.75, 1.0, 1.25, 1.5)
LATE = 0.25
"""Seconds after the deadline in which an answer still counts as in time: it has to come here."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for: questions of a kind, so many candidates for each, in so many seconds;
    and the clients of the closed loop that finds out how many of them are answered a second.
    """

    name: str
    kind: Kind
    candidates: int
    deadline: float
    clients: int

    def body(self, question: str) -> dict[str, Any]:
        """The request for one question."""
        return {
            "model": MODEL,
            "messages": [{"role": "user", "content": question}],
            "longthink": {
                "strategy": "single" if self.candidates == 1 else "majority",
                "stop": "none",
                "budget": {"candidates": self.candidates, "deadline_seconds": self.deadline},
            },
        }


LOADS = (
    Load("hard", "hard", candidates=8, deadline=6.0, clients=8),
    Load("short", "easy", candidates=1, deadline=4.0, clients=32),
)


@dataclass(slots=True)
class Seen:
    """What became of one tenant's requests."""

    correct: int = 0
    answered: int = 0
    late: int = 0
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    bare: int = 0
    """Refusals without Retry-After."""
    others: Counter[str] = field(default_factory=Counter)

    def took(
        self, reply: aiohttp.ClientResponse, said: Any, seconds: float, right: str, deadline: float
    ) -> None:
        """Count a response that `said` so much."""
        if reply.status in (429, 503):
            self.refusals.append(seconds)
            self.bare += "retry-after" not in reply.headers
            self.others[said["error"]["code"]] += 1
        elif reply.status == 200 and said["longthink"]["answer"] is not None:
            self.answered += 1
            self.late += seconds > deadline + LATE
            self.correct += seconds <= deadline + LATE and said["longthink"]["answer"] == right
            self.latencies.append(seconds)
        else:
            self.others[str(reply.status)] += 1

    def __str__(self) -> str:
        return (
            f"{self.correct} correct in time of {self.answered} answered ({self.late} late), "
            f"p50 {percentile(self.latencies, 0.5):.2f} s; {len(self.refusals)} refused, "
            f"p50 {percentile(self.refusals, 0.5) * 1000:.0f} ms, "
            f"p90 {percentile(self.refusals, 0.9) * 1000:.0f} ms, "
            f"p99 {percentile(self.refusals, 0.99) * 1000:.0f} ms; {dict(self.others)}"
        )


class Crowd:
    """Clients of a running service, each tenant with its key."""

    def __init__(self, http: aiohttp.ClientSession, load: Load) -> None:
        self._http = http
        self._load = load
        self._asked = queries("test", load.kind, 200, seed=23)
        self._questions = itertools.cycle(self._asked)

    async def ask(self, key: str, seen: Seen) -> None:
        """One question."""
        query = next(self._questions)
        began = time.monotonic()
        try:
            headers = {"authorization": f"Bearer {key}"}
            asked = self._load.body(query.question)
            async with self._http.post(CHAT, json=asked, headers=headers) as reply:
                said = await reply.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            seen.others[type(error).__name__] += 1
            return
        took = time.monotonic() - began
        seen.took(reply, said, took, str(query.answer), self._load.deadline)

    async def closed(self, key: str, seconds: float) -> float:
        """Answers a second that the load's clients get who ask again at once."""
        seen, until = Seen(), time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < until:
                await self.ask(key, seen)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._load.clients):
                group.create_task(client())
        return seen.answered / seconds

    async def open(self, rates: dict[str, float], seconds: float) -> dict[str, Seen]:
        """What became of requests that come at these rates, by key: each time at like moments,
        and the same ones.
        """
        self._questions = itertools.cycle(self._asked)
        seen = {key: Seen() for key in rates}

        async def stream(key: str, rate: float, chance: random.Random) -> None:
            due = time.monotonic()
            until = due + seconds
            while (due := due + chance.expovariate(rate)) < until:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self.ask(key, seen[key]))

        async with asyncio.TaskGroup() as group:
            for number, (key, rate) in enumerate(rates.items()):
                group.create_task(stream(key, rate, random.Random(number)))
        return seen


def percentile(values: list[float], part: float) -> float:
    """A percentile; 0 of nothing."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(part * len(ranked)))] if ranked else 0.0


async def measure(url: str, keys: tuple[str, str], seconds: float, load: Load) -> list[Figure]:
    """All of it, for one kind of request."""
    modest, greedy = keys
    gc.collect()
    gc.freeze()  # what the clients' collector would take isn't the service's time
    limits = aiohttp.ClientTimeout(total=60)
    every = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, timeout=limits, connector=every) as http:
        crowd = Crowd(http, load)
        await crowd.closed(modest, seconds / 2)
        through = await crowd.closed(modest, seconds)
        told = console()
        told.print(
            f"{load.name}: {load.clients} clients in a closed loop: {through:.1f} answers a second"
        )
        goodputs: dict[float, float] = {}

        async def at(rate: float) -> Seen:
            seen = (await crowd.open({modest: rate}, seconds))[modest]
            told.print(f"{rate:.1f} a second: {seen}")
            return seen

        for part in AROUND:
            goodputs[part * through] = (await at(part * through)).correct / seconds
        bearable = max(goodputs, key=goodputs.__getitem__)
        much = await at(3 * bearable)
        shares = []
        for greed in (1, 10):
            rates = {modest: bearable / 4, greedy: greed * bearable * 3 / 4}
            shares.append(await crowd.open(rates, 2 * seconds))
            told.print(f"modest beside {greed} x greedy: {shares[-1][modest]}")
    return _figures(load, goodputs[bearable], bearable, much, seconds, shares, modest)


def _figures(
    load: Load,
    peak: float,
    bearable: float,
    much: Seen,
    seconds: float,
    shares: list[dict[str, Seen]],
    modest: str,
) -> list[Figure]:
    goodput = much.correct / seconds
    slowest = percentile(much.refusals, 0.99)
    before, after = (percentile(one[modest].latencies, 0.5) for one in shares)
    slower = after / before - 1 if before else 1.0
    answered = [len(one[modest].latencies) for one in shares]
    return [
        Figure(
            f"{load.name}: goodput at three times the load ({3 * bearable:.0f} requests a second)",
            ">= 90% of its peak",
            f"{goodput / peak:.0%} ({goodput:.1f} of {peak:.1f} a second)",
            held=goodput >= 0.9 * peak,
        ),
        Figure(
            f"{load.name}: refused at that load ({len(much.refusals)} requests)",
            "p99 <= 50 ms, all with Retry-After",
            f"p99 {slowest * 1000:.0f} ms, {much.bare} without",
            held=slowest <= 0.05 and not much.bare and bool(much.refusals),
        ),
        Figure(
            f"{load.name}: a modest tenant beside one that asks ten times its share",
            "<= 10% slower",
            f"{slower:+.0%} (p50 {before:.2f} to {after:.2f} s, {answered} answered)",
            held=slower <= 0.1 and answered[1] >= 0.9 * answered[0],
        ),
    ]


async def _keys(url: str) -> tuple[str, str]:
    async with Redis.from_url(url) as redis:
        keyring = Keyring(redis)
        return await keyring.make("modest"), await keyring.make("greedy")


def main(seconds: float = 30, name: str = "") -> int:
    chosen = [load for load in LOADS if name in ("", load.name)]
    if not chosen:
        raise SystemExit(f"There is no load {name!r}: {', '.join(load.name for load in LOADS)}.")
    held = True
    for load in chosen:
        with RedisServer() as redis:
            settings = Settings(
                redis=RedisSettings(url=redis.url),
                service=ServiceSettings(port=0, keys=True, log_level="warning"),
            )
            keys = asyncio.run(_keys(redis.url))
            with Service.start(settings) as service:
                figures = asyncio.run(measure(service.url, keys, seconds, load))
        held = tell(figures) == 0 and held
    return 0 if held else 1


if __name__ == "__main__":
    said = sys.argv[1:] or ["30"]
    sys.exit(main(float(said[0]), *said[1:]))
