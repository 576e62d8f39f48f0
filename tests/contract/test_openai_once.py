"""`Idempotency-Key` and `longthink.trace_id` over HTTP, before a real reasoner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from planner.domain import Query
from planner.effort import Effort
from planner.search import Search, begin
from services.idempotency import KeyOutdated
from services.once import MOST_WAITING, Once
from tests.contract.runners import Runner, until_told, wide
from tests.contract.scripted_service import BODY, CHAT, Service, Stage, serving

ASKED: dict[str, Any] = {
    **BODY,
    "seed": 3,
    "max_tokens": 200,
    "longthink": {"strategy": "majority", "stop": "none", "budget": {"candidates": 8}},
}


@asynccontextmanager
async def keyed(
    url: str, most_waiting: int = MOST_WAITING
) -> AsyncIterator[tuple[Service, Runner]]:
    """The edge before a runner of its own."""
    runner = Runner(url)
    runner.once = Once(runner.reasoner, runner.keys, runner.traces, most_waiting=most_waiting)
    stage = Stage(real=runner.reasoner, traces=runner.traces, once=runner.once)
    async with serving(stage=stage) as service:
        yield service, runner
    await runner.close()


async def ask(service: Service, key: str, **more: Any) -> httpx.Response:
    """The reply to a request with a key."""
    return await service.http.post(CHAT, json={**ASKED, **more}, headers={"Idempotency-Key": key})


async def test_a_repeated_request_gets_the_same_reply(redis_url: str) -> None:
    """At the same time or later, the answer, the usage and the trace are the same, paid once."""
    async with keyed(redis_url) as (service, runner):
        replies = list(await asyncio.gather(ask(service, "k"), ask(service, "k")))
        replies.append(await ask(service, "k"))
        bodies = [reply.raise_for_status().json() for reply in replies]
        for part in ("id", "choices", "usage"):
            assert bodies[0][part] == bodies[1][part] == bodies[2][part]
        names = {reply.headers["x-request-id"] for reply in replies}
        assert names == {bodies[0]["longthink"]["trace_id"]}
        assert max(runner.asked.values()) == 1
        counted = service.telemetry.registry.get_sample_value(
            "longthink_tokens_total", {"kind": "completion"}
        )
        assert counted == bodies[0]["usage"]["completion_tokens"]


async def test_fifty_at_once_are_one_search(redis_url: str) -> None:
    """Over two replicas of the edge: one of them searches, and all replies are of that search."""
    async with keyed(redis_url) as (one, first), keyed(redis_url) as (other, second):
        asked = (ask(service, "k") for service in (one, other) for _ in range(25))
        replies = await asyncio.gather(*asked)
        bodies = [reply.raise_for_status().json() for reply in replies]
        assert len({body["longthink"]["trace_id"] for body in bodies}) == 1
        assert len({body["usage"]["completion_tokens"] for body in bodies}) == 1
        assert sum((first.asked + second.asked).values()) == 8


async def test_more_than_may_wait_for_one_search_are_refused(redis_url: str) -> None:
    """Those that wait get their reply, the others a 429 that says when to try again."""
    async with keyed(redis_url, most_waiting=3) as (service, _):
        replies = await asyncio.gather(*(ask(service, "k") for _ in range(8)))
        refused = [reply for reply in replies if reply.status_code == 429]
        assert len([reply for reply in replies if reply.status_code == 200]) == 3
        assert len(refused) == 5
        for reply in refused:
            assert reply.json()["error"]["code"] == "idempotency_key_crowded"
            assert int(reply.headers["retry-after"]) >= 1
        assert (await ask(service, "k")).status_code == 200


async def test_a_repeated_stream_gets_the_same_answer(redis_url: str) -> None:
    """A stream that is asked for once more is told from its beginning to its end."""
    async with keyed(redis_url) as (service, runner):
        first, again = [await ask(service, "k", stream=True) for _ in range(2)]
        assert again.text.endswith("data: [DONE]\n\n")
        assert again.headers["x-request-id"] == first.headers["x-request-id"]
        answers = [
            [line for line in reply.text.splitlines() if '"content":"' in line][-1].split(
                '"delta"'
            )[1]
            for reply in (first, again)
        ]
        assert answers[0] == answers[1]
        assert len(runner.asked) == 8


async def test_another_body_is_refused(redis_url: str) -> None:
    """The order of its fields makes no other body; a value does."""
    async with keyed(redis_url) as (service, _):
        assert (await ask(service, "k")).status_code == 200
        turned = dict(reversed(ASKED.items()))
        same = await service.http.post(CHAT, json=turned, headers={"Idempotency-Key": "k"})
        assert same.status_code == 200
        refused = await ask(service, "k", seed=4)
        assert refused.status_code == 422
        assert refused.json()["error"]["code"] == "idempotency_key_reused"
        assert refused.json()["error"]["type"] == "invalid_request_error"


async def over(runner: Runner, trace_id: str) -> None:
    """Return once nothing of a request goes on any more, and all of it is written."""
    async with asyncio.timeout(5):
        while runner.reasoner.find(trace_id) is not None:
            await asyncio.sleep(0.005)
    await runner.traces.flush()


def changed(query: Query, effort: Effort, **known: Any) -> Search:
    """Another version of the service, which searches otherwise."""
    return begin(query, replace(effort, strategy="refine"), **known)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_from_before_an_update_is_refused(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """Where the search isn't the one on record any more, or its record has lost its beginning: the
    client is told to send a new key, each time.
    """
    async with keyed(redis_url) as (service, runner):
        first = await ask(service, "done", stream=stream)
        done = first.raise_for_status().headers["x-request-id"]
        await over(runner, done)
        with monkeypatch.context() as patched:
            patched.setattr("services.resume.begin", changed)
            refusals = [await ask(service, "done", stream=stream) for _ in range(2)]
        assert (await ask(service, "done", stream=stream)).status_code == 200
        assert await runner.redis.xtrim(f"longthink:{{{done}}}:trace", maxlen=2, approximate=False)
        refusals.append(await ask(service, "done", stream=stream))
        for refused in refusals:
            assert refused.status_code == 409, refused.text
            assert refused.json()["error"]["code"] == "idempotency_key_outdated"
            assert "new key" in refused.json()["error"]["message"]
        assert (await ask(service, "new", stream=stream)).status_code == 200


async def test_a_request_that_was_left_before_an_update_is_refused(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can go on with it."""
    async with keyed(redis_url) as (_, runner):
        run = await runner.run(wide(64))
        await until_told(run, 4)
        run.cancel()
        await run.reply()
        monkeypatch.setattr("services.resume.begin", changed)
        for _ in range(2):
            with pytest.raises(KeyOutdated):
                await runner.run(wide(64))


