"""Searches that grow, refine and judge go on as far as they can, and end when they must."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from dataclasses import asdict, replace
from math import nan

import pytest
from redis.asyncio import Redis

from planner.domain import Budget, Sampling, Stopped, Writer
from planner.effort import Options
from planner.errors import InvalidOption, LedgerUnavailable
from planner.ports import Account, Hold
from services.driver import Manner
from services.purse import Purses
from services.trace import Kind
from tests.integration.reasoning_bench import PRICES, QUERY, Bench, finished, told, wide
from workers.fake import FakePool, Messages, Script, Verdict
from workers.messages import Generate, GenerationEvent, Prompt


class Deaf(FakePool):
    """Never puts anything but the question itself into tokens."""

    async def prepare(self, messages: Messages, writer: Writer = "reasoner") -> Prompt:
        """See `workers.ports.Pool`."""
        if len(messages[-1][1]) > len(QUERY.messages[0].content):
            await asyncio.Event().wait()
        return await super().prepare(messages, writer)

    async def encode(self, text: str, writer: Writer = "reasoner") -> tuple[int, ...]:
        """See `workers.ports.Pool`."""
        await asyncio.Event().wait()
        return await super().encode(text, writer)


class Lingering(FakePool):
    """Streams that take their time to end once nobody wants them any more."""

    async def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[GenerationEvent]:
        """See `workers.ports.Pool`."""
        try:
            async for event in super().generate(batch):
                yield event
        finally:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(2.0)


# Where nothing runs


@pytest.mark.parametrize("strategy", ["beam", "rebase", "particles", "mcts", "dvts"])
async def test_a_tree_that_cannot_afford_its_grades_grows_without(
    redis_client: Redis, strategy: str
) -> None:
    """The reward model is refused every time; the search goes on to its answers all the same."""
    bench = Bench(redis_client, FakePool())
    options = replace(wide(8, strategy=strategy), budget=Budget(candidates=8, reward_tokens=1))
    reply, events = await bench.ask(options)
    assert {event.data["status"] for event in told(events, "grade")} == {"failed"}
    assert reply.outcome.best is not None
    assert reply.outcome.best.finished
    assert reply.outcome.stopped is Stopped.COMPLETE


async def test_a_task_that_fails_before_it_starts_leaves_room_for_others(
    redis_client: Redis,
) -> None:
    """No refinement fits into the context; with nothing in flight the next ones are tried."""
    manner = Manner(prices=PRICES, step_delimiter="\n", max_in_flight=1)
    pool = FakePool(lambda _: Script("#### 7"), context=100)
    reply, events = await Bench(redis_client, pool, manner=manner).ask(wide(8, strategy="ab_mcts"))
    assert reply.outcome.stopped is Stopped.COMPLETE
    assert len(told(events)) == 8
    errors = {event.data["error"] for event in told(events) if event.data["status"] == "failed"}
    assert len(errors) > 0
    assert all("too many" in error for error in errors)


async def test_a_judge_needs_none_of_the_candidates_left(redis_client: Redis) -> None:
    """All candidates of the budget are there, and what the judge says isn't one more."""

    def script(call: Generate) -> Script:
        judging = b"Which attempt is right?" in bytes(call.prompt_ids)
        return Script("Best: 2" if judging else f"#### {(call.seed or 0) % 4}")

    reply, events = await Bench(redis_client, FakePool(script)).ask(wide(8, selector="judge"))
    verdicts = [event.data for event in told(events, "expand:8.")]
    assert [one["candidate"]["text"] for one in verdicts] == ["Best: 2"]
    assert reply.outcome.stopped is Stopped.COMPLETE
    assert reply.spent.candidates == 8


# Workers that don't answer


