"""Tenants before the real reasoner, ledger and allowances, with workers that write as scripted."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from openai import RateLimitError
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from planner.domain import Cost, Prices
from planner.errors import LedgerUnavailable
from services.allowance import Allowances
from services.budget import RedisLedger
from services.driver import Manner
from services.idempotency import Keys
from services.keyring import PREFIX, Keyring
from services.once import Once
from services.reasoning import Reasoner
from services.telemetry import configure_logging
from services.tenants import Tenant, TenantLimits
from services.trace import TraceStore
from tests.contract.scripted_service import BODY, CHAT, Service, Stage, serving
from workers.fake import FakePool, Script
from workers.messages import Generate

SIXTEEN = {"strategy": "majority", "stop": "none", "budget": {"candidates": 16}}


class Bench:
    """The real path below the edge, down to the workers, for tenants of one letter."""

    def __init__(
        self, redis: Redis, *, seconds: float = 0.0, lease_seconds: float = 30, **limits: Any
    ) -> None:
        self.calls: list[Generate] = []
        self.seconds = seconds
        self.pool = FakePool(self._write, judge=None)
        self.traces = TraceStore(redis)
        ledger = RedisLedger(redis, lease_seconds=lease_seconds, patience_seconds=20)
        self.allowances = Allowances(
            redis, ledger, lease_seconds=lease_seconds, patience_seconds=20
        )
        manner = Manner(
            prices=Prices(completion=1), step_delimiter="\n", lease_seconds=lease_seconds
        )
        self.reasoner = Reasoner(self.pool, ledger, self.traces, manner, allowances=self.allowances)
        self.limits = TenantLimits(**limits)
        self.stage = Stage(
            real=self.reasoner,
            traces=self.traces,
            find=self.find,
            usage=self.allowances.usage,
            once=Once(self.reasoner, Keys(redis), self.traces),
        )

    async def find(self, key: str) -> Tenant | None:
        """A key is its tenant's name, and whatever follows a dot."""
        return Tenant(key.partition(".")[0], limits=self.limits, cache_salt=f"salt of {key}")

    def _write(self, call: Generate) -> Script:
        self.calls.append(call)
        return Script(f"6 x 7 = 42\n#### {42 + (call.seed or 0) % 4 // 3}", self.seconds)

    async def counted(self) -> int:
        """Completion tokens by the worker's own count."""
        return (await self.pool.counters())["fake"]["completion_tokens"]


async def ask(service: Service, key: str = "a", **body: Any) -> httpx.Response:
    """One question, of 16 candidates unless said."""
    headers = {"authorization": f"Bearer {key}", **body.pop("headers", {})}
    return await service.http.post(
        CHAT, json={**BODY, "longthink": SIXTEEN, **body}, headers=headers
    )


async def stands(service: Service, key: str = "a") -> dict[str, Any]:
    """What `GET /v1/budget` says."""
    response = await service.http.get("/v1/budget", headers={"authorization": f"Bearer {key}"})
    assert response.status_code == 200
    told: dict[str, Any] = response.json()
    return told


async def test_a_tenant_hears_what_it_used_and_has_left(redis_client: Redis) -> None:
    """To the token of its reply, and nothing of it is another tenant's."""
    bench = Bench(redis_client, completion_tokens=100_000, candidates=20, micro_usd=5_000_000)
    async with serving(stage=bench.stage) as service:
        reply = await ask(service)
        assert reply.status_code == 200, reply.text
        spent = reply.json()["usage"]["completion_tokens"]
        told, other = await stands(service), await stands(service, "b")
    await bench.reasoner.drain(5)
    assert spent == await bench.counted() > 0
    tokens = told["window"]["completion_tokens"]
    assert (tokens["used"], tokens["held"], tokens["left"]) == (spent, 0, 100_000 - spent)
    assert 3600 <= tokens["frees_in_seconds"] <= 3661
    assert told["window"]["candidates"]["left"] == 4
    assert told["window"]["usd"]["limit"] == 5.0
    assert told["window"]["usd"]["used"] == pytest.approx(spent / 1_000_000)
    assert told["at_once"]["requests"] == {"limit": None, "under_way": 0, "left": None}
    assert other["window"]["completion_tokens"]["used"] == 0
    assert reply.headers["x-ratelimit-limit-tokens"] == "100000"
    assert int(reply.headers["x-ratelimit-remaining-tokens"]) <= 100_000


