"""OpenAI's own client follows a reply while it is made: the thinking, the answer, the usage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from openai import APIError

from planner.domain import Candidate, Finish, Outcome, Stopped
from services.api import Limits
from services.run import Reply
from services.trace import Kind
from tests.contract.scripted_service import (
    BODY,
    CHAT,
    MODEL,
    OUTCOME,
    ScriptedRun,
    Service,
    Stage,
    serving,
    standing,
)

STREAM = {**BODY, "stream": True}
SINGLE = {**STREAM, "longthink": {"strategy": "single"}}
USAGE = {"stream_options": {"include_usage": True}}


async def lines(service: Service, body: dict[str, Any]) -> list[str]:
    """The lines of a stream, blank ones left out."""
    async with service.http.stream("POST", CHAT, json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        return [line async for line in response.aiter_lines() if line]


async def chunks(service: Service, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks of a stream that ends as it should, heartbeats left out."""
    data = [line.removeprefix("data: ") for line in await lines(service, body) if line[0] != ":"]
    assert data.pop() == "[DONE]"
    return [json.loads(each) for each in data]


def deltas(chunks: list[dict[str, Any]], key: str) -> list[str]:
    found = [choice["delta"].get(key) for chunk in chunks for choice in chunk["choices"]]
    return [text for text in found if text]


async def searching(run: ScriptedRun) -> Reply:
    """Four candidates, heard of one by one, far enough apart to be told of each."""
    run.trace.append(Kind.ASKED, room=256, tasks=[f"expand:{index}" for index in range(4)])
    for finished, leader in ((1, 0), (2, 1), (4, 3)):
        await asyncio.sleep(0.15)
        standing(run, finished, 4, tokens=602 * finished, leader=leader)
    await asyncio.sleep(0.15)
    return run.comes_to()


async def test_the_client_reads_thinking_then_answer_then_usage() -> None:
    """OpenAI's client sees the role first, the thinking, the content, the end and the usage."""
    async with serving(searching) as service:
        stream = await service.openai.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What is 6 x 7?"}],
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"longthink": {"budget": {"completion_tokens": 4000}}},
        )
        seen = [chunk async for chunk in stream]
    assert seen[0].choices[0].delta.role == "assistant"
    extras = [chunk.choices[0].delta.model_extra or {} for chunk in seen if chunk.choices]
    thinking = "".join(extra.get("reasoning_content", "") for extra in extras)
    assert thinking.splitlines() == [
        "sampling 4 candidates",
        "1 of 4 candidates · 602 tokens of 4,000 spent",
        "2 of 4 candidates · leading 42 with 1 of 2 votes · 1,204 tokens of 4,000 spent",
        "4 of 4 candidates · leading 42 with 3 of 4 votes · 2,408 tokens of 4,000 spent",
    ]
    content = [chunk.choices[0].delta.content for chunk in seen if chunk.choices]
    assert "".join(filter(None, content)) == "6 x 7 = 42\n#### 42"
    finish = seen[-2]
    assert finish.choices[0].finish_reason == "stop"
    assert (finish.model_extra or {})["longthink"]["trace_id"] == service.reasoner.runs[0].trace.id
    assert seen[-1].choices == []
    assert seen[-1].usage is not None
    assert seen[-1].usage.completion_tokens == 47
    assert [chunk.usage for chunk in seen[:-1]] == [None] * (len(seen) - 1)
    assert len({chunk.id for chunk in seen}) == 1


async def test_progress_is_told_no_more_often_than_allowed() -> None:
    """Of a flood of events the newest is told, at most one every tenth of a second."""

    async def flood(run: ScriptedRun) -> Reply:
        for finished in range(100):
            standing(run, finished, 100, tokens=finished, leader=finished)
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.2)
        return run.comes_to()

    async with serving(flood) as service:
        began = asyncio.get_running_loop().time()
        told = deltas(await chunks(service, STREAM), "reasoning_content")
        took = asyncio.get_running_loop().time() - began
    assert 2 <= len(told) <= took / 0.1 + 1
    assert told[-1].startswith("99 of 100 candidates")