@pytest.mark.parametrize("key", ["", "k" * 256, "clé"])
async def test_a_strange_key_is_refused(redis_url: str, key: str) -> None:
    """A key is a short printable word."""
    async with keyed(redis_url) as (service, _):
        headers = {b"idempotency-key": key.encode()}
        refused = await service.http.post(CHAT, json=ASKED, headers=headers)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "Idempotency-Key"


async def test_an_earlier_trace_is_paid_once(redis_url: str) -> None:
    """The reply says what was kept and what counts against the budget, and usage what is new."""
    async with keyed(redis_url) as (service, runner):
        cheap = (await ask(service, "cheap")).json()
        ours = {**ASKED["longthink"], "budget": {"candidates": 12}, "trace_id": cheap["id"]}
        more = (await ask(service, "more", longthink=ours)).raise_for_status().json()
        said = more["longthink"]
        assert said["reused"] == 8
        assert said["spent"]["candidates"] == 4
        assert said["budget"]["candidates"] == 12
        assert said["budget"]["spent_before"]["candidates"] == 8
        assert said["budget"]["spent_before"]["trace_id"] == cheap["longthink"]["trace_id"]
        assert more["usage"]["completion_tokens"] == said["spent"]["completion_tokens"]
        assert max(runner.asked.values()) == 1


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"seed": 4}, 409, "trace_of_another_query"),
        ({"temperature": 0.1}, 409, "trace_of_another_query"),
        ({"longthink": {"trace_id": "0" * 32}}, 404, "trace_not_found"),
        ({"longthink": {"trace_id": "no/id"}}, 400, "invalid_value"),
    ],
)
async def test_a_trace_that_is_of_no_use_is_refused(
    redis_url: str, change: dict[str, Any], status: int, code: str
) -> None:
    """Of another query, gone, or no id at all: the client is told which."""
    async with keyed(redis_url) as (service, _):
        cheap = (await ask(service, "cheap")).json()
        asked = {**ASKED, "longthink": {"trace_id": cheap["longthink"]["trace_id"]}, **change}
        refused = await service.http.post(CHAT, json=asked)
        assert refused.status_code == status
        assert refused.json()["error"]["code"] == code
        assert refused.json()["error"]["param"] == "longthink.trace_id"
