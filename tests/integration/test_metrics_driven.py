"""What real searches leave in the metrics, on a real ledger, with workers that fail as scripted."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from planner.domain import Budget, Cost, Stopped
from planner.errors import LedgerUnavailable
from planner.ports import Account, Hold
from services.driver import Manner
from services.observed import ObservedLedger
from services.telemetry import Ended
from tests.integration.reasoning_bench import PRICES, Bench, told, wide
from workers.fake import FakePool, Script, Verdict
from workers.messages import Generate


async def test_every_stage_of_a_search_is_timed(redis_client: Redis) -> None:
    """Each call is counted by how it ended and timed, and so is what stands before and after."""
    bench = Bench(redis_client, FakePool())
    _, events = await bench.ask(wide(selector="weighted"))
    assert bench.counted_as("longthink_calls_total", kind="generate", finish="stop") >= 16
    assert bench.counted_as("longthink_calls_total", kind="grade", finish="done") == 16
    for stage, least in {"prepare": 1, "wait": 32, "grade": 16, "select": 1}.items():
        assert bench.counted_as("longthink_stage_seconds_count", stage=stage) == least
    assert bench.counted_as("longthink_first_result_seconds_count", strategy="majority") == 1
    for kind in ("generate", "grade"):
        assert bench.counted_as("longthink_calls_in_flight", kind=kind) == 0
    assert len(told(events)) == 16


async def test_every_round_trip_to_the_ledger_is_timed(redis_client: Redis) -> None:
    """By its operation."""
    bench = Bench(redis_client, FakePool())
    await bench.ask(wide())
    for operation in ("open", "hold", "commit", "close"):
        assert bench.counted_as("longthink_ledger_seconds_count", operation=operation) >= 1
        assert bench.counted_as("longthink_ledger_errors_total", operation=operation) == 0


async def test_what_the_search_no_longer_wants_is_waste(redis_client: Redis) -> None:
    """Once the answer can't change, the tokens of those that still write are counted as surplus."""

    def script(call: Generate) -> Script:
        quick = int(call.id.rpartition(".")[2].partition("#")[0].rpartition(":")[2]) < 13
        return Script("#### 7") if quick else Script("x" * 300 + "#### 7", seconds=30.0)

    bench = Bench(redis_client, FakePool(script))
    reply, events = await bench.ask(replace(wide(), stop=None))
    cancelled = [event for event in told(events) if event.data["status"] == "cancelled"]
    assert reply.outcome.stopped in (Stopped.CERTAIN, Stopped.CONFIDENT)
    tokens = sum(event.data["cost"]["completion_tokens"] for event in cancelled)
    wasted = bench.counted_as("longthink_wasted_tokens_total", kind="completion", why="surplus")
    assert wasted == tokens
    calls = bench.counted_as("longthink_calls_total", kind="generate", finish="cancelled")
    assert calls == len([event for event in cancelled if event.data["worker"]])


async def test_what_the_deadline_cuts_is_told_apart(redis_client: Redis) -> None:
    """Tokens that a deadline made useless are no surplus."""
    bench = Bench(redis_client, FakePool(lambda _: Script("x" * 400, seconds=20.0)))
    options = replace(wide(4), budget=Budget(candidates=4, deadline_seconds=0.6))
    reply, _ = await bench.ask(options)
    assert reply.outcome.stopped is Stopped.DEADLINE
    assert bench.counted_as("longthink_wasted_tokens_total", kind="completion", why="deadline") > 0
    assert bench.counted_as("longthink_wasted_tokens_total", kind="completion", why="surplus") == 0


async def test_a_lost_call_is_charged_as_waste_and_made_again(redis_client: Redis) -> None:
    """All it was held for is written off, and the next try counts as one."""
    held: list[int] = []

    def script(call: Generate) -> Script:
        if call.id.endswith("#0"):
            held.append(call.max_tokens)
            return Script("x", fault="lost")
        return Script("#### 7")

    bench = Bench(redis_client, FakePool(script))
    reply, _ = await bench.ask(wide(4))
    assert bench.counted_as("longthink_calls_total", kind="generate", finish="lost") == 1
    assert bench.counted_as("longthink_retries_total", kind="generate") == 1
    wasted = bench.counted_as("longthink_wasted_tokens_total", kind="completion", why="lost")
    assert [wasted] == held
    useful = reply.spent.completion_tokens - wasted
    assert useful == sum(len(one.token_ids) for one in reply.outcome.ranked) * 4


