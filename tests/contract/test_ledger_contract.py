"""What `planner.ports.Ledger` promises, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import pytest

from planner.domain import Budget, Cost
from planner.errors import UnknownBudget
from planner.ports import Commit, Hold, Ledger
from services.budget import BudgetConflict

Leased: TypeAlias = Callable[[float], Ledger]

LAPSE = 0.1  # seconds after which the leases of a `brief` ledger have run out

EVERY = Cost(
    prompt_tokens=1,
    cached_tokens=2,
    completion_tokens=3,
    reward_tokens=4,
    candidates=5,
    micro_usd=6,
)
LIMITED = ("completion_tokens", "reward_tokens", "candidates", "micro_usd")


def tokens(count: int) -> Cost:
    return Cost(completion_tokens=count)


async def hold(ledger: Ledger, budget: str, op: str, cost: Cost) -> bool:
    (granted,), _ = await ledger.hold(budget, (Hold(op, cost),))
    return granted


async def test_open_starts_at_nothing(ledger: Ledger) -> None:
    """A new budget has its limits, and nothing spent or held."""
    limits = Budget(completion_tokens=10, micro_usd=7, deadline_seconds=2.5)
    account = await ledger.open("r", limits)
    assert (account.limits, account.spent, account.held) == (limits, Cost(), Cost())
    assert await ledger.account("r") == account


async def test_open_again_changes_nothing(ledger: Ledger) -> None:
    """Opening a budget again with the same limits keeps what is spent and held."""
    await ledger.open("r", Budget(completion_tokens=10))
    await hold(ledger, "r", "a", tokens(4))
    before = await ledger.commit("r", (Commit("b", tokens(1)),))
    assert await ledger.open("r", Budget(completion_tokens=10)) == before


@pytest.mark.parametrize(
    "other",
    [
        Budget(completion_tokens=11),
        Budget(),
        Budget(completion_tokens=10, candidates=1),
        Budget(completion_tokens=10, deadline_seconds=1.0),
    ],
)
async def test_open_with_other_limits_is_an_error(ledger: Ledger, other: Budget) -> None:
    """Opening a budget again with other limits raises BudgetConflict and changes nothing."""
    before = await ledger.open("r", Budget(completion_tokens=10))
    with pytest.raises(BudgetConflict, match="with the same limits"):
        await ledger.open("r", other)
    assert await ledger.account("r") == before


async def test_a_budget_never_opened_is_unknown(ledger: Ledger) -> None:
    """Every call on a budget that was never opened raises UnknownBudget, which names it."""
    calls = (
        ledger.hold("r/x", (Hold("a", tokens(1)),)),
        ledger.commit("r/x", (Commit("a", tokens(1)),)),
        ledger.renew("r/x"),
        ledger.close("r/x"),
        ledger.account("r/x"),
        ledger.open("r/x/y", Budget(), parent="r/x"),
    )
    for call in calls:
        with pytest.raises(UnknownBudget, match="'r/x'"):
            await call


@pytest.mark.parametrize("name", ["", "/", "r/", "/r", "r//x", "{r}", "r/{x}"])
async def test_a_name_that_is_none_is_an_error(ledger: Ledger, name: str) -> None:
    """A name with braces or an empty part is refused, for it could reach another's keys."""
    with pytest.raises(ValueError, match="named"):
        await ledger.open(name, Budget())


@pytest.mark.parametrize("number", [-1, 2**48 + 1])
async def test_numbers_out_of_range_are_an_error(ledger: Ledger, number: int) -> None:
    """Limits and costs are integers that Lua adds exactly: others are refused before Redis."""
    await ledger.open("r", Budget())
    with pytest.raises(ValueError, match="integer"):
        await ledger.open("s", Budget(candidates=number))
    with pytest.raises(ValueError, match="integer"):
        await ledger.hold("r", (Hold("a", tokens(number)),))
    with pytest.raises(ValueError, match="integer"):
        await ledger.commit("r", (Commit("a", tokens(number)),))


async def test_large_numbers_stay_exact(ledger: Ledger) -> None:
    """Numbers near the largest allowed are added to the last unit."""
    await ledger.open("r", Budget(micro_usd=2**48))
    assert await hold(ledger, "r", "a", Cost(micro_usd=2**48 - 1))
    account = await ledger.commit("r", (Commit("a", Cost(micro_usd=2**48 - 1)),))
    assert account.left().micro_usd == 1
    assert not await hold(ledger, "r", "b", Cost(micro_usd=2))
    assert await hold(ledger, "r", "c", Cost(micro_usd=1))


async def test_hold_sets_aside(ledger: Ledger) -> None:
    """What is granted is held in every dimension, apart from what is spent."""
    await ledger.open("r", Budget())
    granted, account = await ledger.hold("r", (Hold("a", EVERY), Hold("b", EVERY)))
    assert granted == (True, True)
    assert (account.spent, account.held) == (Cost(), EVERY + EVERY)


