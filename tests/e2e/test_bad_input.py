"""Bad input gets a clear error at once, and loses nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import MODEL, Counters

FINE: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "What is 1 + 1?"}]}


def with_(**fields: Any) -> bytes:
    """A body that is fine but for these fields."""
    return json.dumps({**FINE, **fields}).encode()


BAD: dict[str, tuple[bytes, int, str | None]] = {
    "no messages": (json.dumps({"model": MODEL}).encode(), 400, "messages"),
    "unknown model": (with_(model="gpt-none"), 404, "model"),
    "negative budget": (
        with_(longthink={"budget": {"completion_tokens": -1}}),
        400,
        "longthink.budget.completion_tokens",
    ),
    "a trillion candidates": (
        with_(longthink={"strategy": "beam", "budget": {"candidates": 10**12}}),
        400,
        "longthink.budget.candidates",
    ),
    "n of a million": (with_(n=1_000_000), 400, "n"),
    "prompt longer than the model": (
        with_(messages=[{"role": "user", "content": "seven " * 20_000}]),
        400,
        "messages",
    ),
    "ten megabytes of nested JSON": (b"[" * 5_000_000 + b"]" * 5_000_000, 413, None),
    "nested JSON that is short enough": (b"[" * 400_000 + b"]" * 400_000, 400, None),
    "invalid UTF-8": (with_().replace(b"What", b"\xff\xfe"), 400, None),
    "unknown strategy": (with_(longthink={"strategy": "magic"}), 400, "longthink.strategy"),
    "unsupported field": (with_(tools=[{"type": "function"}]), 400, "tools"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_clearly_and_at_once(http: httpx.Client, name: str) -> None:
    """OpenAI's error object, the right status, the field by name, in under 100 ms."""
    body, status, param = BAD[name]
    took, reply = min((send(http, body) for _ in range(3)), key=lambda timed: timed[0])
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["message"]
    assert took < 0.1


def send(http: httpx.Client, body: bytes) -> tuple[float, httpx.Response]:
    """Post it; the seconds it took and the reply."""
    began = time.monotonic()
    reply = http.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    return time.monotonic() - began, reply


def test_service_is_unharmed(http: httpx.Client, counters: Callable[[], Counters]) -> None:
    """After all of that it is ready, idle, and answers."""
    for body, _, _ in BAD.values():
        send(http, body)
    assert http.get("/health/ready").status_code == 200
    assert counters().busy == 0
    reply = http.post("/v1/chat/completions", json={**FINE, "longthink": {"strategy": "single"}})
    assert reply.status_code == 200
