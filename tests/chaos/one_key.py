"""One Idempotency-Key sent 50 times at once to a real service: one search.

    python -m tests.chaos.one_key [TIMES]

All replies must be of the same trace and say the same usage, and
the engines must have counted the tokens of that one search, and no more; also after the key was
sent once more when it was over.
"""

from __future__ import annotations

import asyncio
import sys
from secrets import token_hex

import httpx

from services.redis_server import RedisServer
from tests.chaos.figures import Figure, tell
from tests.chaos.real_service import CHAT, body, hard, idle, real_service

CANDIDATES = 32


async def send(http: httpx.AsyncClient, key: str) -> httpx.Response:
    """The request, in full."""
    asked = body(hard(1)[0], CANDIDATES, seed=11)
    return await http.post(CHAT, json=asked, headers={"idempotency-key": key})


async def at_once(url: str, times: int) -> list[httpx.Response]:
    """The replies to the same request so often at the same time, and once more when it is over."""
    key = token_hex(8)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        replies = await asyncio.gather(*(send(http, key) for _ in range(times)))
        return [*replies, await send(http, key)]


def main(times: int = 50) -> int:
    """Send them, and compare."""
    with RedisServer() as redis, real_service(redis.url) as service:
        before = idle(service.url)
        replies = asyncio.run(at_once(service.url, times))
        made = idle(service.url) - before
    answered = [reply.json() for reply in replies if reply.status_code == 200]
    traces = {reply["longthink"]["trace_id"] for reply in answered}
    usages = {reply["usage"]["completion_tokens"] for reply in answered}
    what = f"one Idempotency-Key {times} times at once, and once more"
    return tell(
        [
            Figure(
                f"{what}: answered",
                f"{times + 1}",
                f"{len(answered)}, from {len(traces)} trace",
                len(answered) == times + 1 and len(traces) == 1,
            ),
            Figure(
                f"{what}: tokens generated",
                "those of one search",
                f"{made.completion_tokens:,}; the replies say {sorted(usages)}",
                usages == {made.completion_tokens},
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
