"""Calls that are late are sent a second time, lost ones again: no task is told of twice for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from secrets import token_hex
from typing import Any

import pytest
from redis.asyncio import Redis

from planner.domain import Budget
from planner.effort import Options
from services.run import Reply
from services.second_tries import RETRY_MOST, Paces, SecondTries
from services.trace import Event, Kind
from tests.integration.reasoning_bench import QUERY, Bench, finished, told, wide
from workers.fake import FakePool, Script, Verdict
from workers.messages import Generate, GenerationEvent, Grade, Graded

TEXT = "a" * 25 + "\n#### 7"


LATE = 0.3


class Known(Paces):
    """Whatever calls take on this machine now, it is known when they are late."""

    def late(self, tokens: int) -> float | None:
        """Always the same."""
        return LATE


@pytest.fixture(autouse=True)
def soon_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are late sooner than for users."""
    monkeypatch.setattr("services.driver.LEAST_LATE_SECONDS", LATE)


def experienced(redis: Redis, pool: FakePool) -> Bench:
    """A bench that knows how long calls take."""
    bench = Bench(redis, pool)
    bench.reasoner._second_tries.paces = Known()
    return bench


def hedged(events: list[Event]) -> list[str]:
    """The tasks that were sent a second time."""
    return [event.data["id"] for event in events if event.kind is Kind.HEDGED]


class Straggling:
    """Writes at once, but for some calls of one request, which hang or take long at first."""

    def __init__(self, late: int, first: Script, second: Script) -> None:
        self.late = 0
        self._count = late
        self._scripts = first, second
        self.tries: Counter[tuple[int, ...]] = Counter()

    def begin(self) -> None:
        """From now on some are late."""
        self.late = self._count

    def __call__(self, call: Generate) -> Script:
        if call.rival:
            return self._scripts[1]
        if self.late:
            self.late -= 1
            return self._scripts[0]
        return Script(TEXT)


async def test_a_straggler_is_sent_a_second_time_and_the_first_to_end_wins(
    redis_client: Redis,
) -> None:
    """Two of 16 calls hang: both candidates come from elsewhere, and count once each."""
    script = Straggling(2, Script(TEXT, 60.0, "hang"), Script(TEXT))
    bench = experienced(redis_client, FakePool(script, others=True))
    script.begin()
    async with asyncio.timeout(30):
        reply, events = await bench.ask(wide(16))
    assert len(hedged(events)) == 2
    assert [event.data["status"] for event in told(events)] == ["done"] * 16
    assert len(finished(events)) == reply.spent.candidates == 16
    account = await bench.ledger.account(reply.trace_id)
    assert account.held.completion_tokens == account.held.candidates == 0
    assert account.spent.candidates == 16


async def test_a_straggler_is_found_among_many_that_end(redis_client: Redis) -> None:
    """One call hangs while another ends every few moments: there are news all the time."""
    place = -1

    def script(call: Generate) -> Script:
        nonlocal place
        if call.rival:
            return Script(TEXT)
        place += 1
        return Script("b", 0.1 * place) if place else Script("b", 60.0)

    bench = experienced(redis_client, FakePool(script, others=True))
    async with asyncio.timeout(30):
        _, events = await bench.ask(wide(40))
    first = next(at for at, event in enumerate(events) if event.kind is Kind.HEDGED)
    assert len(told(events[:first])) < 30


async def test_all_that_both_made_is_paid_for(redis_client: Redis) -> None:
    """What the beaten call came to until it was cancelled is charged to the token, too."""
    script = Straggling(3, Script("b" * 100, 30.0), Script(TEXT))
    bench = experienced(redis_client, FakePool(script, others=True))
    before = await bench.counted()
    script.begin()
    async with asyncio.timeout(30):
        reply, events = await bench.ask(wide(16))
    assert len(hedged(events)) == 3
    spent = (await bench.ledger.account(reply.trace_id)).spent
    after = await bench.counted()
    assert spent.completion_tokens == after[0] - before[0] > 16 * len(TEXT)
    assert spent.prompt_tokens == after[1] - before[1]
    of_use = sum(len(one["token_ids"]) for one in finished(events))
    waste = bench.counted_as("longthink_wasted_tokens_total", kind="completion", why="second_try")
    assert waste == spent.completion_tokens - of_use > 0
    assert bench.counted_as("longthink_second_tries_total") == 3
    assert spent.candidates == 16