async def test_single_streams_its_tokens_as_they_are_generated() -> None:
    """The pieces of the one candidate are content at once; the end brings what was missing."""
    shown = asyncio.Event()

    async def writing(run: ScriptedRun) -> Reply:
        for piece in ("6 x 7", " = 42", "\n#### "):
            run.trace.append(Kind.TOKENS, id="call#0", text=piece)
            await asyncio.sleep(0.02)
        await shown.wait()
        return run.comes_to()

    async with serving(writing) as service, service.http.stream("POST", CHAT, json=SINGLE) as got:
        text = ""
        async for line in got.aiter_lines():
            if line.startswith("data: {"):
                choice = json.loads(line[6:])["choices"][0]
                assert "reasoning_content" not in choice["delta"]
                text += choice["delta"].get("content", "")
            if text == "6 x 7 = 42\n#### ":
                shown.set()
    assert service.reasoner.streamed == [True]
    assert text == "6 x 7 = 42\n#### 42"


@pytest.mark.parametrize(
    "body", [STREAM, {**SINGLE, "n": 2}, {**SINGLE, "stream": False}], ids=["wide", "n", "plain"]
)
async def test_tokens_are_asked_for_only_where_they_can_be_shown(body: dict[str, Any]) -> None:
    """Where there is something to choose from, or nobody to show it to, no worker streams."""
    async with serving() as service:
        await service.http.post(CHAT, json=body)
    assert service.reasoner.streamed == [False]


async def test_a_candidate_written_again_is_not_shown_twice() -> None:
    """A call that takes over from a lost worker, from before where it was, continues the text."""

    async def recovering(run: ScriptedRun) -> Reply:
        run.trace.append(Kind.TOKENS, id="call#0", text="6 x 7 = ", after=0)
        await asyncio.sleep(0.03)
        for piece in ("6 x", " 7 = 4", "2"):
            run.trace.append(Kind.TOKENS, id="call#1", text=piece, after=0)
            await asyncio.sleep(0.03)
        run.trace.append(Kind.TOKENS, id="call#2", text="\n####", after=10)
        await asyncio.sleep(0.03)
        return run.comes_to()

    async with serving(recovering) as service:
        pieces = deltas(await chunks(service, SINGLE), "content")
    assert "".join(pieces) == "6 x 7 = 42\n#### 42"
    assert pieces[0] == "6 x 7 = "


async def test_a_different_answer_than_was_shown_is_an_error() -> None:
    """What was shown can't be taken back, so a stream that can't be continued says so."""

    async def contradicting(run: ScriptedRun) -> Reply:
        run.trace.append(Kind.TOKENS, id="call#0", text="6 x 7 = 54")
        await asyncio.sleep(0.05)
        return run.comes_to()

    async with serving(contradicting) as service:
        seen = await lines(service, SINGLE)
    assert json.loads(seen[-1].removeprefix("data: "))["error"]["code"] == "answer_changed"


async def test_several_answers_are_streamed_by_index() -> None:
    """With n, each choice has its content and its end; the last end carries our object."""
    async with serving() as service:
        seen = await chunks(service, {**STREAM, **USAGE, "n": 2})
    choices = [choice for chunk in seen for choice in chunk["choices"]]
    text = {0: "", 1: ""}
    for choice in choices:
        text[choice["index"]] += choice["delta"].get("content") or ""
    assert text == {0: OUTCOME.ranked[0].text, 1: OUTCOME.ranked[1].text}
    ends = [(one["index"], one["finish_reason"]) for one in choices if one["finish_reason"]]
    assert ends == [(0, "stop"), (1, "length")]
    assert ["longthink" in chunk for chunk in seen][-3:] == [False, True, False]
    assert seen[-1]["usage"]["total_tokens"] == 127


