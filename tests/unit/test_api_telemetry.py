"""What the service's log says, and what it must never say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from starlette.types import Receive, Scope, Send

from services.run import Reply
from services.telemetry import LogFormat, LogLevel, Telemetry, configure_logging
from services.tenants import IN_SCOPE, Tenant
from tests.contract.scripted_service import BODY, CHAT, ScriptedReasoner, ScriptedRun, Stage


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging is configured for the whole process; put it back."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


async def request(stage: Stage, headers: dict[bytes, bytes] | None = None) -> httpx.Response:
    transport = httpx.ASGITransport(stage.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        return await http.post(CHAT, json=BODY, headers=headers)


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


async def test_a_request_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The line has the request's id, how it ended and what it took; no word of its content."""
    configure_logging("json")
    response = await request(Stage())
    (line,) = logged(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert 0 < line.pop("seconds") < 5
    assert line == {
        "event": "answered",
        "level": "info",
        "request_id": response.headers["x-request-id"],
        "trace_id": response.headers["x-request-id"],
        "tenant": "local",
        "status": 200,
        "code": None,
        "stream": False,
        "strategy": "auto",
        "stopped": "complete",
        "candidates": 4,
        "prompt_tokens": 80,
        "completion_tokens": 47,
        "reward_tokens": 130,
        "micro_usd": 12_345,
    }


async def test_the_line_names_the_trace_that_the_client_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """So a client's log and this one can be laid side by side; no made-up header counts."""
    configure_logging("json")
    theirs = "4bf92f3577b34da6a3ce929d0e0e4736"
    rest = "00f067aa0ba902b7-01"
    for header in (f"00-{theirs}-{rest}", "", "swordfish", f"ff-{theirs}-{rest}"):
        response = await request(Stage(), {b"traceparent": header.encode()})
        (line,) = logged(capsys)
        own = response.headers["x-request-id"]
        assert line["trace_id"] == (theirs if header.startswith("00") else own)


async def test_content_is_logged_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The question and the reply, on the line of the request."""
    configure_logging("json", content=True)
    await request(Stage(telemetry=Telemetry(log_content=True)))
    (line,) = logged(capsys)
    assert line["question"] == BODY["messages"][0]["content"]
    assert line["reply"].endswith("#### 42")


async def test_the_line_names_the_tenant(capsys: pytest.CaptureFixture[str]) -> None:
    """Of an answer and of a refusal, as does what the metrics count."""
    configure_logging("json")
    stage = Stage()
    app = stage.app()

    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        scope[IN_SCOPE] = Tenant("acme")
        await app(scope, receive, send)

    transport = httpx.ASGITransport(known)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        await http.post(CHAT, json=BODY)
        await http.post(CHAT, json={**BODY, "n": 0})
    assert [line["tenant"] for line in logged(capsys)] == ["acme", "acme"]
    value = stage.telemetry.registry.get_sample_value
    assert value("longthink_tenant_requests_total", {"tenant": "acme", "status": "200"}) == 1
    assert value("longthink_tenant_requests_total", {"tenant": "acme", "status": "400"}) == 1


def test_nobody_pays_for_spans_who_does_not_ask_for_them() -> None:
    """What makes them and what sends them isn't imported, neither by the edge nor by workers."""
    code = (
        "import sys, services.app, workers.replica\n"
        "print([it for it in sys.modules"
        " if it == 'services.spans' or it.startswith('opentelemetry.exporter.otlp')])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


async def test_a_refusal_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What was wrong is told by its code, as the message may quote the request."""
    configure_logging("json")
    stage = Stage()
    transport = httpx.ASGITransport(stage.app())
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        await http.post(CHAT, json={**BODY, "n": "swordfish"})
    (line,) = logged(capsys)
    assert (line["event"], line["status"], line["code"]) == ("refused", 400, "invalid_value")
    assert "swordfish" not in str(line)


@pytest.mark.parametrize(
    ("theirs", "kept"),
    [(b"mine-7", "mine-7"), (b"\xe9", None), (b"", None), (b"x" * 300, "x" * 128)],
)
async def test_a_clients_own_id_is_logged_if_it_is_plain(
    theirs: bytes, kept: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stands beside the service's id, and is cut where it is too long."""
    configure_logging("json")
    await request(Stage(), {b"x-request-id": theirs})
    (line,) = logged(capsys)
    assert line.get("client_request_id") == kept


@pytest.mark.parametrize(("level", "shown"), [("info", False), ("debug", True)])
async def test_what_an_exception_says_is_shown_only_at_debug(
    level: LogLevel, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception may quote a prompt. Its type and where it was raised are always shown."""

    async def breaking(run: ScriptedRun) -> Reply:
        raise ValueError("swordfish") from KeyError("the prompt")

    configure_logging("json", level)
    response = await request(Stage(reasoner=ScriptedReasoner(breaking)))
    assert response.status_code == 500
    failed = [line for line in logged(capsys) if line["event"] == "run failed"]
    (line,) = failed
    assert line["request_id"] == response.headers["x-request-id"]
    assert [each["type"] for each in line["raised"]] == ["ValueError", "KeyError"]
    assert line["raised"][0]["at"][-1].endswith("breaking")
    assert ("swordfish" in str(line)) == shown


async def test_an_unexpected_failure_before_the_run_is_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A 500 always has a line with its id that says where it came from."""
    configure_logging("json")
    response = await request(Stage(reasoner=ScriptedReasoner(refusal=ValueError("swordfish"))))
    assert response.status_code == 500
    lines = {line["event"]: line for line in logged(capsys)}
    assert set(lines) == {"refused", "request failed"}
    assert lines["request failed"]["request_id"] == response.headers["x-request-id"]
    assert lines["request failed"]["raised"][0]["type"] == "ValueError"


@pytest.mark.parametrize("form", ["json", "text"])
async def test_a_line_below_the_level_is_not_written(
    form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    """At `warning`, answered requests leave no line, and nothing ever goes to standard output."""
    configure_logging(form, "warning")
    await request(Stage())
    structlog.get_logger().warning("heard", answer=42)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "heard" in err
