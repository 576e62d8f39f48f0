"""An orchestrator that is killed, or a client that hangs up, costs what was in flight and no more.

The engines' own counters say what was generated, Redis itself what the ledger has.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any

import httpx
from redis import Redis

from services.app import Service
from services.redis_server import RedisServer
from tests.e2e.conftest import MODEL, Counters

CHAT = "/v1/chat/completions"
CANDIDATES = 96


def body(question: str, candidates: int = CANDIDATES, **ours: Any) -> dict[str, Any]:
    """A request for so many candidates, none of them in vain."""
    said = {"strategy": "majority", "stop": "none", "budget": {"candidates": candidates}, **ours}
    messages = [{"role": "user", "content": question}]
    return {"model": MODEL, "messages": messages, "max_tokens": 256, "seed": 3, "longthink": said}


def edges() -> list[int]:
    """The process ids of the edge's replicas on this machine."""
    titled = subprocess.run(
        ["pgrep", "--full", "^ray::ServeReplica:longthink:edge"],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(pid) for pid in titled.stdout.split()]


def trace_of(redis: RedisServer, known: set[str]) -> list[dict[str, str]]:
    """The events so far of the one trace that isn't `known`, from Redis itself.

    A batch of them whose reply came too late was written twice.
    """
    with Redis.from_url(redis.url, decode_responses=True) as admin:
        names = [key for key in admin.scan_iter(match="longthink:*:trace") if key not in known]
        rows = [fields for name in names for _, fields in admin.xrange(name)]
    return list({row["seq"]: row for row in rows}.values())


def traces(redis: RedisServer) -> set[str]:
    """The keys of all traces there are."""
    with Redis.from_url(redis.url, decode_responses=True) as admin:
        return set(admin.scan_iter(match="longthink:*:trace"))


def account(redis: RedisServer, trace_id: str) -> dict[str, str]:
    """What the ledger has of a request, from Redis itself."""
    with Redis.from_url(redis.url, decode_responses=True) as admin:
        return dict(admin.hgetall(f"longthink:{{{trace_id}}}:budget:"))


def wait_until(what: Callable[[], Any], seconds: float = 60) -> None:
    """Return when it is so."""
    give_up = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < give_up, "it never came to that"
        time.sleep(0.02)


def idle(counters: Callable[[], Counters]) -> Counters:
    """The counters, once nothing runs."""
    wait_until(lambda: counters().busy == 0)
    return counters()


def journaled(events: list[dict[str, Any]], kind: str) -> dict[str, list[int]]:
    """By operation, what the journal has of it."""
    return {
        op: cost for it in events if it["kind"] == kind for op, cost in it["data"]["ops"].items()
    }


