"""A reward model that is killed in mid-search, and whenever it comes back, costs no answer."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import MODEL


def reward_processes() -> list[int]:
    """The process ids of the reward model's replicas on this machine."""
    titled = subprocess.run(
        ["pgrep", "--full", "^ray::ServeReplica:longthink:reward"],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(pid) for pid in titled.stdout.split()]


@contextmanager
def kept_down() -> Iterator[None]:
    """While inside, whatever comes up as a reward model is killed."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.2):
            for pid in reward_processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        yield
    finally:
        over.set()
        killing.join()


@pytest.mark.timeout(400)
def test_answers_come_though_the_reward_model_is_gone(
    http: httpx.Client, hard: Callable[[int], list[str]]
) -> None:
    """A tree that it grades, and a choice by it, end with an answer and say what went without."""

    def ask(strategy: str, selector: str) -> dict[str, Any]:
        ours = {
            "strategy": strategy,
            "selector": selector,
            "stop": "none",
            "budget": {"candidates": 16},
        }
        messages = [{"role": "user", "content": hard(1)[0]}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 256, "longthink": ours}
        reply = http.post("/v1/chat/completions", json=body, timeout=150)
        said: dict[str, Any] = reply.raise_for_status().json()["longthink"]
        return said

    assert reward_processes()
    with kept_down():
        for strategy, selector in (("beam", "weighted"), ("best_of_n", "best")):
            said = ask(strategy, selector)
            assert said["answer"] is not None
            assert any("reward model was lost" in note for note in said["notes"])
    give_up = time.monotonic() + 240
    while http.get("/health/ready").status_code != 200:
        assert time.monotonic() < give_up, "the reward model was not replaced"
        time.sleep(0.5)
    assert not any("was lost" in note for note in ask("best_of_n", "best")["notes"])
