"""The ledger against a plain model of what it promises, over random histories.

The model keeps facts only (who committed what, who holds what, who ended) and adds them up when
asked; the ledger keeps running sums. Time is moved by hand: a lease is set to have run out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import astuple, dataclass, field
from itertools import count
from typing import Any, Literal, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from planner.domain import Budget, Cost
from planner.ports import Account, Commit, Hold
from services.budget import BudgetConflict, BudgetRefused, RedisLedger, connect

T = TypeVar("T")

NOTHING = Cost()
PARENTS: dict[str, str | None] = {"": None, "/x": "", "/y": "", "/x/z": "/x"}

numbers = st.integers(0, 12)
limits = st.builds(
    Budget,
    completion_tokens=st.none() | st.integers(0, 40),
    candidates=st.none() | st.integers(0, 12),
    micro_usd=st.none() | st.integers(0, 40),
)
costs = st.builds(
    Cost,
    prompt_tokens=numbers,
    completion_tokens=numbers,
    candidates=st.integers(0, 3),
    micro_usd=numbers,
)
operations = st.sampled_from("abcdefgh")
children = st.sampled_from([name for name in PARENTS if name])


def vector(limit: Budget) -> tuple[int | None, ...]:
    """The limits in the order of Cost."""
    return (
        None,
        None,
        limit.completion_tokens,
        limit.reward_tokens,
        limit.candidates,
        limit.micro_usd,
    )


@dataclass
class Book:
    """The facts about one budget. `aside` is what its parent holds for it while it is open."""

    asked: Budget
    limits: tuple[int | None, ...]
    parent: Book | None
    state: Literal["open", "lapsed", "closed"] = "lapsed"
    aside: Cost = NOTHING
    booked: Cost = NOTHING
    holds: dict[str, Cost] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    commits: dict[str, Cost] = field(default_factory=dict)
    children: list[Book] = field(default_factory=list)
    ran_out: bool = False
    overrun: bool = False

    def spent(self) -> Cost:
        """Its own commits, and for each child what it was charged for."""
        charged = (c.booked if c.state == "open" else c.spent() for c in self.children)
        return sum((*self.commits.values(), *charged), NOTHING)

    def held(self) -> Cost:
        asides = (child.aside for child in self.children if child.state == "open")
        return sum((*self.holds.values(), *asides), NOTHING)

    def left(self) -> tuple[int | None, ...]:
        used = astuple(self.spent() + self.held())
        return tuple(
            None if limit is None else limit - taken
            for limit, taken in zip(self.limits, used, strict=True)
        )

    def fits(self, cost: Cost) -> bool:
        pairs = zip(self.left(), astuple(cost), strict=True)
        return self.state == "open" and all(left is None or asked <= left for left, asked in pairs)

    def attach(self) -> bool:
        """Have what is not spent yet set aside in the parent; False where it doesn't fit."""
        if self.parent is None:
            self.state = "open"
            return True
        pairs = zip(self.limits, astuple(self.spent()), strict=True)
        aside = Cost(*(max(0, (limit or 0) - spent) for limit, spent in pairs))
        if not self.parent.fits(aside):
            return False
        self.booked, self.aside, self.state = self.spent(), aside, "open"
        return True

    def hold(self, op: str, cost: Cost) -> bool:
        if op in self.holds:
            return True
        if op in self.refused or op in self.commits:
            return False
        if not self.fits(cost):
            self.refused.add(op)
            return False
        self.holds[op] = cost
        return True

    def commit(self, op: str, cost: Cost) -> None:
        if op in self.commits:
            return
        held = self.holds.pop(op, NOTHING)
        self.commits[op] = cost
        if any(was > had for was, had in zip(astuple(cost), astuple(held), strict=True)):
            self.mark_overrun()

    def mark_overrun(self) -> None:
        """From here up, spending may be past the limit: something cost more than was held."""
        self.overrun = True
        if self.parent is not None:
            self.parent.mark_overrun()

    def end(self, state: Literal["lapsed", "closed"]) -> None:
        if self.state == "open":
            for child in self.children:
                if child.state == "open":
                    child.end("lapsed")
            self.holds.clear()
            self.ran_out = self.ran_out or state == "lapsed"
        self.state = state

    def renew(self) -> bool:
        kept = not self.ran_out and self.state != "lapsed"
        self.ran_out = False
        return kept


