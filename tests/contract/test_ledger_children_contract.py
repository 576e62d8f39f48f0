"""What `planner.ports.Ledger` promises of budgets under budgets, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import pytest

from planner.domain import Budget, Cost
from planner.errors import UnknownBudget
from planner.ports import Commit, Hold, Ledger
from services.budget import BudgetConflict, BudgetRefused

Leased: TypeAlias = Callable[[float], Ledger]

LAPSE = 0.1  # seconds after which the leases of a `brief` ledger have run out


def tokens(count: int) -> Cost:
    return Cost(completion_tokens=count)


async def hold(ledger: Ledger, budget: str, op: str, cost: Cost) -> bool:
    (granted,), _ = await ledger.hold(budget, (Hold(op, cost),))
    return granted


async def test_a_child_sets_its_limits_aside(ledger: Ledger) -> None:
    """A child's limits are held in its parent, once however often it is opened."""
    await ledger.open("r", Budget(completion_tokens=10, candidates=4))
    child = await ledger.open("r/x", Budget(completion_tokens=6, candidates=1), parent="r")
    assert await ledger.open("r/x", child.limits, parent="r") == child
    assert (await ledger.account("r")).held == Cost(completion_tokens=6, candidates=1)
    assert not await hold(ledger, "r", "a", tokens(5))


async def test_a_child_beyond_its_parent_is_refused(ledger: Ledger) -> None:
    """A child that wants more than is left in any dimension is not opened at all."""
    opened = await ledger.open("r", Budget(completion_tokens=10, candidates=1))
    with pytest.raises(BudgetRefused, match="ask for less"):
        await ledger.open("r/x", Budget(completion_tokens=10, candidates=2), parent="r")
    assert await ledger.account("r") == opened
    with pytest.raises(UnknownBudget):
        await ledger.account("r/x")


async def test_a_child_without_a_limit_takes_what_is_left(ledger: Ledger) -> None:
    """Where only the parent is limited the child gets, and takes, what the parent has left."""
    await ledger.open("r", Budget(completion_tokens=10, micro_usd=5))
    await ledger.commit("r", (Commit("a", tokens(3)),))
    child = await ledger.open("r/x", Budget(micro_usd=1, reward_tokens=9), parent="r")
    assert child.limits == Budget(completion_tokens=7, micro_usd=1, reward_tokens=9)
    assert (await ledger.account("r")).left().completion_tokens == 0
    assert (await ledger.open("r/x", Budget(micro_usd=1, reward_tokens=9), parent="r")) == child


async def test_closing_a_child_gives_back_the_rest(ledger: Ledger) -> None:
    """What a child spent is spent in its parent when it closes, and the rest comes back, once."""
    await ledger.open("r", Budget(completion_tokens=10))
    await ledger.open("r/x", Budget(completion_tokens=8), parent="r")
    await ledger.commit("r/x", (Commit("a", Cost(prompt_tokens=2, completion_tokens=3)),))
    await hold(ledger, "r/x", "b", tokens(5))
    for _ in range(2):
        assert (await ledger.close("r/x")).spent == Cost(prompt_tokens=2, completion_tokens=3)
        parent = await ledger.account("r")
        assert parent.spent == Cost(prompt_tokens=2, completion_tokens=3)
        assert parent.held == Cost()


async def test_a_child_is_resized_within_its_parent(ledger: Ledger) -> None:
    """It gets what its parent has left at most, and gives back what it neither spent nor holds."""
    await ledger.open("r", Budget(completion_tokens=20))
    await ledger.open("r/x", Budget(completion_tokens=0), parent="r")
    await ledger.open("r/y", Budget(completion_tokens=5), parent="r")
    for _ in range(2):
        account = await ledger.resize("r/x", Budget(completion_tokens=40))
        assert account.limits == Budget(completion_tokens=15)
        assert (await ledger.account("r")).held == tokens(20)
    await ledger.commit("r/x", (Commit("a", tokens(3)),))
    assert await hold(ledger, "r/x", "b", tokens(4))
    assert (await ledger.resize("r/x", Budget(completion_tokens=1))).limits.completion_tokens == 7
    assert (await ledger.account("r")).held == tokens(12)
    assert (await ledger.resize("r/y", Budget(completion_tokens=9))).limits.completion_tokens == 9
    assert not await hold(ledger, "r/x", "c", tokens(1))
    await ledger.close("r/x")
    parent = await ledger.account("r")
    assert (parent.spent, parent.held) == (tokens(3), tokens(9))


