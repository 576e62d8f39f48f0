"""What a reply says it used is what the engines themselves counted, to the token."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx
from openai import AsyncOpenAI

from tests.e2e.conftest import MODEL, Counters

REQUESTS = 100
SIDE_BY_SIDE = 8

MANNERS: list[dict[str, Any]] = [
    {"longthink": {"strategy": "single"}},
    {"longthink": {"strategy": "majority", "budget": {"candidates": 4}}},
    {"longthink": {"strategy": "majority", "selector": "weighted", "budget": {"candidates": 6}}},
    {"longthink": {"strategy": "majority", "stop": "beta:0.9", "budget": {"candidates": 8}}},
    {"longthink": {"strategy": "best_of_n", "budget": {"candidates": 5}}},
    {"longthink": {"strategy": "majority", "budget": {"completion_tokens": 300}}},
    {"longthink": {"strategy": "majority", "budget": {"deadline_seconds": 0.4}}},
    {"reasoning_effort": "minimal"},
]


async def test_usage_equals_the_engines_counters(
    openai_async: AsyncOpenAI,
    hard: Callable[[int], list[str]],
    counters: Callable[[], Counters],
    http: httpx.Client,
) -> None:
    """A hundred mixed requests, plain and streamed, eight at a time, some cut short."""
    before = counters()
    dice = random.Random(0)
    gate = asyncio.Semaphore(SIDE_BY_SIDE)

    async def ask(question: str) -> dict[str, Any]:
        manner = dict(dice.choice(MANNERS))
        streamed = dice.random() < 0.5
        effort = manner.pop("reasoning_effort", None)
        asked: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": question}],
            "seed": dice.randrange(2**31),
            "max_tokens": 256,
            "extra_body": manner,
        }
        if effort:
            asked["reasoning_effort"] = effort
        async with gate:
            return await (
                plain(openai_async, asked) if not streamed else stream(openai_async, asked)
            )

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(question)) for question in hard(REQUESTS)]
    replies = [task.result() for task in tasks]
    await idle(counters)

    counted = counters() - before
    used = [await settled(http, reply) for reply in replies]
    for name in ("completion_tokens", "prompt_tokens", "cached_tokens", "reward_tokens"):
        assert sum(one[name] for one in used) == getattr(counted, name), name
    reported = [reply["longthink"]["spent"]["unreported_calls"] == 0 for reply in replies]
    assert sum(reported) > REQUESTS / 2


async def settled(http: httpx.Client, reply: dict[str, Any]) -> dict[str, int]:
    """What a request used: as its reply says, or where that is a bound, as its trace does."""
    usage, spent = reply["usage"], reply["longthink"]["spent"]
    said = {
        "completion_tokens": usage["completion_tokens"],
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "reward_tokens": spent["reward_tokens"],
    }
    if not spent["unreported_calls"]:
        return said
    trace_id = reply["longthink"]["trace_id"]
    async with asyncio.timeout(10):
        while True:
            trace = await asyncio.to_thread(http.get, f"/v1/traces/{trace_id}")
            events = trace.raise_for_status().json()["events"]
            if events[-1]["kind"] == "settled":
                break
            await asyncio.sleep(0.05)
    final: dict[str, int] = events[-1]["data"]["spent"]
    assert all(final[name] <= said[name] for name in said if name != "cached_tokens")
    return final


async def plain(client: AsyncOpenAI, asked: dict[str, Any]) -> dict[str, Any]:
    """Usage and our object of a plain request."""
    reply: dict[str, Any] = (await client.chat.completions.create(**asked)).model_dump()
    assert reply["choices"][0]["finish_reason"] in ("stop", "length")
    return reply


async def stream(client: AsyncOpenAI, asked: dict[str, Any]) -> dict[str, Any]:
    """Usage and our object of a streamed request."""
    found: dict[str, Any] = {}
    chunks = await client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in chunks:
        said = chunk.model_dump()
        if said.get("usage"):
            found["usage"] = said["usage"]
        if said.get("longthink"):
            found["longthink"] = said["longthink"]
    return found


async def idle(counters: Callable[[], Counters], seconds: float = 5.0) -> None:
    """Wait until no engine runs anything; fail when that takes too long."""
    async with asyncio.timeout(seconds):
        while (await asyncio.to_thread(counters)).busy:
            await asyncio.sleep(0.05)
