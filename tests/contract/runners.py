"""Runners of one Redis that die, freeze and wake up, with a worker that notes what it was asked."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from secrets import token_hex
from typing import Any, cast

from redis.asyncio import Redis

from planner.domain import Budget, Cost, Message, Prices, Query, Sampling
from planner.effort import Options, settle
from services.budget import RedisLedger
from services.driver import Manner
from services.gate import Door
from services.idempotency import Key, Keys, Lease
from services.once import Once
from services.reasoning import Reasoner
from services.run import AT_ONCE, Admitted, Reply, Run
from services.trace import Event, Kind, TraceStore
from workers.fake import FakePool, Script, judge
from workers.messages import Generate

QUERY = Query((Message("user", "How many?"),), Sampling(max_tokens=400), seed=5)
LEASE_SECONDS = 1.0


class Frozen(Redis):
    """A client whose process can be stopped: nothing it says is heard until it goes on."""

    def stop(self) -> None:
        """From now on, say nothing."""
        self.going().clear()

    def going(self) -> asyncio.Event:
        """Set while the process goes on."""
        if not hasattr(self, "_going"):
            self._going = asyncio.Event()
            self._going.set()
        return self._going

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """A single command."""
        await self.going().wait()
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Several commands."""
        pipe = super().pipeline(*args, **options)
        execute = pipe.execute

        async def gated(*more: Any) -> Any:
            await self.going().wait()
            return await execute(*more)

        pipe.execute = gated  # type: ignore[assignment, method-assign]
        return pipe


class Runner:
    """One process of the service, as far as a request with a key is concerned."""

    def __init__(self, url: str, script: Callable[[Generate], Script] | None = None) -> None:
        self.asked: Counter[int] = Counter()
        self._script = script or slowly
        self.redis = cast("Frozen", Frozen.from_url(url))
        self.pool = FakePool(self._write, judge)
        self.ledger = RedisLedger(self.redis, patience_seconds=60)
        self.traces = TraceStore(self.redis)
        manner = Manner(
            prices=Prices(prompt=0.05, completion=0.2, reward=0.05),
            step_delimiter="\n",
            late_seconds=0.5,
        )
        self.reasoner = Reasoner(self.pool, self.ledger, self.traces, manner)
        self.keys = Keys(self.redis, lease_seconds=LEASE_SECONDS)
        self.once = Once(self.reasoner, self.keys, self.traces)

    def _write(self, call: Generate) -> Script:
        assert call.seed is not None
        self.asked[call.seed] += 1
        return self._script(call)

    async def run(
        self,
        options: Options,
        *,
        key: str = "k",
        query: Query = QUERY,
        earlier: str | None = None,
        door: Door | None = None,
    ) -> Run:
        """The run of a request with a key, which gets in by the door if there is one."""
        digest = sha256(repr((query, options, earlier)).encode()).hexdigest()

        async def start(trace_id: str, lease: Lease | None = None) -> Run:
            before = await self.reasoner.earlier(earlier) if earlier else None

            async def begin(admitted: Admitted) -> Run:
                return await self.reasoner.start(
                    query,
                    options,
                    trace_id=trace_id,
                    earlier=before,
                    lease=lease,
                    admitted=admitted,
                )

            return await (begin(AT_ONCE) if door is None else door(settle(options), begin))

        return await self.once.run(Key(key, digest), start, trace_id=token_hex(8), door=door)

    async def ask(self, options: Options, **more: Any) -> Reply:
        """The reply to a request with a key."""
        return await (await self.run(options, **more)).reply()

    async def events(self, trace_id: str) -> list[Event]:
        """What Redis has of a trace."""
        await self.traces.flush()
        return await self.traces.read(trace_id) or []

    async def close(self) -> None:
        """Let it go on, and end."""
        self.redis.going().set()
        await self.reasoner.drain(5)
        await self.redis.aclose()


def slowly(call: Generate) -> Script:
    """A few steps and an answer, up to a tenth of a second, decided by the call alone."""
    chance = random.Random(f"{call.seed}/{call.prompt_ids}")
    steps = "".join(f"step {chance.randrange(1000)}\n" for _ in range(chance.randrange(3)))
    return Script(f"{steps}#### {chance.randrange(3)}", seconds=chance.random() * 0.1)


def wide(candidates: int = 16, **said: Any) -> Options:
    """So many candidates, with nothing that stops them early unless said."""
    budget = Budget(candidates=candidates, **said.pop("budget", {}))
    return Options(**{"strategy": "majority", "stop": "none", **said}, budget=budget)


def done(events: list[Event], prefix: str = "expand:") -> list[dict[str, Any]]:
    """What was told of the tasks that were done."""
    told = [dict(event.data) for event in events if event.kind is Kind.TOLD]
    return [it for it in told if it["id"].startswith(prefix) and it["status"] == "done"]


def journaled(events: list[Event], kind: Kind) -> dict[str, Cost]:
    """By operation, what the journal has of it."""
    return {
        op: Cost(*cost)
        for event in events
        if event.kind is kind
        for op, cost in event.data["ops"].items()
    }


async def until_told(run: Run, count: int) -> None:
    """Return when so many candidates are done."""
    async with asyncio.timeout(10):
        while len(done(run.trace.events)) < count:
            await asyncio.sleep(0.002)