@pytest.mark.parametrize("strategy", ["refine", "recursive", "budget_forcing"])
async def test_a_worker_that_never_puts_text_into_tokens_holds_nothing_beyond_the_deadline(
    redis_client: Redis, strategy: str
) -> None:
    """The first versions are there at the deadline; what waited for the worker is cancelled."""
    bench = Bench(redis_client, Deaf(lambda _: Script("#### 7")))
    options = wide(16, strategy=strategy)
    options = replace(options, budget=Budget(candidates=16, deadline_seconds=0.4))
    began = time.monotonic()
    reply, events = await bench.ask(options)
    assert time.monotonic() - began < 1.0
    assert (reply.outcome.answer, reply.outcome.stopped) == ("7", Stopped.DEADLINE)
    assert [event.data["status"] for event in told(events)] == ["done"] * 4 + ["cancelled"] * 4
    assert reply.spent.completion_tokens == (await bench.counted())[0]


async def test_a_worker_that_never_takes_the_question_holds_nothing_beyond_the_deadline(
    redis_client: Redis,
) -> None:
    """There is nothing to answer with, and the reply says in time that it was the deadline."""

    class Deafer(FakePool):
        async def prepare(self, messages: Messages, writer: Writer = "reasoner") -> Prompt:
            await asyncio.Event().wait()
            return await super().prepare(messages, writer)

    options = Options(strategy="majority", budget=Budget(candidates=4, deadline_seconds=0.3))
    began = time.monotonic()
    reply, events = await Bench(redis_client, Deafer()).ask(options)
    assert time.monotonic() - began < 1.0
    assert reply.outcome.stopped is Stopped.DEADLINE
    assert reply.outcome.best is None
    assert not told(events)


async def test_a_request_can_be_cancelled_while_text_is_put_into_tokens(
    redis_client: Redis,
) -> None:
    """It needn't wait for the worker."""
    bench = Bench(redis_client, Deaf(lambda _: Script("#### 7")))
    run = await bench.start(wide(16, strategy="refine"))
    await asyncio.sleep(0.2)
    run.cancel()
    async with asyncio.timeout(0.2):
        reply = await run.reply()
    await bench.reasoner.drain(5)
    assert (reply.outcome.answer, reply.outcome.stopped) == ("7", Stopped.CANCELLED)
    assert len(told(run.trace.events)) == 8


async def test_others_go_on_while_text_is_put_into_tokens(redis_client: Redis) -> None:
    """What one chain waits for holds up none of those that were asked for at another time."""

    class SlowOnce(FakePool):
        """Takes its time for what quotes a slow answer."""

        async def prepare(self, messages: Messages, writer: Writer = "reasoner") -> Prompt:
            """See `workers.ports.Pool`."""
            if "slow" in messages[-1][1]:
                await asyncio.sleep(0.5)
            return await super().prepare(messages, writer)

    def script(call: Generate) -> Script:
        first = b"attempts" not in bytes(call.prompt_ids)
        if first and (call.seed or 0) % 2:
            return Script("slow\n#### 7")
        return Script("quick\n#### 7", seconds=0.05)

    run = await Bench(redis_client, SlowOnce(script)).start(wide(32, strategy="refine"))
    await run.reply()
    second = [event.seconds for event in told(run.trace.events) if "." in event.data["id"]]
    assert min(second) < 0.4


async def test_a_chat_template_that_refuses_a_refinement_fails_it_alone(
    redis_client: Redis,
) -> None:
    """The chains end with their first versions, and the request with an answer."""

    class Strict(FakePool):
        """Its chat template takes nothing but the question."""

        async def prepare(self, messages: Messages, writer: Writer = "reasoner") -> Prompt:
            """See `workers.ports.Pool`."""
            if "attempts" in messages[-1][1]:
                raise InvalidOption("The model's chat template refuses these messages.", "messages")
            return await super().prepare(messages, writer)

    bench = Bench(redis_client, Strict(lambda _: Script("#### 7")))
    reply, events = await bench.ask(wide(8, strategy="refine"))
    assert [event.data["status"] for event in told(events)] == ["done"] * 2 + ["failed"] * 2
    assert (reply.outcome.answer, reply.outcome.stopped) == ("7", Stopped.COMPLETE)


