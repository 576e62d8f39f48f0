"""DeepConf through the driver, on a real ledger: what is given up saves tokens and has no vote."""

from __future__ import annotations

import random
from dataclasses import replace
from secrets import token_hex

import pytest
from redis.asyncio import Redis

from planner.confidence import TOP, lowest_group
from planner.domain import Budget, Finish, Message, Query, Result, Sampling
from planner.effort import Options
from services.budget import RedisLedger
from services.driver import Manner
from services.reasoning import Reasoner
from services.record import read_result, result_data
from services.run import Reply
from services.trace import Event, Kind, TraceStore
from workers.fake import FakePool, Script
from workers.messages import Generate

QUERY = Query((Message("user", "How many?"),), Sampling(max_tokens=400), seed=5)
WINDOW = 16
SURE, UNSURE = 8.0, 2.0
KINDS = {
    "o": (64, range(0)),
    "x": (64, range(4, 24)),
    "L": (160, range(0)),
    "X": (160, range(70, 110)),
}
"""Candidates by their first letter: how long they are, and where the model is unsure of them."""


class Scribe:
    """Writes candidates of these kinds, as likely as they are often named."""

    def __init__(self, kinds: str = "oox") -> None:
        self.asked: list[Generate] = []
        self._kinds = kinds

    def __call__(self, call: Generate) -> Script:
        self.asked.append(call)
        made = bytes(call.prompt_ids).rpartition(b"How many?\n")[2]
        # A continued candidate goes on as it began.
        kind = chr(made[0]) if made else random.Random(call.seed).choice(self._kinds)
        length, weak = KINDS[kind]
        answer = "\n#### 13" if weak else "\n#### 7"
        sure = tuple(UNSURE if token in weak else SURE for token in range(len(made), length))
        return Script(
            (kind.ljust(length - len(answer), ".") + answer)[len(made) :], confidences=sure
        )


async def ask(
    redis: Redis, stop: str, budget: Budget, scribe: Scribe, seed: int = QUERY.seed
) -> tuple[Reply, list[Event]]:
    """A majority of candidates whose votes are weighted by confidence."""
    pool = FakePool(scribe)
    traces = TraceStore(redis)
    reasoner = Reasoner(pool, RedisLedger(redis), traces, Manner(step_delimiter="\n"))
    options = Options(strategy="majority", selector="confidence", stop=stop, budget=budget)
    query = replace(QUERY, seed=seed)
    run = await reasoner.start(query, options, trace_id=token_hex(8))
    reply = await run.reply()
    await reasoner.drain(5)
    counted = (await pool.counters())["fake"]
    assert counted["completion_tokens"] == reply.spent.completion_tokens
    return reply, run.trace.events


def results(events: list[Event]) -> list[Result]:
    """What the search was told, as the trace has it."""
    return [read_result(event.data) for event in events if event.kind is Kind.TOLD]


async def test_what_is_given_up_saves_tokens(redis_client: Redis) -> None:
    """Of 40 candidates the weak ones of the last 24 stop within their first third."""
    budget = Budget(candidates=40)
    whole, _ = await ask(redis_client, "none", budget, Scribe())
    scribe = Scribe()
    cut, events = await ask(redis_client, f"confidence:50:{WINDOW}", budget, scribe)
    ends = [result.candidate for result in results(events)]
    given_up = [one for one in ends if one is not None and one.finish is Finish.DOUBTFUL]
    assert len(given_up) > 2
    assert {len(one.token_ids) for one in given_up} <= set(range(WINDOW, 24))
    saved = whole.spent.completion_tokens - cut.spent.completion_tokens
    assert saved == sum(64 - len(one.token_ids) for one in given_up)
    assert cut.outcome.answer == "7"
    assert sum(vote.count for vote in cut.outcome.votes) == 40 - len(given_up)
    assert f"{len(given_up)} of 40 candidates were given up early" in cut.outcome.notes[-1]
    assert {call.top_logprobs for call in scribe.asked} == {TOP}


async def test_a_floor_holds_across_instalments(redis_client: Redis) -> None:
    """Where a budget comes in instalments, a window spans them as if there had been one call."""
    given_up, spanned = 0, set[str]()
    # Who is given a further instalment is a matter of who came first.
    for seed in range(8):
        scribe = Scribe("ooxLLX")
        budget = Budget(candidates=40, completion_tokens=3600)
        reply, events = await ask(redis_client, f"confidence:50:{WINDOW}", budget, scribe, seed)
        assert reply.spent.completion_tokens <= 3600
        under_floor = {call.id.split("#")[0]: call.floor for call in scribe.asked if call.floor}
        continued = {call.id.split("#")[0] for call in scribe.asked if call.confidences}
        spanned |= continued & under_floor.keys()
        for result in results(events):
            floor, made = under_floor.get(f"{reply.trace_id}/{result.task_id}"), result.candidate
            if floor is not None and made is not None:
                assert len(made.token_confidences) == len(made.token_ids)
                full = len(made.token_ids) >= WINDOW
                low = lowest_group(made.token_confidences, WINDOW) < floor.confidence
                assert (made.finish is Finish.DOUBTFUL) is (full and low)
                given_up += full and low
    assert given_up
    assert spanned


async def test_results_come_back_from_the_trace_with_their_confidence(redis_client: Redis) -> None:
    """A search that resumes from its trace knows as much as the one that wrote it."""
    _, events = await ask(redis_client, "none", Budget(candidates=4), Scribe())
    told = results(events)
    assert len(told) == 4
    for result in told:
        assert result.candidate is not None
        lowest = lowest_group(result.candidate.token_confidences, WINDOW)
        assert lowest == pytest.approx(UNSURE if "x" in result.candidate.text else SURE)
        assert read_result(result_data(result)) == result


async def test_nobody_is_asked_for_what_nobody_needs(redis_client: Redis) -> None:
    """A plain majority asks for no log-probabilities."""
    scribe = Scribe()
    pool = FakePool(scribe)
    reasoner = Reasoner(pool, RedisLedger(redis_client), TraceStore(redis_client), Manner())
    options = Options(strategy="majority", budget=Budget(candidates=4))
    await (await reasoner.start(QUERY, options, trace_id=token_hex(8))).reply()
    await reasoner.drain(5)
    assert {call.top_logprobs for call in scribe.asked} == {0}
