"""What a client sees of admission: its turn, or at once a refusal with a reason and a time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from planner.domain import Stopped
from planner.effort import Effort, Options, settle
from planner.errors import InvalidOption
from services.admission import Admission, Reason, Refused, Rules
from services.expectations import Kind
from services.gate import Begin, Door, Gate
from services.idempotency import KeyCrowded
from services.once import Once
from services.run import Admitted, Reply, Run
from services.telemetry import Telemetry
from services.tenants import LOCAL, Tenant
from tests.contract.runners import LEASE_SECONDS, Runner, wide
from tests.contract.scripted_service import (
    BODY,
    CHAT,
    ScriptedReasoner,
    ScriptedRun,
    Service,
    Stage,
    serving,
    started,
    until_cancelled,
)
from workers.fake import Script

NONE = {**BODY, "reasoning_effort": "none"}
GREEDY, MODEST = Tenant("greedy"), Tenant("modest", priority=-2)


def queued(stage: Stage | None = None, **rules: Any) -> Stage:
    """A service that runs one candidate at a time, unless told otherwise."""
    stage = stage or Stage(reasoner=ScriptedReasoner(until_cancelled))
    admission = Admission(Rules(**{"capacity": 1, **rules}))
    stage.gate = Gate(admission, watcher=stage.telemetry, retry_seconds=0.2)
    return stage


def sample(telemetry: Telemetry, name: str, **labels: str) -> float:
    return telemetry.registry.get_sample_value(f"longthink_{name}", labels) or 0.0


async def waiting(service: Service, count: int) -> None:
    """Return when so many requests wait."""
    async with asyncio.timeout(5):
        while sample(service.telemetry, "queue_requests") != count:
            await asyncio.sleep(0.005)


def ask(service: Service, **more: Any) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(service.http.post(CHAT, json={**NONE, **more}))


def deadline(seconds: float) -> dict[str, Any]:
    return {"longthink": {"budget": {"deadline_seconds": seconds}}}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_waits_for_its_turn(stream: bool) -> None:
    """It begins when the one before it is done, and nothing is sent until then."""
    async with serving(stage=queued()) as service:
        first, second = ask(service), ask(service, stream=stream)
        run = await started(service)
        await waiting(service, 1)
        assert service.reasoner.begun.empty()
        run.cancel()
        assert (await first).status_code == 200
        (await started(service)).cancel()
        assert (await second).status_code == 200
        assert sample(service.telemetry, "queue_seconds_count") == 2
        assert sample(service.telemetry, "admitted_candidates") == 0


async def test_what_is_refused_again_in_front_of_the_edge_is_counted() -> None:
    """As long as there can't be room: what a client sees is the same, and the metrics say all."""
    stage = queued()
    stage.proxied = True
    admission = Admission(Rules(capacity=1))
    stage.gate = Gate(admission, watcher=stage.telemetry, hold_seconds=0.3)
    admission.end(admission.ask(-10.0, LOCAL, Kind("single", 1)), 0.0, drawn=1)
    async with serving(stage=stage) as service:
        first, second = ask(service), ask(service)
        await waiting(service, 1)
        refused = [await ask(service, **deadline(5)) for _ in range(20)]
        assert {one.status_code for one in refused} == {503}
        assert {one.json()["error"]["code"] for one in refused} == {"deadline_unreachable"}
        assert all("x-longthink-holds-ms" not in one.headers for one in refused)
        told = partial(sample, service.telemetry, "admission_refusals_total")
        assert told(reason="deadline_unreachable") < 20
        await asyncio.sleep(0.3)
        assert (await ask(service, **deadline(5))).status_code == 503
        assert told(reason="deadline_unreachable") == 21
        requests = partial(sample, service.telemetry, "requests_total", strategy="", stopped="")
        assert requests(status="503") == 21
        for task in (first, second):
            (await started(service)).cancel()
            await task


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_refuses_at_once(stream: bool) -> None:
    """With 503, when to come back in seconds and in milliseconds, and why; streams too."""
    async with serving(stage=queued(queue_requests=1)) as service:
        others = [ask(service), ask(service)]
        await waiting(service, 1)
        refused = await service.http.post(CHAT, json={**NONE, "stream": stream})
        assert refused.status_code == 503
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("server_error", "queue_full")
        assert 200 <= int(refused.headers["retry-after-ms"]) <= 300
        assert refused.headers["retry-after"] == "1"
        assert "x-should-retry" not in refused.headers
        assert sample(service.telemetry, "admission_refusals_total", reason="queue_full") == 1
        assert sample(service.telemetry, "requests_total", strategy="", stopped="", status="503")
        for task in others:
            (await started(service)).cancel()
            await task


async def test_a_full_queue_refuses_before_the_body_is_read() -> None:
    """What can't be let in whatever it asks isn't waited for."""
    async with serving(stage=queued(queue_requests=1)) as service:
        others = [ask(service), ask(service)]
        await waiting(service, 1)
        host, port = service.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            "content-length: 100000\r\n\r\n{".encode()
        )
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 503")
        writer.close()
        for task in others:
            (await started(service)).cancel()
            await task


