"""A client that hangs up ends its run at once, however the server comes to know of it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.types import Message

from services.telemetry import Telemetry
from tests.contract.scripted_service import (
    BODY,
    CHAT,
    MODEL,
    ScriptedReasoner,
    Stage,
    cancelled,
    serving,
    started,
    until_cancelled,
)

BODIES = [BODY, {**BODY, "stream": True}, {**BODY, "stream": True, "reasoning_effort": "none"}]
NAMES = ["plain", "stream", "tokens"]


def booked(telemetry: Telemetry, status: str) -> float:
    """How many requests of the default strategy were booked as cancelled with this status."""
    labels = {"strategy": "auto", "stopped": "cancelled", "status": status}
    return telemetry.registry.get_sample_value("longthink_requests_total", labels) or 0


@pytest.mark.parametrize("body", BODIES, ids=NAMES)
async def test_a_closed_connection_ends_the_run(body: dict[str, Any]) -> None:
    """The run is told to end as soon as the socket is closed, and nothing stays in flight."""
    async with serving(until_cancelled) as service:
        async with httpx.AsyncClient(base_url=service.url) as leaving:
            request = asyncio.create_task(leaving.post(CHAT, json=body, timeout=20))
            run = await started(service)
            assert not run.cancelled.is_set()
            request.cancel()
            await asyncio.wait((request,))
        await cancelled(run)
        # The service goes on to answer others.
        assert (await service.http.get("/health/live")).status_code == 200
        in_flight = service.telemetry.registry.get_sample_value("longthink_requests_in_flight")
        assert in_flight == 0


async def test_openais_client_that_closes_its_stream_ends_the_run() -> None:
    """Leaving the loop over a stream is hanging up, too."""
    async with serving(until_cancelled) as service:
        stream = await service.openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "?"}], stream=True
        )
        run = await started(service)
        async for _ in stream:
            break
        await stream.close()
        await cancelled(run)


async def test_a_run_left_alone_is_booked_when_it_ends() -> None:
    """The metrics say that the client left, and what had been spent by then."""
    async with serving(until_cancelled) as service:
        async with httpx.AsyncClient(base_url=service.url) as leaving:
            request = asyncio.create_task(leaving.post(CHAT, json=BODY, timeout=20))
            run = await started(service)
            request.cancel()
            await asyncio.wait((request,))
        await cancelled(run)
        await asyncio.sleep(0.05)
        assert booked(service.telemetry, "499") == 1
        spent = service.telemetry.registry.get_sample_value(
            "longthink_tokens_total", {"kind": "completion"}
        )
        assert spent == 47


@pytest.mark.parametrize("body", BODIES, ids=NAMES)
async def test_a_cancelled_task_ends_the_run(body: dict[str, Any]) -> None:
    """A server that cancels the task of the request, as Ray Serve does, has the same effect."""
    stage = Stage(reasoner=ScriptedReasoner(until_cancelled))
    transport = httpx.ASGITransport(stage.app())
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        request = asyncio.create_task(http.post(CHAT, json=body))
        async with asyncio.timeout(5):
            run = await stage.reasoner.begun.get()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    await cancelled(run)


async def test_a_server_that_cannot_send_ends_the_run() -> None:
    """Where the server raises on sending to a closed connection, the run ends and nothing else."""
    stage = Stage(reasoner=ScriptedReasoner(until_cancelled))
    body = httpx.Request("POST", "http://service", json={**BODY, "stream": True}).content
    messages: list[Message] = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        return await asyncio.Future()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the connection is gone")

    scope = {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "raw_path": CHAT.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await stage.app()(scope, receive, send)
    await cancelled(stage.reasoner.runs[0])
    await asyncio.sleep(0.01)
    assert booked(stage.telemetry, "499") == 1


async def test_a_client_that_leaves_before_its_body_is_there_starts_nothing() -> None:
    """Half a request is no request."""
    async with serving() as service:
        host, port = service.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            "content-length: 1000\r\n\r\n{".encode()
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await service.http.post(CHAT, json=BODY)).status_code == 200
    assert len(service.reasoner.runs) == 1