async def test_a_child_without_a_limit_stays_so_when_resized(ledger: Ledger) -> None:
    """Only what a child is limited in is resized."""
    await ledger.open("r", Budget())
    await ledger.open("r/x", Budget(candidates=1), parent="r")
    account = await ledger.resize("r/x", Budget(candidates=3, completion_tokens=5))
    assert account.limits == Budget(candidates=3)
    assert await hold(ledger, "r/x", "a", Cost(completion_tokens=50, candidates=3))


async def test_only_an_open_child_is_resized(ledger: Ledger) -> None:
    """A request's own limits are what was asked for; a child that has ended has none to change."""
    await ledger.open("r", Budget(completion_tokens=20))
    with pytest.raises(BudgetConflict):
        await ledger.resize("r", Budget(completion_tokens=30))
    await ledger.open("r/x", Budget(completion_tokens=5), parent="r")
    await ledger.close("r/x")
    await ledger.resize("r/x", Budget(completion_tokens=9))
    assert not await hold(ledger, "r/x", "a", tokens(1))
    assert (await ledger.account("r")).held == Cost()


async def test_a_late_cost_of_a_closed_child_reaches_its_parents(ledger: Ledger) -> None:
    """A commit after the child was closed is charged all the way up, as far as it is closed."""
    await ledger.open("r", Budget(completion_tokens=10))
    await ledger.open("r/x", Budget(completion_tokens=8), parent="r")
    await ledger.open("r/x/y", Budget(completion_tokens=6), parent="r/x")
    await ledger.close("r/x/y")
    await ledger.commit("r/x/y", (Commit("a", tokens(2)),))
    assert (await ledger.account("r/x")).spent == tokens(2)
    assert (await ledger.account("r")).spent == Cost()
    await ledger.close("r/x")
    await ledger.commit("r/x/y", (Commit("b", tokens(1)),))
    for budget in ("r/x/y", "r/x", "r"):
        assert (await ledger.account(budget)).spent == tokens(3)


async def test_closing_a_parent_ends_its_children(ledger: Ledger) -> None:
    """When a parent closes, what its children spent counts, and they are granted nothing more."""
    await ledger.open("r", Budget(completion_tokens=10))
    await ledger.open("r/x", Budget(completion_tokens=8), parent="r")
    await ledger.open("r/x/y", Budget(completion_tokens=8), parent="r/x")
    await hold(ledger, "r/x/y", "a", tokens(3))
    await ledger.commit("r/x/y", (Commit("a", tokens(3)),))
    closed = await ledger.close("r")
    assert (closed.spent, closed.held) == (tokens(3), Cost())
    assert not await hold(ledger, "r/x/y", "b", tokens(1))
    assert not await hold(ledger, "r/x", "b", tokens(1))
    with pytest.raises(BudgetRefused):
        await ledger.open("r/z", Budget(completion_tokens=1), parent="r")


async def test_a_dead_child_is_charged_for_what_it_spent(brief: Ledger, ledger: Ledger) -> None:
    """A parent that takes back a dead child's lease counts what it and its own children spent."""
    await ledger.open("r", Budget(completion_tokens=20))
    await brief.open("r/x", Budget(completion_tokens=10), parent="r")
    await brief.commit("r/x", (Commit("a", tokens(3)),))
    await asyncio.sleep(LAPSE)
    account = await ledger.account("r")
    assert (account.spent, account.held) == (tokens(3), Cost())
    assert not await ledger.renew("r")


async def test_children_of_a_dead_child_end_with_it(leased: Leased, ledger: Ledger) -> None:
    """A dead child's own children are charged to it, and through it to the one who found out."""
    await ledger.open("r", Budget(completion_tokens=20))
    await leased(0.5).open("r/x", Budget(completion_tokens=10), parent="r")
    await ledger.open("r/x/y", Budget(completion_tokens=5), parent="r/x")
    await hold(ledger, "r/x/y", "held", tokens(1))
    await ledger.commit("r/x/y", (Commit("a", tokens(4)),))
    await asyncio.sleep(0.6)
    account = await ledger.account("r")
    assert (account.spent, account.held) == (tokens(4), Cost())
    for child in ("r/x", "r/x/y"):
        account = await ledger.account(child)
        assert (account.spent, account.held) == (tokens(4), Cost())
        assert not await hold(ledger, child, "more", tokens(1))


