"""Clients that hang up at random moments: the engines stop for them, and hardly a token is wasted.

    python -m tests.chaos.disconnects [DISCONNECTS] [SECONDS]

Ten clients at a time ask for many candidates and cut their connections at one moment, anywhere
within SECONDS (10); then nothing else runs, so that the engines' own counters say how long they
went on and what they made in that time. What must hold: from the cut until no engine has anything
to do it takes at most a second (p99), and what was made after the cuts is at most 2% of all.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from contextlib import suppress

import httpx

from services.app import Service
from tests.chaos.asking import settings
from tests.chaos.figures import Figure, tell
from tests.chaos.real_service import CHAT, body, counts
from workers.reference.synthetic import queries

TOGETHER = 10
CANDIDATES = 512
BUSY = ("num_requests_running", "num_requests_waiting")
MADE = "generation_tokens_total"
MOST_SECONDS = 1.0
MOST_WASTE = 0.02


def main(disconnects: int = 1000, seconds: int = 10) -> int:
    with Service.start(settings(1)) as service:
        took, wasted, made = asyncio.run(hang_up(service.url, disconnects, seconds))
    took.sort()
    p99 = took[min(len(took) - 1, int(0.99 * len(took)))]
    number = TOGETHER * len(took)
    return tell(
        (
            Figure(
                f"engines idle after {number} disconnects (p99)",
                f"<= {MOST_SECONDS:g} s",
                f"{p99:.2f} s (p50 {took[len(took) // 2]:.2f} s)",
                held=p99 <= MOST_SECONDS,
            ),
            Figure(
                "tokens made after the cut",
                f"<= {MOST_WASTE:.0%} of all",
                f"{wasted:,} of {made:,}: {wasted / made:.1%}",
                held=wasted <= MOST_WASTE * made,
            ),
        )
    )


async def hang_up(url: str, disconnects: int, seconds: float) -> tuple[list[float], int, int]:
    """How long engines went on after each moment, the tokens of that time, and all tokens."""
    chance = random.Random(0)
    asked = [query.question for query in queries("test", "hard", 64, seed=5)]
    took, wasted = [], 0
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        (await http.post(CHAT, json=body(asked[0], 64))).raise_for_status()
        start = (await counted(http))[MADE]
        for turn in range(-(-disconnects // TOGETHER)):
            moment = chance.uniform(0, seconds)
            chosen = [asked[(turn * TOGETHER + it) % len(asked)] for it in range(TOGETHER)]
            writers = [await send(url, one, stream=bool(it % 2)) for it, one in enumerate(chosen)]
            await asyncio.sleep(moment)
            # What is made until the cut comes counts too: there's no knowing how little it is.
            before = (await counted(http))[MADE]
            for writer in writers:
                writer.transport.abort()
            cut = time.monotonic()
            now = await counted(http)
            while any(now[name] for name in BUSY):
                await asyncio.sleep(0.02)
                now = await counted(http)
            took.append(time.monotonic() - cut)
            wasted += now[MADE] - before
            for writer in writers:
                with suppress(ConnectionError):
                    await writer.wait_closed()
        return took, wasted, (await counted(http))[MADE] - start


async def counted(http: httpx.AsyncClient) -> Counter[str]:
    """What the engines say now."""
    return counts((await http.get("/metrics")).raise_for_status().text)


async def send(url: str, question: str, *, stream: bool) -> asyncio.StreamWriter:
    """Ask over a connection of its own, which is to be cut."""
    payload = json.dumps(body(question, CANDIDATES, stream=stream)).encode()
    address = httpx.URL(url)
    _, writer = await asyncio.open_connection(address.host, address.port)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: {address.host}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    await writer.drain()
    return writer


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
