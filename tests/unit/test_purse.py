"""What a purse writes into its journal while the ledger is out of reach."""

from __future__ import annotations

from typing import Any, cast

import pytest

from planner.domain import Budget, Cost
from planner.errors import LedgerUnavailable
from planner.ports import Account, Commit, Ledger
from services.journal import Journal
from services.purse import Purse
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