async def test_a_child_that_comes_late_is_granted_nothing(brief: Ledger, ledger: Ledger) -> None:
    """A child whose lease ran out can't hold, is told so at every renewal, and its costs count."""
    await ledger.open("r", Budget(completion_tokens=10))
    await brief.open("r/x", Budget(completion_tokens=10), parent="r")
    await asyncio.sleep(LAPSE)
    assert not await hold(ledger, "r/x", "a", tokens(1))
    assert not await ledger.renew("r/x")
    assert not await ledger.renew("r/x")
    await ledger.commit("r/x", (Commit("b", tokens(2)),))
    assert (await ledger.account("r")).spent == tokens(2)
    assert (await ledger.close("r/x")).spent == tokens(2)
    assert (await ledger.account("r")).spent == tokens(2)


async def test_a_child_that_comes_late_can_be_opened_again(brief: Ledger, ledger: Ledger) -> None:
    """Opened again, a child whose lease ran out gets what it had not spent, if that still fits."""
    await ledger.open("r", Budget(completion_tokens=10))
    await brief.open("r/x", Budget(completion_tokens=8), parent="r")
    await brief.commit("r/x", (Commit("a", tokens(3)),))
    await asyncio.sleep(LAPSE)
    assert await hold(ledger, "r", "mine", tokens(3))
    with pytest.raises(BudgetRefused):
        await ledger.open("r/x", Budget(completion_tokens=8), parent="r")
    await ledger.commit("r", (Commit("mine", Cost()),))
    child = await ledger.open("r/x", Budget(completion_tokens=8), parent="r")
    assert child.left().completion_tokens == 5
    assert (await ledger.account("r")).held == tokens(5)
    assert await hold(ledger, "r/x", "b", tokens(5))
    await ledger.commit("r/x", (Commit("b", tokens(1)),))
    await ledger.close("r/x")
    parent = await ledger.account("r")
    assert (parent.spent, parent.held) == (tokens(4), Cost())


async def test_a_child_closed_late_stays_closed(brief: Ledger, ledger: Ledger) -> None:
    """Closing a child whose lease ran out ends it for good: opening it again sets nothing aside."""
    await ledger.open("r", Budget(completion_tokens=10))
    await brief.open("r/x", Budget(completion_tokens=8), parent="r")
    await asyncio.sleep(LAPSE)
    closed = await ledger.close("r/x")
    assert await ledger.open("r/x", Budget(completion_tokens=8), parent="r") == closed
    assert (await ledger.account("r")).held == Cost()


async def test_a_child_renews_its_set_aside_in_every_parent(leased: Leased, ledger: Ledger) -> None:
    """A child that renews keeps itself and all that it hangs from."""
    short = leased(0.5)
    await ledger.open("r", Budget(completion_tokens=10))
    await short.open("r/x", Budget(completion_tokens=8), parent="r")
    await short.open("r/x/y", Budget(completion_tokens=6), parent="r/x")
    assert await ledger.renew("r/x/y")
    await asyncio.sleep(0.6)
    assert (await ledger.account("r")).held == tokens(8)
    assert (await ledger.account("r/x")).held == tokens(6)


async def test_a_parent_renews_its_children(leased: Leased, ledger: Ledger) -> None:
    """A parent that renews keeps its children, though not what these hold themselves."""
    short = leased(0.5)
    await ledger.open("r", Budget(completion_tokens=10))
    await short.open("r/x", Budget(completion_tokens=8), parent="r")
    await hold(short, "r/x", "a", tokens(6))
    assert await ledger.renew("r")
    await asyncio.sleep(0.6)
    assert (await ledger.account("r")).held == tokens(8)
    assert (await ledger.account("r/x")).held == Cost()


async def test_a_child_belongs_to_its_parents_request(ledger: Ledger) -> None:
    """A child of another request is refused: their keys may live on different servers."""
    await ledger.open("r", Budget())
    with pytest.raises(ValueError, match="request"):
        await ledger.open("s/x", Budget(), parent="r")


async def test_a_child_keeps_its_parent(ledger: Ledger) -> None:
    """Opening a child again under another parent, or under none, raises BudgetConflict."""
    for budget, parent in (("r", None), ("r/x", "r"), ("r/y", "r/x")):
        await ledger.open(budget, Budget(), parent=parent)
    for other in ("r", None):
        with pytest.raises(BudgetConflict):
            await ledger.open("r/y", Budget(), parent=other)


async def test_operations_of_children_are_the_ledgers_own(ledger: Ledger) -> None:
    """An operation named like a child's set-aside is refused, so nobody can settle it by name."""
    await ledger.open("r", Budget())
    with pytest.raises(ValueError, match="child:"):
        await ledger.commit("r", (Commit("child:x", Cost()),))
