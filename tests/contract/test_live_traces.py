"""Traces while they are written, over HTTP: followed, listed, and ended early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from planner.domain import Prices, Stopped
from services.api import Limits
from services.budget import RedisLedger
from services.driver import Manner
from services.reasoning import Reasoner
from services.recent import INDEX, MOST
from services.run import Reply
from services.trace import SILENT_SECONDS, Event, Kind, TraceStore
from tests.contract.scripted_service import (
    BODY,
    CHAT,
    ScriptedRun,
    Service,
    Shelf,
    Stage,
    cancelled,
    serving,
    started,
    until_cancelled,
)
from workers.fake import FakePool, Script

OPENED: dict[str, Any] = {
    "query": {"messages": [{"role": "user", "content": "What is 6 x 7?"}]},
    "effort": {"strategy": "majority"},
}
CLOSED: dict[str, Any] = {
    "outcome": {"answer": "42", "confidence": 0.75, "stopped": "complete"},
    "spent": {"completion_tokens": 47},
}


async def read(response: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """The events of a stream as it brings them, comments under the name of nothing."""
    event: dict[str, str] = {}
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if line:
            event[name] = value
        elif event:
            yield event
            event = {}


@asynccontextmanager
async def following(
    service: Service, trace_id: str, **headers: str
) -> AsyncIterator[AsyncIterator[dict[str, str]]]:
    async with service.http.stream(
        "GET", f"/v1/traces/{trace_id}/events", headers=headers
    ) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield read(response)


async def followed(service: Service, trace_id: str, **headers: str) -> list[dict[str, str]]:
    """A whole stream."""
    async with asyncio.timeout(10), following(service, trace_id, **headers) as events:
        return [event async for event in events]


async def ask(service: Service) -> tuple[asyncio.Task[httpx.Response], ScriptedRun]:
    request = asyncio.create_task(service.http.post(CHAT, json=BODY))
    return request, await started(service)


async def test_a_search_is_followed_from_the_first_event_to_the_last() -> None:
    """What came before the follower and what comes after is sent once each, as the trace has it."""
    go_on = asyncio.Event()

    async def course(run: ScriptedRun) -> Reply:
        run.trace.append(Kind.OPENED, **OPENED)
        await go_on.wait()
        run.trace.append(Kind.TOKENS, id="a#0", after=0, text="½")
        run.trace.append(Kind.CLOSED, **CLOSED)
        return run.comes_to()

    async with serving(course) as service:
        request, run = await ask(service)
        async with asyncio.timeout(10), following(service, run.trace.id) as events:
            first = await anext(events)
            assert first["id"] == "0"
            assert first["event"] == "opened"
            go_on.set()
            rest = [event async for event in events]
        await request
    assert [(event["id"], event["event"]) for event in rest] == [("1", "tokens"), ("2", "closed")]
    told = json.loads(rest[0]["data"])
    assert told["data"] == {"id": "a#0", "after": 0, "text": "½"}
    assert told["seq"] == 1
    assert told["seconds"] > 0


async def test_a_follower_goes_on_after_the_last_event_it_had() -> None:
    """With Last-Event-ID nothing comes twice; one that has all is told to stay away."""
    shelf = Shelf()
    kinds: list[tuple[Kind, dict[str, Any]]] = [
        (Kind.OPENED, OPENED),
        (Kind.ASKED, {"tasks": []}),
        (Kind.CLOSED, CLOSED),
    ]
    shelf.events["abc"] = [Event(i, i / 10, kind, data) for i, (kind, data) in enumerate(kinds)]
    shelf.silent_seconds = 60
    async with serving(stage=Stage(traces=shelf)) as service:
        assert [one["id"] for one in await followed(service, "abc")] == ["0", "1", "2"]
        rest = await followed(service, "abc", **{"last-event-id": "1"})
        assert [one["id"] for one in rest] == ["2"]
        whole = await followed(service, "abc", **{"last-event-id": "no number"})
        assert len(whole) == 3
        again = await service.http.get("/v1/traces/abc/events", headers={"last-event-id": "2"})
    assert again.status_code == 204


async def test_a_silent_search_is_known_to_be_there() -> None:
    """While nothing happens comments keep the connection open."""
    stage = Stage(limits=Limits(heartbeat_seconds=0.05))
    async with serving(until_cancelled, stage) as service:
        request, run = await ask(service)
        run.trace.append(Kind.OPENED, **OPENED)
        async with asyncio.timeout(5), following(service, run.trace.id) as events:
            seen = [await anext(events) for _ in range(4)]
        run.cancel()
        await request
    assert [one.get("event") for one in seen] == ["opened", None, None, None]


async def test_followers_that_leave_or_do_not_read_cost_the_search_nothing() -> None:
    """A search with twenty followers, ten gone and ten that never read, ends like any other."""
    async with serving(until_cancelled) as service:
        request, run = await ask(service)
        run.trace.append(Kind.OPENED, **OPENED)
        streams = [following(service, run.trace.id) for _ in range(20)]
        for stream in streams:
            await anext(await stream.__aenter__())
        for stream in streams[:10]:
            await stream.__aexit__(None, None, None)
        for _ in range(2000):
            run.trace.append(Kind.TOLD, text="x" * 1000)
        run.cancel()
        async with asyncio.timeout(2):
            assert (await request).status_code == 200
        for stream in streams[10:]:
            await stream.__aexit__(None, None, None)


async def test_a_search_that_fails_is_not_followed_for_ever() -> None:
    """Where a run ends without an outcome, the stream says so and ends."""

    async def course(run: ScriptedRun) -> Reply:
        run.trace.append(Kind.OPENED, **OPENED)
        await run.cancelled.wait()
        raise RuntimeError("out of order")

    async with serving(course) as service:
        request, run = await ask(service)
        async with asyncio.timeout(10), following(service, run.trace.id) as events:
            await anext(events)
            run.cancel()
            rest = [event async for event in events]
        await request
    assert [one["event"] for one in rest] == ["lost"]
    assert "id" not in rest[0]
    assert json.loads(rest[0]["data"]) == {"reason": "The search failed."}


async def test_a_trace_whose_service_died_is_given_up() -> None:
    """One that isn't closed and was silent for too long is told as lost, with the reason."""
    shelf = Shelf()
    shelf.events["abc"] = [Event(0, 0.0, Kind.OPENED, OPENED)]
    shelf.silent_seconds = SILENT_SECONDS + 1
    async with serving(stage=Stage(traces=shelf)) as service:
        events = await followed(service, "abc")
    assert [one["event"] for one in events] == ["opened", "lost"]
    assert "has died" in events[1]["data"]