async def test_a_failed_grade_is_waste(redis_client: Redis) -> None:
    """Of the reward model's tokens, those of grades that came to nothing are told by that."""
    pool = FakePool(judge=lambda _: Verdict(fault="failed"))
    bench = Bench(redis_client, pool)
    _, events = await bench.ask(wide(4, selector="weighted"))
    failed = [event for event in told(events, "grade") if event.data["status"] == "failed"]
    tokens = sum(event.data["cost"]["reward_tokens"] for event in failed)
    assert len(failed) == bench.counted_as("longthink_calls_total", kind="grade", finish="failed")
    assert bench.counted_as("longthink_wasted_tokens_total", kind="reward", why="failed") == tokens


async def test_a_call_that_never_reports_is_written_off(redis_client: Redis) -> None:
    """Its tokens count as waste when nobody waits for it any more, and it is in flight no more."""

    class Mute(FakePool):
        async def cancel(self, ids: object) -> None:
            """Take no notice."""

    manner = Manner(prices=PRICES, step_delimiter="\n", settle_seconds=0.05, late_seconds=0.1)
    pool = Mute(lambda _: Script("x", seconds=60.0))
    bench = Bench(redis_client, pool, manner=manner)
    options = replace(wide(2), budget=Budget(candidates=2, deadline_seconds=0.3))
    reply, _ = await bench.ask(options)
    assert reply.unreported == 2
    wasted = bench.counted_as("longthink_wasted_tokens_total", kind="completion", why="unreported")
    assert wasted == reply.spent.completion_tokens > 0
    assert bench.counted_as("longthink_calls_in_flight", kind="generate") == 0


async def test_what_an_answer_took_is_told_by_strategy_and_tenant(redis_client: Redis) -> None:
    """Who pays, for what, and what comes of it."""
    bench = Bench(redis_client, FakePool())
    reply, _ = await bench.ask(wide(8))
    bench.telemetry.began()
    end = Ended("id", 200, None, False, 1.0, "majority", reply, 0, tenant="acme")
    bench.telemetry.ended(end)
    tokens = bench.counted_as("longthink_answer_tokens_sum", strategy="majority")
    assert tokens == reply.spent.completion_tokens
    assert bench.counted_as("longthink_answer_candidates_sum", strategy="majority") == 8
    confidence = bench.counted_as("longthink_answer_confidence_sum", strategy="majority")
    assert confidence == pytest.approx(reply.outcome.confidence)
    spent = bench.counted_as("longthink_tenant_micro_usd_total", tenant="acme")
    assert spent == reply.spent.micro_usd > 0
    for kind in ("prompt", "cached", "completion", "reward"):
        counted = bench.counted_as("longthink_tenant_tokens_total", tenant="acme", kind=kind)
        assert counted == getattr(reply.spent, f"{kind}_tokens")

    # The same reply once more costs nothing, and is no second answer.
    bench.telemetry.began()
    bench.telemetry.ended(replace(end, reply=replace(reply, paid_before=reply.spent)))
    assert bench.counted_as("longthink_answer_tokens_count", strategy="majority") == 1
    assert bench.counted_as("longthink_tenant_requests_total", tenant="acme", status="200") == 2


async def test_decisions_are_counted(redis_client: Redis) -> None:
    """What `auto` chose to do shows."""
    bench = Bench(redis_client, FakePool())
    _, events = await bench.ask(replace(wide(strategy="auto"), stop=None))
    decided = [event.data["what"] for event in events if event.kind == "decided"]
    assert decided
    for what in set(decided):
        assert bench.counted_as("longthink_decisions_total", what=what) == decided.count(what)


async def test_a_ledger_that_does_not_answer_is_counted(redis_client: Redis) -> None:
    """Its error goes on to whoever called it."""

    class Gone:
        async def hold(
            self, budget: str, holds: tuple[Hold, ...]
        ) -> tuple[tuple[bool, ...], Account]:
            raise LedgerUnavailable("gone")

    bench = Bench(redis_client, FakePool())
    ledger = ObservedLedger(Gone(), bench.telemetry.meters)  # type: ignore[arg-type]
    with pytest.raises(LedgerUnavailable):
        await ledger.hold("a", (Hold("op", Cost()),))
    assert bench.counted_as("longthink_ledger_errors_total", operation="hold") == 1


async def test_nothing_is_kept_of_requests_that_are_over(redis_client: Redis) -> None:
    """However they ended."""
    bench = Bench(redis_client, FakePool(lambda _: Script("x" * 50, seconds=5.0)))
    run = await bench.start(wide(4))
    await asyncio.sleep(0.05)
    run.cancel()
    await run.reply()
    await bench.reasoner.drain(5)
    assert not bench.telemetry.watch._requests
