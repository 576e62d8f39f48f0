"""Clients that ask a running service one question after another, and what became of each."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from workers.reference.synthetic import queries

MODEL = "longthink-reference"
_SAMPLE = re.compile(r"^vllm:([a-z_]+)\{([^}]*)\} (\S+)$", re.MULTILINE)


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


def body(question: str, candidates: int, **more: Any) -> dict[str, Any]:
    """A request for so many candidates."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 256,
        **more,
        "longthink": {
            "strategy": "majority",
            "stop": "none",
            "budget": {"candidates": candidates},
        },
    }


async def ask_until(
    url: str, over: asyncio.Event, *, clients: int, candidates: int, wait: float = 300.0
) -> Record:
    """So many clients, each asking again as soon as it has its answer, until `over` is set."""
    record = Record()
    questions = [query.question for query in queries("test", "hard", 64, seed=3)]

    async def client(number: int, http: httpx.AsyncClient) -> None:
        for turn in range(1_000_000):
            if over.is_set():
                return
            asked = body(questions[(number * 17 + turn) % len(questions)], candidates)
            began = time.monotonic()
            try:
                reply = await http.post("/v1/chat/completions", json=asked)
            except httpx.HTTPError as error:
                record.failures[type(error).__name__] += 1
                continue
            record.took(reply, time.monotonic() - began)
            if reply.status_code in (429, 503):
                await asyncio.sleep(float(reply.headers.get("retry-after", 1)))

    limits = httpx.Limits(max_connections=clients)
    async with (
        httpx.AsyncClient(base_url=url, timeout=wait, limits=limits) as http,
        asyncio.TaskGroup() as group,
    ):
        for number in range(clients):
            group.create_task(client(number, http))
    return record


def replicas(kind: str) -> list[psutil.Process]:
    """The processes of a deployment's replicas that this process has started, up or not."""
    title = f"ray::ServeReplica:longthink:{kind}"
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
        except psutil.Error:
            continue
    return found


def up(kind: str) -> list[psutil.Process]:
    """Those of them that have an engine which works."""
    return [one for one in replicas(kind) if _has_engine(one)]


def _has_engine(replica: psutil.Process) -> bool:
    try:
        cores = [it for it in replica.children() if "EngineCore" in " ".join(it.cmdline())]
        return bool(cores) and time.time() - replica.create_time() > 5
    except psutil.Error:
        return False


def kill(process: psutil.Process) -> None:
    """End a process at once."""
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


async def counted(http: httpx.AsyncClient, names: Sequence[str]) -> Counter[str]:
    """What the generators' engines have counted, all together."""
    text = (await http.get("/metrics")).raise_for_status().text
    totals: Counter[str] = Counter()
    for name, labels, value in _SAMPLE.findall(text):
        if name in names and f'="{MODEL}"' in labels:
            totals[name] += int(float(value))
    return totals
