"""Redis hung and killed under a real service with searches in flight, and back after a while.

    python -m tests.chaos.redis_away [SECONDS] [ROUNDS]

In each round searches are under way, half of them with an Idempotency-Key, when Redis hangs
(SIGSTOP) or is killed (SIGKILL). For so many seconds new requests are sent to the service, ten a
second; all must be refused with 503 `ledger_unavailable` and Retry-After, in under 500 ms. The
searches in flight are answered with the best they have. What the engines counted meanwhile is what
the replies say was spent, to the token. Redis goes on, or is started anew and empty, and the first
new request must be answered within 5 s of that.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field

import httpx

from tests.chaos.figures import Figure, tell
from tests.chaos.real_service import CHAT, Counted, body, counted, hard, idle, real_service
from tests.integration.redis_process import RedisProcess

IN_FLIGHT = 4
CANDIDATES = 48
LONGEST_REFUSAL, LONGEST_RETURN = 0.5, 5.0


@dataclass(slots=True)
class Seen:
    """What a run has shown so far. Times in seconds."""

    refusals: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What was answered otherwise than it should have been."""
    returns: list[float] = field(default_factory=list)
    unmetered: int = 0
    """Tokens that engines counted, and no reply."""
    spent: int = 0
    answered: int = 0
    cut: int = 0
    """Searches that were answered with the best so far, of those `answered`."""


async def round_of(
    http: httpx.AsyncClient, redis: RedisProcess, fault: str, seconds: float, seen: Seen
) -> None:
    """One outage."""
    before = await asyncio.to_thread(idle, str(http.base_url).rstrip("/"))
    name = f"{fault}-{time.monotonic()}"
    flying = [
        asyncio.create_task(send(http, question, CANDIDATES, f"{name}-{at}" if at % 2 else None))
        for at, question in enumerate(hard(IN_FLIGHT))
    ]
    await until_busy(http, before)
    redis.pause() if fault == "hung" else redis.kill()
    await refused(http, seconds, seen)
    replies = await asyncio.gather(*flying)
    after = await asyncio.to_thread(idle, str(http.base_url).rstrip("/"))
    meter(replies, after - before, seen)
    redis.resume() if fault == "hung" else redis.start()
    seen.returns.append(await returned(http))


async def send(
    http: httpx.AsyncClient, question: str, candidates: int, key: str | None = None
) -> httpx.Response:
    """Ask, and wait for the reply."""
    headers = {} if key is None else {"idempotency-key": key}
    return await http.post(
        CHAT, json=body(question, candidates, seed=11, max_tokens=1024), headers=headers
    )


async def until_busy(http: httpx.AsyncClient, before: Counted) -> None:
    """Return once the engines have made some of what was asked."""
    url = str(http.base_url).rstrip("/")
    while (await asyncio.to_thread(counted, url) - before).completion_tokens < 200:
        await asyncio.sleep(0.02)


async def refused(http: httpx.AsyncClient, seconds: float, seen: Seen) -> None:
    """Send new requests for so long; note how fast they were refused."""

    async def one() -> None:
        began = time.monotonic()
        reply = await send(http, "What is 3 + 4?", 1)
        seen.refusals.append(time.monotonic() - began)
        said = reply.json()
        code = said.get("error", {}).get("code")
        if (reply.status_code, code) != (
            503,
            "ledger_unavailable",
        ) or "retry-after" not in reply.headers:
            seen.wrong.append(f"{reply.status_code} {code} while Redis was away")

    async with asyncio.TaskGroup() as group:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            group.create_task(one())
            await asyncio.sleep(0.1)


def meter(replies: list[httpx.Response], made: Counted, seen: Seen) -> None:
    """Compare what the replies say was spent with what the engines counted."""
    spent = 0
    for reply in replies:
        if reply.status_code != 200:
            seen.wrong.append(f"{reply.status_code} for a search in flight: {reply.text[:200]}")
            continue
        said = reply.json()
        spent += said["usage"]["completion_tokens"]
        seen.answered += 1
        seen.cut += said["longthink"]["stopped"] == "budget"
        if said["longthink"]["spent"]["unreported_calls"]:
            seen.wrong.append("calls were unreported, so usage is an upper bound")
    seen.spent += spent
    seen.unmetered += made.completion_tokens - spent


async def returned(http: httpx.AsyncClient) -> float:
    """Seconds until a new request is answered."""
    began = time.monotonic()
    while (await send(http, "What is 3 + 4?", 1)).status_code != 200:
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def outages(url: str, redis: RedisProcess, seconds: float, rounds: int) -> Seen:
    """So many rounds of each kind of outage."""
    seen = Seen()
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        for _ in range(rounds):
            for fault in ("hung", "killed"):
                await round_of(http, redis, fault, seconds, seen)
    return seen


def main(seconds: float = 5.0, rounds: int = 3) -> int:
    """The outages, and their figures."""
    with RedisProcess() as redis, real_service(redis.url, answer_seconds=0.3) as service:
        seen = asyncio.run(outages(service.url, redis, seconds, rounds))
    slowest, latest = max(seen.refusals), max(seen.returns)
    ordered = sorted(seen.refusals)
    middle, count = ordered[len(ordered) // 2], len(ordered)
    wrong = "; ".join(sorted(set(seen.wrong)))
    in_flight = (
        f"{seen.answered} of {2 * rounds * IN_FLIGHT} ({seen.cut} with the best so far) {wrong}"
    )
    return tell(
        [
            Figure(
                f"Redis hung and killed, {2 * rounds} times: new work refused",
                f"under {LONGEST_REFUSAL * 1e3:.0f} ms",
                f"{slowest * 1e3:.0f} ms at most, {middle * 1e3:.0f} at the median of {count}",
                slowest < LONGEST_REFUSAL,
            ),
            Figure(
                "searches in flight then: answered",
                "all",
                in_flight.strip(),
                seen.answered == 2 * rounds * IN_FLIGHT and not seen.wrong,
            ),
            Figure(
                "tokens of engines that no reply counts",
                "0",
                f"{seen.unmetered} of {seen.spent:,}",
                seen.unmetered == 0,
            ),
            Figure(
                "answers again after its return",
                f"within {LONGEST_RETURN:g} s",
                f"{latest:.2f} s at most",
                latest < LONGEST_RETURN,
            ),
        ]
    )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    lasting = float(arguments[0]) if arguments else 5.0
    sys.exit(main(lasting, *map(int, arguments[1:2])))
