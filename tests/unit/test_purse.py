"""What a purse writes into its journal while the ledger is out of reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from planner.domain import Budget, Cost, Share
from planner.errors import LedgerUnavailable
from planner.ports import Account, Commit, Ledger
from services.journal import Journal
from services.purse import Purse, Purses
from services.trace import Kind, Trace


class Pages:
    """A trace that Redis has or hasn't got."""

    def __init__(self) -> None:
        self.paid: list[list[str]] = []
        self.waited = 0
        self.away = False

    def append(self, kind: Kind, *, budget: str, ops: dict[str, Any]) -> None:
        """See `Trace.append`."""
        assert kind is Kind.PAID
        self.paid.append(list(ops))

    async def kept(self) -> None:
        """See `Trace.kept`."""
        self.waited += 1
        if self.away:
            raise LedgerUnavailable("Redis is away.")


class Book:
    """A ledger that is there or not, and has what it was told."""

    def __init__(self) -> None:
        self.away = False
        self.taken: list[str] = []

    async def commit(self, budget: str, commits: tuple[Commit, ...]) -> Account:
        """See `Ledger.commit`."""
        if self.away:
            raise LedgerUnavailable("Redis is away.")
        self.taken += [commit.op for commit in commits]
        return Account(Budget(), Cost(), Cost())

    async def open(self, budget: str, limits: Budget) -> Account:
        """See `Ledger.open`."""
        return Account(limits, Cost(), Cost())


def purse_of(book: Book, pages: Pages) -> Purse:
    """One that writes there."""
    journal = Journal(cast("Trace", pages))
    return Purse(cast("Ledger", book), "budget", Account(Budget(), Cost(), Cost()), journal)


@pytest.mark.parametrize("where", ["book", "pages"])
async def test_what_is_owed_is_noted_once_however_often_it_is_tried(where: str) -> None:
    """Each try waits until the journal is kept, and the ledger gets all of it in the end."""
    book, pages = Book(), Pages()
    purse = purse_of(book, pages)
    lost: Book | Pages = book if where == "book" else pages
    lost.away = True
    for op in ("one", "two"):
        purse.owe(Commit(op, Cost()))
        for _ in range(3):
            with pytest.raises(LedgerUnavailable):
                await purse.settle()
    lost.away = False
    await purse.settle()
    purse.owe(Commit("three", Cost()))
    await purse.settle()
    assert pages.paid == [["one"], ["two"], ["three"]]
    assert pages.waited == 8
    assert book.taken == ["one", "two", "three"]


async def test_a_budget_that_was_booked_anew_notes_what_comes_after() -> None:
    """What was noted before is part of what was booked."""
    book, pages = Book(), Pages()
    purse = purse_of(book, pages)
    purse.owe(Commit("one", Cost()))
    book.away = True
    with pytest.raises(LedgerUnavailable):
        await purse.settle()
    book.away = False
    await purse.reopen(Cost())
    purse.owe(Commit("two", Cost()))
    await purse.settle()
    assert pages.paid == [["one"], ["two"]]


class Family:
    """A ledger of one budget and its shares; `looked` is called while it is asked anything."""

    def __init__(self) -> None:
        self.spent: dict[str, Cost] = {"r": Cost()}
        self.looked: Callable[[], None] = lambda: None

    def _account(self, budget: str) -> Account:
        self.looked()
        return Account(Budget(), self.spent[budget], Cost())

    async def open(self, budget: str, limits: Budget, parent: str) -> Account:
        """See `Ledger.open`."""
        self.spent[budget] = Cost()
        return self._account(budget)

    async def resize(self, budget: str, limits: Budget) -> Account:
        """See `Ledger.resize`."""
        return self._account(budget)

    async def commit(self, budget: str, commits: tuple[Commit, ...]) -> Account:
        """See `Ledger.commit`."""
        self.spent[budget] += sum((one.cost for one in commits), Cost())
        return self._account(budget)

    async def close(self, budget: str) -> Account:
        """See `Ledger.close`."""
        self.spent["r"] += self.spent[budget]
        return self._account(budget)

    async def account(self, budget: str) -> Account:
        """See `Ledger.account`."""
        return self._account(budget)


async def test_what_was_spent_stays_so_while_a_share_ends() -> None:
    """Whoever looks meanwhile sees all of it, once."""
    book = Family()
    purses = Purses(cast("Ledger", book), "r", Account(Budget(), Cost(), Cost()))
    await purses.share_out({"a": Share(0, 0, 0.5), "b": Share(0, 0, 0.5)}, ())
    purses["a"].owe(Commit("op", Cost(completion_tokens=5)))
    seen: list[int] = []
    book.looked = lambda: seen.append(purses.spent.completion_tokens)
    await purses.share_out({"b": Share(0, 0, 1.0)}, ())
    book.looked()
    assert len(seen) == 5
    assert set(seen) == {5}
