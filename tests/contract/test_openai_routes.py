"""Models, health, metrics and traces, over HTTP."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from openai import NotFoundError
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisDown

from planner.domain import Stopped
from planner.errors import InvalidOption, LedgerUnavailable, WorkersUnavailable
from services.api import Limits
from services.run import Reply
from services.telemetry import Telemetry, configure_logging
from services.trace import Event, Kind, Trace, TraceStore
from tests.contract.scripted_service import (
    BODY,
    CHAT,
    MODEL,
    OUTCOME,
    ScriptedRun,
    Shelf,
    Stage,
    serving,
)


async def test_the_client_lists_and_reads_the_model() -> None:
    """OpenAI's client finds the one model, by list and by name."""
    async with serving() as service:
        assert [model.id async for model in service.openai.models.list()] == [MODEL]
        assert (await service.openai.models.retrieve(MODEL)).object == "model"
        with pytest.raises(NotFoundError) as missing:
            await service.openai.models.retrieve("other/model")
    assert missing.value.code == "model_not_found"


async def test_the_service_is_live_before_it_is_ready() -> None:
    """It lives from the start, and is ready once every engine answers; until then it says which."""
    stage = Stage(engines={"generator": True, "reward": False})
    async with serving(stage=stage) as service:
        assert (await service.http.get("/health/live")).json() == {"status": "live"}
        response = await service.http.get("/health/ready")
        assert response.status_code == 503
        assert response.json()["missing"] == ["reward"]
        stage.engines["reward"] = True
        response = await service.http.get("/health/ready")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "engines": {"generator": True, "reward": True}}


async def test_a_service_without_engines_is_not_ready() -> None:
    """Nothing to ask is not the same as nothing wrong."""
    async with serving(stage=Stage(engines={})) as service:
        response = await service.http.get("/health/ready")
    assert response.status_code == 503
    assert response.json()["missing"] == ["engines"]


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "fails"])
async def test_a_probe_that_hangs_or_fails_means_not_ready(hangs: bool) -> None:
    """An engine that can't be asked is missing."""
    stage = Stage(limits=Limits(probe_seconds=0.05))

    async def probe() -> dict[str, bool]:
        if hangs:
            await asyncio.sleep(5)
        raise WorkersUnavailable("no replica")

    stage.ready = probe
    async with serving(stage=stage) as service:
        response = await service.http.get("/health/ready")
    assert response.status_code == 503
    assert response.json()["missing"] == ["engines"]


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a Prometheus text; fails where the text isn't one."""
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "a family stands in two places"
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


ENGINE = """\
# HELP vllm:num_requests_running Running.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} %d.0
# HELP up Up.
# TYPE up gauge
up 1.0
"""


async def test_metrics_join_the_service_and_its_engines() -> None:
    """One valid text has the service's own metrics and each replica's, told apart by a label."""

    async def engines() -> list[tuple[str, str]]:
        return [("generator-0", ENGINE % 3), ("generator-1", ENGINE % 4)]

    async with serving(stage=Stage(engine_metrics=engines)) as service:
        await service.http.post(CHAT, json=BODY)
        await service.http.post(CHAT, json={**BODY, "stream": True})
        await service.http.post(CHAT, json={**BODY, "n": 0})
        response = await service.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(response.text)
    running = "vllm:num_requests_running"
    assert found[running, (("engine", "0"), ("replica", "generator-0"))] == 3
    assert found[running, (("engine", "0"), ("replica", "generator-1"))] == 4
    answered = (("status", "200"), ("stopped", "complete"), ("strategy", "auto"))
    assert found["longthink_requests_total", answered] == 2
    refused = (("status", "400"), ("stopped", ""), ("strategy", ""))
    assert found["longthink_requests_total", refused] == 1
    assert found["longthink_tokens_total", (("kind", "completion"),)] == 2 * 47
    assert found["longthink_tokens_total", (("kind", "reward"),)] == 2 * 130
    assert found["longthink_candidates_total", (("strategy", "auto"),)] == 2 * 4
    assert found["longthink_request_seconds_count", (("strategy", "auto"),)] == 2
    assert found["longthink_requests_in_flight", ()] == 0


async def test_what_traces_lack_is_counted_and_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each event that Redis doesn't take counts; the log has one warning, not one an event."""
    telemetry = Telemetry()
    redis = Redis(unix_socket_path="/nowhere/redis.sock", retry=Retry(NoBackoff(), 0))
    store = TraceStore(redis, lost=telemetry.events_lost)
    async with serving(stage=Stage(traces=store, telemetry=telemetry)) as service:
        configure_logging("json", "info")
        for seq in range(3):
            store.write("abc", Event(seq, 0.5, Kind.STANDING, {}))
            await store.flush()
        text = (await service.http.get("/metrics")).text
    await store.aclose()
    assert samples(text)["longthink_trace_events_lost_total", ()] == 3
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (warning,) = [line for line in lines if line["level"] == "warning"]
    assert "trace events lost" in warning["event"]
    assert warning["raised"][0]["type"] == "ConnectionError"


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "fails"])
async def test_metrics_do_without_engines_that_do_not_answer(hangs: bool) -> None:
    """The service's own metrics come all the same, and count that the engines' didn't."""

    async def engines() -> list[tuple[str, str]]:
        if hangs:
            await asyncio.sleep(5)
        raise WorkersUnavailable("no replica")

    stage = Stage(engine_metrics=engines, limits=Limits(probe_seconds=0.05))
    async with serving(stage=stage) as service:
        found = samples((await service.http.get("/metrics")).text)
    assert found["longthink_engine_metrics_unavailable_total", ()] == 1


