"""How much of what a tree search could read from the KV cache it does: at home, and at random.

    .venv/bin/python -m tests.bench.prefix [--strategies beam,rebase] [--queries N] [--block-size N]

Every line of the table is a run of its own on two fresh generators, with the reward model that
ships. What a call could reuse is the longest prefix that it shares with an earlier call of its
request or with what that wrote, less the last token, which is always read; of that, an engine can
only reuse whole blocks. The reward model, too, takes what it has read of a node's parents from its
cache. Prints a Markdown table, and one JSON object a line before it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from secrets import token_hex
from typing import Any, TypeAlias, cast

os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 Ray spells its settings so

import ray
from ray import serve

from planner.domain import Budget, Message, Query, Sampling
from planner.effort import Options
from services.budget import RedisLedger, connect
from services.driver import Manner
from services.reasoning import Reasoner
from services.redis_server import RedisServer
from services.trace import TraceStore
from workers.deployments import GENERATOR, REWARD, generators, rewards
from workers.homes import Place, by_home
from workers.messages import Generate, Generated, GenerationEvent, Grade, Graded
from workers.options import GeneratorOptions, RewardOptions
from workers.pool import ServePool
from workers.reference import PRM, REASONER, STEP_TAG
from workers.reference.synthetic import queries

REPLICAS = 2
QUIET: dict[str, Any] = {"log_level": "ERROR", "enable_access_log": False}

Trie: TypeAlias = dict[int, "Trie"]


def at_random(homes: Sequence[int | None], loads: Sequence[int]) -> list[int]:
    """Calls anywhere, wherever their parents were written."""
    return [random.randrange(len(loads)) for _ in homes]


PLACES: dict[str, Place] = {"home": by_home, "random": at_random}


@dataclass(slots=True)
class Reuse:
    """Prompt tokens: all, those that could be reused, those of them in whole blocks, and those
    that came from a cache. And the tokens that were graded, and those that came from its cache.
    """

    prompt: int = 0
    reusable: int = 0
    in_blocks: int = 0
    cached: int = 0
    graded: int = 0
    graded_cached: int = 0


class WatchedPool(ServePool):
    """A pool that counts what its calls could have reused, and what they did."""

    def __init__(self, *parts: Any, block_size: int, **more: Any) -> None:
        super().__init__(*parts, **more)
        self.reuse = Reuse()
        self.calls: Counter[str] = Counter()
        self._block = block_size
        self._seen: dict[str | int, Trie] = {}
        self._sent: dict[str, tuple[Generate, int]] = {}

    def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[GenerationEvent]:
        for call in batch:
            shared = self._read(call, call.prompt_ids)
            self._sent[call.id] = call, min(shared, len(call.prompt_ids) - 1)
        return self._watched(super().generate(batch))

    async def _watched(
        self, events: AsyncIterator[GenerationEvent]
    ) -> AsyncIterator[GenerationEvent]:
        async with aclosing(cast("Any", events)):
            async for event in events:
                if isinstance(event, Generated):
                    self._heard(event)
                yield event

    async def grade(self, batch: tuple[Grade, ...]) -> AsyncIterator[Graded]:
        async with aclosing(cast("Any", super().grade(batch))) as results:
            async for result in results:
                self.reuse.graded += result.reward_tokens
                self.reuse.graded_cached += result.cached_tokens
                yield result

    def _heard(self, made: Generated) -> None:
        call, shared = self._sent.pop(made.id)
        self._read(call, (*call.prompt_ids, *made.token_ids))
        if made.prompt_tokens:
            self.calls[made.worker] += 1
            self.reuse.prompt += made.prompt_tokens
            self.reuse.reusable += shared
            self.reuse.in_blocks += shared - shared % self._block
            self.reuse.cached += made.cached_tokens

    def _read(self, call: Generate, token_ids: Sequence[int]) -> int:
        """Note these tokens; how many of the first ones the request had seen before."""
        node = self._seen.setdefault(call.branch[0], {})
        shared = 0
        for token_id in token_ids:
            shared += token_id in node
            node = node.setdefault(token_id, {})
        return shared


async def search(
    pool: WatchedPool, redis_url: str, arguments: argparse.Namespace, strategy: str
) -> dict[str, Any]:
    """Answer the queries, some at a time; what came of it for the cache."""
    redis = connect(redis_url)
    reasoner = Reasoner(pool, RedisLedger(redis), TraceStore(redis), Manner(step_delimiter="\n"))
    sampling = Sampling(max_tokens=400, temperature=arguments.temperature)
    options = Options(strategy=strategy, stop="none", budget=Budget(candidates=arguments.width))
    room = asyncio.Semaphore(arguments.at_once)

    async def ask(number: int, question: str) -> None:
        query = Query((Message("user", question),), sampling, seed=number)
        async with room:
            run = await reasoner.start(query, options, trace_id=token_hex(8))
            await run.reply()

    asked = queries("dev", "hard", arguments.queries, arguments.seed)
    began = time.perf_counter()
    await asyncio.gather(*(ask(number, one.question) for number, one in enumerate(asked)))
    seconds = time.perf_counter() - began
    await reasoner.drain(10)
    await redis.aclose()
    counters = (await pool.counters()).values()
    return {
        **asdict(pool.reuse),
        "counted": sum(one["cached_tokens"] for one in counters),
        "calls": sum(pool.calls.values()),
        "busier": round(max(pool.calls.values()) / sum(pool.calls.values()), 3),
        "seconds": round(seconds, 1),
    }


async def measure(arguments: argparse.Namespace, redis_url: str) -> list[dict[str, Any]]:
    """A row for each strategy and each way of routing, on generators that have read nothing yet."""
    small: dict[str, Any] = {"kv_space_gib": 0.5, "block_size": arguments.block_size}
    rewarding = RewardOptions(model=str(PRM), step_tag=STEP_TAG, **small)
    reward = await started(REWARD, rewards(rewarding))
    options = GeneratorOptions(model=str(REASONER), replicas=REPLICAS, **small)
    rows = []
    for strategy in arguments.strategies.split(","):
        for routing in arguments.routing.split(","):
            pool = WatchedPool(
                await started(GENERATOR, generators(options)),
                reward,
                generators=REPLICAS,
                place=PLACES[routing],
                block_size=arguments.block_size,
            )
            found = await search(pool, redis_url, arguments, strategy)
            rows.append({"strategy": strategy, "routing": routing, **found})
            print(json.dumps(rows[-1]), flush=True)  # noqa: T201
            await asyncio.to_thread(serve.delete, GENERATOR)
    return rows


async def started(name: str, application: serve.Application) -> Any:
    """The handle of an application, once it runs."""
    return await asyncio.to_thread(
        serve.run, application, name=name, route_prefix=None, logging_config=QUIET
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        (
            "| strategy | routing | prompt tokens | reusable | in whole blocks | from cache "
            "| of the reusable | of whole blocks | graded | from its cache "
            "| calls on the busier replica | seconds |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{row['strategy']}` | {row['routing']} | {row['prompt']:,} | {row['reusable']:,} "
        f"| {row['in_blocks']:,} | {row['cached']:,} | {row['cached'] / row['reusable']:.1%} "
        f"| {row['cached'] / row['in_blocks']:.1%} "
        f"| {row['graded']:,} | {row['graded_cached'] / max(1, row['graded']):.1%} "
        f"| {row['busier']:.0%} | {row['seconds']} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Start what is needed, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", default="beam,rebase")
    parser.add_argument("--routing", default="home,random")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--width", type=int, default=16, help="candidates of a query")
    parser.add_argument("--at-once", type=int, default=4, help="queries at a time")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with RedisServer() as redis:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            serve.start(proxy_location="Disabled", logging_config=QUIET)
            rows = asyncio.run(measure(arguments, redis.url))
        finally:
            ray.shutdown()
    print(table(rows))  # noqa: T201


if __name__ == "__main__":
    main()