class Replicas:
    """Two replicas of the edge on one Redis, with workers that take `seconds` to answer."""

    def __init__(self, redis: Redis, *, seconds: float) -> None:
        self.stores = [TraceStore(redis) for _ in range(2)]
        pool = FakePool(lambda call: Script("6 x 7 = 42\n#### 42", seconds), judge=None)
        manner = Manner(prices=Prices(completion=1), step_delimiter="\n")
        self.reasoners = [
            Reasoner(pool, RedisLedger(redis), store, manner) for store in self.stores
        ]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[Service, Service]]:
        stages = [
            Stage(real=reasoner, traces=store)
            for reasoner, store in zip(self.reasoners, self.stores, strict=True)
        ]
        async with serving(stage=stages[0]) as one, serving(stage=stages[1]) as other:
            yield one, other
            for reasoner in self.reasoners:
                await reasoner.drain(5)

    @staticmethod
    async def begun(service: Service) -> dict[str, Any]:
        """The first request in the list, once there is one."""
        async with asyncio.timeout(5):
            while not (rows := (await service.http.get("/v1/traces")).json()["data"]):
                await asyncio.sleep(0.02)
        row: dict[str, Any] = rows[0]
        return row


async def test_a_search_of_another_replica_is_followed_listed_and_ended(
    redis_client: Redis,
) -> None:
    """Whichever replica is asked: the search is seen under way, ends on demand, and is closed."""
    replicas = Replicas(redis_client, seconds=30)
    async with replicas.serving() as (one, other), asyncio.timeout(20):
        request = asyncio.create_task(one.http.post(CHAT, json=BODY))
        row = await replicas.begun(other)
        assert row["under_way"]
        assert row["question"] == "What is 6 x 7?"
        async with following(other, row["id"]) as events:
            assert (await anext(events))["event"] == "opened"
            ended = await other.http.delete(f"/v1/traces/{row['id']}")
            rest = [event["event"] async for event in events if "event" in event]
        reply = (await request).json()
        row = await replicas.begun(other)
        over = await other.http.delete(f"/v1/traces/{row['id']}")
    assert ended.status_code == 202
    assert "closed" in rest
    assert reply["longthink"]["stopped"] == Stopped.CANCELLED
    assert not row["under_way"]
    assert row["stopped"] == "cancelled"
    assert over.status_code == 409
    assert over.json()["error"]["code"] == "trace_closed"