async def test_a_worker_that_never_takes_in_a_cancellation_holds_up_no_reply(
    redis_client: Redis,
) -> None:
    """At the deadline the reply is there, with what the calls may have cost at most."""

    class Stubborn(FakePool):
        """Cancels nothing, and doesn't say so."""

        async def cancel(self, ids: Collection[str]) -> None:
            """See `workers.ports.Pool`."""
            await asyncio.Event().wait()

    def script(call: Generate) -> Script:
        return Script("#### 7", fault="hang" if (call.seed or 0) % 2 else None)

    bench = Bench(redis_client, Stubborn(script))
    options = replace(wide(), budget=Budget(candidates=16, deadline_seconds=0.3))
    began = time.monotonic()
    run = await bench.start(options)
    async with asyncio.timeout(5):
        reply = await run.reply()
        assert time.monotonic() - began < 1.0
        await bench.reasoner.drain(5)
    assert (reply.outcome.answer, reply.outcome.stopped) == ("7", Stopped.DEADLINE)
    assert (await bench.ledger.account(reply.trace_id)).spent == reply.spent


async def test_a_failure_is_heard_of_though_a_worker_is_slow_to_let_go(
    redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a reply that can't come, only because a stream has yet to end."""

    async def fail(_: Purses) -> bool:
        raise RuntimeError("That was not foreseen.")

    monkeypatch.setattr(Purses, "renew", fail)
    manner = Manner(prices=PRICES, step_delimiter="\n", lease_seconds=0.3)
    pool = Lingering(lambda _: Script("#### 7", seconds=30.0))
    run = await Bench(redis_client, pool, manner=manner).start(wide(4))
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="not foreseen"):
        await run.reply()
    assert time.monotonic() - began < 1.5
    async with asyncio.timeout(5.0):
        await run.over.wait()


async def test_what_reports_after_the_reply_is_settled_in_the_trace(redis_client: Redis) -> None:
    """A reply counts calls that have yet to say what they cost in full; the trace ends with it."""

    class Slow(FakePool):
        """Ends what is cancelled after a while."""

        async def cancel(self, ids: Collection[str]) -> None:
            """See `workers.ports.Pool`."""
            await asyncio.sleep(0.6)
            await super().cancel(ids)

    pool = Slow(lambda call: Script("#### 7", 0.0 if (call.seed or 0) % 2 else 60.0))
    bench = Bench(redis_client, pool)
    options = replace(wide(), budget=Budget(candidates=16, deadline_seconds=0.3))
    reply, events = await bench.ask(options)
    running = [event for event in told(events) if event.data["status"] == "cancelled"]
    assert reply.unreported == len(running) > 0
    assert [event.kind for event in events if event.kind is Kind.SETTLED] == [events[-1].kind]
    account = await bench.ledger.account(reply.trace_id)
    assert events[-1].data == {"spent": asdict(account.spent)}
    completion_tokens, prompt_tokens = await bench.counted()
    assert account.spent.completion_tokens == completion_tokens < reply.spent.completion_tokens
    assert account.spent.prompt_tokens == prompt_tokens <= reply.spent.prompt_tokens


# The length of a candidate


@pytest.mark.parametrize("strategy", ["beam", "rebase", "dvts", "mcts", "particles"])
@pytest.mark.parametrize("text", ["a" * 100, "a" * 9 + "\n"], ids=["no step", "steps to the end"])
async def test_a_step_that_uses_up_the_length_ends_a_candidate(
    redis_client: Redis, strategy: str, text: str
) -> None:
    """It counts as one, no token is sampled beyond it, and the search has it for an answer."""
    longest = 0

    def script(call: Generate) -> Script:
        nonlocal longest
        longest = max(longest, len(call.prompt_ids) + call.max_tokens)
        return Script(text if call.delimiters else "a" * 100)

    bench = Bench(redis_client, FakePool(script))
    query = replace(QUERY, sampling=Sampling(max_tokens=30))
    prompt = await bench.pool.prepare((("user", "How many?"),))
    reply, events = await bench.ask(wide(4, strategy=strategy), query)
    assert longest == len(prompt.token_ids) + 30
    assert reply.outcome.stopped in (Stopped.COMPLETE, Stopped.BUDGET)
    assert reply.outcome.best is not None
    assert reply.outcome.best.finish == "length"
    assert len(reply.outcome.best.token_ids) == 30
    ended = [e for e in told(events) if e.data["candidate"]["finish"] == "length"]
    assert reply.spent.candidates == len(ended) <= 4
    assert {event.data["status"] for event in told(events)} == {"done"}