@pytest.mark.parametrize("dimension", LIMITED)
async def test_hold_stops_at_the_limit(ledger: Ledger, dimension: str) -> None:
    """In each limited dimension a hold is granted up to the limit and not one beyond it."""
    await ledger.open("r", Budget(**{dimension: 10}))
    await ledger.commit("r", (Commit("spent", Cost(**{dimension: 3})),))
    assert await hold(ledger, "r", "a", Cost(**{dimension: 4}))
    assert not await hold(ledger, "r", "b", Cost(**{dimension: 4}))
    assert await hold(ledger, "r", "c", Cost(**{dimension: 3}))
    assert not await hold(ledger, "r", "d", Cost(**{dimension: 1}))


async def test_prompt_tokens_are_counted_not_limited(ledger: Ledger) -> None:
    """Prompt and cached tokens are held and spent without a limit."""
    await ledger.open("r", Budget(0, 0, 0, 0))
    assert await hold(ledger, "r", "a", Cost(prompt_tokens=9, cached_tokens=5))
    account = await ledger.commit("r", (Commit("a", Cost(prompt_tokens=8, cached_tokens=4)),))
    assert account.spent == Cost(prompt_tokens=8, cached_tokens=4)


async def test_a_hold_is_wholly_granted_or_not_at_all(ledger: Ledger) -> None:
    """A hold that fits in one dimension but not in another holds nothing."""
    await ledger.open("r", Budget(completion_tokens=10, candidates=1))
    granted, account = await ledger.hold("r", (Hold("a", Cost(completion_tokens=5, candidates=2)),))
    assert (granted, account.held) == ((False,), Cost())


async def test_a_batch_of_holds_is_judged_in_order(ledger: Ledger) -> None:
    """Of several holds each is granted what those before it left; a small one still fits."""
    await ledger.open("r", Budget(completion_tokens=10))
    holds = tuple(Hold(op, tokens(n)) for op, n in (("a", 6), ("b", 6), ("c", 4), ("d", 1)))
    granted, account = await ledger.hold("r", holds)
    assert granted == (True, False, True, False)
    assert account.held == tokens(10)


async def test_an_empty_batch_changes_nothing(ledger: Ledger) -> None:
    """Holding and committing nothing gives the account back."""
    opened = await ledger.open("r", Budget(completion_tokens=10))
    assert await ledger.hold("r", ()) == ((), opened)
    assert await ledger.commit("r", ()) == opened


async def test_holding_twice_holds_once(ledger: Ledger) -> None:
    """A repeated hold is granted again without holding more, even where no more would fit."""
    await ledger.open("r", Budget(completion_tokens=10))
    first = await ledger.hold("r", (Hold("a", tokens(8)),))
    assert await ledger.hold("r", (Hold("a", tokens(8)),)) == first
    granted, account = await ledger.hold("r", (Hold("a", tokens(8)), Hold("a", tokens(8))))
    assert (granted, account.held) == ((True, True), tokens(8))


async def test_a_refusal_is_repeated(ledger: Ledger) -> None:
    """A hold that was refused stays refused, even after room was made."""
    await ledger.open("r", Budget(completion_tokens=10))
    assert await hold(ledger, "r", "a", tokens(8))
    assert not await hold(ledger, "r", "b", tokens(8))
    await ledger.commit("r", (Commit("a", Cost()),))
    assert not await hold(ledger, "r", "b", tokens(8))
    assert await hold(ledger, "r", "c", tokens(8))


async def test_commit_spends_and_gives_back(ledger: Ledger) -> None:
    """A commit counts what it cost, and what was held beyond that can be held again."""
    await ledger.open("r", Budget(completion_tokens=10))
    await hold(ledger, "r", "a", tokens(10))
    account = await ledger.commit("r", (Commit("a", tokens(3)),))
    assert (account.spent, account.held) == (tokens(3), Cost())
    assert await hold(ledger, "r", "b", tokens(7))


async def test_commit_of_nothing_releases(ledger: Ledger) -> None:
    """A commit of zero cost gives the whole hold back."""
    await ledger.open("r", Budget(completion_tokens=10))
    await hold(ledger, "r", "a", tokens(10))
    account = await ledger.commit("r", (Commit("a", Cost()),))
    assert (account.spent, account.held) == (Cost(), Cost())


async def test_committing_twice_counts_once(ledger: Ledger) -> None:
    """A second commit of an operation changes nothing, whatever it says."""
    await ledger.open("r", Budget())
    await hold(ledger, "r", "a", EVERY)
    first = await ledger.commit("r", (Commit("a", EVERY), Commit("a", EVERY)))
    assert first.spent == EVERY
    assert await ledger.commit("r", (Commit("a", tokens(99)),)) == first


