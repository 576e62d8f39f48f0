"""Plans on a real ledger: every step has a budget of its own, and all of them no more than one."""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from secrets import token_hex
from typing import Any

import pytest
from redis.asyncio import Redis

from planner.domain import Budget, Sampling, Stopped
from planner.effort import Options
from services.driver import Manner
from services.trace import Event, Kind
from tests.integration.compound import ANSWERS, QUERY, QUESTION, STEPS
from tests.integration.reasoning_bench import PRICES, Bench
from workers.fake import FakePool, Fault, Script
from workers.messages import Generate, GenerationEvent


def solve(call: Generate) -> Script:
    """A plan where one is asked for, and a right answer to each of its questions."""
    if call.schema is not None:
        return Script(json.dumps({"steps": STEPS}))
    prompt = bytes(call.prompt_ids).decode()
    last = max(ANSWERS, key=prompt.rfind)
    found = ANSWERS[last] if last in prompt else 1
    return Script(f"it is {found}\n#### {found}")


def events_of(events: list[Event], kind: Kind, **wanted: object) -> list[dict[str, Any]]:
    """What events of one kind say that have these values."""
    found = [dict(event.data) for event in events if event.kind is kind]
    return [one for one in found if all(one[name] == value for name, value in wanted.items())]


async def test_a_plan_is_followed_to_its_answer(redis_client: Redis) -> None:
    """Steps are asked with the answers they need put in, and the reply shows the work of all."""
    bench = Bench(redis_client, FakePool(solve))
    reply, events = await bench.ask(Options(strategy="plan", budget=Budget(candidates=24)), QUERY)
    assert reply.outcome.answer == "18"
    assert reply.outcome.best is not None
    text = reply.outcome.best.text
    assert text.index("it is 7") < text.index("it is 11") < text.index("it is 18")
    (planned,) = events_of(events, Kind.PLANNED)
    assert [step["id"] for step in planned["steps"]] == ["a", "b", "c"]
    begun = events_of(events, Kind.STEP, state="begun")
    assert [step["question"] for step in begun][2] == "Anna has 7 and Ben 11. How many have both?"
    ended = events_of(events, Kind.STEP, state="ended")
    assert [step["answer"] for step in ended] == ["7", "11", "18"]
    completion, prompt = await bench.counted()
    assert reply.spent.completion_tokens == completion
    assert reply.spent.prompt_tokens + reply.spent.reward_tokens == prompt


@pytest.mark.parametrize("strategy", ["plan", "least_to_most"])
async def test_steps_are_told_how_sure_their_answers_are(
    redis_client: Redis, strategy: str
) -> None:
    """Where the profile says so: as sure as the trace says that they came out."""
    last = "Anna has 7 and Ben 11. How many have both?"
    asked = []

    def script(call: Generate) -> Script:
        asked.append(bytes(call.prompt_ids).decode().rpartition("<user>")[2])
        question = asked[-1].partition("\n\nWhat is known:")[0]
        return solve(replace(call, prompt_ids=tuple(question.encode())))

    options = Options(strategy=strategy, budget=Budget(candidates=24))
    for doubts in (False, True):
        asked.clear()
        manner = Manner(prices=PRICES, step_delimiter="\n", late_seconds=1.0, doubts=doubts)
        bench = Bench(redis_client, FakePool(script), manner=manner)
        reply, events = await bench.ask(options, QUERY)
        assert reply.outcome.answer == "18"
        assert events_of(events, Kind.STEP, state="begun")[-1]["question"] == last
        ended = events_of(events, Kind.STEP, state="ended")
        came_out = {f"{one['answer']} ({round(one['confidence'], 1):.0%} sure)" for one in ended}
        prompts = [it for it in asked if it.startswith(last)]
        assert prompts
        for prompt in prompts:
            told = re.findall(r"\d+ \(\d+% sure\)", prompt)
            assert [one.partition(" ")[0] for one in told] == (["7", "11"] if doubts else [])
            assert came_out.issuperset(told)


async def test_each_step_is_a_budget_under_the_requests(redis_client: Redis) -> None:
    """All that steps spent is in the ledger's children, and with the plans it is what was spent."""
    bench = Bench(redis_client, FakePool(solve))
    budget = Budget(completion_tokens=6000, reward_tokens=9000, micro_usd=90_000, candidates=24)
    reply, events = await bench.ask(
        Options(strategy="plan", selector="weighted", budget=budget), QUERY
    )
    account = await bench.ledger.account(reply.trace_id)
    assert account.spent == reply.spent
    prefix = f"longthink:{{{reply.trace_id}}}:budget:"
    names = [
        name.decode().removeprefix(prefix) async for name in redis_client.scan_iter(f"{prefix}*")
    ]
    children = [name for name in names if name]
    assert sorted(name.partition("-")[0] for name in children) == ["0.a", "0.b", "0.c", "drafts"]
    spent = [
        (await bench.ledger.account(f"{reply.trace_id}/{name}")).spent.completion_tokens
        for name in children
    ]
    drafts = [e.data["cost"]["completion_tokens"] for e in events if _is_draft(e)]
    assert min(spent) > 0
    assert sum(drafts) in spent
    assert sum(spent) == reply.spent.completion_tokens