async def test_a_request_with_a_key_says_what_is_left(redis_client: Redis) -> None:
    """As one without; both who share it are told."""
    bench = Bench(redis_client, seconds=0.5, completion_tokens=100_000)
    key = {"idempotency-key": "k"}
    async with serving(stage=bench.stage) as service:
        replies = await asyncio.gather(*(ask(service, headers=key) for _ in range(2)))
    await bench.reasoner.drain(5)
    for reply in replies:
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-ratelimit-limit-tokens"] == "100000"
        assert 0 < int(reply.headers["x-ratelimit-remaining-tokens"]) <= 100_000


async def test_a_request_is_cut_to_what_is_left_and_the_next_refused(redis_client: Redis) -> None:
    """Then there is a 429 that says which limit, and when there is more; nothing starts for it."""
    bench = Bench(redis_client, candidates=20)
    async with serving(stage=bench.stage) as service:
        first, second = await ask(service), await ask(service)
        third = await ask(service)
        client = service.openai.with_options(api_key="a")
        with pytest.raises(RateLimitError) as caught:
            await client.chat.completions.create(model=BODY["model"], messages=BODY["messages"])
        other = await ask(service, "b")
    await bench.reasoner.drain(5)
    assert first.json()["longthink"]["spent"]["candidates"] == 16
    assert second.json()["longthink"]["spent"]["candidates"] == 4
    assert third.status_code == 429
    error = third.json()["error"]
    assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
    assert "20 candidates within 3,600 seconds" in error["message"]
    assert 3500 < int(third.headers["retry-after"]) <= 3661
    assert caught.value.code == "insufficient_quota"
    assert other.status_code == 200


async def test_nothing_named_may_take_no_more_than_there_is(redis_client: Redis) -> None:
    """What a request doesn't limit is bound by its tenant's window all the same."""
    bench = Bench(redis_client, completion_tokens=150)
    last = 200
    async with serving(stage=bench.stage) as service:
        for _ in range(10):
            if (last := (await ask(service)).status_code) != 200:
                break
        told = await stands(service)
    await bench.reasoner.drain(5)
    assert last == 429
    used = told["window"]["completion_tokens"]
    assert used["used"] == await bench.counted()
    assert 0 < used["used"] <= 150


async def test_many_at_once_keep_to_the_limits(redis_client: Redis) -> None:
    """Thirty requests at once: not more tokens, candidates or requests than may be."""
    bench = Bench(
        redis_client, seconds=0.05, completion_tokens=800, requests=3, candidates_at_once=8
    )
    async with serving(stage=bench.stage) as service:
        replies = await asyncio.gather(*(ask(service) for _ in range(30)))
        told = await stands(service)
    await bench.reasoner.drain(5)
    assert {reply.status_code for reply in replies} == {200, 429}
    codes = {reply.json()["error"]["code"] for reply in replies if reply.status_code == 429}
    assert "rate_limit_exceeded" in codes
    assert told["window"]["completion_tokens"]["used"] == await bench.counted() <= 800
    assert told["at_once"]["requests"]["under_way"] == 0
    assert told["at_once"]["candidates"]["under_way"] == 0


async def test_candidates_run_so_many_at_a_time(redis_client: Redis) -> None:
    """A tenant that may have four at a time has no more with the workers."""
    bench = Bench(redis_client, seconds=0.02, candidates_at_once=4)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, (await bench.pool.counters())["fake"]["running"])
            await asyncio.sleep(0.001)

    watching = asyncio.create_task(watch())
    async with serving(stage=bench.stage) as service:
        reply = await ask(service)
    watching.cancel()
    await bench.reasoner.drain(5)
    assert reply.json()["longthink"]["spent"]["candidates"] == 16
    assert 1 <= most <= 4


async def test_a_refused_request_gives_back_what_it_had_set_aside(redis_client: Redis) -> None:
    """One that turns out not to be possible holds nothing, and its place is free."""
    bench = Bench(redis_client, requests=1, completion_tokens=1000)
    async with serving(stage=bench.stage) as service:
        for _ in range(3):
            wrong = await ask(service, longthink={"strategy": "no-such"})
            assert wrong.status_code == 400
        told = await stands(service)
        assert (await ask(service)).status_code == 200
        # Whoever has the reply may ask again at once.
        for _ in range(5):
            assert (await ask(service)).status_code in (200, 429)
    await bench.reasoner.drain(5)
    assert told["window"]["completion_tokens"] == {
        "limit": 1000,
        "used": 0,
        "held": 0,
        "left": 1000,
        "frees_in_seconds": None,
        "free_in_seconds": None,
    }


async def test_one_after_another_is_one_at_a_time(redis_client: Redis) -> None:
    """A reply is settled before it is sent, so that the next request finds its place free."""
    bench = Bench(redis_client, requests=1)
    async with serving(stage=bench.stage) as service:
        for _ in range(20):
            assert (await ask(service)).status_code == 200
    await bench.reasoner.drain(5)