async def test_a_hold_after_its_commit_is_not_granted(ledger: Ledger) -> None:
    """An operation that was committed can't be held again."""
    await ledger.open("r", Budget(completion_tokens=10))
    await hold(ledger, "r", "a", tokens(5))
    settled = await ledger.commit("r", (Commit("a", tokens(5)), Commit("never held", tokens(1))))
    granted, account = await ledger.hold("r", (Hold("a", tokens(1)), Hold("never held", tokens(1))))
    assert (granted, account) == ((False, False), settled)


async def test_a_cost_without_a_hold_counts(ledger: Ledger) -> None:
    """What was spent is spent, held or not, past the limit too; then nothing more is granted."""
    await ledger.open("r", Budget(completion_tokens=10))
    account = await ledger.commit("r", (Commit("late", tokens(12)),))
    assert account.spent == tokens(12)
    assert account.left().completion_tokens == 0
    assert not await hold(ledger, "r", "a", Cost(candidates=1))


async def test_budgets_are_apart(ledger: Ledger) -> None:
    """The same operation in two budgets is two operations."""
    for budget in ("r", "s"):
        await ledger.open(budget, Budget(completion_tokens=10))
        assert await hold(ledger, budget, "a", tokens(10))


async def test_a_lease_that_runs_out_gives_back(brief: Ledger, ledger: Ledger) -> None:
    """What nobody renews comes back by itself, and another can hold it."""
    await ledger.open("r", Budget(completion_tokens=10))
    assert await hold(brief, "r", "a", tokens(10))
    await asyncio.sleep(LAPSE)
    assert (await ledger.account("r")).held == Cost()
    assert await hold(ledger, "r", "b", tokens(10))


async def test_renewed_leases_stand(leased: Leased, ledger: Ledger) -> None:
    """Holds that are renewed in time outlive their first lease, and renew says so."""
    await ledger.open("r", Budget(completion_tokens=10))
    await leased(0.5).hold("r", (Hold("a", tokens(4)), Hold("b", tokens(5))))
    assert await ledger.renew("r")
    await asyncio.sleep(0.6)
    assert (await ledger.account("r")).held == tokens(9)
    assert await ledger.renew("r")


async def test_renew_tells_of_a_lease_that_ran_out(brief: Ledger, ledger: Ledger) -> None:
    """Once a lease ran out, whoever took it back, one renewal is False and the next is True."""
    await ledger.open("r", Budget(completion_tokens=10))
    await hold(brief, "r", "a", tokens(10))
    await asyncio.sleep(LAPSE)
    await ledger.account("r")
    assert not await ledger.renew("r")
    assert await ledger.renew("r")


async def test_a_commit_after_the_lease_still_counts(brief: Ledger, ledger: Ledger) -> None:
    """The cost of work whose lease ran out is counted once, and gives nothing back twice."""
    await ledger.open("r", Budget(completion_tokens=10))
    await hold(ledger, "r", "mine", tokens(2))
    await hold(brief, "r", "a", tokens(6))
    await asyncio.sleep(LAPSE)
    account = await ledger.commit("r", (Commit("a", tokens(5)), Commit("a", tokens(5))))
    assert (account.spent, account.held) == (tokens(5), tokens(2))


async def test_a_hold_after_its_lease_is_judged_anew(brief: Ledger, ledger: Ledger) -> None:
    """Holding again after the lease ran out is granted only where it fits now."""
    await ledger.open("r", Budget(completion_tokens=10))
    await brief.hold("r", (Hold("a", tokens(4)), Hold("b", tokens(6))))
    await asyncio.sleep(LAPSE)
    await ledger.commit("r", (Commit("c", tokens(5)),))
    granted, account = await ledger.hold("r", (Hold("a", tokens(4)), Hold("b", tokens(6))))
    assert (granted, account.held) == ((True, False), tokens(4))


async def test_close_releases_what_is_held(ledger: Ledger) -> None:
    """A closed budget holds nothing, keeps what it spent, and closing again changes nothing."""
    await ledger.open("r", Budget(completion_tokens=10))
    await ledger.commit("r", (Commit("a", tokens(2)),))
    await hold(ledger, "r", "b", tokens(5))
    closed = await ledger.close("r")
    assert (closed.spent, closed.held) == (tokens(2), Cost())
    assert await ledger.close("r") == closed
    assert await ledger.open("r", Budget(completion_tokens=10)) == closed


async def test_a_closed_budget_counts_but_does_not_grant(ledger: Ledger) -> None:
    """After closing, holds are refused, late costs still count, and there is nothing to renew."""
    await ledger.open("r", Budget(completion_tokens=10))
    await hold(ledger, "r", "a", tokens(5))
    await ledger.close("r")
    assert not await hold(ledger, "r", "b", tokens(1))
    assert (await ledger.commit("r", (Commit("a", tokens(4)),))).spent == tokens(4)
    assert await ledger.renew("r")
