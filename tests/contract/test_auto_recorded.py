"""What `auto` knew of past requests is in its trace: who reads that decides as it did."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from secrets import token_hex

import pytest
from redis.asyncio import Redis

from planner.calibration import Calibration
from planner.curves import Isotonic, Platt
from planner.domain import Budget, Message, Query, Sampling
from planner.effort import Options
from services.budget import RedisLedger
from services.calibration import Calibrations
from services.driver import Manner
from services.evaluation.retrace import retrace
from services.outlook import OutlookStore
from services.reasoning import Reasoner
from services.resume import Earlier
from services.run import Reply
from services.trace import TraceStore
from workers.fake import FakePool, Script, judge
from workers.messages import Generate

QUERY = Query((Message("user", "Anna has 3 pens and buys 4. How many?"),), Sampling(max_tokens=300))
STEPS = [
    {"id": "a", "question": "Anna has 3 pens. How many?", "needs": []},
    {"id": "b", "question": "Anna has $a and buys 4. How many?", "needs": ["a"]},
]
CURVES = Calibration(
    "m",
    {
        "majority/weighted": Platt(0.3, -1.0, 60),
        "plan/weighted:7": Isotonic(((0.1, 0.2), (0.9, 0.7)), 80),
        "*": Platt(0.7, -0.2, 90),
    },
)


def write(call: Generate) -> Script:
    """Answers that rarely agree, and plans."""
    if call.schema is not None:
        return Script(json.dumps({"steps": STEPS}))
    chance = random.Random(f"{call.seed}")
    return Script(f"so\n#### {chance.randrange(5)}", seconds=chance.random() * 0.01)


@asynccontextmanager
async def reasoner(redis: Redis, known: Calibration | None) -> AsyncIterator[Reasoner]:
    """A service whose answers of the past have taught it so much."""
    service = Reasoner(
        FakePool(write, judge),
        RedisLedger(redis),
        TraceStore(redis),
        Manner(step_delimiter="\n", late_seconds=0.5),
        outlooks=OutlookStore(redis, token_hex(4)),
        calibrations=Calibrations("m", shipped=known),
    )
    try:
        yield service
    finally:
        await service.drain(5)


async def ask(
    service: Reasoner, options: Options, seed: int, earlier: Earlier | None = None
) -> Reply:
    """The reply to the question, at rest."""
    query = replace(QUERY, seed=seed)
    run = await service.start(query, options, trace_id=token_hex(8), earlier=earlier)
    reply = await run.reply()
    await run.over.wait()
    return reply


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limits", [Budget(), Budget(candidates=12), Budget(completion_tokens=900)])
async def test_it_replays_by_what_was_known_then(
    redis_client: Redis, seed: int, limits: Budget
) -> None:
    """Also where the service has learnt, or forgotten, something since."""
    options = Options(strategy="auto", effort="high", budget=limits)
    async with reasoner(redis_client, CURVES) as service:
        reply = await ask(service, options, seed)
    async with reasoner(redis_client, None) as later:
        saved = await later.saved(reply.trace_id)
    assert saved is not None
    assert saved.known["outlook"]["calibration"]["curves"].keys() == CURVES.curves.keys()
    assert saved.outcome() == reply.outcome
    events = [
        {"seq": it.seq, "seconds": it.seconds, "kind": it.kind, "data": it.data}
        for it in saved.recorded
    ]
    assert retrace(json.loads(json.dumps({"id": reply.trace_id, "events": events}))).same


async def test_an_earlier_requests_work_is_kept_though_more_is_known_now(
    redis_client: Redis,
) -> None:
    """Its candidates aren't sampled again, and nothing beyond the limit is."""
    async with reasoner(redis_client, None) as service:
        first = await ask(service, Options(effort="low"), 1)
    options = Options(effort="low", budget=Budget(candidates=12))
    async with reasoner(redis_client, CURVES) as service:
        again = await ask(service, options, 1, await service.earlier(first.trace_id))
    assert again.reused > 0
    assert again.outcome.answer is not None
    assert first.spent.candidates + again.spent.candidates <= max(12, first.spent.candidates)
