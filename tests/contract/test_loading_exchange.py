"""One request of a load, over real HTTP against the edge: each way in which it can end."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from planner.errors import LedgerUnavailable
from services.evaluation.questions import Question
from services.loading.exchange import Address, Exchange
from services.loading.jobs import Job
from services.loading.sent import End, Sent
from services.run import Reply
from tests.contract.scripted_service import (
    BODY,
    SPENT,
    ScriptedReasoner,
    ScriptedRun,
    Service,
    Stage,
    cancelled,
    serving,
    standing,
    started,
    until_cancelled,
)

JOB = Job(0, Question("q", "What is 6 x 7?", "42"), "hard", "low", 1, False, None)


async def ask(service: Service, job: Job = JOB, patience: float = 20, **said: Any) -> Sent:
    """Ask for what stands in `BODY`, half a second after it was due."""
    origin = time.monotonic() - 0.5
    body = {**BODY, "stream": job.streamed, **said}
    return await asyncio.to_thread(
        lambda: Exchange(
            Address.of(service.url), job, body, 0.0, lambda: time.monotonic() - origin, patience
        ).run()
    )


async def thinking(run: ScriptedRun) -> Reply:
    """Show how it stands, then answer."""
    standing(run, 2, 4, tokens=20, leader=1)
    await asyncio.sleep(0.2)
    return run.comes_to()


async def test_a_reply_is_told_with_what_it_spent() -> None:
    """The answer, its tokens and its trace; the time since it was due, not since it was sent."""
    async with serving() as service:
        sent = await ask(service)
    assert (sent.end, sent.status, sent.answer, sent.gold) == (End.ANSWERED, 200, "42", "42")
    assert sent.completion_tokens == SPENT.completion_tokens
    assert sent.trace_id == service.reasoner.runs[0].trace.id
    assert sent.overspent == ()
    assert sent.late >= 0.5
    assert sent.latency > sent.late
    assert sent.first is None


async def test_a_stream_shows_when_work_began() -> None:
    """The first progress comes before the answer, and the role alone is none."""
    async with serving(thinking) as service:
        sent = await ask(service, replace(JOB, streamed=True))
    assert (sent.end, sent.answer) == (End.ANSWERED, "42")
    assert sent.first is not None
    assert sent.first < sent.ended - 0.1


async def test_overspending_is_found() -> None:
    """A reply that says it spent more than it was allowed is told of by dimension."""
    async with serving() as service:
        budget = {"budget": {"completion_tokens": SPENT.completion_tokens - 1}}
        sent = await ask(service, longthink=budget)
    assert sent.overspent == ("completion_tokens",)


async def test_a_refusal_is_told_with_its_reason() -> None:
    """A 503 says when to try again; what is no refusal for the moment only is a failure."""
    stage = Stage(reasoner=ScriptedReasoner(refusal=LedgerUnavailable()))
    async with serving(stage=stage) as service:
        sent = await ask(service)
        wrong = await ask(service, model="another")
    assert (sent.end, sent.status, sent.code) == (End.REFUSED, 503, "ledger_unavailable")
    assert sent.retry_after
    assert (wrong.end, wrong.status, wrong.code) == (End.FAILED, 404, "model_not_found")
    assert "another" in (wrong.message or "")


async def test_an_error_in_a_stream_is_a_failure() -> None:
    """Its status was 200 already."""

    async def broken(run: ScriptedRun) -> Reply:
        raise RuntimeError

    async with serving(broken) as service:
        sent = await ask(service, replace(JOB, streamed=True))
    assert (sent.end, sent.status, sent.code) == (End.FAILED, 200, "internal_error")


async def test_a_client_that_goes_away_is_noticed() -> None:
    """Both ways of asking end with a broken connection, and the search with them."""
    for streamed in (False, True):
        async with serving(until_cancelled) as service:
            sent = await ask(service, replace(JOB, hangup=0.3, streamed=streamed))
            assert sent.end is End.HUNG_UP
            await cancelled(await started(service))


async def test_patience_has_an_end() -> None:
    """A service that never answers makes a failure."""
    async with serving(until_cancelled) as service:
        sent = await ask(service, patience=0.3)
    assert (sent.end, sent.message) == (End.FAILED, "No reply came in time.")


async def test_nobody_there_is_a_failure() -> None:
    """It has no status."""
    async with serving() as service:
        pass
    sent = await ask(service)
    assert (sent.end, sent.status) == (End.FAILED, None)
    assert "refused" in (sent.message or "").lower()


async def test_a_key_is_sent_as_a_bearer() -> None:
    """And nothing of it is in the record."""
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        exchange = Exchange(
            Address.of(f"http://{host}:{port}/v1/"),
            replace(JOB, secret="lt-secret"),
            BODY,
            0.0,
            time.monotonic,
            5,
        )
        sent = await asyncio.to_thread(exchange.run)
    assert b"POST /v1/chat/completions HTTP/1.1" in heard[0]
    assert b"authorization: Bearer lt-secret" in heard[0]
    assert (sent.end, sent.status, sent.message) == (End.FAILED, 401, "HTTP status 401")
    assert "secret" not in str(sent.in_json())