async def test_a_deadline_that_cannot_be_kept_is_refused_at_once() -> None:
    """By what requests took until now."""
    stage = queued()
    assert stage.gate is not None
    known = stage.gate.admission
    known.end(known.ask(-10.0, LOCAL, Kind("single", 1)), 0.0, drawn=1)
    async with serving(stage=stage) as service:
        first, second = ask(service), ask(service)
        await waiting(service, 1)
        refused = await ask(service, **deadline(5))
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "deadline_unreachable"
        assert "deadline_seconds" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 5
        for task in (first, second):
            (await started(service)).cancel()
            await task


async def test_a_request_that_waits_in_vain_is_refused_in_time() -> None:
    """When there is no time left in which it could be answered."""
    async with serving(stage=queued()) as service:
        first = ask(service)
        run = await started(service)
        refused = await ask(service, **deadline(0.3))
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "deadline_unreachable"
        assert sample(service.telemetry, "queue_requests") == 0
        run.cancel()
        await first


async def test_a_client_that_hangs_up_leaves_the_queue() -> None:
    """At once; nothing is ever begun for it."""
    async with serving(stage=queued()) as service:
        first = ask(service)
        run = await started(service)
        async with httpx.AsyncClient(base_url=service.url) as leaving:
            request = asyncio.create_task(leaving.post(CHAT, json=NONE, timeout=20))
            await waiting(service, 1)
            request.cancel()
            await asyncio.wait((request,))
        await waiting(service, 0)
        run.cancel()
        await first
        assert len(service.reasoner.runs) == 1
        assert sample(service.telemetry, "requests_total", strategy="", stopped="", status="499")


async def test_engines_that_are_missing_have_others_wait() -> None:
    """Until they are back, which is looked after as long as somebody waits."""
    there = 1.0
    stage = Stage(reasoner=ScriptedReasoner(until_cancelled))
    stage.gate = Gate(Admission(Rules(capacity=2)), watcher=stage.telemetry, present=lambda: there)
    async with serving(stage=stage) as service:
        asked = [ask(service) for _ in range(3)]
        first = await started(service)
        await started(service)
        await waiting(service, 1)
        there = 0.5
        first.cancel()
        await asyncio.sleep(1.5)
        assert len(service.reasoner.runs) == 2
        there = 1.0
        await started(service)
        await waiting(service, 0)
        for one in asked:
            one.cancel()
        await asyncio.wait(asked)


async def test_one_that_is_cancelled_as_its_turn_comes_never_begins() -> None:
    """Also in the moment in which its client isn't listened to any more; its place is free."""
    gate = Gate(Admission(Rules(capacity=1)))
    release, ending, never = asyncio.Event(), asyncio.Event(), asyncio.Event()
    begun = list[str]()

    async def begin(name: str, _: Admitted) -> Run:
        begun.append(name)
        await release.wait()
        raise InvalidOption("It comes to nothing.")

    async def left() -> None:
        try:
            await never.wait()
        finally:
            ending.set()
            await asyncio.sleep(0.05)

    async with asyncio.timeout(5):
        effort = settle(Options())
        first = asyncio.create_task(gate.door(LOCAL)(effort, partial(begin, "first")))
        await asyncio.sleep(0)
        second = asyncio.create_task(gate.door(LOCAL, left)(effort, partial(begin, "second")))
        await asyncio.sleep(0.01)
        release.set()
        await ending.wait()
        second.cancel()
        await asyncio.wait((first, second))
    assert second.cancelled()
    assert isinstance(first.exception(), InvalidOption)
    assert begun == ["first"]
    assert gate.admission.running == 0


async def test_a_run_that_fails_gives_its_place_back() -> None:
    """As one does whose beginning was refused."""

    async def breaking(run: ScriptedRun) -> Reply:
        raise ValueError("broken")

    async with serving(stage=queued(Stage(reasoner=ScriptedReasoner(breaking)))) as service:
        for _ in range(2):
            assert (await ask(service)).status_code == 500
        service.reasoner.refusal = ValueError("not even begun")
        for _ in range(2):
            assert (await ask(service)).status_code == 500
        assert sample(service.telemetry, "admitted_candidates") == 0


