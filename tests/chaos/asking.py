"""Clients that ask a running service one question after another, and what became of each."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from services.settings import GeneratorSettings, RewardSettings, ServiceSettings, Settings
from tests import processes
from tests.chaos.real_service import CHAT, body
from workers.reference.synthetic import queries

CANDIDATES = 4
AGAIN_SECONDS = 180.0
"""How long a new engine may take to be there; starting one takes half a minute on two cores."""


def settings(engines: int, **more: Any) -> Settings:
    """A service with so many engines and no reward model; `more` has other sections."""
    return Settings(
        service=ServiceSettings(port=0, log_level="warning"),
        generator=GeneratorSettings(replicas=engines),
        reward=RewardSettings(enabled=False),
        **more,
    )


@dataclass(slots=True)
class Record:
    """What became of the requests. One that was refused before any work was never accepted."""

    answered: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        """Those that the service took on."""
        return self.answered + self.failures.total()

    @property
    def refused(self) -> int:
        """Those that it refused before any work."""
        return self.refusals.total()

    @property
    def share(self) -> float:
        """The part of the accepted ones that were answered."""
        return self.answered / self.accepted if self.accepted else 0.0

    def __str__(self) -> str:
        return (
            f"{self.share:.2%} ({self.answered} of {self.accepted}, {self.refused} refused; "
            f"p50 {self.percentile(0.5):.1f} s, p99 {self.percentile(0.99):.1f} s) "
            f"{dict(self.failures) or ''}"
        ).rstrip()

    def percentile(self, part: float) -> float:
        """A percentile of the seconds that answers took."""
        ranked = sorted(self.seconds)
        return ranked[min(len(ranked) - 1, int(part * len(ranked)))] if ranked else 0.0

    def took(self, reply: httpx.Response, seconds: float) -> None:
        """Count a response."""
        said = reply.json()
        how = f"{reply.status_code} {said.get('error', {}).get('code')}"
        if reply.status_code == 200 and said["choices"][0]["message"]["content"]:
            self.answered += 1
            self.seconds.append(seconds)
        elif reply.status_code in (429, 503) and "retry-after" in reply.headers:
            self.refusals[how] += 1
        else:
            self.failures[how] += 1


@asynccontextmanager
async def asked(url: str, clients: int) -> AsyncIterator[Record]:
    """So many clients ask meanwhile, each again as soon as it has its answer.

    What became of them is complete when the block has ended, which waits for the last answers.
    """
    record, over = Record(), asyncio.Event()
    questions = [query.question for query in queries("test", "hard", 64, seed=3)]

    async def client(number: int, http: httpx.AsyncClient) -> None:
        for turn in range(1_000_000):
            if over.is_set():
                return
            question = questions[(number * 17 + turn) % len(questions)]
            began = time.monotonic()
            try:
                reply = await http.post(CHAT, json=body(question, CANDIDATES))
            except httpx.HTTPError as error:
                record.failures[type(error).__name__] += 1
                continue
            record.took(reply, time.monotonic() - began)
            if reply.status_code in (429, 503):
                await asyncio.sleep(float(reply.headers.get("retry-after", 1)))

    limits = httpx.Limits(max_connections=clients)
    async with (
        httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http,
        asyncio.TaskGroup() as group,
    ):
        for number in range(clients):
            group.create_task(client(number, http))
        try:
            yield record
        finally:
            over.set()


def replicas(kind: str) -> list[psutil.Process]:
    """The processes of a deployment's replicas that this process has started, up or not."""
    return processes.replicas(f"longthink:{kind}")


def up(kind: str) -> list[psutil.Process]:
    """Those of them that have an engine which works."""
    return [one for one in replicas(kind) if processes.engines(one)]


async def until_up(engines: int, *, without: Set[int] = frozenset()) -> float | None:
    """The seconds until so many engines work in processes other than those; None if it's never."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < AGAIN_SECONDS:
        await asyncio.sleep(0.5)
        if len({one.pid for one in await asyncio.to_thread(up, "generator")} - without) >= engines:
            return passed
    return None


def kill(process: psutil.Process) -> None:
    """End a process at once."""
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
