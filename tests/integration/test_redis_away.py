"""Redis stopped, killed, slow or failed over under the service: it says so soon, and recovers.

A real redis-server and the real edge; the worker is a fake one that counts its tokens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from redis.exceptions import RedisError

from planner.domain import Budget, Message, Query, Sampling
from planner.effort import Options
from planner.errors import LedgerUnavailable
from services.allowance import Allowances
from services.budget import RedisLedger, connect
from services.budget.client import Client
from services.driver import Manner
from services.idempotency import Keys
from services.once import Once
from services.reasoning import Reasoner
from services.tenants import Tenant, TenantLimits
from services.trace import TraceStore
from tests.contract.scripted_service import BODY, CHAT, Stage, serving
from tests.integration.proxy import Fate, Proxy
from tests.integration.redis_process import RedisProcess
from workers.fake import FakePool, Script
from workers.messages import Generate

SECONDS = 0.5
"""How long a candidate takes."""


@dataclass
class Under:
    """A service on a Redis that is about to fail."""

    http: httpx.AsyncClient
    client: Client
    pool: FakePool
    ledger: RedisLedger

    async def ask(self, key: str | None = None, candidates: int = 8) -> httpx.Response:
        """The reply to a question of so many candidates."""
        ours = {"strategy": "majority", "stop": "none", "budget": {"candidates": candidates}}
        headers = {} if key is None else {"idempotency-key": key}
        body = {**BODY, "max_tokens": 200, "seed": 3, "longthink": ours}
        return await self.http.post(CHAT, json=body, headers=headers)

    async def busy(self) -> None:
        """Return once the worker works."""
        while not (await self.pool.counters())["fake"]["completion_tokens"]:
            await asyncio.sleep(0.01)

    async def made(self) -> int:
        """The completion tokens that the worker has counted."""
        return (await self.pool.counters())["fake"]["completion_tokens"]

    async def back(self) -> float:
        """Seconds until a question is answered again; the others were refused, and soon."""
        began = time.monotonic()
        while (reply := await self.refused_or_answered()).status_code != 200:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.05)
        assert reply.json()["longthink"]["answer"] is not None
        return time.monotonic() - began

    async def refused_or_answered(self) -> httpx.Response:
        """The reply to a small question; if it is refused, as it should be."""
        began = time.monotonic()
        reply = await self.ask(candidates=1)
        if reply.status_code != 200:
            assert reply.status_code == 503, reply.text
            assert reply.json()["error"]["code"] == "ledger_unavailable"
            assert int(reply.headers["retry-after"]) >= 1
            # Far more than it takes: machines may be busy.
            assert time.monotonic() - began < 2.0
        return reply


def slowly(call: Generate) -> Script:
    """An answer of a few tokens, one after the other."""
    return Script(f"step\n#### {(call.seed or 0) % 3}", seconds=SECONDS)


@asynccontextmanager
async def serving_on(url: str) -> AsyncIterator[Under]:
    """The service on the Redis at `url`."""
    async with connect(url) as client:
        ledger, pool = RedisLedger(client), FakePool(slowly)
        traces = TraceStore(client)
        manner = Manner(step_delimiter="\n", late_seconds=1.0, lease_seconds=10)
        reasoner = Reasoner(pool, ledger, traces, manner)

        async def meterable() -> None:
            try:
                await client.pulse.present()
            except RedisError as away:
                raise LedgerUnavailable(str(away)) from away

        stage = Stage(
            real=reasoner,
            traces=traces,
            once=Once(reasoner, Keys(client), traces),
            meterable=meterable,
        )
        async with serving(stage=stage) as service:
            yield Under(service.http, client, pool, ledger)
        await reasoner.drain(5)


def stop(redis: RedisProcess) -> None:
    """It hangs."""
    redis.pause()


def kill(redis: RedisProcess) -> None:
    """It is gone."""
    redis.kill()


def go_on(redis: RedisProcess) -> None:
    """It answers again, with all it knew."""
    redis.resume()


def start(redis: RedisProcess) -> None:
    """It answers again, empty."""
    redis.start()


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize(("fail", "recover"), [(stop, go_on), (kill, start)])
async def test_a_redis_that_goes_away_and_comes_back(
    fail: Callable[[RedisProcess], None], recover: Callable[[RedisProcess], None], key: str | None
) -> None:
    """What is in flight is answered with what it has, all of it metered; what is new is refused,
    at once; and all by itself the service is back.
    """
    with RedisProcess() as redis:
        async with serving_on(redis.url) as under:
            flying = asyncio.create_task(under.ask(key, candidates=40))
            await under.busy()
            fail(redis)
            assert (await under.refused_or_answered()).status_code == 503
            reply = await flying
            assert reply.status_code == 200, reply.text
            said: dict[str, Any] = reply.json()["longthink"]
            spent, before = said["spent"], await under.made()
            assert spent["completion_tokens"] == before
            assert spent["unreported_calls"] == 0
            refusals = [await under.refused_or_answered() for _ in range(20)]
            assert {refusal.status_code for refusal in refusals} == {503}
            assert await under.made() == before
            recover(redis)
            assert await under.back() < 10
            account = await settled(under, said["trace_id"], spent["completion_tokens"])
            assert account.held.candidates == 0


async def settled(under: Under, trace_id: str, tokens: int) -> Any:
    """The account of a request, once the ledger has all that it spent."""
    async with asyncio.timeout(10):
        while True:
            try:
                account = await under.ledger.account(trace_id)
            except Exception as error:
                if type(error).__name__ not in {"UnknownBudget", "LedgerUnavailable"}:
                    raise
            else:
                if account.spent.completion_tokens == tokens and not account.held.candidates:
                    return account
            await asyncio.sleep(0.05)


async def test_a_tenant_is_charged_though_redis_lost_its_data() -> None:
    """The window of a tenant begins anew in an empty Redis, and has what was under way then."""
    tenant = Tenant("t", limits=TenantLimits(completion_tokens=100_000))
    with RedisProcess() as redis:
        async with connect(redis.url) as client:
            ledger, pool = RedisLedger(client), FakePool(slowly)
            allowances = Allowances(client, ledger)
            manner = Manner(step_delimiter="\n", late_seconds=1.0)
            reasoner = Reasoner(pool, ledger, TraceStore(client), manner, allowances=allowances)
            options = Options(strategy="majority", stop="none", budget=Budget(candidates=8))
            query = Query((Message("user", "How many?"),), Sampling(max_tokens=200), seed=5)
            run = await reasoner.start(query, options, trace_id="r", tenant=tenant)
            while not (await pool.counters())["fake"]["completion_tokens"]:
                await asyncio.sleep(0.01)
            redis.kill()
            redis.start()
            reply = await run.reply()
            async with asyncio.timeout(20):
                await run.over.wait()
            made = (await pool.counters())["fake"]["completion_tokens"]
            assert reply.spent.completion_tokens == made > 0
            assert (await allowances.usage(tenant)).window["completion_tokens"].spent == made
            await reasoner.drain(5)


async def test_a_slow_redis_counts_as_away() -> None:
    """Replies that take a second refuse what is new; when they come in time again, so does work."""
    fate: Fate = "pass"
    with RedisProcess() as redis:
        proxy = Proxy(redis.port, lambda: fate, seconds=1.0)
        async with proxy.on_port() as url, serving_on(url) as under:
            assert (await under.ask(candidates=1)).status_code == 200
            fate = "late"
            assert (await under.refused_or_answered()).status_code == 503
            fate = "pass"
            assert await under.back() < 10


async def test_a_primary_that_became_a_replica_is_left() -> None:
    """After a failover the old connections lead to a server that takes no writes: they are made
    anew, and what the new primary knows goes on.
    """
    with RedisProcess() as first, RedisProcess(replica_of=first) as second:
        proxy = Proxy(first.port)
        async with proxy.on_port() as url, serving_on(url) as under:
            assert (await under.ask("before", candidates=2)).status_code == 200
            made = await under.made()
            async with asyncio.timeout(20):
                while not second.in_step():
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)
            proxy.upstream = second.port
            await asyncio.to_thread(second.promote, first)
            await under.back()
            more = await under.made()
            again = await under.ask("before", candidates=2)
            assert again.status_code == 200, again.text
            assert more > made
            assert await under.made() == more, "it was known to the new primary"


async def test_one_lost_reply_is_no_outage() -> None:
    """Redis answers others meanwhile: the call is sent again, and nobody is refused."""
    fates: list[Fate] = []
    with RedisProcess() as redis:
        proxy = Proxy(redis.port, lambda: fates.pop() if fates else "pass")
        async with proxy.on_port() as url, serving_on(url) as under:
            assert (await under.ask(candidates=1)).status_code == 200
            fates.append("swallow")
            first, second = await asyncio.gather(under.ask(candidates=1), under.ask(candidates=1))
            assert (first.status_code, second.status_code) == (200, 200)
            assert proxy.lost == 1