async def test_what_a_client_writes_becomes_no_label() -> None:
    """A strategy that doesn't exist leaves no metric of its name behind."""
    async with serving() as service:
        service.reasoner.refusal = InvalidOption("There is no such strategy.")
        await service.http.post(CHAT, json={**BODY, "longthink": {"strategy": "a-new-one"}})
        text = (await service.http.get("/metrics")).text
    assert 'longthink_requests_total{status="400",stopped="",strategy=""} 1.0' in text
    assert "a-new-one" not in text


async def test_calls_that_a_search_cancelled_are_counted() -> None:
    """The metrics say how much work was no longer wanted."""

    async def early(run: ScriptedRun) -> Reply:
        run.trace.append(Kind.CANCELLED, calls=["a", "b"])
        run.trace.append(Kind.CANCELLED, calls=["c"])
        return run.comes_to(replace(OUTCOME, stopped=Stopped.CERTAIN))

    async with serving(early) as service:
        await service.http.post(CHAT, json=BODY)
        found = samples((await service.http.get("/metrics")).text)
    assert found["longthink_cancelled_calls_total", (("strategy", "auto"),)] == 3


async def test_first_progress_of_a_stream_is_timed() -> None:
    """The wait for the first sign of work is measured, once a stream."""

    async def slow(run: ScriptedRun) -> Reply:
        await asyncio.sleep(0.1)
        run.trace.append(Kind.ASKED, room=256, tasks=["expand:0"])
        await asyncio.sleep(0.1)
        return run.comes_to()

    async with serving(slow) as service:
        await service.http.post(CHAT, json={**BODY, "stream": True})
        found = samples((await service.http.get("/metrics")).text)
    strategy = (("strategy", "auto"),)
    assert found["longthink_first_progress_seconds_count", strategy] == 1
    assert 0.1 <= found["longthink_first_progress_seconds_sum", strategy] < 5


async def test_a_refusal_of_the_ledger_is_counted() -> None:
    """An operator sees that requests are refused for want of a ledger."""
    async with serving() as service:
        service.reasoner.refusal = LedgerUnavailable("")
        await service.http.post(CHAT, json=BODY)
        found = samples((await service.http.get("/metrics")).text)
    assert found["longthink_ledger_refusals_total", ()] == 1


async def test_a_trace_is_read_back_from_redis(redis_client: Redis) -> None:
    """Right after it was written, the whole log is there, in order, as JSON."""
    store = TraceStore(redis_client)
    trace = Trace("0123abcd", store)
    trace.append(Kind.OPENED, query={"seed": 1})
    trace.append(Kind.TOKENS, id="call#0", text="only live")
    trace.append(Kind.CLOSED, outcome={"answer": "½ “42”"})
    async with serving(stage=Stage(traces=store)) as service:
        response = await service.http.get("/v1/traces/0123abcd")
    await store.aclose()
    body = response.json()
    assert body["id"] == "0123abcd"
    assert [(event["seq"], event["kind"]) for event in body["events"]] == [
        (0, "opened"),
        (2, "closed"),
    ]
    assert body["events"][1]["data"] == {"outcome": {"answer": "½ “42”"}}
    assert 0 <= body["events"][0]["seconds"] <= body["events"][1]["seconds"]


@pytest.mark.parametrize("trace_id", ["unknown", "a" * 65, "a*", "{x}", "%00", "x%2Fy", "é"])
async def test_an_unknown_trace_is_a_404(trace_id: str) -> None:
    """An id that names no trace, or can't name one, never reaches Redis as a key."""
    shelf = Shelf()
    shelf.events["a" * 65] = shelf.events["a*"] = [Event(0, 0.0, Kind.OPENED, {})]
    async with serving(stage=Stage(traces=shelf)) as service:
        response = await service.http.get(f"/v1/traces/{trace_id}")
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_traces_that_cannot_be_read_are_a_503() -> None:
    """Redis out of reach is no reason to say that a trace doesn't exist."""

    class Down(Shelf):
        async def flush(self) -> None:
            await asyncio.sleep(5)

        async def read(self, trace_id: str) -> list[Event] | None:
            raise RedisDown("redis://:secret@host")

    async with serving(stage=Stage(traces=Down())) as service:
        response = await service.http.get("/v1/traces/abc")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "traces_unavailable"
    assert response.headers["retry-after"] in ("1", "2")
    assert 1000 <= int(response.headers["retry-after-ms"]) <= 2000
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("GET", "/v1/models/", 404, "model_not_found"),
    ],
)
async def test_a_wrong_path_or_method_is_refused_in_the_same_shape(
    method: str, path: str, status: int, code: str
) -> None:
    """Routing speaks OpenAI's error object too."""
    async with serving() as service:
        response = await service.http.request(method, path)
    assert response.status_code == status
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == code
    assert len(response.headers.get_list("x-request-id")) == 1
    assert ("allow" in response.headers) == (status == 405)


async def test_the_documentation_describes_the_request() -> None:
    """The schema of the API has the body of a chat completion, our own options included."""
    async with serving() as service:
        schema = (await service.http.get("/openapi.json")).json()
    body = schema["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"model", "messages", "longthink"} <= set(body["properties"])
    assert "LongthinkOptions" in str(body["properties"]["longthink"])