async def test_the_first_call_may_win_after_all(redis_client: Redis) -> None:
    """Then the second is cancelled, and its tokens are paid for."""
    script = Straggling(1, Script(TEXT, 2.0), Script("b" * 100, 60.0))
    bench = experienced(redis_client, FakePool(script, others=True))
    before = await bench.counted()
    script.begin()
    async with asyncio.timeout(30):
        reply, events = await bench.ask(wide(4))
    assert len(hedged(events)) == 1
    assert {one["text"] for one in finished(events)} == {TEXT}
    spent = (await bench.ledger.account(reply.trace_id)).spent
    assert spent.completion_tokens == (await bench.counted())[0] - before[0]
    assert spent.candidates == 4


@pytest.mark.parametrize("fault", ["lost", "failed"])
async def test_a_second_try_that_fails_changes_nothing(redis_client: Redis, fault: Any) -> None:
    """The first goes on, and its end is the task's."""
    script = Straggling(1, Script(TEXT, 2.0), Script("b", fault=fault))
    bench = experienced(redis_client, FakePool(script, others=True))
    script.begin()
    async with asyncio.timeout(30):
        reply, events = await bench.ask(wide(4))
    assert len(hedged(events)) == 1
    assert [event.data["status"] for event in told(events)] == ["done"] * 4
    assert (await bench.ledger.account(reply.trace_id)).held.completion_tokens == 0


@pytest.mark.parametrize("fault", ["lost", "failed"])
async def test_a_second_try_takes_over_where_the_first_fails(
    redis_client: Redis, fault: Any
) -> None:
    """Whatever becomes of the late one, the task ends with the other, once."""
    script = Straggling(1, Script("b" * 20, 2.0, fault), Script(TEXT, 3.0))
    bench = experienced(redis_client, FakePool(script, others=True))
    script.begin()
    async with asyncio.timeout(30):
        reply, events = await bench.ask(wide(4))
    assert len(hedged(events)) == 1
    assert [event.data["status"] for event in told(events)] == ["done"] * 4
    spent = (await bench.ledger.account(reply.trace_id)).spent
    assert spent.candidates == reply.spent.candidates == 4


async def test_no_second_try_beyond_the_budget(redis_client: Redis) -> None:
    """Where nothing is left to hold, a late call is waited for."""
    script = Straggling(1, Script(TEXT, 2.0), Script(TEXT))
    bench = experienced(redis_client, FakePool(script, others=True))
    script.begin()
    tokens = 4 * len(TEXT) + 3
    options = Options(
        strategy="majority",
        stop="none",
        budget=Budget(candidates=4, completion_tokens=tokens),
    )
    async with asyncio.timeout(30):
        reply, _ = await bench.ask(options)
    spent = (await bench.ledger.account(reply.trace_id)).spent
    assert spent.completion_tokens <= tokens


async def test_nothing_is_sent_twice_where_there_is_one_worker(redis_client: Redis) -> None:
    """It would only wait behind the first."""
    script = Straggling(1, Script(TEXT, 2.0), Script(TEXT))
    bench = experienced(redis_client, FakePool(script))
    script.begin()
    _, events = await bench.ask(wide(4))
    assert hedged(events) == []


async def test_what_is_cut_off_ends_with_both_its_calls(redis_client: Redis) -> None:
    """A request that is cancelled in the middle of a race leaves neither running nor held."""
    script = Straggling(4, Script(TEXT, 60.0), Script(TEXT, 60.0))
    bench = experienced(redis_client, FakePool(script, others=True))
    before = await bench.counted()
    script.begin()
    run = await bench.start(wide(4))
    async with asyncio.timeout(20):
        while len(hedged(run.trace.events)) < 4:
            await asyncio.sleep(0.02)
    run.cancel()
    reply = await run.reply()
    await bench.reasoner.drain(5)
    account = await bench.ledger.account(reply.trace_id)
    assert account.held.completion_tokens == 0
    assert account.spent.completion_tokens == (await bench.counted())[0] - before[0]
    assert len(told(run.trace.events)) == 4


# What is shown as it is written


async def streamed(bench: Bench) -> tuple[Reply, list[Event]]:
    """The reply of a request whose one candidate is shown as it is written, and its trace."""
    options = Options(strategy="single")
    run = await bench.reasoner.start(QUERY, options, trace_id=token_hex(8), stream_tokens=True)
    async with asyncio.timeout(30):
        reply = await run.reply()
    await bench.reasoner.drain(5)
    return reply, run.trace.events


async def test_what_is_shown_as_it_is_written_is_not_raced(redis_client: Redis) -> None:
    """It is slow, but goes well: another answer couldn't take the place of what was shown."""
    script = Straggling(1, Script("b" * 20, 2.0), Script(TEXT))
    bench = experienced(redis_client, FakePool(script, others=True))
    script.begin()
    _, events = await streamed(bench)
    assert hedged(events) == []
    assert [one["text"] for one in finished(events)] == ["b" * 20]


