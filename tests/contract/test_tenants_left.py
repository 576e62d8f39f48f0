"""What tenants pay for requests that are left, go on later, or fail as they do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from planner.domain import Budget, Message, Query
from planner.effort import Options
from planner.errors import WorkersUnavailable
from services.idempotency import Key, Lease
from services.resume import at_least
from services.run import Run
from services.tenants import Tenant
from services.trace import Kind
from tests.contract.runners import QUERY, wide
from tests.contract.test_tenants import Bench
from workers.fake import FakePool, Script
from workers.messages import Generate

STEPS = [
    {"id": "a", "question": "How many has Anna?", "needs": []},
    {"id": "b", "question": "How many has Ben?", "needs": []},
    {"id": "c", "question": "How many are $a and $b?", "needs": ["a", "b"]},
]
PLANNED = replace(QUERY, messages=(Message("user", "How many have Anna and Ben together?"),))


async def keyed(bench: Bench, options: Options, query: Query = QUERY) -> Run:
    """The run of a request with a key, of tenant a."""
    tenant = Tenant("a", limits=bench.limits)

    async def start(trace_id: str, lease: Lease) -> Run:
        return await bench.reasoner.start(
            query, options, trace_id=trace_id, lease=lease, tenant=tenant
        )

    assert bench.stage.once is not None
    return await bench.stage.once.run(Key("order-17", "body", tenant), start, trace_id="order")


async def until(done: Callable[[], object]) -> None:
    """Return when it is so."""
    async with asyncio.timeout(20):
        while not done():
            await asyncio.sleep(0.005)


async def leave(bench: Bench, run: Run) -> None:
    """Leave it as its only client, and return when it is over."""
    under_way = run_of(bench, run)
    run.cancel()
    await asyncio.wait_for(under_way.over.wait(), 20)


def run_of(bench: Bench, attached: Run) -> Run:
    """What is under way for one who waits for it."""
    run = bench.reasoner.find(attached.trace.id)
    assert run is not None
    return run


async def charged(bench: Bench) -> int:
    """The completion tokens that tenant a was charged; it has nothing under way or set aside."""
    usage = await bench.allowances.usage(Tenant("a", limits=bench.limits))
    assert usage.requests.held == 0
    assert not any(one.held for one in usage.window.values())
    return usage.window["completion_tokens"].spent


async def test_one_that_fails_as_it_goes_on_sets_nothing_aside(redis_client: Redis) -> None:
    """What it had spent stays charged, and the rest comes back at once."""
    bench = Bench(redis_client, seconds=0.3, completion_tokens=100_000, requests=1)
    run = await keyed(bench, wide(16))
    await until(lambda: len(bench.calls) == 16)
    await asyncio.sleep(0.1)
    await leave(bench, run)
    before = await charged(bench)
    assert before == await bench.counted() > 0
    prepare = bench.pool.prepare

    async def fails(*_: Any, **__: Any) -> Any:
        raise WorkersUnavailable("There is no engine.")

    bench.pool.prepare = fails  # type: ignore[method-assign]
    with pytest.raises(WorkersUnavailable):
        await keyed(bench, wide(16))
    assert await charged(bench) == before
    bench.pool.prepare = prepare  # type: ignore[method-assign]
    reply = await (await keyed(bench, wide(16))).reply()
    assert await charged(bench) == reply.spent.completion_tokens == await bench.counted()
    await bench.reasoner.drain(5)


def solve(call: Generate) -> Script:
    """A plan where one is asked for, and answers to its questions, of which Ben's takes long."""
    if call.schema is not None:
        return Script(json.dumps({"steps": STEPS}))
    slow = bytes(call.prompt_ids).decode().rfind("has Ben?") > 0
    return Script("it is 7\n#### 7", seconds=30 if slow else 0.0)


async def test_one_that_is_left_in_mid_plan_pays_for_its_steps(redis_client: Redis) -> None:
    """All that the shares of its budget have spent, whether they have ended or not."""
    bench = Bench(redis_client, completion_tokens=100_000)
    bench.pool = bench.reasoner._pool = FakePool(solve)
    budget = Budget(completion_tokens=6000, candidates=24)
    run = await keyed(bench, Options(strategy="plan", budget=budget), PLANNED)
    await until(lambda: answered(run))
    under_way = run_of(bench, run)
    before = under_way.spent
    early = (await bench.reasoner.earlier(run.trace.id, Tenant("a"))).before.spent
    assert early == at_least(early, before)
    assert under_way.spent == at_least(early, under_way.spent)
    await leave(bench, run)
    made = await bench.counted()
    assert await charged(bench) == made > 0
    left = await bench.reasoner.earlier(run.trace.id, Tenant("a"))
    assert left.before.spent.completion_tokens == made
    await bench.reasoner.drain(5)


def answered(run: Run) -> bool:
    """Whether a step of its plan has ended, as another is still under way."""
    ended = [it for it in run.trace.events if it.kind is Kind.STEP and it.data["state"] == "ended"]
    return len(ended) == 1