async def test_a_client_that_hangs_up_pays_for_what_it_had(redis_client: Redis) -> None:
    """What was made is charged, the rest comes back, and its place is free."""
    bench = Bench(redis_client, seconds=0.2, completion_tokens=10_000, requests=1)
    async with serving(stage=bench.stage) as service:
        asked = asyncio.create_task(ask(service))
        async with asyncio.timeout(20):
            while len(bench.calls) < 16:
                await asyncio.sleep(0.01)
            asked.cancel()
            while (told := await stands(service))["at_once"]["requests"]["under_way"]:
                await asyncio.sleep(0.02)
    await bench.reasoner.drain(5)
    used = told["window"]["completion_tokens"]
    assert used["held"] == 0
    assert used["used"] == await bench.counted()


async def test_every_call_carries_its_tenants_salt(redis_client: Redis) -> None:
    """So that what one tenant had read is in no other's prefix cache."""
    bench = Bench(redis_client)
    async with serving(stage=bench.stage) as service:
        await ask(service, "a")
        first = {call.cache_salt for call in bench.calls}
        bench.calls.clear()
        await ask(service, "b")
    await bench.reasoner.drain(5)
    assert first == {"salt of a"}
    assert {call.cache_salt for call in bench.calls} == {"salt of b"}


async def test_keys_of_requests_and_earlier_traces_are_their_tenants(redis_client: Redis) -> None:
    """Another tenant's Idempotency-Key is another request, and its trace can't be gone on from."""
    bench = Bench(redis_client, candidates=1000)
    once = {"idempotency-key": "order-17"}
    async with serving(stage=bench.stage) as service:
        first = await ask(service, seed=1, headers=once)
        again = await ask(service, seed=1, headers=once)
        other = await ask(service, "b", seed=1, headers=once)
        trace_id = first.json()["longthink"]["trace_id"]
        more = {**SIXTEEN, "budget": {"candidates": 18}, "trace_id": trace_id}
        foreign = await ask(service, "b", seed=1, longthink=more)
        own = await ask(service, seed=1, longthink=more)
        told = await stands(service)
    await bench.reasoner.drain(5)
    assert again.json()["longthink"]["trace_id"] == trace_id
    assert other.json()["longthink"]["trace_id"] != trace_id
    assert foreign.status_code == 404
    assert own.status_code == 200, own.text
    assert own.json()["longthink"]["reused"] == 16
    # The repeated request cost nothing, and the one that went on only what was new.
    assert told["window"]["candidates"]["used"] == 18


async def test_without_redis_nothing_starts(redis_client: Redis) -> None:
    """Limits that can't be kept let nobody in: 503, and no worker is asked."""
    bench = Bench(redis_client, candidates=5)

    async def down(*_: Any) -> None:
        raise LedgerUnavailable("redis://:secret@host")

    bench.allowances.reserve = down  # type: ignore[assignment, method-assign]
    bench.stage.usage = down  # type: ignore[assignment]
    async with serving(stage=bench.stage) as service:
        for response in (
            await ask(service),
            await service.http.get("/v1/budget", headers={"authorization": "Bearer a"}),
        ):
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "ledger_unavailable"
            assert "secret" not in response.text
    assert not bench.calls


@pytest.mark.parametrize("stream", [False, True])
async def test_no_prompt_answer_or_key_is_logged(
    redis_client: Redis, capsys: pytest.CaptureFixture[str], stream: bool
) -> None:
    """Neither of what is answered, nor of what is refused or fails."""
    bench = Bench(redis_client)
    key = "a.swordfish"
    asked = [{"role": "user", "content": "Where is the treasure?"}]
    async with serving(stage=bench.stage) as service:
        configure_logging("json", "info")
        for more in ({}, {"n": 0}, {"longthink": {"strategy": "no-such"}}):
            await ask(service, key, messages=asked, stream=stream, **more)
        await service.http.get("/v1/models", headers={"authorization": "Basic swordfish"})
        await service.http.get("/v1/traces/treasure", headers={"authorization": f"Bearer {key}"})
        bench.pool.prepare = None  # type: ignore[assignment]
        assert (await ask(service, key, messages=asked)).status_code == 500
    await bench.reasoner.drain(5)
    said = "".join(capsys.readouterr())
    assert said.count("request_id") >= 4
    for secret in ("swordfish", "treasure", "6 x 7"):
        assert secret not in said


