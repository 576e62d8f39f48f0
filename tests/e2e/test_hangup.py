"""A client that hangs up stops the GPU: nothing it asked for goes on, and nothing stays held."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest

from services.app import Service
from tests.e2e.conftest import MODEL, Counters


@pytest.mark.parametrize("streamed", [False, True])
async def test_hangup_reaches_the_engine_within_a_second(
    service: Service,
    hard: Callable[[int], list[str]],
    counters: Callable[[], Counters],
    streamed: bool,
) -> None:
    """In mid-search the connection is cut; a second later the engines are idle again.

    So it is also where the client's headers would have Serve's proxy end the request at once, or
    not cancel it at all.
    """
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": hard(1)[0]}],
        "max_tokens": 256,
        "stream": streamed,
        "longthink": {"strategy": "best_of_n", "stop": "none", "budget": {"candidates": 512}},
    }
    payload = json.dumps(body).encode()
    address = httpx.URL(service.url)
    _, writer = await asyncio.open_connection(address.host, address.port)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.host}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n"
        "x-request-timeout-seconds: 0.001\r\nx-request-disconnect-disabled: ?1\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    await writer.drain()
    async with asyncio.timeout(10):
        while (await asyncio.to_thread(counters)).busy < 8:
            await asyncio.sleep(0.02)

    writer.transport.abort()
    cut = time.monotonic()
    with suppress(ConnectionError):
        await writer.wait_closed()
    async with asyncio.timeout(5):
        while (await asyncio.to_thread(counters)).busy:
            await asyncio.sleep(0.02)
    assert time.monotonic() - cut <= 1.0


@pytest.mark.parametrize("streamed", [False, True])
async def test_nothing_stays_held_after_a_hangup(
    service: Service, hard: Callable[[int], list[str]], held: Callable[[], int], streamed: bool
) -> None:
    """A second later the ledger has no hold left of a request whose client went away."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": hard(1)[0]}],
        "max_tokens": 256,
        "stream": streamed,
        "longthink": {"strategy": "majority", "stop": "none", "budget": {"candidates": 512}},
    }
    async with httpx.AsyncClient(base_url=service.url) as client:
        request = asyncio.create_task(client.post("/v1/chat/completions", json=body, timeout=60))
        async with asyncio.timeout(10):
            while not await asyncio.to_thread(held):
                await asyncio.sleep(0.01)
        request.cancel()
        cut = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await request
    async with asyncio.timeout(5):
        while await asyncio.to_thread(held):
            await asyncio.sleep(0.02)
    assert time.monotonic() - cut <= 1.0
