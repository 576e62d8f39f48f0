"""A request from its options to its reply, on a real ledger, with workers that fail as scripted."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from planner.domain import Budget, Expand, Sampling, Stopped, Task
from planner.effort import Options
from planner.errors import LedgerUnavailable
from planner.search import NESTING, STRATEGIES, Setup, search
from planner.selection import selector
from planner.stopping import parse
from services.budget import connect
from services.driver import Manner
from services.record import outcome_data, read_effort, read_query, read_result
from services.redis_server import RedisServer
from services.trace import Kind
from tests.integration.reasoning_bench import QUERY, Bench, of_length, told, wide
from workers.fake import FakePool, Fault, Script, Verdict, judge
from workers.messages import Generate, GenerationEvent, Grade, Graded


async def test_everything_is_counted(redis_client: Redis) -> None:
    """What the reply says was spent is what the worker counted, and what the ledger has."""
    bench = Bench(redis_client, FakePool())
    reply, events = await bench.ask(wide(selector="weighted"))
    completion, prompt = await bench.counted()
    assert reply.spent.completion_tokens == completion
    assert reply.spent.prompt_tokens + reply.spent.reward_tokens == prompt
    assert reply.spent.candidates == 16
    assert (await bench.ledger.account(reply.trace_id)).spent == reply.spent
    assert reply.outcome.stopped is Stopped.COMPLETE
    assert len(told(events)) == len(told(events, "grade")) == 16
    assert events[0].kind is Kind.OPENED
    assert events[-1].kind is Kind.CLOSED


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
async def test_every_strategy_is_counted_and_ends_with_an_answer(
    redis_client: Redis, strategy: str
) -> None:
    """Whatever it grows, asks again or continues: what was spent is what the worker counted."""
    bench = Bench(redis_client, FakePool())
    reply, events = await bench.ask(wide(8, strategy=strategy))
    completion, prompt = await bench.counted()
    assert reply.spent.completion_tokens == completion
    assert reply.spent.prompt_tokens + reply.spent.reward_tokens == prompt
    assert 1 <= reply.spent.candidates <= 8
    assert reply.outcome.best is not None
    assert reply.outcome.best.finished
    assert reply.outcome.stopped in (Stopped.COMPLETE, Stopped.BUDGET)
    assert (await bench.ledger.account(reply.trace_id)).spent == reply.spent
    assert events[-1].kind is Kind.CLOSED


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.builds(
        Budget,
        completion_tokens=st.none() | st.integers(1, 3000),
        reward_tokens=st.none() | st.integers(1, 3000),
        candidates=st.none() | st.integers(1, 20),
        micro_usd=st.none() | st.integers(1, 400),
        deadline_seconds=st.none() | st.just(30.0),
    ),
    st.sampled_from(sorted(STRATEGIES)),
    st.sampled_from([None, "judge"]),
    st.sampled_from([30, 400]),
    st.sampled_from([0.0, 0.1]),
    st.integers(0, 2**31),
)
async def test_no_budget_is_overspent_whatever_fails(
    redis_client: Redis,
    budget: Budget,
    strategy: str,
    chosen_by: str | None,
    max_tokens: int,
    losing: float,
    seed: int,
) -> None:
    """Random budgets, random lengths, random faults: nothing over by one, nothing left held.

    What finished is counted as a candidate, and each task that was asked is told once.
    """
    lengths = of_length(100, 0.5)

    def fault(call: Generate | Grade) -> Fault | None:
        fate = random.Random(f"{seed}/{call.id}").random()
        return "lost" if fate < losing else "failed" if fate < losing + 0.15 else None

    def script(call: Generate) -> Script:
        return replace(lengths(call), seconds=0.0, fault=fault(call))

    def verdict(call: Grade) -> Verdict:
        return replace(judge(call), fault=fault(call))

    bench = Bench(redis_client, FakePool(script, verdict))
    options = Options(strategy=strategy, selector=chosen_by, budget=budget)
    query = replace(QUERY, sampling=Sampling(max_tokens=max_tokens))
    reply, events = await bench.ask(options, query)
    account = await bench.ledger.account(reply.trace_id)
    for dimension in ("completion_tokens", "reward_tokens", "candidates", "micro_usd"):
        limit = getattr(budget, dimension)
        assert limit is None or getattr(account.spent, dimension) <= limit
        assert getattr(account.held, dimension) == 0
    made = (await bench.counted())[0]
    # Of a worker that was lost nobody knows what it had made, so all it might have is charged.
    assert (
        made <= account.spent.completion_tokens
        if losing
        else (made == account.spent.completion_tokens)
    )
    asked = [task for event in events if event.kind is Kind.ASKED for task in event.data["tasks"]]
    assert sorted(asked) == sorted(event.data["id"] for event in told(events, ""))
    judged = f"expand:{reply.effort.candidates}."
    ends = [event.data for event in told(events) if not event.data["id"].startswith(judged)]
    ended = [one for one in ends if one["candidate"] and one["cost"]["completion_tokens"]]
    if strategy == "budget_forcing_thinking":  # a thought is no candidate, however it ends
        ended = [one for one in ended if one["id"].endswith(".1")]
    if strategy in NESTING:  # a plan is no candidate
        ended = [one for one in ended if not one["id"].startswith("expand:0.")]
    if strategy == "auto":  # its first samples; what else it does is one of the others
        ended = [one for one in ended if one["id"].startswith("expand:0.")]
    full = [one for one in ended if one["candidate"]["finish"] in ("stop", "length")]
    # A judge inside a step says its verdicts under the step's own nodes.
    nested = strategy in NESTING or strategy == "auto"
    assert account.spent.candidates >= len(full) or (nested and chosen_by == "judge")


async def test_a_blank_candidate_is_no_step_to_score(redis_client: Redis) -> None:
    """A model that ends at once leaves nothing to grade, and the reply says what it can."""
    bench = Bench(redis_client, FakePool(lambda call: Script("")))
    reply, events = await bench.ask(wide(4, strategy="best_of_n"))
    assert reply.outcome.stopped is Stopped.COMPLETE
    assert {event.data["status"] for event in told(events, "grade")} == {"failed"}


async def test_deadline_gives_the_best_so_far(redis_client: Redis) -> None:
    """Half of the workers hang; at the deadline the others' answer is there, nothing runs on."""

    def script(call: Generate) -> Script:
        hangs = (call.seed or 0) % 2
        return Script("a" * 10 if hangs else "#### 7", 0.05, "hang" if hangs else None)

    bench = Bench(redis_client, FakePool(script))
    options = replace(wide(), budget=Budget(candidates=16, deadline_seconds=0.5))
    began = time.monotonic()
    reply, _ = await bench.ask(options)
    assert time.monotonic() - began < 1.0
    assert (reply.outcome.answer, reply.outcome.stopped) == ("7", Stopped.DEADLINE)
    assert reply.spent.completion_tokens == (await bench.counted())[0]