async def test_without_include_usage_there_is_no_usage() -> None:
    """No chunk speaks of usage unless it was asked for, as at OpenAI."""
    async with serving() as service:
        seen = await chunks(service, STREAM)
    assert all("usage" not in chunk and chunk["choices"] for chunk in seen)


async def test_a_silent_search_sends_heartbeats() -> None:
    """Comments keep the connection open, and OpenAI's client doesn't see them."""

    async def silent(run: ScriptedRun) -> Reply:
        await asyncio.sleep(0.5)
        return run.comes_to()

    stage = Stage(limits=Limits(heartbeat_seconds=0.1))
    async with serving(silent, stage) as service:
        seen = await lines(service, STREAM)
        assert 2 <= seen.count(": thinking") <= 5
        stream = await service.openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "?"}], stream=True
        )
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "stop"


async def test_a_failure_in_mid_stream_is_told_without_inner_details() -> None:
    """The client raises OpenAI's error; the stream has no [DONE], and the message no secret."""

    async def breaking(run: ScriptedRun) -> Reply:
        run.trace.append(Kind.ASKED, room=256, tasks=["expand:0"])
        await asyncio.sleep(0.05)
        raise RuntimeError("the password is swordfish")

    async with serving(breaking) as service:
        seen = await lines(service, STREAM)
        error = json.loads(seen[-1].removeprefix("data: "))["error"]
        assert (error["type"], error["code"]) == ("server_error", "internal_error")
        assert "swordfish" not in error["message"]
        stream = await service.openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "?"}], stream=True
        )
        with pytest.raises(APIError, match="failed to answer"):
            assert [chunk async for chunk in stream]


async def test_a_stream_whose_every_task_failed_ends_in_an_error() -> None:
    """What would be a 503 is an error event, as the 200 is out already."""

    async def failing(run: ScriptedRun) -> Reply:
        return run.comes_to(Outcome(stopped=Stopped.COMPLETE))

    async with serving(failing) as service:
        seen = await lines(service, STREAM)
    assert json.loads(seen[-1].removeprefix("data: "))["error"]["code"] == "workers_failed"


async def test_a_cut_candidate_ends_with_length() -> None:
    """A deadline's best so far is shown, and its finish reason says that it was cut."""

    async def cut(run: ScriptedRun) -> Reply:
        partial = Candidate((0,), "6 x", (1, 2), Finish.CANCELLED)
        return run.comes_to(replace(OUTCOME, ranked=(partial,), stopped=Stopped.DEADLINE))

    async with serving(cut) as service:
        seen = await chunks(service, STREAM)
    assert deltas(seen, "content") == ["6 x"]
    assert seen[-1]["choices"][0]["finish_reason"] == "length"
    assert seen[-1]["longthink"]["stopped"] == "deadline"


async def test_proxies_are_told_not_to_hold_it_back() -> None:
    """The headers of a stream keep caches and buffers away from it."""
    async with serving() as service:
        response = await service.http.post(CHAT, json=STREAM)
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers


async def test_chunks_leave_as_they_are_made() -> None:
    """The first progress is there while the search still runs."""
    go_on = asyncio.Event()

    async def waiting(run: ScriptedRun) -> Reply:
        run.trace.append(Kind.ASKED, room=256, tasks=["expand:0", "expand:1"])
        await go_on.wait()
        return run.comes_to()

    async def until_progress(parts: AsyncIterator[str]) -> str:
        async for line in parts:
            if "reasoning_content" in line:
                return line
        raise AssertionError("the stream ended without progress")

    async with serving(waiting) as service, service.http.stream("POST", CHAT, json=STREAM) as got:
        parts = got.aiter_lines()
        async with asyncio.timeout(5):
            assert "sampling 2 candidates" in await until_progress(parts)
        go_on.set()
        assert [line async for line in parts if line][-1] == "data: [DONE]"