def done(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was told of the candidates that were done."""
    told = [it["data"] for it in events if it["kind"] == "told"]
    return [it for it in told if it["id"].startswith("expand:") and it["status"] == "done"]


def ask(http: httpx.Client, asked: dict[str, Any], key: str) -> httpx.Response:
    """Send a request with its key."""
    return http.post(CHAT, json=asked, headers={"idempotency-key": key})


def test_a_killed_orchestrators_request_goes_on(
    service: Service,
    http: httpx.Client,
    redis: RedisServer,
    hard: Callable[[int], list[str]],
    counters: Callable[[], Counters],
) -> None:
    """Killed in mid-search: the request repeated with its key is answered, candidates that were
    paid for are not generated again, and the ledger balances to the token.
    """
    before, known = idle(counters), traces(redis)
    asked, key = body(hard(1)[0]), token_hex(8)

    def first() -> None:
        with httpx.Client(base_url=service.url, timeout=100) as client:
            try:
                ask(client, asked, key)
            except httpx.HTTPError:
                return

    sending = threading.Thread(target=first)
    sending.start()
    told: list[dict[str, str]] = []

    def some_told() -> bool:
        told[:] = [it for it in trace_of(redis, known) if it["kind"] == "told"]
        return len(told) >= CANDIDATES // 6

    wait_until(some_told)
    (victim,) = edges()
    os.kill(victim, signal.SIGKILL)
    at_death = trace_of(redis, known)
    sending.join()
    wait_until(lambda: edges() and edges() != [victim], 120)
    wait_until(lambda: http.get("/health/ready").status_code == 200, 120)
    between = idle(counters)
    reply = ask(http, asked, key)
    after = idle(counters)
    assert reply.status_code == 200, reply.text

    said, usage = reply.json()["longthink"], reply.json()["usage"]
    events = http.get(f"/v1/traces/{said['trace_id']}").json()["events"]
    told_then = sum(it["kind"] == "told" for it in at_death)
    assert told_then < CANDIDATES, "it was over before it was killed"
    assert said["answer"] is not None
    names = [it["id"] for it in done(events)]
    assert len(names) == len(set(names)) == CANDIDATES, "every candidate is told once"

    # What was generated after the death is what the candidates took that hadn't been told by then.
    resumed = next(at for at, it in enumerate(events) if it["kind"] == "resumed")
    again = events[resumed]["data"]["again"]
    assert len(again) + told_then == CANDIDATES
    sent, paid = journaled(events, "sent"), journaled(events, "paid")
    later = journaled(events[resumed:], "sent")
    assert (after - between).completion_tokens == sum(paid[op][2] for op in later)
    assert (after - between).prompt_tokens == sum(paid[op][0] for op in later)
    assert not {op.split("#")[0] for op in later} & {it["id"] for it in done(events[:resumed])}

    # The ledger has every call, once: what it cost, or what it held where nobody knows.
    lost = events[resumed]["data"]["lost"]
    assert sent.keys() == paid.keys()
    ledger = account(redis, said["trace_id"])
    spent = [int(word) for word in ledger["spent"].split(",")]
    assert spent == [sum(cost[at] for cost in paid.values()) for at in range(6)]
    assert ledger["held"] == "0,0,0,0,0,0"
    assert usage["completion_tokens"] == spent[2]
    generated = (after - before).completion_tokens
    known_cost = sum(cost[2] for op, cost in paid.items() if op not in lost)
    assert known_cost <= generated <= spent[2]


def test_two_at_once_are_paid_once(
    http: httpx.Client,
    hard: Callable[[int], list[str]],
    counters: Callable[[], Counters],
) -> None:
    """A second request with the key attaches to the first, and a third is told the same later; with
    another body the key is refused.
    """
    before = idle(counters)
    asked, key = body(hard(1)[0], 16), token_hex(8)
    replies: list[httpx.Response] = []
    sending = [
        threading.Thread(target=lambda: replies.append(ask(http, asked, key))) for _ in range(2)
    ]
    for thread in sending:
        thread.start()
    for thread in sending:
        thread.join()
    replies.append(ask(http, asked, key))
    after = idle(counters)

    bodies = [reply.raise_for_status().json() for reply in replies]
    assert bodies[0]["usage"] == bodies[1]["usage"] == bodies[2]["usage"]
    assert bodies[0]["choices"] == bodies[1]["choices"] == bodies[2]["choices"]
    assert len({one["longthink"]["trace_id"] for one in bodies}) == 1
    assert len({reply.headers["x-request-id"] for reply in replies}) == 1
    assert (after - before).completion_tokens == bodies[0]["usage"]["completion_tokens"]
    refused = ask(http, {**asked, "temperature": 0.5}, key)
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "idempotency_key_reused"


def test_a_hangup_is_gone_on_from(
    service: Service,
    http: httpx.Client,
    hard: Callable[[int], list[str]],
    counters: Callable[[], Counters],
) -> None:
    """After a broken connection the engines are free, and a repetition pays for what is missing."""
    before = idle(counters)
    asked, key = body(hard(1)[0], 64), token_hex(8)
    with (
        httpx.Client(base_url=service.url, timeout=100) as leaving,
        leaving.stream(
            "POST", CHAT, json={**asked, "stream": True}, headers={"idempotency-key": key}
        ) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines).startswith("data: ")
        wait_until(lambda: (counters() - before).completion_tokens > 200)
    cut = idle(counters)
    reply = ask(http, {**asked, "stream": True}, key)
    after = idle(counters)
    assert reply.status_code == 200
    assert reply.text.endswith("data: [DONE]\n\n")
    events = http.get(f"/v1/traces/{reply.headers['x-request-id']}").json()["events"]
    assert [it["kind"] for it in events].count("resumed") == 1
    assert len(done(events)) == 64
    paid = journaled(events, "paid")
    assert 0 < (cut - before).completion_tokens < (after - before).completion_tokens
    assert sum(cost[2] for cost in paid.values()) == (after - before).completion_tokens


def test_a_bigger_budget_pays_the_difference(
    http: httpx.Client,
    hard: Callable[[int], list[str]],
    counters: Callable[[], Counters],
) -> None:
    """Asked cheap first and again for more, the engines make only what is missing."""
    question = hard(1)[0]
    cheap = http.post(CHAT, json=body(question, 8, selector="weighted")).raise_for_status().json()
    between = idle(counters)
    trace_id = cheap["longthink"]["trace_id"]
    asked = body(question, 24, selector="weighted", trace_id=trace_id)
    more = http.post(CHAT, json=asked).raise_for_status().json()
    after = idle(counters)
    spent = more["longthink"]["spent"]
    assert more["longthink"]["reused"] == 16, "eight candidates and their grades"
    assert spent["candidates"] == 16
    assert (after - between).completion_tokens == more["usage"]["completion_tokens"]
    assert (after - between).reward_tokens == spent["reward_tokens"]
    assert (
        sum(vote["count"] for vote in more["longthink"]["votes"]) + more["longthink"]["silent"]
        == 24
    )
    assert more["longthink"]["budget"]["candidates"] == 24
    assert more["longthink"]["budget"]["spent_before"]["candidates"] == 8

    other = {**asked, "temperature": 0.3}
    assert http.post(CHAT, json=other).status_code == 409
    gone = body(question, 24, trace_id="0" * 32)
    assert http.post(CHAT, json=gone).status_code == 404
