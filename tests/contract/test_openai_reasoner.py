"""OpenAI's client before the real reasoner and ledger, with workers that write as scripted."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import httpx
import pytest
from openai import BadRequestError
from redis.asyncio import Redis

from planner.domain import Prices
from services.budget import RedisLedger
from services.driver import Driver, Manner
from services.reasoning import Reasoner
from services.trace import TraceStore
from tests.contract.scripted_service import BODY, CHAT, MODEL, Stage, serving
from workers.fake import FakePool, Script
from workers.messages import Generate


class Bench:
    """The real path below the edge, down to the workers."""

    def __init__(self, redis: Redis, *, seconds: float = 0.0) -> None:
        self.pool = FakePool(lambda call: self._write(call, seconds), judge=None)
        self.traces = TraceStore(redis)
        manner = Manner(prices=Prices(completion=1), step_delimiter="\n")
        reasoner = Reasoner(self.pool, RedisLedger(redis), self.traces, manner)
        self.stage = Stage(real=reasoner, traces=self.traces)
        self.reasoner = reasoner

    @staticmethod
    def _write(call: Generate, seconds: float) -> Script:
        """Three in four say 42, the others 43."""
        return Script(f"6 x 7 = 42\n#### {42 + (call.seed or 0) % 4 // 3}", seconds)

    async def running(self) -> int:
        return (await self.pool.counters())["fake"]["running"]

    async def counted(self) -> int:
        """Completion tokens by the worker's own count."""
        return (await self.pool.counters())["fake"]["completion_tokens"]


def options(**ours: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is 6 x 7?"}],
        "seed": 3,
        "extra_body": {"longthink": ours},
    }


@pytest.mark.parametrize("strategy", ["single", "majority"])
async def test_the_usage_is_what_the_workers_counted(redis_client: Redis, strategy: str) -> None:
    """Streamed and plain, the answer comes with exactly the tokens that were generated for it."""
    bench = Bench(redis_client)
    told = 0
    asked = options(strategy=strategy, stop="none", budget={"candidates": 16})
    async with serving(stage=bench.stage) as service:
        plain = await service.openai.chat.completions.create(**asked)
        assert plain.usage is not None
        told += plain.usage.completion_tokens
        stream = await service.openai.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
            told += chunk.usage.completion_tokens if chunk.usage else 0
    await bench.reasoner.drain(5)
    assert text == plain.choices[0].message.content
    assert told == await bench.counted()


async def test_a_search_is_followed_and_its_trace_found(redis_client: Redis) -> None:
    """The stream tells how the search stands, and its trace is there as soon as it ends."""
    bench = Bench(redis_client, seconds=0.3)
    asked = options(strategy="majority", stop="none", budget={"candidates": 8})
    async with serving(stage=bench.stage) as service:
        stream = await service.openai.chat.completions.create(**asked, stream=True)
        thinking, trace_id = "", ""
        async for chunk in stream:
            extra = chunk.choices[0].delta.model_extra or {}
            thinking += extra.get("reasoning_content", "")
            trace_id = (chunk.model_extra or {}).get("longthink", {}).get("trace_id", "")
        trace = (await service.http.get(f"/v1/traces/{trace_id}")).json()
    await bench.reasoner.drain(5)
    assert thinking.startswith("sampling 8 candidates\n")
    assert " of 8 candidates · leading 42 with " in thinking
    kinds = [event["kind"] for event in trace["events"]]
    assert kinds[0] == "opened"
    assert kinds.count("told") == 8
    assert kinds[-1] == "closed"


async def test_single_is_read_while_it_is_written(redis_client: Redis) -> None:
    """The content of a single candidate comes in pieces, and no progress is told beside it."""
    bench = Bench(redis_client, seconds=0.5)
    async with serving(stage=bench.stage) as service:
        stream = await service.openai.chat.completions.create(
            **options(strategy="single"), stream=True
        )
        deltas = [chunk.choices[0].delta async for chunk in stream]
    await bench.reasoner.drain(5)
    assert len([delta for delta in deltas if delta.content]) > 2
    assert "".join(delta.content or "" for delta in deltas).startswith("6 x 7 = 42\n#### 4")
    assert not any("reasoning_content" in (delta.model_extra or {}) for delta in deltas)


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_up_empties_the_workers(redis_client: Redis, stream: bool) -> None:
    """Calls in flight are cancelled within a second of the client's leaving."""
    bench = Bench(redis_client, seconds=30)
    body = {**BODY, "stream": stream, "longthink": {"strategy": "majority"}}
    async with serving(stage=bench.stage) as service:
        async with httpx.AsyncClient(base_url=service.url) as leaving:
            request = asyncio.create_task(leaving.post(CHAT, json=body, timeout=20))
            async with asyncio.timeout(5):
                while await bench.running() < 16:
                    await asyncio.sleep(0.01)
            request.cancel()
            await asyncio.wait((request,))
        async with asyncio.timeout(1):
            while await bench.running():
                await asyncio.sleep(0.01)
    await bench.reasoner.drain(5)


async def test_a_budget_in_dollars_is_kept_to_the_millionth(redis_client: Redis) -> None:
    """At a micro-dollar a token, a budget of 60 micro-dollars buys 60 tokens and no more."""
    bench = Bench(redis_client)
    async with serving(stage=bench.stage) as service:
        reply = await service.openai.chat.completions.create(
            **options(strategy="majority", stop="none", budget={"usd": 0.00006})
        )
    await bench.reasoner.drain(5)
    ours = (reply.model_extra or {})["longthink"]
    assert ours["budget"]["usd"] == 0.00006
    assert round(ours["spent"]["usd"] * 1_000_000, 6) == ours["spent"]["completion_tokens"] <= 60
    assert ours["stopped"] == "budget"
    assert reply.choices[0].message.content


@pytest.mark.parametrize("field", ["strategy", "selector", "stop"])
async def test_a_name_that_does_not_exist_is_refused(redis_client: Redis, field: str) -> None:
    """The error says which of our options it was."""
    bench = Bench(redis_client)
    async with serving(stage=bench.stage) as service:
        with pytest.raises(BadRequestError) as refused:
            await service.openai.chat.completions.create(**options(**{field: "magic"}))
    assert refused.value.param == f"longthink.{field}"
    assert "magic" in refused.value.message


@pytest.mark.parametrize("concluded", [False, True])
async def test_what_a_failed_run_says_is_not_written_out(
    redis_client: Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    concluded: bool,
) -> None:
    """An exception may quote the prompt: neither asyncio nor the log writes what it says."""
    run = Driver.run

    async def failing(driver: Driver) -> None:
        if concluded:
            await run(driver)
        raise RuntimeError("the prompt was 6 x 7")

    monkeypatch.setattr(Driver, "run", failing)
    bench = Bench(redis_client)
    async with (
        serving(stage=bench.stage) as service,
        httpx.AsyncClient(base_url=service.url) as client,
    ):
        reply = await client.post(CHAT, json={**BODY, "longthink": {"strategy": "single"}})
    await bench.reasoner.drain(5)
    gc.collect()  # asyncio tells of a task's exception once the task is gone
    assert reply.status_code == (200 if concluded else 500)
    assert [record.getMessage() for record in caplog.records] == []
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    failed = [line for line in lines if line["event"].startswith("run failed")]
    assert [line["raised"][0]["type"] for line in failed] == ["RuntimeError"]
    assert "6 x 7" not in json.dumps(lines)
