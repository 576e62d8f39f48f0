"""A whole service for a chaos script: real engines, on a Redis that the script owns."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from services.app import Service
from services.settings import RedisSettings, ServiceSettings, Settings
from workers.reference.synthetic import queries

CHAT = "/v1/chat/completions"
MODEL = "longthink-reference"

_SAMPLE = re.compile(r"^vllm:([a-z_]+)\{([^}]*)\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Counted:
    """What the generators' engines have counted: tokens, and requests that run or wait."""

    prompt_tokens: int
    completion_tokens: int
    busy: int

    def __sub__(self, other: Counted) -> Counted:
        return Counted(
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.busy,
        )


@contextmanager
def real_service(redis_url: str, **redis: Any) -> Iterator[Service]:
    """The service with its reference models, warm; `redis` has more settings of that section."""
    settings = Settings(
        redis=RedisSettings(url=redis_url, **redis),
        service=ServiceSettings(port=0, log_level="warning"),
    )
    with Service.start(settings) as running:
        with httpx.Client(base_url=running.url, timeout=120) as http:
            for _ in range(2):
                http.post(CHAT, json=body("What is 2 + 2?", 16)).raise_for_status()
        yield running


def body(question: str, candidates: int, **more: Any) -> dict[str, Any]:
    """A vote of so many candidates, none of them spared."""
    ours = {"strategy": "majority", "stop": "none", "budget": {"candidates": candidates}}
    messages = [{"role": "user", "content": question}]
    return {"model": MODEL, "messages": messages, "max_tokens": 256, "longthink": ours, **more}


def hard(count: int) -> list[str]:
    """Hard questions."""
    return [query.question for query in queries("test", "hard", count, seed=19)]


def counts(metrics: str) -> Counter[str]:
    """The generators' engines' own numbers, all together, of what `/metrics` says."""
    totals: Counter[str] = Counter()
    for name, labels, value in _SAMPLE.findall(metrics):
        if f'="{MODEL}"' in labels:
            totals[name] += int(float(value))
    return totals


def counted(url: str) -> Counted:
    """What the engines say now."""
    totals = counts(httpx.get(f"{url}/metrics", timeout=20).raise_for_status().text)
    return Counted(
        totals["prompt_tokens_total"],
        totals["generation_tokens_total"],
        totals["num_requests_running"] + totals["num_requests_waiting"],
    )


def idle(url: str, seconds: float = 60) -> Counted:
    """What the engines say once they have nothing to do, and say the same twice."""
    give_up, last = time.monotonic() + seconds, counted(url)
    while time.monotonic() < give_up:
        time.sleep(0.2)
        now = counted(url)
        if now.busy == 0 and now == last:
            return now
        last = now
    raise RuntimeError("The engines are never idle.")
