"""What it saves to run the steps of a plan side by side: the same steps, as a DAG and in sequence.

    .venv/bin/python -m tests.bench.plan [--queries N] [--candidates N]

Compound queries whose three or four parts need nothing of each other, with their exact plans, on
two generators and with no reward model. Each is answered both ways, in turn, with the same seeds
and the same number of samples a step; what is timed is from the plan to its answer, read from the
trace. Prints a JSON object a query, then the ratio of the sums and of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
from collections.abc import Sequence
from itertools import islice
from secrets import token_hex
from statistics import median
from typing import Any

os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 Ray spells its settings so

import ray
from ray import serve

from planner.decompose.plan import Plan, Step
from planner.domain import Budget, Message, Query, Sampling
from planner.effort import Options
from planner.search import NESTING
from planner.search.attempt import Attempt
from planner.search.base import Setup
from planner.search.inner import Recipe
from planner.search.plan import PlanSearch
from services.budget import RedisLedger, connect
from services.driver import Manner
from services.reasoning import Reasoner
from services.redis_server import RedisServer
from services.trace import Event, Kind, TraceStore
from workers.deployments import GENERATOR, generators
from workers.options import GeneratorOptions
from workers.pool import ServePool
from workers.reference import REASONER, synthetic

REPLICAS = 2
QUIET: dict[str, Any] = {"log_level": "ERROR", "enable_access_log": False}
PLANS: dict[str, Plan] = {}
"""The exact plan of each question."""


class Given(PlanSearch):
    """Follows the exact plan."""

    def __init__(self, setup: Setup, inner: Recipe) -> None:
        super().__init__(setup, inner)
        self._drafting.stop()
        self._drafting.plans = [(1.0, PLANS[setup.query.messages[-1].content])]
        self._attempt()
        self._go_on()


class InSequence(Given):
    """The same, one step after another."""

    def _ready(self, attempt: Attempt) -> Sequence[Step]:
        return [] if attempt.running else super()._ready(attempt)[:1]


def wide(query: synthetic.Query) -> bool:
    """Whether its parts, three or more, need nothing of each other; the last step joins them."""
    *parts, _ = query.plan
    return len(parts) >= 3 and not any(step.needs for step in parts)


def seconds(events: Sequence[Event]) -> float:
    """From the plan to the end of its last step."""
    planned = next(event for event in events if event.kind is Kind.PLANNED)
    ended = [e for e in events if e.kind is Kind.STEP and e.data["state"] == "ended"]
    return ended[-1].seconds - planned.seconds


async def measure(arguments: argparse.Namespace, redis_url: str) -> None:
    """Answer every query both ways."""
    options = GeneratorOptions(model=str(REASONER), replicas=REPLICAS, kv_space_gib=0.5)
    handle = await asyncio.to_thread(
        serve.run, generators(options), name=GENERATOR, route_prefix=None, logging_config=QUIET
    )
    redis = connect(redis_url)
    reasoner = Reasoner(
        ServePool(handle, None, generators=REPLICAS),
        RedisLedger(redis),
        TraceStore(redis),
        Manner(step_delimiter="\n"),
    )
    NESTING["plan"], NESTING["least_to_most"] = Given, InSequence
    drawn = (query for query in synthetic.queries("dev", "compound", 1000, arguments.seed))
    rows = []
    for query in islice(filter(wide, drawn), arguments.queries + 1):
        steps = (Step(one.id, one.question, one.needs) for one in query.plan)
        PLANS[query.question] = Plan(tuple(steps))
        row: dict[str, Any] = {"query": query.id, "steps": len(query.plan)}
        for name, strategy in (("dag", "plan"), ("sequence", "least_to_most")):
            asked = Query((Message("user", query.question),), Sampling(max_tokens=200), seed=1)
            many = Budget(candidates=arguments.candidates * len(query.plan) + 1)
            chosen = Options(strategy=strategy, selector="majority", stop="none", budget=many)
            run = await reasoner.start(asked, chosen, trace_id=token_hex(8))
            reply = await run.reply()
            row[name] = round(seconds(run.trace.events), 3)
            row[f"{name}_right"] = reply.outcome.answer == query.answer
        rows.append(row)
        print(json.dumps(row), flush=True)  # noqa: T201
    await reasoner.drain(10)
    await redis.aclose()
    del rows[0]  # the engines' first call of each kind
    dag, sequence = ([row[name] for row in rows] for name in ("dag", "sequence"))
    ratio, medians = sum(dag) / sum(sequence), (median(dag), median(sequence))
    print(  # noqa: T201
        f"{len(rows)} plans: side by side they take {ratio:.2f} of the time that they take in "
        f"sequence; the medians are {medians[0]:.2f} and {medians[1]:.2f} s."
    )


def main() -> None:
    """Start what is needed, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--candidates", type=int, default=4, help="samples of a step")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with RedisServer() as redis:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            serve.start(proxy_location="Disabled", logging_config=QUIET)
            asyncio.run(measure(arguments, redis.url))
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