async def test_what_a_step_leaves_goes_to_those_still_running(redis_client: Redis) -> None:
    """A step that needs far more than its part gets what the others didn't take."""

    def script(call: Generate) -> Script:
        made = solve(call)
        if call.schema is None and "How many has Ben?" in bytes(call.prompt_ids).decode():
            text = "long thought " * 24 + made.text
            return Script(text[len(text) - _left(call, text) :])
        return made

    bench = Bench(redis_client, FakePool(script))
    budget = Budget(completion_tokens=2700, candidates=9)
    reply, events = await bench.ask(Options(strategy="plan", budget=budget), QUERY)
    assert reply.outcome.answer == "18"
    (begun,) = events_of(events, Kind.STEP, id="b", state="begun")
    (ended,) = events_of(events, Kind.STEP, id="b", state="ended")
    assert ended["tokens"] > begun["share"]
    assert reply.spent.completion_tokens <= 2700


def _left(call: Generate, text: str) -> int:
    """How much of a text is yet to be written, where it was begun by an earlier call."""
    prompt = bytes(call.prompt_ids).decode()
    begun = prompt.find("long thought ")
    return len(text) - (len(prompt) - begun if begun != -1 else 0)


@pytest.mark.parametrize("seed", range(40))
async def test_no_plan_overspends_whatever_fails(redis_client: Redis, seed: int) -> None:
    """Random budgets, random faults: nothing over by one, nothing held, and a reply each time."""
    dice = random.Random(seed)
    budget = Budget(
        completion_tokens=dice.choice([None, dice.randint(50, 4000)]),
        reward_tokens=dice.choice([None, dice.randint(1, 3000)]),
        candidates=dice.choice([None, dice.randint(1, 30)]),
        micro_usd=dice.choice([None, dice.randint(1, 900)]),
        deadline_seconds=dice.choice([None, 0.05, 5.0]),
    )

    def script(call: Generate) -> Script:
        fate = random.Random(f"{seed}/{call.id}").random()
        fault: Fault | None = "lost" if fate < 0.1 else "failed" if fate < 0.2 else None
        made = replace(solve(call), fault=fault, seconds=0.002)
        return replace(made, text=made.text[: dice.randint(1, 200)]) if fate > 0.9 else made

    strategy = dice.choice(["plan", "plan(beam)", "plan(majority@beta:0.9)"])
    # However busy the machine is, the reply waits until every call has said what it cost.
    manner = Manner(prices=PRICES, step_delimiter="\n", settle_seconds=30, late_seconds=30)
    bench = Bench(redis_client, FakePool(script), manner=manner)
    options = Options(strategy=strategy, selector="weighted", budget=budget)
    reply, events = await bench.ask(options, QUERY)
    account = await bench.ledger.account(reply.trace_id)
    assert account.held.completion_tokens == account.held.candidates == 0
    assert account.spent == reply.spent
    for name in ("completion_tokens", "reward_tokens", "candidates", "micro_usd"):
        limit = getattr(budget, name)
        assert limit is None or getattr(account.spent, name) <= limit
    assert events[-1].kind in (Kind.CLOSED, Kind.SETTLED)


async def test_steps_that_need_nothing_of_each_other_run_side_by_side(redis_client: Redis) -> None:
    """Both are sampled before either has ended; what needs them begins when both have."""
    bench = Bench(redis_client, FakePool(lambda call: replace(solve(call), seconds=0.01)))
    _, events = await bench.ask(Options(strategy="plan", budget=Budget(candidates=24)), QUERY)
    said = [(step["id"], step["state"]) for step in events_of(events, Kind.STEP)]
    assert said[:2] == [("a", "begun"), ("b", "begun")]
    assert set(said[2:4]) == {("a", "ended"), ("b", "ended")}
    assert said[4:] == [("c", "begun"), ("c", "ended")]


async def test_shares_may_come_and_go_while_leases_are_renewed(redis_client: Redis) -> None:
    """However often a lease is renewed, the plan comes to its end."""
    manner = Manner(prices=PRICES, step_delimiter="\n", late_seconds=1.0, lease_seconds=0.01)
    for seed in range(10):
        pool = FakePool(lambda call: replace(solve(call), seconds=0.004))
        bench = Bench(redis_client, pool, manner=manner)
        options = Options(strategy="plan", budget=Budget(candidates=24))
        reply, _ = await bench.ask(options, replace(QUERY, seed=seed))
        assert reply.outcome.answer == "18"


@pytest.mark.parametrize("micro_usd", [600, 1200, 2400])
async def test_plans_take_no_more_than_their_part(redis_client: Redis, micro_usd: int) -> None:
    """Also where there is no limit but money: enough is left to follow one."""
    bench = Bench(redis_client, FakePool(solve))
    options = Options(strategy="plan", budget=Budget(micro_usd=micro_usd))
    reply, events = await bench.ask(options, QUERY)
    drafts = [e.data["cost"]["micro_usd"] for e in events if _is_draft(e)]
    assert sum(drafts) <= micro_usd * 0.5
    assert reply.outcome.answer is not None


