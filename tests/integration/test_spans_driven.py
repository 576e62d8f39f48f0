"""Spans of real searches over real HTTP, as a collector gets them over OTLP."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from services.spans import Spans, exporting
from services.telemetry import Telemetry, configure_logging
from tests.collector import Collected, Collector, collecting
from tests.contract.scripted_service import BODY, CHAT, MODEL, Service, Stage, serving
from tests.integration.reasoning_bench import Bench
from workers.fake import FakePool, Script
from workers.messages import Generate

CANARY = "swordfish"
KEY = "marlin"
ASKED = {
    **BODY,
    "messages": [{"role": "user", "content": f"How many {CANARY}?"}],
    "longthink": {
        "strategy": "majority",
        "selector": "weighted",
        "stop": "none",
        "budget": {"candidates": 4},
    },
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that listens."""
    with collecting() as running:
        yield running


def telling(url: str, *, captures: bool = False, sampled: float = 1.0) -> Telemetry:
    """Telemetry whose spans go there."""
    telemetry = Telemetry(log_content=captures)

    def spans(lost: Callable[[int], None]) -> Spans:
        return Spans(
            exporting(url, lost), model=MODEL, sampled=sampled, captures=captures, version="1"
        )

    telemetry.trace(spans)
    return telemetry


@asynccontextmanager
async def traced(
    redis: Redis, telemetry: Telemetry, pool: FakePool | None = None
) -> AsyncIterator[Service]:
    """A service with a real reasoner. All spans have been sent when it has ended."""
    bench = Bench(redis, pool or FakePool(), telemetry=telemetry)
    stage = Stage(real=bench.reasoner, traces=bench.traces, telemetry=telemetry)
    async with serving(stage=stage) as service:
        yield service
        await bench.reasoner.drain(5)
    assert telemetry.spans is not None
    telemetry.spans.shutdown()


def one(collector: Collector, name: str) -> Collected:
    (found,) = collector.named(name)
    return found


async def test_a_request_is_a_tree_of_spans(redis_client: Redis, collector: Collector) -> None:
    """HTTP, the chat, a span a task, and under each the calls of workers, all inside each other."""
    async with traced(redis_client, telling(collector.url)) as service:
        response = await service.http.post(CHAT, json=ASKED)
    reply = response.json()
    server, chat = one(collector, f"POST {CHAT}"), one(collector, f"chat {MODEL}")
    assert server.kind == "server"
    assert server.parent_id == ""
    assert server.trace_id == response.headers["x-request-id"]
    assert server.attributes["http.response.status_code"] == 200
    assert server.attributes["http.route"] == CHAT
    assert server.attributes["longthink.tenant"] == "local"
    assert chat.parent_id == server.span_id
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.id": reply["id"],
        "gen_ai.response.finish_reasons": [reply["choices"][0]["finish_reason"]],
        "gen_ai.usage.input_tokens": reply["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": reply["usage"]["completion_tokens"],
        "longthink.trace_id": reply["longthink"]["trace_id"],
        "longthink.tenant": "local",
        "longthink.strategy": "majority",
        "longthink.selector": "weighted",
        "longthink.stopped": "complete",
        "longthink.candidates": 4,
        "longthink.confidence": reply["longthink"]["raw_confidence"],
    }
    assert {name: chat.attributes[name] for name in expected} == expected

    tasks = collector.under(chat)
    assert Counter(task.name for task in tasks) >= Counter(expand=4, grade=4)
    made = 0
    for task in tasks:
        assert task.attributes["longthink.task.status"] == "done"
        assert task.attributes["longthink.worker"] == "fake"
        calls = collector.under(task)
        assert len(calls) == task.attributes["longthink.calls"] >= 1
        for call in calls:
            assert call.kind == "client"
            assert chat.start <= task.start <= call.start <= call.end <= task.end <= chat.end
            made += call.attributes.get("longthink.call.completion_tokens", 0)
    assert made == reply["usage"]["completion_tokens"]
    assert server.start <= chat.start
    assert {span.trace_id for span in collector.spans} == {server.trace_id}
    assert len({span.span_id for span in collector.spans}) == len(collector.spans)
    assert collector.services == {"longthink"}


async def test_a_clients_trace_is_continued(redis_client: Redis, collector: Collector) -> None:
    """With a traceparent, all spans are part of that trace, under that span."""
    theirs, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    async with traced(redis_client, telling(collector.url)) as service:
        headers = {"traceparent": f"00-{theirs}-{span}-01"}
        response = await service.http.post(CHAT, json=ASKED, headers=headers)
    assert {span.trace_id for span in collector.spans} == {theirs}
    assert one(collector, f"POST {CHAT}").parent_id == span
    assert (
        one(collector, f"chat {MODEL}").attributes["longthink.trace_id"]
        == (response.headers["x-request-id"])
    )


