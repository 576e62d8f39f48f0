"""What tenants pay for requests that are left, go on later, or fail as they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from planner.domain import Query
from planner.effort import Options
from planner.errors import WorkersUnavailable
from services.idempotency import Key, Lease
from services.reasoning import Run
from services.tenants import Tenant
from tests.contract.runners import QUERY, wide
from tests.contract.test_tenants import Bench


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