class Tenanted:
    """Names the tenant of each request by its header `x-tenant`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        name = dict(scope["headers"])[b"x-tenant"].decode()
        tenant = {it.id: it for it in (GREEDY, MODEST)}[name]
        await self._app({**scope, "longthink.tenant": tenant}, receive, send)


async def test_a_tenants_own_share_is_a_429() -> None:
    """Where others would get in, and its calls have the tenant's priority in the engines."""
    stage = queued(queue_requests=2)
    transport = httpx.ASGITransport(Tenanted(stage.app()))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:

        def asks(tenant: Tenant) -> asyncio.Task[httpx.Response]:
            headers = {"x-tenant": tenant.id}
            return asyncio.create_task(http.post(CHAT, json=NONE, headers=headers))

        tasks = [asks(tenant) for tenant in (GREEDY, GREEDY, MODEST)]
        async with asyncio.timeout(5):
            while sample(stage.telemetry, "queue_requests") < 2:
                await asyncio.sleep(0.005)
        refused = await asks(GREEDY)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "over_share"
        assert "retry-after" in refused.headers
        for _ in tasks:
            async with asyncio.timeout(5):
                run = await stage.reasoner.begun.get()
            run.cancel()
        assert {(await task).status_code for task in tasks} == {200}
    classes = [it.priority // 10**13 for it in stage.reasoner.admitted]
    assert classes == [0, -2, 0]


async def test_who_attaches_takes_no_second_place(redis_url: str) -> None:
    """Nor does who is told what came of it; whoever takes up what was left waits for a turn."""
    runner = Runner(redis_url, lambda _: Script("#### 1", seconds=0.3))
    stage = Stage(real=runner.reasoner, traces=runner.traces, once=runner.once)
    async with serving(stage=queued(stage)) as service:
        headers = {"Idempotency-Key": "k"}

        async def keyed() -> httpx.Response:
            return await service.http.post(CHAT, json={**NONE, "seed": 1}, headers=headers)

        replies = await asyncio.gather(*(keyed() for _ in range(5)))
        assert {it.status_code for it in replies} == {200}
        assert sample(service.telemetry, "queue_seconds_count") == 1
        blocking = ask(service)
        async with asyncio.timeout(5):
            while not sample(service.telemetry, "admitted_candidates"):
                await asyncio.sleep(0.005)
        assert (await keyed()).json()["id"] == replies[0].json()["id"]
        assert not blocking.done()
        await blocking
    await runner.close()


async def test_a_key_waits_for_as_long_as_it_takes(redis_url: str) -> None:
    """Longer than the lease of who runs it: nobody else takes it up meanwhile, and it runs once."""
    runners = [Runner(redis_url), Runner(redis_url)]
    gates = [Gate(Admission(Rules(capacity=1))) for _ in runners]
    release = asyncio.Event()

    async def block(gate: Gate) -> None:
        async def begin(_: Admitted) -> Run:
            await release.wait()
            raise InvalidOption("It comes to nothing.")

        with pytest.raises(InvalidOption):
            await gate.door(LOCAL)(settle(Options()), begin)

    async with asyncio.TaskGroup() as group:
        blocking = group.create_task(block(gates[0]))
        await asyncio.sleep(0)
        replies = list[asyncio.Task[Reply]]()
        for runner, gate in zip(runners, gates, strict=True):
            replies.append(group.create_task(runner.ask(wide(4), door=gate.door(LOCAL))))
            await asyncio.sleep(0.1)
        await asyncio.sleep(2 * LEASE_SECONDS)
        assert not any(it.done() for it in replies)
        release.set()
        await blocking
    assert replies[0].result().outcome == replies[1].result().outcome
    assert not runners[1].asked
    for runner in runners:
        await runner.close()


async def test_a_refusal_is_that_of_all_who_waited_with_it(redis_url: str) -> None:
    """Whoever repeats a request that waits is refused with it, and doesn't wait as long again; no
    more of them wait than may. The next one is a new request.
    """
    runner = Runner(redis_url)
    runner.once = Once(runner.reasoner, runner.keys, runner.traces, most_waiting=4)
    gate = Gate(Admission(Rules(capacity=1)))
    tries = 0

    async def refuse(_: Effort, __: Begin) -> Run:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0.2)
        raise Refused(Reason.OVERLOADED, 7.0)

    with patch.object(Door, "__call__", lambda _, *asked: refuse(*asked)):
        asked = (runner.ask(wide(4), door=gate.door(LOCAL)) for _ in range(9))
        ends = await asyncio.gather(*asked, return_exceptions=True)
    assert tries == 1
    refused = [it for it in ends if isinstance(it, Refused)]
    assert [it.retry_seconds for it in refused] == [7.0] * 4
    assert sum(isinstance(it, KeyCrowded) for it in ends) == 5
    assert (await runner.ask(wide(4), door=gate.door(LOCAL))).outcome.answer is not None
    await runner.close()


async def test_time_in_the_queue_counts_against_the_deadline(redis_url: str) -> None:
    """A request that waited has only the rest of its deadline to be answered in."""
    runner = Runner(redis_url, lambda _: Script("#### 1", fault="hang"))
    stage = queued(Stage(real=runner.reasoner, traces=runner.traces))
    async with serving(stage=stage) as service:
        first = ask(service, **deadline(1.0))
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        second = await ask(service, **deadline(2.0))
        took = asyncio.get_running_loop().time() - began
        assert (await first).status_code == second.status_code == 200
        assert second.json()["longthink"]["stopped"] == Stopped.DEADLINE
        assert took < 2.8
    await runner.close()
