"""The service's log is where the settings say, and has what an operator may read and no more."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import httpx

from tests.e2e.conftest import MODEL


def logs() -> Path:
    """The folder that Ray's processes log to."""
    return Path(os.environ.get("RAY_TMPDIR", "/tmp/ray")) / "session_latest" / "logs"


def test_a_request_is_logged_without_what_it_says(http: httpx.Client) -> None:
    """One line says how it ended and what it cost; neither question nor answer is anywhere."""
    name = f"Zebulon{time.time_ns()}"
    messages = [{"role": "user", "content": f"{name} has 3 pens and buys 4. How many pens?"}]
    reply = http.post("/v1/chat/completions", json={"model": MODEL, "messages": messages})
    reply.raise_for_status()
    trace_id, ours = reply.headers["x-request-id"], reply.json()["longthink"]
    give_up = time.monotonic() + 10
    lines: list[str] = []
    while not lines:
        assert time.monotonic() < give_up, "it was not logged"
        time.sleep(0.1)
        written = [file.read_text(errors="replace") for file in logs().glob("worker-*.err")]
        lines = [line for text in written for line in text.splitlines() if trace_id in line]
    said = [json.loads(line) for line in lines]
    (answered,) = [one for one in said if one["event"] == "answered"]
    assert (answered["status"], answered["level"]) == (200, "info")
    assert answered["candidates"] == ours["spent"]["candidates"]
    everything = [file for file in logs().rglob("*") if file.is_file()]
    assert [file for file in everything if name in file.read_text(errors="replace")] == []