@pytest.mark.parametrize(
    ("max_tokens", "context", "reason"),
    [(30, 4096, "max_tokens (30)"), (400, 46, "the model's context")],
)
async def test_what_has_no_room_left_fails_and_says_so(
    redis_client: Redis, max_tokens: int, context: int, reason: str
) -> None:
    """An answer that is nearly too long can't be told to think again: it stands as it is."""
    pool = FakePool(lambda _: Script("#### 7 ".ljust(28, "a")), context=context)
    query = replace(QUERY, sampling=Sampling(max_tokens=max_tokens))
    reply, events = await Bench(redis_client, pool).ask(wide(4, strategy="budget_forcing"), query)
    first, second = told(events)
    assert first.data["candidate"]["finish"] == "stop"
    assert second.data["error"] == f"No room is left for it in {reason}."
    assert reply.outcome.best is not None
    assert reply.outcome.best.path == (0,)
    assert reply.outcome.stopped is Stopped.COMPLETE


# A ledger that goes away


async def test_what_waits_for_more_budget_is_kept_when_the_ledger_goes_away(
    redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instalment of a candidate was used up: it is told with all its tokens, as any other."""
    bench = Bench(redis_client, FakePool(lambda _: Script("a" * 390)))
    hold, calls = bench.ledger.hold, 0

    async def fail_later(budget: str, holds: tuple[Hold, ...]) -> tuple[tuple[bool, ...], Account]:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise LedgerUnavailable("Redis is away.")
        return await hold(budget, holds)

    monkeypatch.setattr(bench.ledger, "hold", fail_later)
    options = replace(wide(4), budget=Budget(candidates=4, completion_tokens=700))
    reply, events = await bench.ask(options)
    asked = [task for event in events if event.kind is Kind.ASKED for task in event.data["tasks"]]
    assert sorted(asked) == sorted(event.data["id"] for event in told(events))
    assert reply.outcome.best is not None
    assert len(reply.outcome.best.text) >= 150


async def test_steps_are_funded_as_steps(redis_client: Redis) -> None:
    """A tree whose candidates fit its budget finishes them: a step holds no whole candidate's."""
    whole = ("x" * 19 + "\n") * 5 + "#### 7"

    def script(call: Generate) -> Script:
        made = bytes(call.prompt_ids).rpartition(b"How many?\n")[2]
        return Script(whole[len(made) :], seconds=0.001)

    bench = Bench(redis_client, FakePool(script))
    await bench.ask(wide())
    options = Options(strategy="beam", budget=Budget(candidates=8, completion_tokens=8 * 150))
    reply, events = await bench.ask(options)
    assert len(finished(events)) == 8
    assert reply.outcome.stopped is not Stopped.BUDGET


@pytest.mark.parametrize("strategy", ["best_of_n", "rebase"])
async def test_scores_that_are_no_numbers_choose_nothing(
    redis_client: Redis, strategy: str
) -> None:
    """Neither what grows on nor the answer goes by them, and the reply says what did instead."""
    bench = Bench(redis_client, FakePool(judge=lambda call: Verdict((nan,) * len(call.steps))))
    reply, events = await bench.ask(wide(4, strategy=strategy))
    assert {event.data["status"] for event in told(events, "grade")} == {"failed"}
    assert reply.outcome.stopped is Stopped.COMPLETE
    assert reply.outcome.answer is not None
    assert reply.outcome.notes
