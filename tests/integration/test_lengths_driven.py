"""What requests before took says how long candidates are likely to be, so budgets are used up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from planner.domain import Budget, Message
from planner.effort import Options
from services.trace import Kind
from tests.integration.reasoning_bench import QUERY, Bench, finished, of_length, wide
from workers.fake import FakePool, Script
from workers.messages import Generate

TREES = ("beam", "rebase", "particles", "dvts")


def in_steps(call: Generate) -> Script:
    """Steps of twelve tokens and an answer after the tenth; a short question's comes at once."""
    made = bytes(call.prompt_ids).decode().rpartition("How many?\n")
    if not made[1]:
        return Script("#### 7")
    steps = made[2].count("\n")
    return Script("".join(f"step {it:06}\n" for it in range(steps, 10)) + "#### 7")


async def test_short_questions_before_a_long_one_do_not_starve_it(redis_client: Redis) -> None:
    """What others took is no measure of its candidates: most of what it pays for is finished."""
    lengths = [30]

    def script(call: Generate) -> Script:
        return of_length(lengths[-1], 0.2)(call)

    bench = Bench(redis_client, FakePool(script))
    for _ in range(8):
        await bench.ask(wide(4))
    lengths.append(120)
    budget = Budget(candidates=64, completion_tokens=16 * 120)
    options = Options(strategy="majority", stop="none", budget=budget)
    reply, events = await bench.ask(options, replace(QUERY, seed=9))
    assert len(finished(events)) >= 12
    assert reply.spent.completion_tokens <= 16 * 120


@pytest.mark.parametrize("strategy", TREES)
async def test_short_questions_do_not_make_a_tree_too_wide_for_a_long_one(
    redis_client: Redis, strategy: str
) -> None:
    """What short prompts' answers took isn't believed of a long prompt: it comes to an answer."""
    bench = Bench(redis_client, FakePool(in_steps))
    for _ in range(12):
        await bench.ask(wide(4), replace(QUERY, messages=(Message("user", "2+2?"),)))
    asked = f"{'It is a long story. ' * 20}How many?"
    query = replace(QUERY, messages=(Message("user", asked),))
    options = replace(
        wide(strategy=strategy), budget=Budget(candidates=16, completion_tokens=3 * 127)
    )
    for seed in range(4):
        reply, _ = await bench.ask(options, replace(query, seed=seed))
        assert reply.outcome.answer == "7"
        assert reply.spent.completion_tokens <= 3 * 127


@pytest.mark.parametrize("strategy", TREES)
async def test_the_first_tree_of_a_service_comes_to_an_answer(
    redis_client: Redis, strategy: str
) -> None:
    """Answers take half of what they may, which nothing has said yet."""
    bench = Bench(redis_client, FakePool(in_steps))
    sampling = replace(QUERY.sampling, max_tokens=2 * 127)
    options = replace(
        wide(strategy=strategy), budget=Budget(candidates=16, completion_tokens=3 * 127)
    )
    reply, _ = await bench.ask(options, replace(QUERY, sampling=sampling))
    assert reply.outcome.answer == "7"


@pytest.mark.parametrize("strategy", TREES)
async def test_trees_that_came_to_nothing_make_the_next_narrower(
    redis_client: Redis, strategy: str
) -> None:
    """Where answers get longer all at once, those that were cut short say so."""
    short = True

    def script(call: Generate) -> Script:
        return Script("#### 7") if short else in_steps(call)

    bench = Bench(redis_client, FakePool(script))
    for _ in range(12):
        await bench.ask(wide(4))
    short = False
    options = replace(
        wide(strategy=strategy), budget=Budget(candidates=16, completion_tokens=3 * 127)
    )
    answers = [(await bench.ask(options, replace(QUERY, seed=it)))[0].outcome for it in range(9)]
    assert [one.answer for one in answers[-5:]] == ["7"] * 5


async def test_budget_of_sixteen_mean_candidates_finishes_nearly_all(redis_client: Redis) -> None:
    """Side by side, though each may take four times the mean, and never a token over."""
    for seed in range(5):
        bench = Bench(redis_client, FakePool(of_length(100, 0.25)))
        query = replace(QUERY, seed=seed)
        options = replace(wide(), budget=Budget(candidates=16, completion_tokens=1600))
        reply, events = await bench.ask(options, query)
        assert reply.spent.completion_tokens <= 1600
        assert len(finished(events)) >= 13
        first = next(event for event in events if event.kind is Kind.ASKED)
        assert len(first.data["tasks"]) == 16


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.2])
async def test_candidates_of_one_length_do_not_all_come_up_short(
    redis_client: Redis, spread: float
) -> None:
    """Where earlier requests took fewer tokens than this one does, nearly all finish just so."""
    lengths = of_length(120, 0.1)

    def script(call: Generate) -> Script:
        return lengths(call)

    bench = Bench(redis_client, FakePool(script))
    await bench.ask(wide())
    lengths = of_length(150, spread)
    options = replace(wide(), budget=Budget(candidates=16, completion_tokens=16 * 150))
    reply, events = await bench.ask(options)
    assert reply.spent.completion_tokens <= 16 * 150
    assert len(finished(events)) >= 13