async def test_search_with_a_deadline_starts_narrow_and_widens(redis_client: Redis) -> None:
    """A first answer comes early, and all the width is there a few answers later."""
    bench = Bench(redis_client, FakePool(lambda _: Script("#### 7", seconds=0.05)))
    options = replace(wide(200), budget=Budget(candidates=200, deadline_seconds=30))
    reply, events = await bench.ask(options)
    asked = [len(event.data["tasks"]) for event in events if event.kind is Kind.ASKED]
    assert asked[0] == 16
    assert max(asked) >= 32
    assert reply.spent.candidates == 200


async def test_cancelled_request_leaves_nothing_running_or_held(redis_client: Redis) -> None:
    """A client that goes away: engines idle, holds back, what was made is paid for."""
    bench = Bench(redis_client, FakePool(lambda call: Script("a" * 300, seconds=30)))
    run = await bench.start(wide())
    await asyncio.sleep(0.3)
    run.cancel()
    reply = await run.reply()
    await bench.reasoner.drain(5)
    assert reply.outcome.stopped is Stopped.CANCELLED
    account = await bench.ledger.account(reply.trace_id)
    assert account.held.completion_tokens == 0
    assert account.spent.completion_tokens == (await bench.counted())[0] > 0


async def test_lost_workers_are_replaced_by_others(redis_client: Redis) -> None:
    """A call whose worker died is made again; its hold is charged, as nobody knows what it took."""
    lost = set[str]()

    def script(call: Generate) -> Script:
        task = call.id.partition("#")[0]
        if task in lost or not task.endswith(("1", "3")):
            return Script("#### 7")
        lost.add(task)
        return Script("", fault="lost")

    bench = Bench(redis_client, FakePool(script))
    reply, events = await bench.ask(wide(4))
    assert [vote.count for vote in reply.outcome.votes] == [4]
    assert reply.spent.candidates == 4
    assert reply.spent.completion_tokens == 4 * len("#### 7") + 2 * 400
    assert {event.data["status"] for event in told(events)} == {"done"}


@pytest.mark.parametrize("fault", ["failed", "lost"])
async def test_request_survives_workers_that_only_fail(redis_client: Redis, fault: Fault) -> None:
    """Every call fails, or loses its worker again and again: it ends, with nothing to show."""
    bench = Bench(redis_client, FakePool(lambda _: Script("", fault=fault)))
    reply, events = await bench.ask(wide(4))
    assert reply.outcome.ranked == ()
    assert reply.outcome.stopped is Stopped.COMPLETE
    assert {event.data["status"] for event in told(events)} == {"failed"}


