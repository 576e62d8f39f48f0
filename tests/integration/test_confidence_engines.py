"""DeepConf on real engines, from the request down: the tokens it saves are never generated."""

from __future__ import annotations

from secrets import token_hex

import pytest

from planner.domain import Budget, Candidate, Finish, Message, Query, Sampling
from planner.effort import Options
from services.budget import RedisLedger, connect
from services.driver import Manner
from services.reasoning import Reasoner
from services.record import read_result
from services.trace import Kind, TraceStore
from tests.contract.pool_contract import grown, totals
from workers.pool import ServePool

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUERY = Query((Message("user", "How many?"),), Sampling(max_tokens=150), seed=5)
CANDIDATES = 40


async def test_the_engines_count_what_confidence_saves(pool: ServePool, redis_url: str) -> None:
    """The counters grow by what the reply says, less by all that weak candidates had yet to say."""

    async def spent(stop: str) -> tuple[int, list[Candidate]]:
        async with connect(redis_url) as redis:
            reasoner = Reasoner(pool, RedisLedger(redis), TraceStore(redis), Manner())
            options = Options(
                strategy="majority",
                selector="confidence",
                stop=stop,
                budget=Budget(candidates=CANDIDATES),
            )
            before = await totals(pool)
            run = await reasoner.start(QUERY, options, trace_id=token_hex(8))
            reply = await run.reply()
            await reasoner.drain(5)
            counted = (await grown(pool, before))["completion_tokens"]
            assert counted == reply.spent.completion_tokens
        told = [read_result(one.data) for one in run.trace.events if one.kind is Kind.TOLD]
        made = [result.candidate for result in told if result.candidate is not None]
        return counted, sorted(made, key=lambda one: one.path)

    whole, candidates = await spent("none")
    cut, kept = await spent("confidence:10:16")
    assert len(candidates) == len(kept) == CANDIDATES
    shortened = [
        len(before.token_ids) - len(after.token_ids)
        for before, after in zip(candidates, kept, strict=True)
        if after.finish is Finish.DOUBTFUL
    ]
    assert whole - cut == sum(shortened)
    assert len(shortened) > 8
    assert cut < 0.8 * whole
