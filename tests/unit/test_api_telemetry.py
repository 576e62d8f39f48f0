"""What the service's log says, and what it must never say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog

from services.reasoning import Reply
from services.telemetry import LogFormat, LogLevel, configure_logging
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