@pytest.mark.parametrize("flag", ["00", None])
async def test_what_is_not_sampled_makes_no_spans(
    redis_client: Redis, collector: Collector, flag: str | None
) -> None:
    """A client that doesn't record decides for its trace, the ratio for those that begin here."""
    headers = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-{flag}"} if flag else {}
    async with traced(redis_client, telling(collector.url, sampled=0.0)) as service:
        response = await service.http.post(CHAT, json=ASKED, headers=headers)
    assert response.status_code == 200
    assert collector.spans == []


async def test_other_routes_and_refusals(redis_client: Redis, collector: Collector) -> None:
    """Requests to the API have a span, probes have none; a client's mistake is no error of ours."""
    async with traced(redis_client, telling(collector.url)) as service:
        await service.http.get("/health/live")
        await service.http.get("/metrics")
        await service.http.get("/v1/models")
        await service.http.post(CHAT, json={**ASKED, "n": 0})
    assert {span.name for span in collector.spans} == {"GET /v1/models", f"POST {CHAT}"}
    refused = one(collector, f"POST {CHAT}")
    assert refused.attributes["http.response.status_code"] == 400
    assert not refused.failed


async def test_a_lost_worker_shows(redis_client: Redis, collector: Collector) -> None:
    """The task has both its calls, of which one failed."""

    def script(call: Generate) -> Script:
        return Script("x", fault="lost") if call.id.endswith("#0") else Script("#### 7")

    async with traced(redis_client, telling(collector.url), FakePool(script)) as service:
        await service.http.post(CHAT, json=ASKED)
    (task,) = [it for it in collector.named("expand") if it.attributes["longthink.calls"] == 2]
    lost, again = sorted(collector.under(task), key=lambda call: call.start)
    assert (lost.attributes["longthink.call.finish"], lost.failed) == ("lost", True)
    assert (again.attributes["longthink.call.finish"], again.failed) == ("stop", False)
    assert not task.failed


async def test_spans_that_nobody_takes_are_counted(
    redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that isn't there costs the request nothing, and the metrics say it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    with collecting() as gone:
        url = gone.url
    telemetry = telling(url)
    async with traced(redis_client, telemetry) as service:
        response = await service.http.post(CHAT, json=ASKED)
    assert response.status_code == 200
    lost = telemetry.registry.get_sample_value("longthink_spans_lost_total")
    assert lost is not None
    assert lost >= 10


@pytest.mark.parametrize("asked_for", [False, True], ids=["by default", "asked for"])
async def test_prompts_and_answers_are_nowhere_unless_asked_for(
    redis_client: Redis, collector: Collector, capfd: pytest.CaptureFixture[str], asked_for: bool
) -> None:
    """Neither in the log nor in metrics nor in spans, whether all goes well or nothing does."""
    answer = f"{CANARY} and so on\n#### {CANARY}42"

    def script(call: Generate) -> Script:
        broken = call.id.rpartition("#")[2] in ("1", "2")
        return Script(answer, fault="failed" if broken else None)

    telemetry = telling(collector.url, captures=asked_for)
    async with traced(redis_client, telemetry, FakePool(script)) as service:
        configure_logging("json", "info", content=asked_for)
        for body in (ASKED, {**ASKED, "stream": True}, {**ASKED, "n": CANARY}, {"x": CANARY}):
            headers = {"authorization": f"Bearer {KEY}"}
            response = await service.http.post(CHAT, json=body, headers=headers)
            assert CANARY in response.text or response.status_code == 400
        metrics = (await service.http.get("/metrics")).text
    said = capfd.readouterr().err
    spans = b"".join(collector.bodies).decode(errors="replace")
    assert CANARY not in metrics
    assert KEY not in metrics + said + spans
    assert (CANARY in said, CANARY in spans) == (asked_for, asked_for)

    answered = [line for line in map(_json, said.splitlines()) if line.get("event") == "answered"]
    assert len(answered) == 2
    for line in answered:
        assert line["trace_id"] == line["request_id"]
        assert line["tenant"] == "local"
        assert ("question" in line, "reply" in line) == (asked_for, asked_for)
    chat = collector.named(f"chat {MODEL}")[0]
    if asked_for:
        (asked,) = json.loads(chat.attributes["gen_ai.input.messages"])
        assert asked["parts"][0]["content"] == ASKED["messages"][0]["content"]
        (told,) = json.loads(chat.attributes["gen_ai.output.messages"])
        assert told["parts"][0]["content"] == answer
        assert told["finish_reason"] == "stop"


def _json(line: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
    return read
