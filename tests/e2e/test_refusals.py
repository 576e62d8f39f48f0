"""What the service can't do in time it refuses, most of it before Ray Serve's proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from services.app import Service
from tests.e2e.conftest import MODEL
from tests.e2e.test_page import engines_stopped

CHAT = "/v1/chat/completions"
URGENT: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is 2 + 2?"}],
    "longthink": {
        "strategy": "majority",
        "budget": {"candidates": 2, "deadline_seconds": 1.0},
    },
}


async def counted(http: httpx.AsyncClient) -> dict[str, float]:
    """How many were refused, for whatever reason, and how many of them before the proxy."""
    families = text_string_to_metric_families((await http.get("/metrics")).text)
    totals = {
        family.name: sum(one.value for one in family.samples if one.name.endswith("_total"))
        for family in families
    }
    return {
        "refused": totals["longthink_admission_refusals"],
        "repeated": totals["longthink_repeated_refusals"],
    }


async def test_refusals_are_repeated_and_counted(
    service: Service, hard: Callable[[int], list[str]]
) -> None:
    """While the engines have too much to do: each is a 503 that says when to come again, and the
    metrics know of all, though the edge has seen a part of them.
    """
    long = {
        "model": MODEL,
        "messages": [{"role": "user", "content": hard(1)[0]}],
        "longthink": {"strategy": "majority", "stop": "none", "budget": {"candidates": 64}},
    }
    async with httpx.AsyncClient(base_url=service.url, timeout=120) as http:

        async def asked(body: dict[str, Any], times: int) -> list[httpx.Response]:
            return await asyncio.gather(*(http.post(CHAT, json=body) for _ in range(times)))

        known = await asked(long, 3)
        before = await counted(http)
        with engines_stopped():
            working = asyncio.create_task(asked(long, 3))
            await asyncio.sleep(1.0)
            replies = []
            for _ in range(60):
                replies.append(await http.post(CHAT, json=URGENT))
                await asyncio.sleep(0.01)
        assert {one.status_code for one in (*known, *await working)} == {200}
        assert (await http.post(CHAT, json=URGENT)).status_code == 200
        after = await counted(http)
    assert {one.status_code for one in replies} == {503}
    assert {one.json()["error"]["code"] for one in replies} == {"deadline_unreachable"}
    assert all(int(one.headers["retry-after-ms"]) >= 1000 for one in replies)
    assert len({one.headers["x-request-id"] for one in replies}) == len(replies)
    assert not [name for one in replies for name in one.headers if "longthink" in name]
    assert after["refused"] - before["refused"] == len(replies)
    assert 30 < after["repeated"] - before["repeated"] < len(replies)
