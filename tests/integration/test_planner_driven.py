"""Plans by a planner of its own: what it writes, what it costs, and how it can fail."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from planner.domain import Budget, Stopped, Writer
from planner.effort import Options
from planner.errors import WorkersUnavailable
from services.driver import Manner
from services.trace import Event, Kind
from tests.integration import compound
from tests.integration.compound import QUERY, QUESTION, STEPS
from tests.integration.reasoning_bench import PRICES, Bench, told
from workers.fake import FakePool, Fault, Messages, Script
from workers.messages import Generate, Prompt

SMALLER = "Anna has 7 and Ben has 11. How many have both?"
ANSWERS = {**compound.ANSWERS, SMALLER: 18}
PLAN = Options(strategy="plan", budget=Budget(candidates=24))


def answer(call: Generate) -> Script:
    """A right answer to each question, in prompts of the reasoner's own."""
    prompt = bytes(call.prompt_ids).decode()
    assert not prompt.startswith("<planner>")
    assert call.schema is None
    asked = prompt.rpartition("<user>")[2]
    found = next((a for words, a in ANSWERS.items() if words in asked), 1)
    return Script(f"it is {found}\n#### {found}")


def plan(call: Generate) -> Script:
    """A plan, or what is left of the question, in prompts of the planner's own.

    What is left can't be split any more.
    """
    prompt = bytes(call.prompt_ids).decode()
    assert prompt.startswith("<planner>")
    steps = STEPS[:1] if SMALLER in prompt else STEPS
    return Script(SMALLER if call.schema is None else json.dumps({"steps": steps}))


def asides(events: list[Event]) -> list[Event]:
    """The ends of what was written that is no answer."""
    return told(events, "expand:0.")


def workers(events: list[Event]) -> set[str]:
    """Who did what these say the end of."""
    return {event.data["worker"] for event in events}


@pytest.mark.parametrize("strategy", ["plan", "least_to_most", "atoms", "plan(majority)"])
async def test_the_planner_plans_and_the_reasoner_answers(
    redis_client: Redis, strategy: str
) -> None:
    """The trace names them, each counts its own, and one budget has what both have cost."""
    bench = Bench(redis_client, FakePool(answer, plan=plan))
    budget = Budget(completion_tokens=12_000, micro_usd=90_000, candidates=24)
    reply, events = await bench.ask(Options(strategy=strategy, budget=budget), QUERY)
    assert reply.outcome.answer == "18"
    drafts = asides(events)
    assert workers(drafts) == {"fake-planner"}
    assert workers([one for one in told(events) if one not in drafts]) == {"fake"}
    counters = await bench.pool.counters()
    planned = counters["fake-planner"]["completion_tokens"]
    assert planned == sum(one.data["cost"]["completion_tokens"] for one in drafts) > 0
    assert reply.spent.completion_tokens == planned + counters["fake"]["completion_tokens"]
    assert (await bench.ledger.account(reply.trace_id)).spent == reply.spent


async def test_without_a_planner_the_reasoner_plans(redis_client: Redis) -> None:
    """The very same happens, all of it on one worker."""

    def alone(call: Generate) -> Script:
        return Script(json.dumps({"steps": STEPS})) if call.schema else answer(call)

    replies = [
        await Bench(redis_client, pool).ask(PLAN, QUERY)
        for pool in (FakePool(alone), FakePool(answer, plan=plan))
    ]
    (reply, events), (other, others) = replies
    assert workers(told(events)) == {"fake"}
    assert reply.outcome == other.outcome
    assert reply.spent.completion_tokens == other.spent.completion_tokens
    assert {one.data["id"] for one in told(events)} == {one.data["id"] for one in told(others)}


@pytest.mark.parametrize("fault", ["lost", "failed"])
async def test_without_plans_the_question_is_searched_as_it_is(
    redis_client: Redis, fault: Fault
) -> None:
    """Where the planner dies or fails there is an answer all the same, and the trace says why."""
    pool = FakePool(lambda _: Script("#### 18"), plan=lambda _: Script('{"st', fault=fault))
    bench = Bench(redis_client, pool)
    reply, events = await bench.ask(PLAN, QUERY)
    assert reply.outcome.answer == "18"
    assert "No plan could be written." in reply.outcome.notes
    (planned,) = [event.data for event in events if event.kind is Kind.PLANNED]
    assert (planned["steps"], planned["notes"]) == ([], ["No plan could be written."])
    assert {event.data["status"] for event in asides(events)} == {"failed"}
    assert (await bench.ledger.account(reply.trace_id)).spent == reply.spent


async def test_a_planner_that_does_not_answer_costs_nothing(redis_client: Redis) -> None:
    """Not even the prompt can be made then, and the question is searched as it is."""

    class Planless(FakePool):
        """Its planner is gone."""

        async def prepare(self, messages: Messages, writer: Writer = "reasoner") -> Prompt:
            """See `workers.ports.Pool`."""
            if writer == "planner":
                raise WorkersUnavailable("No planner answers: it is gone")
            return await super().prepare(messages, writer)

    bench = Bench(redis_client, Planless(lambda _: Script("#### 18"), plan=plan))
    reply, events = await bench.ask(PLAN, QUERY)
    assert reply.outcome.answer == "18"
    assert "No plan could be written." in reply.outcome.notes
    assert {event.data["error"] for event in asides(events)} == {"No planner answers: it is gone"}
    assert (await bench.pool.counters())["fake-planner"]["completion_tokens"] == 0


async def test_plans_end_with_their_request(redis_client: Redis) -> None:
    """A planner that hangs is told of the deadline, and there is an answer by then."""
    pool = FakePool(lambda _: Script("#### 18"), plan=lambda _: Script("{", fault="hang"))
    bench = Bench(redis_client, pool)
    options = replace(PLAN, budget=Budget(candidates=24, deadline_seconds=0.6))
    reply, events = await bench.ask(options, QUERY)
    assert (reply.outcome.answer, reply.outcome.stopped) == ("18", Stopped.DEADLINE)
    assert {event.data["status"] for event in asides(events)} == {"cancelled"}
    assert (await bench.pool.counters())["fake-planner"]["running"] == 0


async def test_the_pace_of_a_planner_says_nothing_of_the_last_pass(redis_client: Redis) -> None:
    """However quickly plans are written, time is kept back for what the reasoner takes."""

    def slow(call: Generate) -> Script:
        prompt = bytes(call.prompt_ids).decode()
        if "What is known:" in prompt:
            return Script("so it is 18\n#### 18", seconds=0.3)
        if QUESTION in prompt:
            return Script("", fault="failed")
        return replace(answer(call), fault="hang" if "How many has Ben?" in prompt else None)

    manner = Manner(prices=PRICES, step_delimiter="\n", late_seconds=1.0)
    bench = Bench(redis_client, FakePool(slow, plan=plan), manner=manner)
    options = replace(PLAN, budget=Budget(candidates=24, deadline_seconds=2.0))
    reply, _ = await bench.ask(options, QUERY)
    assert reply.outcome.answer == "18"
