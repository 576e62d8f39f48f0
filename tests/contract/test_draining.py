"""What clients see of a service that is being stopped, as far as the edge goes."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from planner.domain import Stopped
from planner.effort import Options
from services.admission import Admission, Refused, Rules
from services.api.lobby import Lobby
from services.gate import Gate
from services.run import Admitted
from services.trace import Kind
from tests.contract.runners import QUERY, Runner, until_told, wide
from tests.contract.scripted_service import (
    BODY,
    CHAT,
    Service,
    Stage,
    serving,
    started,
    until_cancelled,
)
from workers.fake import FakePool, Script, Verdict
from workers.messages import Generate, Grade

KEYED = {"Idempotency-Key": "k"}


def closing(stage: Stage) -> None:
    """What the edge does first when it is told to stop."""
    assert stage.gate is not None
    stage.lobby.closing = True
    stage.gate.close()


def gated(**rules: Any) -> Stage:
    stage = Stage()
    stage.gate = Gate(Admission(Rules(**rules)), watcher=stage.telemetry)
    return stage


async def ask(service: Service, **headers: str) -> httpx.Response:
    body = {**BODY, "reasoning_effort": "none"}
    return await service.http.post(CHAT, json=body, headers=headers)


async def test_a_draining_service_refuses_what_is_new_and_what_waits() -> None:
    """With 503, `draining`, and when to try again; what is under way is answered."""
    stage = gated(capacity=1)
    async with serving(until_cancelled, stage) as service:
        first, second = asyncio.create_task(ask(service)), asyncio.create_task(ask(service))
        run = await started(service)
        async with asyncio.timeout(5):
            while "longthink_queue_requests 1.0" not in service.telemetry.metrics():
                await asyncio.sleep(0.01)
        closing(stage)
        for refused in (await second, await ask(service), await ask(service, **KEYED)):
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "draining"
            assert refused.headers["connection"] == "close"
            assert int(refused.headers["retry-after-ms"]) > 0
        assert not first.done()
        run.cancel()
        assert (await first).status_code == 200


async def test_a_draining_service_is_not_ready() -> None:
    """But alive; and its answer closes the connection."""
    stage = gated()
    async with serving(stage=stage) as service:
        assert (await service.http.get("/health/ready")).status_code == 200
        closing(stage)
        ready = await service.http.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["status"] == "draining"
        assert ready.headers["connection"] == "close"
        assert (await service.http.get("/health/live")).status_code == 200


async def test_followers_are_let_go() -> None:
    """A stream of a trace that hasn't ended ends, as a whole response, once all else is done."""
    stage = gated()
    async with serving(until_cancelled, stage) as service:
        first = asyncio.create_task(ask(service))
        run = await started(service)
        run.trace.append(Kind.OPENED)
        url = f"/v1/traces/{run.trace.id}/events"
        async with service.http.stream("GET", url) as feed:
            lines = feed.aiter_lines()
            assert (await anext(lines)).startswith("id: 0")
            emptying = asyncio.create_task(stage.lobby.emptied(4))
            run.cancel()
            assert (await first).status_code == 200
            async with asyncio.timeout(10):
                assert [line async for line in lines][-1] == ""
        await emptying


async def test_nobody_there_is_no_wait() -> None:
    """And whoever stays is waited for no longer than said."""
    lobby = Lobby()
    async with asyncio.timeout(5):
        await lobby.emptied(60)
    lobby = Lobby()
    with lobby.visit():
        async with asyncio.timeout(5):
            await lobby.emptied(0.1)
    assert lobby.over.is_set()


@pytest.mark.parametrize(
    ("seconds", "stopped"), [(0.02, Stopped.CANCELLED), (60, Stopped.COMPLETE)]
)
async def test_runs_may_finish_in_the_time_there_is(
    redis_url: str, seconds: float, stopped: Stopped
) -> None:
    """Those that don't are ended with the best they have, and what they held comes back."""
    runner = Runner(redis_url, lambda _: Script("#### 1", seconds=0.2))
    run = await runner.run(wide(4))
    await runner.reasoner.finished(seconds, asyncio.Event())
    await runner.reasoner.drain(5)
    reply = await run.reply()
    assert reply.outcome.stopped is stopped
    assert (await runner.ledger.account(run.trace.id)).held.completion_tokens == 0
    await runner.close()


async def test_whoever_is_in_a_hurry_waits_for_nothing(redis_url: str) -> None:
    """Neither with runs under way nor without."""
    runner = Runner(redis_url, lambda _: Script("#### 1", seconds=0.1))
    await runner.reasoner.finished(60, asyncio.Event())
    run = await runner.run(Options(strategy="majority", stop="none"))
    await until_told(run, 1)
    hurry = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, hurry.set)
    async with asyncio.timeout(5):
        await runner.reasoner.finished(60, hurry)
    await runner.close()


async def test_calls_have_the_priority_of_their_request(redis_url: str) -> None:
    """Those that write, and those that grade."""
    seen: list[tuple[type, int]] = []

    def write(call: Generate) -> Script:
        seen.append((Generate, call.priority))
        return Script("step\n#### 1")

    def grade(call: Grade) -> Verdict:
        seen.append((Grade, call.priority))
        return Verdict()

    runner = Runner(redis_url)
    runner.reasoner._pool = FakePool(write, grade)
    options = Options(strategy="best_of_n", stop="none", budget=wide(4).budget)
    run = await runner.reasoner.start(
        QUERY, options, trace_id="t", admitted=Admitted(waited=0.0, priority=17)
    )
    await run.reply()
    assert {kind for kind, _ in seen} == {Generate, Grade}
    assert {priority for _, priority in seen} == {17}
    await runner.close()


async def test_a_request_that_is_about_to_begin_is_waited_for(redis_url: str) -> None:
    """And one that an engine still keeps from it when the time is up is refused."""
    runner = Runner(redis_url)
    prepare, ready = runner.pool.prepare, asyncio.Event()

    async def slowly(*words: Any, **more: Any) -> Any:
        await ready.wait()
        return await prepare(*words, **more)

    runner.pool.prepare = slowly  # type: ignore[method-assign]
    starting = asyncio.create_task(runner.run(wide(4)))
    await asyncio.sleep(0.1)
    finished = asyncio.create_task(runner.reasoner.finished(60, asyncio.Event()))
    await asyncio.sleep(0.1)
    assert not finished.done()
    ready.set()
    await asyncio.wait_for(finished, 20)
    assert (await (await starting).reply()).outcome.stopped is Stopped.COMPLETE
    ready.clear()
    late = asyncio.create_task(runner.run(wide(4), key="late"))
    await asyncio.sleep(0.1)
    await runner.reasoner.drain(5)
    with pytest.raises(Refused):
        await asyncio.wait_for(late, 5)
    await runner.close()
