"""One whole service for all end-to-end tests: two generators, a planner, a reward model and Redis.

The planner is the reference reasoner once more, on an engine of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI
from playwright.async_api import Page, async_playwright
from redis import Redis

from deploy import browser
from services.app import Service
from services.redis_server import RedisServer
from services.settings import (
    GeneratorSettings,
    PlannerSettings,
    RedisSettings,
    ServiceSettings,
    Settings,
)
from workers.reference.synthetic import queries

_SAMPLE = re.compile(r"^(vllm:[a-z_]+)\{([^}]*)\} (\S+)$", re.MULTILINE)

MODEL = "longthink-reference"
PLANNER = "longthink-reference-planner"
PRM = "longthink-reference-prm"


@dataclass(frozen=True)
class Counters:
    """What the engines have counted, all replicas together; `reward_tokens` by reward models.

    Of the completion tokens, `planned_tokens` are the planner's.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    planned_tokens: int
    reward_tokens: int
    busy: int

    def __sub__(self, other: Counters) -> Counters:
        return Counters(
            self.prompt_tokens - other.prompt_tokens,
            self.cached_tokens - other.cached_tokens,
            self.completion_tokens - other.completion_tokens,
            self.planned_tokens - other.planned_tokens,
            self.reward_tokens - other.reward_tokens,
            self.busy,
        )


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """The redis-server of the service."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def service(redis: RedisServer) -> Iterator[Service]:
    """The running service."""
    settings = Settings(
        redis=RedisSettings(url=redis.url),
        service=ServiceSettings(port=0, log_level="info", log_format="json"),
        generator=GeneratorSettings(replicas=2),
        planner=PlannerSettings(enabled=True),
    )
    with Service.start(settings, logs=True) as running:
        # The first steps of an engine take far longer than all others.
        for strategy in ("best_of_n", "plan"):
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": "What is 2 + 2?"}],
                "longthink": {"strategy": strategy, "stop": "none", "budget": {"candidates": 16}},
            }
            url = f"{running.url}/v1/chat/completions"
            httpx.post(url, json=body, timeout=100).raise_for_status()
        yield running


@pytest.fixture(scope="session")
def http(service: Service) -> Iterator[httpx.Client]:
    """A plain HTTP client of it."""
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def openai(service: Service) -> Iterator[OpenAI]:
    """The official client of it."""
    with OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def openai_async(service: Service) -> AsyncIterator[AsyncOpenAI]:
    """The official asynchronous client of it."""
    address = f"{service.url}/v1"
    async with AsyncOpenAI(base_url=address, api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def counters(http: httpx.Client) -> Callable[[], Counters]:
    """Reads the engines' own counters from the metrics of the service."""

    def read() -> Counters:
        totals: dict[str, Counter[str]] = {MODEL: Counter(), PLANNER: Counter(), PRM: Counter()}
        text = http.get("/metrics").raise_for_status().text
        for name, labels, value in _SAMPLE.findall(text):
            for model, counted in totals.items():
                counted[name] += int(float(value)) if f'="{model}"' in labels else 0
        written = totals[MODEL] + totals[PLANNER]
        busy = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        return Counters(
            prompt_tokens=written["vllm:prompt_tokens_total"],
            cached_tokens=written["vllm:prompt_tokens_cached_total"],
            completion_tokens=written["vllm:generation_tokens_total"],
            planned_tokens=totals[PLANNER]["vllm:generation_tokens_total"],
            reward_tokens=totals[PRM]["vllm:prompt_tokens_total"],
            busy=sum(one[name] for one in totals.values() for name in busy),
        )

    return read


@pytest.fixture
def held(redis: RedisServer) -> Iterator[Callable[[], int]]:
    """Counts in Redis itself the holds of all budgets."""
    with Redis.from_url(redis.url) as admin:
        yield lambda: sum(
            int(admin.zcard(key)) for key in admin.scan_iter(match="longthink:*:leases:*")
        )


@pytest.fixture
def hard() -> Callable[[int], list[str]]:
    """Hard questions of the test split."""
    return lambda count: [query.question for query in queries("test", "hard", count, seed=7)]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is; `make test` has installed one where there was none."""
    found = browser.find()
    assert found is not None, browser.HELP
    return found


@pytest.fixture
async def page(chromium: str) -> AsyncIterator[Page]:
    """A page of a browser that has only just started. What goes wrong in it fails the test."""
    wrong: list[str] = []
    async with async_playwright() as playwright:
        flags = list(browser.FLAGS)
        running = await playwright.chromium.launch(executable_path=chromium, args=flags)
        context = await running.new_context(viewport={"width": 1600, "height": 950})
        opened = await context.new_page()
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.on(
            "response",
            lambda it: wrong.append(f"{it.status} {it.url}") if it.status >= 500 else None,
        )
        opened.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        yield opened
        await running.close()
    assert not wrong