KILLED = """
import asyncio, sys
from redis.asyncio import Redis
from planner.domain import Message, Query, Sampling, Budget
from planner.effort import Options
from services.tenants import Tenant
from tests.contract.test_tenants import Bench

async def main(url):
    bench = Bench(Redis.from_url(url), seconds=0.3, lease_seconds=2, completion_tokens=100_000)
    options = Options(strategy="majority", stop="none", budget=Budget(candidates=200))
    query = Query((Message("user", "How many?"),), Sampling(max_tokens=400), seed=5)
    tenant = Tenant("a", limits=bench.limits)
    run = await bench.reasoner.start(query, options, trace_id="killed", tenant=tenant)
    await run.reply()

asyncio.run(main(sys.argv[1]))
"""


async def test_a_killed_orchestrators_reservation_comes_back_by_itself(redis_url: str) -> None:
    """After SIGKILL in mid-search what it had spent stays charged, and nothing more."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, redis_url)
    redis = Redis.from_url(redis_url)
    bench = Bench(redis, lease_seconds=2, completion_tokens=100_000)
    tenant = Tenant("a", limits=bench.limits)

    async def until(done: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(60):
            while not await done():
                await asyncio.sleep(0.05)

    async def spends() -> bool:
        with SyncRedis.from_url(redis_url) as admin:
            spent: Any = admin.hget("longthink:{killed}:budget:", "spent")
        return bool(spent) and int(spent.split(b",")[2]) > 0

    async def is_back() -> bool:
        return (await bench.allowances.usage(tenant)).requests.held == 0

    try:
        await until(spends)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await until(is_back)
    used = (await bench.allowances.usage(tenant)).window["completion_tokens"]
    account = await RedisLedger(redis).account("killed")
    await redis.aclose()
    assert used.held == 0
    assert used.spent == account.spent.completion_tokens > 0


async def test_a_key_that_was_made_opens_the_service(redis_client: Redis) -> None:
    """From the keyring through the middleware to the tenant's own budget."""
    bench, keyring = Bench(redis_client), Keyring(redis_client)
    key = await keyring.make(Tenant("anna", limits=TenantLimits(candidates=20)))
    bench.stage.find = keyring.find
    async with serving(stage=bench.stage) as service:
        reply = await ask(service, key)
        told = await stands(service, key)
        assert await keyring.revoke(key) == 1
        await asyncio.sleep(1)
        assert (await ask(service, key)).status_code == 401
    await bench.reasoner.drain(5)
    await redis_client.delete(*(PREFIX + name for name in ("keys", "tenants", "secret")))
    assert reply.status_code == 200
    assert told["tenant"] == "anna"
    assert told["window"]["candidates"]["used"] == 16


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "order-17"}])
async def test_what_a_request_set_aside_stays_its_own_until_it_begins(
    redis_client: Redis, headers: dict[str, str]
) -> None:
    """However long the engines take to read its prompt, nobody else gets it."""
    bench = Bench(redis_client, lease_seconds=1.0, candidates=16)
    prepare, ready = bench.pool.prepare, asyncio.Event()

    async def slowly(*words: Any, **more: Any) -> Any:
        await ready.wait()
        return await prepare(*words, **more)

    bench.pool.prepare = slowly  # type: ignore[method-assign]
    async with serving(stage=bench.stage) as service:
        first = asyncio.create_task(ask(service, headers=headers))
        async with asyncio.timeout(20):
            while not (await stands(service))["at_once"]["requests"]["under_way"]:
                assert not first.done(), (await first).text
                await asyncio.sleep(0.01)
        await asyncio.sleep(2)
        assert (await stands(service))["window"]["candidates"]["held"] == 16
        assert (await ask(service)).status_code == 429
        ready.set()
        assert (await first).status_code == 200
        told = await stands(service)
        assert told["window"]["candidates"]["used"] == 16
    await bench.reasoner.drain(5)


async def test_a_request_doesnt_begin_with_what_it_has_lost(redis_client: Redis) -> None:
    """It is refused with 503, and its worker is asked nothing."""
    bench = Bench(redis_client, candidates=16)
    prepare = bench.pool.prepare

    async def lapses(*words: Any, **more: Any) -> Any:
        tenant = Tenant("a", limits=bench.limits)
        for key in await redis_client.hkeys("longthink:{tenant:a}:held"):
            op = key.decode() if isinstance(key, bytes) else key
            await bench.allowances.settle(tenant, op, Cost())
        return await prepare(*words, **more)

    bench.pool.prepare = lapses  # type: ignore[method-assign]
    async with serving(stage=bench.stage) as service:
        response = await ask(service)
    await bench.reasoner.drain(5)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "ledger_unavailable"
    assert not bench.calls