def _is_draft(event: Event) -> bool:
    return event.kind is Kind.TOLD and event.data["id"].startswith("expand:0.")


async def test_a_plan_within_a_plan_has_shares_of_its_own(redis_client: Redis) -> None:
    """None of them is that of the plan around it, and nobody starves."""
    bench = Bench(redis_client, FakePool(solve))
    for strategy in ("plan(plan)", "atoms(plan)", "least_to_most(atoms(plan))"):
        options = Options(strategy=strategy, budget=Budget(candidates=128))
        reply, events = await bench.ask(options, QUERY)
        assert reply.outcome.answer == "18"
        errors = [e.data["error"] for e in events if e.kind is Kind.TOLD and e.data["error"]]
        assert errors == []


async def test_a_plan_without_an_answer_leaves_the_rest_to_the_question(
    redis_client: Redis,
) -> None:
    """With what was found, and with all the candidates that are left."""

    def script(call: Generate) -> Script:
        prompt = bytes(call.prompt_ids).decode()
        if call.schema is None and "What is known:" in prompt:
            return Script("#### 18")
        return (
            Script("who knows")
            if "How many has Ben?" in prompt and call.schema is None
            else solve(call)
        )

    bench = Bench(redis_client, FakePool(script))
    options = Options(strategy="plan", selector="majority", budget=Budget(candidates=64))
    reply, events = await bench.ask(options, QUERY)
    assert reply.outcome.answer == "18"
    assert sum(vote.count for vote in reply.outcome.votes) > 1
    told_of = {(step["id"], step["state"]) for step in events_of(events, Kind.STEP)}
    assert {state for _, state in told_of} >= {"begun", "ended"}


async def test_a_bigger_budget_keeps_what_a_plan_found(redis_client: Redis) -> None:
    """What was spent before counts, and what was found then isn't asked again."""
    bench = Bench(redis_client, FakePool(solve))
    small = Options(strategy="plan", budget=Budget(completion_tokens=1600, candidates=64))
    first = await bench.reasoner.start(QUERY, small, trace_id=token_hex(8))
    before = await first.reply()
    earlier = await bench.reasoner.earlier(first.trace.id)
    more = Options(strategy="plan", budget=Budget(completion_tokens=3200, candidates=64))
    run = await bench.reasoner.start(QUERY, more, trace_id=token_hex(8), earlier=earlier)
    reply = await run.reply()
    await bench.reasoner.drain(5)
    assert before.outcome.answer == reply.outcome.answer == "18"
    assert reply.reused > 0
    assert before.spent.completion_tokens + reply.spent.completion_tokens <= 3200


async def test_at_the_deadline_the_question_is_answered_from_what_is_known(
    redis_client: Redis,
) -> None:
    """One step hangs: just in time the rest is asked in one pass, with what the other found."""

    def script(call: Generate) -> Script:
        prompt = bytes(call.prompt_ids).decode()
        if call.schema is None and "What is known:" in prompt:
            assert "How many has Anna? 7" in prompt
            return Script("so it is 18\n#### 18", seconds=0.05)
        if call.schema is None and QUESTION in prompt:
            return Script("", fault="failed")
        hangs = call.schema is None and "How many has Ben?" in prompt
        return replace(solve(call), fault="hang" if hangs else None)

    bench = Bench(redis_client, FakePool(script), manner=Manner(prices=PRICES, late_seconds=1.0))
    budget = Budget(candidates=24, deadline_seconds=2.0)
    reply, events = await bench.ask(Options(strategy="plan", budget=budget), QUERY)
    assert reply.outcome.answer == "18"
    assert reply.outcome.stopped is Stopped.DEADLINE
    assert events_of(events, Kind.HURRIED)
    assert any("from what was known" in note for note in reply.outcome.notes)


async def test_a_last_pass_learns_how_long_its_answers_are(redis_client: Redis) -> None:
    """Once half of its first candidates have ended, the others run side by side as well."""
    batches: list[int] = []

    class Watched(FakePool):
        """Notes how many candidates of the last pass start together."""

        def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[GenerationEvent]:
            """See `workers.ports.Pool`."""
            if b"What is known:" in bytes(batch[0].prompt_ids):
                batches.append(len(batch))
            return super().generate(batch)

    def script(call: Generate) -> Script:
        prompt = bytes(call.prompt_ids).decode()
        if "What is known:" in prompt:
            return Script("#### 18".rjust(100), seconds=0.02)
        if call.schema is None and "How many has Ben?" in prompt:
            return Script("", fault="failed")
        return solve(call)

    bench = Bench(redis_client, Watched(script))
    budget = Budget(completion_tokens=6000, candidates=24)
    query = replace(QUERY, sampling=Sampling(max_tokens=2000))
    options = Options(strategy="plan", stop="none", budget=budget)
    reply, _ = await bench.ask(options, query)
    assert reply.outcome.answer == "18"
    assert sum(batches) >= 8
    assert len(batches) <= sum(batches) // 2