async def test_the_list_says_what_each_request_came_to(redis_client: Redis) -> None:
    """The newest comes first, with its answer, its confidence, its strategy and its tokens."""
    replicas = Replicas(redis_client, seconds=0)
    async with replicas.serving() as (one, other):
        for _ in range(2):
            await one.http.post(CHAT, json=BODY)
        reply = (await one.http.post(CHAT, json=BODY)).json()
        rows = (await other.http.get("/v1/traces?limit=2")).json()["data"]
    ours = reply["longthink"]
    assert len(rows) == 2
    assert rows[0]["began"] >= rows[1]["began"]
    assert rows[0] | {"began": 0, "seconds": 0} == {
        "id": ours["trace_id"],
        "began": 0,
        "question": "What is 6 x 7?",
        "strategy": ours["strategy"],
        "under_way": False,
        "answer": "42",
        "confidence": ours["confidence"],
        "stopped": ours["stopped"],
        "completion_tokens": ours["spent"]["completion_tokens"],
        "seconds": 0,
    }


async def test_the_list_is_bounded_and_outlives_nothing(redis_client: Redis) -> None:
    """The index keeps the newest only, and a request whose trace is gone isn't shown."""
    store = TraceStore(redis_client)
    for number in range(MOST + 20):
        store.write(f"t{number}", Event(0, 0.0, Kind.OPENED, OPENED))
    await store.flush()
    assert await redis_client.zcard(INDEX) == MOST
    for key in await redis_client.keys("longthink:{t2[0-9]*}:recent"):
        await redis_client.delete(key)
    rows = await store.recent(MOST)
    await store.aclose()
    assert all(not row.id.startswith("t2") for row in rows)
    assert rows


async def test_a_request_whose_service_died_is_not_under_way(redis_client: Redis) -> None:
    """One that was never closed counts as under way only while its trace grows."""
    store = TraceStore(redis_client)
    store.write("abc", Event(0, 0.0, Kind.OPENED, OPENED))
    await store.flush()
    assert [row.under_way for row in await store.recent(5)] == [True]
    long_ago: dict[Any, Any] = {"seq": 0, "seconds": "0", "kind": "opened", "data": "{}"}
    await redis_client.delete("longthink:{abc}:trace")
    await redis_client.xadd("longthink:{abc}:trace", long_ago, id="1000-0")
    await redis_client.expire("longthink:{abc}:trace", 60)
    assert [row.under_way for row in await store.recent(5)] == [False]
    await store.aclose()


async def test_ending_a_search_here_answers_with_the_best_so_far() -> None:
    """DELETE ends the run of this process; one whose trace is closed is over."""
    async with serving(until_cancelled) as service:
        request, run = await ask(service)
        response = await service.http.delete(f"/v1/traces/{run.trace.id}")
        await cancelled(run)
        reply = (await request).json()
    assert response.status_code == 202
    assert response.json() == {"id": run.trace.id, "status": "ending"}
    assert reply["longthink"]["stopped"] == "cancelled"


async def test_what_cannot_be_ended_is_said() -> None:
    """An unknown search is a 404, one that is over a 409, one nobody listens for a 503."""
    shelf = Shelf()
    shelf.events["over"] = [Event(0, 0.0, Kind.OPENED, OPENED), Event(1, 0.1, Kind.CLOSED, CLOSED)]
    shelf.events["alone"] = [Event(0, 0.0, Kind.OPENED, OPENED)]
    shelf.listeners = 0
    async with serving(stage=Stage(traces=shelf)) as service:
        statuses = {
            name: (await service.http.delete(f"/v1/traces/{name}")).status_code
            for name in ("unknown", "a*", "over", "alone")
        }
    assert statuses == {"unknown": 404, "a*": 404, "over": 409, "alone": 503}
    assert shelf.asked == ["alone"]


async def test_no_page_of_another_site_gets_leave_to_end_a_search() -> None:
    """A browser asks before it sends a DELETE across sites, and nothing here says yes."""
    async with serving(until_cancelled) as service:
        request, run = await ask(service)
        asking = {"origin": "http://elsewhere.test", "access-control-request-method": "DELETE"}
        preflight = await service.http.options(f"/v1/traces/{run.trace.id}", headers=asking)
        assert not run.cancelled.is_set()
        listed = await service.http.get("/v1/traces", headers={"origin": "http://elsewhere.test"})
        run.cancel()
        await request
    assert preflight.status_code == 405
    for response in (preflight, listed):
        assert not any(name.startswith("access-control-") for name in response.headers)


@pytest.mark.parametrize("limit", ["0", "-1", "x", "201", "", "9" * 5000, "²"])
async def test_a_limit_out_of_bounds_is_refused(limit: str) -> None:
    """How many requests are listed is a whole number within bounds."""
    async with serving() as service:
        response = await service.http.get("/v1/traces", params={"limit": limit})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "limit"


@pytest.mark.parametrize("trace_id", ["unknown", "a*", "%00"])
async def test_an_unknown_trace_cannot_be_followed(trace_id: str) -> None:
    """Following one is a 404, and no stream."""
    async with serving() as service:
        response = await service.http.get(f"/v1/traces/{trace_id}/events")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "trace_not_found"