class LedgerMachine(RuleBasedStateMachine):
    """Every call is made of both; after each, all accounts of both are the same."""

    requests = count()

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client = connect(url)
        self.ledger = RedisLedger(self.client, lease_seconds=600)
        self.request = f"model-{next(self.requests)}"
        self.books: dict[str, Book] = {}

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.run(self.client.aclose())
        self.runner.close()

    def book(self, data: st.DataObject) -> tuple[str, Book]:
        name = data.draw(st.sampled_from(sorted(self.books)))
        return self.request + name, self.books[name]

    @initialize(limit=limits)
    def start(self, limit: Budget) -> None:
        self.run(self.ledger.open(self.request, limit))
        self.books[""] = Book(limit, vector(limit), None, "open")

    @rule(name=children, limit=limits)
    def open(self, name: str, limit: Budget) -> None:
        parent = PARENTS[name]
        assert parent is not None
        if parent not in self.books:
            return
        above = self.books[parent]
        book = self.books.get(name)
        expected: type[Exception] | None = None
        if book is None:
            taken = (None if left is None else max(0, left) for left in above.left())
            pairs = zip(vector(limit), taken, strict=True)
            bounds = tuple(rest if own is None else own for own, rest in pairs)
            book = Book(limit, bounds, above)
            if book.attach():
                self.books[name] = book
                above.children.append(book)
            else:
                expected = BudgetRefused
        elif book.asked != limit:
            expected = BudgetConflict
        elif book.state == "lapsed" and not book.attach():
            expected = BudgetRefused
        assert self.error_of_opening(name, limit, parent) is expected

    @rule(data=st.data())
    @precondition(lambda self: len(self.books) > 1)
    def open_again(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(name for name in self.books if name)))
        parent = PARENTS[name]
        assert parent is not None
        book = self.books[name]
        fine = book.state != "lapsed" or book.attach()
        expected = None if fine else BudgetRefused
        assert self.error_of_opening(name, book.asked, parent) is expected

    def error_of_opening(self, name: str, limit: Budget, parent: str) -> type[Exception] | None:
        opening = self.ledger.open(self.request + name, limit, parent=self.request + parent)
        try:
            self.run(opening)
        except (BudgetConflict, BudgetRefused) as error:
            return type(error)
        return None

    @rule(
        data=st.data(),
        asked=st.lists(st.tuples(operations, costs), min_size=1, max_size=5),
        times=st.integers(1, 2),
    )
    def hold(self, data: st.DataObject, asked: list[tuple[str, Cost]], times: int) -> None:
        budget, book = self.book(data)
        holds = tuple(Hold(op, cost) for op, cost in asked)
        expected = tuple(book.hold(op, cost) for op, cost in asked)
        for _ in range(times):
            assert self.run(self.ledger.hold(budget, holds))[0] == expected

    @rule(data=st.data(), times=st.integers(1, 2))
    def commit_what_is_held(self, data: st.DataObject, times: int) -> None:
        """As honest work does it: part of what was held, or all of it."""
        budget, book = self.book(data)
        share = data.draw(st.integers(0, 2))
        commits = tuple(
            Commit(op, Cost(*(number * share // 2 for number in astuple(cost))))
            for op, cost in book.holds.items()
        )
        for commit in commits:
            book.commit(commit.op, commit.cost)
        for _ in range(times):
            self.run(self.ledger.commit(budget, commits))

    @rule(data=st.data(), op=operations, cost=costs)
    def commit_whatever(self, data: st.DataObject, op: str, cost: Cost) -> None:
        """Held or not, more or less than was held."""
        budget, book = self.book(data)
        book.commit(op, cost)
        self.run(self.ledger.commit(budget, (Commit(op, cost),)))

    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        budget, book = self.book(data)
        assert self.run(self.ledger.renew(budget)) == book.renew()

    @rule(data=st.data(), times=st.integers(1, 2))
    def close(self, data: st.DataObject, times: int) -> None:
        budget, book = self.book(data)
        book.end("closed")
        for _ in range(times):
            self.run(self.ledger.close(budget))

    @rule(data=st.data())
    def let_leases_run_out(self, data: st.DataObject) -> None:
        """Some of the leases of one budget, those of its children among them."""
        name = data.draw(st.sampled_from(sorted(self.books)))
        book = self.books[name]
        ended = {
            f"child:{other[1:]}": child
            for other, child in self.books.items()
            if child.parent is book and child.state == "open"
        }
        leases = [*book.holds, *ended]
        if not leases:
            return
        gone = data.draw(st.sets(st.sampled_from(sorted(leases)), min_size=1))
        key = f"longthink:{{{self.request}}}:leases:{name[1:]}"
        self.run(self.run_out(key, gone))
        for op in gone:
            if op in ended:
                ended[op].end("lapsed")
            else:
                del book.holds[op]
        book.ran_out = True

    async def run_out(self, leases: str, operations: set[str]) -> None:
        await self.client.zadd(leases, dict.fromkeys(operations, 0), xx=True)

    async def accounts(self) -> list[Account]:
        return [await self.ledger.account(self.request + name) for name in self.books]

    @invariant()
    def accounts_agree(self) -> None:
        for (name, book), account in zip(
            self.books.items(), self.run(self.accounts()), strict=True
        ):
            assert account.spent == book.spent(), name
            assert account.held == book.held(), name
            assert vector(account.limits) == book.limits, name
            assert book.overrun or within(account), name


def within(account: Account) -> bool:
    """Whether spent + held <= limit in every dimension."""
    used = astuple(account.spent + account.held)
    pairs = zip(vector(account.limits), used, strict=True)
    return all(limit is None or taken <= limit for limit, taken in pairs)


def test_the_ledger_does_what_the_model_does(redis_url: str) -> None:
    """Over random histories of up to four budgets, verdicts and accounts are the model's."""

    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(redis_url)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
