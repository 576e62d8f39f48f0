"""A generator that is killed in the middle of a request costs its work, not the answer."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.e2e.conftest import MODEL

_RUNNING = re.compile(r"^vllm:num_requests_running\{([^}]*)\} (\S+)$", re.MULTILINE)


def generator_processes() -> list[int]:
    """The process ids of the generator's replicas on this machine."""
    titled = subprocess.run(
        ["pgrep", "--full", "^ray::ServeReplica:longthink:generator"],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(pid) for pid in titled.stdout.split()]


def busy_generators(metrics: str) -> int:
    """How many of the generator's replicas run something."""
    return sum(
        f'model_name="{MODEL}"' in labels and float(value) > 0
        for labels, value in _RUNNING.findall(metrics)
    )


def lost_a_call(told: dict[str, Any]) -> bool:
    """Whether a candidate was charged for more than it has: a lost call costs all that it held."""
    # The token that ends a candidate is counted, whether or not it is kept.
    made = len(told["candidate"]["token_ids"]) + 1 if told["candidate"] else 0
    return bool(told["cost"]["completion_tokens"] > made)


def test_answer_comes_though_a_replica_is_killed(
    http: httpx.Client, hard: Callable[[int], list[str]]
) -> None:
    """Two replicas share 64 candidates; one is killed while it works; all are answered for."""
    replicas = generator_processes()
    assert len(replicas) == 2
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": hard(1)[0]}],
        "max_tokens": 256,
        "longthink": {"strategy": "majority", "stop": "none", "budget": {"candidates": 64}},
    }
    replies: list[httpx.Response] = []
    request = threading.Thread(
        target=lambda: replies.append(http.post("/v1/chat/completions", json=body, timeout=100))
    )
    request.start()
    give_up = time.monotonic() + 10
    while busy_generators(http.get("/metrics").text) < 2:
        assert time.monotonic() < give_up, "the generators never worked side by side"
        time.sleep(0.02)
    os.kill(replicas[0], signal.SIGKILL)
    request.join()

    said = replies[0].json()["longthink"]
    events = http.get(f"/v1/traces/{said['trace_id']}").json()["events"]
    told = [event["data"] for event in events if event["kind"] == "told"]
    assert replies[0].status_code == 200
    assert said["answer"] is not None
    assert sum(it["status"] == "done" for it in told) == 64, "the other replica took over"
    assert any(lost_a_call(it) for it in told), "the replica had nothing to lose"
    wait_until_ready(http)


def wait_until_ready(http: httpx.Client, seconds: float = 180) -> None:
    """Serve puts a new replica in its place."""
    give_up = time.monotonic() + seconds
    while http.get("/health/ready").status_code != 200 or len(generator_processes()) < 2:
        assert time.monotonic() < give_up, "the killed replica was not replaced"
        time.sleep(0.5)