async def test_a_race_is_over_once_a_call_shows_what_it_writes(redis_client: Redis) -> None:
    """The first token comes after the second try was sent: that is cancelled, and paid for."""
    script = Straggling(1, Script("bb", 4.0), Script(TEXT, 2.5))
    bench = experienced(redis_client, FakePool(script, others=True))
    before = await bench.counted()
    script.begin()
    reply, events = await streamed(bench)
    assert len(hedged(events)) == 1
    assert [one["text"] for one in finished(events)] == ["bb"]
    spent = (await bench.ledger.account(reply.trace_id)).spent
    assert spent.completion_tokens == (await bench.counted())[0] - before[0]
    assert spent.candidates == 1


# What is lost


class Dying(FakePool):
    """Loses every call, and counts them."""

    def __init__(self) -> None:
        super().__init__(lambda _: Script("a", fault="lost"))
        self.sent = 0

    def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[GenerationEvent]:
        """See `workers.ports.Pool`."""
        self.sent += len(batch)
        return super().generate(batch)


async def test_losing_all_makes_no_storm(redis_client: Redis) -> None:
    """Request after request is lost whole: what is tried again comes to a part of what is sent."""
    pool = Dying()
    bench = Bench(redis_client, pool)
    second = SecondTries()
    bench.reasoner._second_tries = second
    for _ in range(RETRY_MOST):
        second.retries.take()
    for _ in range(8):
        reply, events = await bench.ask(wide(50))
        assert {event.data["status"] for event in told(events)} == {"failed"}
        assert (await bench.ledger.account(reply.trace_id)).held.completion_tokens == 0
    assert 400 <= pool.sent <= 400 * 1.2


async def test_what_rests_before_its_next_try_can_be_cancelled(
    redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the moment of a try that nobody wants any more."""
    monkeypatch.setattr("services.driver.backoff", lambda _: 60.0)
    bench = Bench(redis_client, Dying())
    run = await bench.start(wide(4))
    await asyncio.sleep(0.3)
    run.cancel()
    async with asyncio.timeout(5):
        await run.reply()
        await bench.reasoner.drain(5)
    assert [event.data["status"] for event in told(run.trace.events)] == ["cancelled"] * 4


# A reward model that is gone


@pytest.mark.parametrize("strategy", ["best_of_n", "beam", "rebase", "particles", "dvts", "mcts"])
async def test_without_its_reward_model_a_search_ends_with_what_it_has(
    redis_client: Redis, strategy: str
) -> None:
    """It is lost in mid-search and stays away: there is an answer, and the reply says how."""
    left = 3
    whole = "".join(f"step {place}\n" for place in range(4)) + "#### 7"

    def write(call: Generate) -> Script:
        made = bytes(call.prompt_ids).rpartition(b"How many?\n")[2]
        return Script(whole[len(made) :])

    def judge(call: Any) -> Verdict:
        nonlocal left
        left -= 1
        return Verdict((0.5,) * len(call.steps)) if left > 0 else Verdict(fault="lost")

    bench = Bench(redis_client, FakePool(write, judge))
    async with asyncio.timeout(30):
        reply, events = await bench.ask(wide(8, strategy=strategy))
    assert {event.data["status"] for event in told(events, "grade")} >= {"failed"}
    assert reply.outcome.answer is not None
    assert any("reward model was lost" in note for note in reply.outcome.notes)
    assert (await bench.ledger.account(reply.trace_id)).held.reward_tokens == 0


class Ungraded(FakePool):
    """Nothing is there that could grade, which is said at once."""

    async def grade(self, batch: tuple[Grade, ...]) -> AsyncIterator[Graded]:
        """See `workers.ports.Pool`."""
        for call in batch:
            yield Graded(call.id, "failed", error="No reward model is there.")


async def test_a_reward_model_that_is_not_there_costs_no_tokens_and_no_tries(
    redis_client: Redis,
) -> None:
    """Nothing was sent: the tries are left for what was, and the reply says what is missing."""
    bench = Bench(redis_client, Ungraded(lambda _: Script(TEXT)))
    second = bench.reasoner._second_tries = SecondTries()
    reply, _ = await bench.ask(wide(8, strategy="best_of_n"))
    assert reply.outcome.answer == "7"
    assert any("8 gradings failed" in note for note in reply.outcome.notes)
    assert (await bench.ledger.account(reply.trace_id)).spent.reward_tokens == 0
    assert sum(second.retries.take() for _ in range(2 * RETRY_MOST)) == RETRY_MOST