async def test_failing_reward_model_falls_back_and_says_so(redis_client: Redis) -> None:
    """Without scores the majority decides."""
    pool = FakePool(judge=lambda call: Verdict(fault="failed"))
    reply, _ = await Bench(redis_client, pool).ask(wide(selector="best"))
    assert reply.outcome.answer is not None
    assert "fell back to majority" in reply.outcome.notes[0]


async def test_estimate_that_was_too_low_is_corrected(redis_client: Redis) -> None:
    """A reward model that reads more than was thought says how much, and then gets it."""
    calls: list[Grade] = []

    class Thorough(FakePool):
        """Reads each candidate with a preamble of 500 tokens that nobody knew of."""

        def grade(self, batch: tuple[Grade, ...]) -> AsyncIterator[Graded]:
            calls.extend(batch)
            preamble = (("system", "." * 500),)
            return super().grade(
                tuple(replace(call, messages=preamble + call.messages) for call in batch)
            )

    reply, events = await Bench(redis_client, Thorough()).ask(wide(2, selector="best"))
    assert [event.data["status"] for event in told(events, "grade")] == ["done", "done"]
    assert len(calls) == 4
    assert reply.spent.reward_tokens > 2 * 500


async def test_ledger_out_of_reach_refuses_new_work_and_ends_old() -> None:
    """Redis stops in mid-search: the reply is the best so far; a new request is refused."""
    with RedisServer() as other:
        async with connect(other.url, socket_timeout=0.2) as client:
            pool = FakePool(lambda call: Script("#### 7", seconds=(call.seed or 0) % 5 * 0.2))
            bench = Bench(client, pool)
            run = await bench.start(wide())
            await asyncio.sleep(0.3)
            other.stop()
            reply = await run.reply()
            assert reply.outcome.answer == "7"
            assert reply.outcome.stopped is Stopped.BUDGET
            assert "best answer it had" in reply.outcome.notes[-1]
            with pytest.raises(LedgerUnavailable):
                await bench.start(wide())


async def test_trace_replays_to_the_same_outcome(redis_client: Redis) -> None:
    """Asking and telling what the stored trace says, in its order, comes to the same end."""
    bench = Bench(redis_client, FakePool())
    reply, _ = await bench.ask(wide(12, selector="weighted", stop="beta:0.9"))
    events = await bench.traces.read(reply.trace_id)
    assert events is not None
    opened = events[0].data
    effort = read_effort(opened["effort"])
    assert effort == reply.effort
    setup = Setup(
        query=read_query(opened["query"]),
        candidates=effort.candidates,
        selector=selector(effort.selector),
        stop=parse(effort.stop),
        grades=True,
    )
    again = search(effort.strategy, setup)
    asked: dict[str, Task] = {}
    for event in events:
        if event.kind is Kind.ASKED:
            asked.update((task.id, task) for task in again.ask(event.data["room"]))
        elif event.kind is Kind.TOLD:
            result = read_result(event.data)
            again.tell(asked[result.task_id], result)
    assert outcome_data(again.best()) == events[-1].data["outcome"]
    assert again.best() == reply.outcome


async def test_seeds_come_from_the_node_and_not_from_the_order(redis_client: Redis) -> None:
    """However long each takes, the same request makes the same candidates."""

    def script(call: Generate) -> Script:
        return Script(f"#### {(call.seed or 0) % 1000}", seconds=next(delays))

    bench = Bench(redis_client, FakePool(script))
    texts = []
    for order in (1, -1):
        delays = iter([0.01 * index for index in range(8)][::order])
        run = await bench.start(wide(8))
        await run.reply()
        texts.append({e.data["id"]: e.data["candidate"]["text"] for e in told(run.trace.events)})
    assert texts[0] == texts[1]
    assert set(texts[0]) == {Expand((index,)).id for index in range(8)}
    assert len(set(texts[0].values())) > 1


@pytest.mark.parametrize("room", [1, 7])
async def test_room_in_flight_is_kept(redis_client: Redis, room: int) -> None:
    """No more of one request runs at a time than the profile lets."""
    most = 0

    class Watched(FakePool):
        """Sees how much is running whenever more is sent."""

        def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[GenerationEvent]:
            nonlocal most
            events = super().generate(batch)
            most = max(most, len(self._running))
            return events

    bench = Bench(redis_client, Watched(), manner=Manner(max_in_flight=room))
    reply, _ = await bench.ask(wide(16))
    assert most == room
    assert reply.spent.candidates == 16
