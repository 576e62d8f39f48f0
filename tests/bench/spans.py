"""What being watched costs: the CPU time of a search with metrics, and with spans as well.

Run it as a script: `python -m tests.bench.spans [--candidates 64] [--requests 20]`. The same
searches (sampled, graded and chosen by weighted vote, on workers that answer at once and a real
Redis) are driven in turn as they are, with their calls and ledger measured, and with a span for
each task and each call, too, of which all are sent to a collector in a process of its own. What is
timed is the CPU time of the process that drives them, the thread that sends spans included.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from statistics import median
from time import process_time

from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from services.budget import RedisLedger, connect
from services.driver import Manner
from services.reasoning import Reasoner
from services.redis_server import RedisServer
from services.spans import Spans, exporting
from services.telemetry import Telemetry
from services.trace import TraceStore
from tests.collector import collecting
from tests.integration.reasoning_bench import PRICES, QUERY, Bench, wide
from workers.fake import FakePool


def main() -> None:
    """Measure, and say what it came to."""
    said = argparse.ArgumentParser(description=__doc__)
    said.add_argument("--candidates", type=int, default=64)
    said.add_argument("--requests", type=int, default=20)
    arguments = said.parse_args()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    collector = spawn.Process(target=_collect, args=(theirs,))
    collector.start()
    try:
        took = asyncio.run(_measure(ours.recv(), arguments.candidates, arguments.requests))
    finally:
        ours.send(None)
        collector.join()
    table = Table("searches", "ms of CPU a request", "µs more a task")
    tasks = 2 * arguments.candidates
    for name, seconds in took.items():
        more = (seconds - took["as they are"]) / tasks * 1e6
        table.add_row(name, f"{seconds * 1e3:.1f}", f"{more:.0f}")
    Console().print(table)


async def _measure(url: str, candidates: int, requests: int) -> dict[str, float]:
    """The median CPU time of a request of each kind, measured in turn."""
    with RedisServer() as server:
        async with connect(server.url) as redis:
            spans = _traced(url)
            asking = {
                "as they are": _plain(redis, candidates),
                "measured": _watched(redis, Telemetry(), candidates),
                "measured and traced": _watched(redis, spans, candidates),
            }
            took: dict[str, list[float]] = {name: [] for name in asking}
            for turn in range(requests + 3):
                for name, ask in asking.items():
                    began = process_time()
                    await ask(turn)
                    took[name].append(process_time() - began)
            if spans.spans is not None:
                spans.spans.shutdown()
            # The first few are slower.
            return {name: median(seconds[3:]) for name, seconds in took.items()}


def _traced(url: str) -> Telemetry:
    telemetry = Telemetry()

    def spans(lost: Callable[[int], None]) -> Spans:
        processor = exporting(url, lost)
        return Spans(processor, model="bench", sampled=1.0, captures=False, version="1")

    telemetry.trace(spans)
    return telemetry


def _plain(redis: Redis, candidates: int) -> Callable[[int], asyncio.Future[object]]:
    manner = Manner(prices=PRICES, step_delimiter="\n", late_seconds=1.0)
    reasoner = Reasoner(FakePool(), RedisLedger(redis), TraceStore(redis), manner)
    return lambda turn: _ask(reasoner, candidates, turn)


def _watched(
    redis: Redis, telemetry: Telemetry, candidates: int
) -> Callable[[int], asyncio.Future[object]]:
    bench = Bench(redis, FakePool(), telemetry=telemetry)
    return lambda turn: _ask(bench.reasoner, candidates, turn)


def _ask(reasoner: Reasoner, candidates: int, turn: int) -> asyncio.Future[object]:
    async def ask() -> None:
        query = replace(QUERY, seed=turn)
        options = wide(candidates, selector="weighted")
        run = await reasoner.start(query, options, trace_id=f"{id(reasoner)}-{turn}")
        await run.reply()
        await run.over.wait()

    return asyncio.ensure_future(ask())


def _collect(pipe: Connection) -> None:
    """Listen until told to stop."""
    with collecting() as collector:
        pipe.send(collector.url)
        pipe.recv()


if __name__ == "__main__":
    main()
