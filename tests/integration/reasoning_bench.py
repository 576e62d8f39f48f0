"""A reasoner on a fake pool and a real ledger, and what to read in the trace of a request."""

from __future__ import annotations

import random
from collections.abc import Callable
from secrets import token_hex
from typing import Any

from redis.asyncio import Redis

from planner.domain import Budget, Message, Prices, Query, Sampling
from planner.effort import Options
from services.budget import RedisLedger
from services.driver import Manner
from services.observed import ObservedLedger, ObservedPool
from services.reasoning import Reasoner
from services.run import Reply, Run
from services.telemetry import Telemetry
from services.trace import Event, Kind, TraceStore
from workers.fake import FakePool, Script
from workers.messages import Generate

QUERY = Query((Message("user", "How many?"),), Sampling(max_tokens=400), seed=5)
PRICES = Prices(prompt=0.05, completion=0.2, reward=0.05)


class Bench:
    """A reasoner on a fake pool and a real ledger, with `telemetry` as the service has it."""

    def __init__(
        self,
        redis: Redis,
        pool: FakePool,
        *,
        manner: Manner | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.pool = pool
        self.ledger = RedisLedger(redis)
        self.telemetry = telemetry = telemetry or Telemetry()
        watch, meters = telemetry.watch, telemetry.meters
        self.traces = TraceStore(redis, seen=watch.saw)
        manner = manner or Manner(prices=PRICES, step_delimiter="\n", late_seconds=1.0)
        self.reasoner = Reasoner(
            ObservedPool(pool, watch, meters),
            ObservedLedger(self.ledger, meters),
            self.traces,
            manner,
        )

    def counted_as(self, name: str, **labels: str) -> float:
        """A sample of the service's own metrics, 0 where there is none."""
        return self.telemetry.registry.get_sample_value(name, labels) or 0

    async def start(self, options: Options, query: Query = QUERY) -> Run:
        """Start a request."""
        return await self.reasoner.start(query, options, trace_id=token_hex(8))

    async def ask(self, options: Options, query: Query = QUERY) -> tuple[Reply, list[Event]]:
        """The reply of a request, and its trace."""
        run = await self.start(options, query)
        reply = await run.reply()
        await run.over.wait()
        await self.traces.aclose()  # until the next request
        return reply, run.trace.events

    async def counted(self) -> tuple[int, int]:
        """Completion and prompt tokens that the worker counted."""
        counters = (await self.pool.counters())["fake"]
        assert counters["running"] == 0
        return counters["completion_tokens"], counters["prompt_tokens"]


def wide(candidates: int = 16, **said: str) -> Options:
    """A majority over so many candidates."""
    return Options(
        strategy=said.get("strategy", "majority"),
        selector=said.get("selector"),
        stop=said.get("stop", "none"),
        budget=Budget(candidates=candidates),
    )


def told(events: list[Event], prefix: str = "expand") -> list[Event]:
    """The ends of the tasks of one kind."""
    return [e for e in events if e.kind is Kind.TOLD and e.data["id"].startswith(prefix)]


def finished(events: list[Event]) -> list[dict[str, Any]]:
    """The candidates that came to their own end. One that never started has none."""
    candidates = [event.data["candidate"] for event in told(events)]
    return [one for one in candidates if one and one["finish"] == "stop"]


def of_length(mean: int, spread: float) -> Callable[[Generate], Script]:
    """Candidates of about so many tokens, a tenth of a millisecond each, that all agree.

    A continued candidate goes on where it was: what it comes to hangs on its prompt alone. One that
    was whole makes a token more, as an engine counts at least the one that ends it.
    """

    def script(call: Generate) -> Script:
        prompt = bytes(call.prompt_ids)
        made = prompt.rpartition(b"How many?\n")[2]
        if made[:1].isdigit() and b" " in made:
            whole = int(made.split(b" ")[0])
        else:
            chance = random.Random(call.seed)
            whole = max(20, round(chance.gauss(mean, spread * mean)))
            made = b""  # nothing yet, or the attempts that a prompt shows
        text = f"{whole} ".ljust(whole - 7, ".") + "\n#### 7"
        rest = text[len(made) :] or "."
        return Script(rest, seconds=len(rest) * 1e-4)

    return script
