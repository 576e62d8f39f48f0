"""The ledger without its store: the same budgets, in this process's memory, on its loop's clock.

It keeps to the contract of the one in Redis, line by line of that one's scripts (see
`services.budget.ledger`, which says what always holds); only that nothing outlives the process.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import TypeAlias

from planner.domain import Budget, Cost
from planner.errors import UnknownBudget
from planner.ports import Account, Commit, Hold
from services.budget import BudgetConflict, BudgetRefused
from services.budget.scripts import LARGEST

Vector: TypeAlias = list[int]
_COUNTED = tuple(one.name for one in fields(Cost))
_CHILD = "child:"
_NAME = re.compile(r"[^{}/]+(?:/[^{}/]+)*")
_SETTLED, _REFUSED = "settled", "refused"


@dataclass(slots=True)
class _Book:
    """One budget. `ops` has what each operation holds, or else what became of it."""

    name: str
    parent: _Book | None
    asked: Budget
    limits: list[int | None]
    state: str = "open"
    spent: Vector = field(default_factory=lambda: [0] * len(_COUNTED))
    held: Vector = field(default_factory=lambda: [0] * len(_COUNTED))
    booked: Vector = field(default_factory=lambda: [0] * len(_COUNTED))
    ops: dict[str, Vector | str] = field(default_factory=dict)
    leases: dict[str, float] = field(default_factory=dict)
    """When the lease of each operation that holds runs out."""
    ran_out: bool = False

    def fits(self, asked: Vector) -> bool:
        return all(
            limit is None or spent + held + more <= limit
            for limit, spent, held, more in zip(
                self.limits, self.spent, self.held, asked, strict=True
            )
        )

    def account(self) -> Account:
        return Account(
            _budget(self.limits, self.asked.deadline_seconds), Cost(*self.spent), Cost(*self.held)
        )


Books: TypeAlias = dict[str, dict[str, _Book]]
"""What a ledger is kept in: of each request its budgets, by name. Several ledgers may share it, as
processes share one Redis."""


class MemoryLedger:
    """`planner.ports.Ledger` in memory; a call takes `seconds`, and a lease lasts as told."""

    def __init__(
        self, books: Books | None = None, *, lease_seconds: float = 10, seconds: float = 0.0
    ) -> None:
        self._books: Books = {} if books is None else books
        self._lease_seconds = lease_seconds
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()

    async def open(self, budget: str, limits: Budget, *, parent: str | None = None) -> Account:
        """See `services.budget.RedisLedger.open`."""
        await self._wait()
        _check_name(budget)
        if parent is not None and _request(parent) != _request(budget):
            raise ValueError(f"Budget {budget!r} and its parent {parent!r} differ in the request.")
        above = None if parent is None else self._enter(parent)
        book = self._find(budget)
        if book is None:
            book = _Book(budget, above, limits, _limits(limits))
            if above is not None:
                book.state = "lapsed"
                _limit_by(book, above)
        elif (book.asked, book.parent) != (limits, above):
            raise BudgetConflict(
                f"Budget {budget!r} is open already, with {book.asked}: open it with the same "
                "limits and parent, or open another."
            )
        else:
            self._enter(budget)
        if above is not None and book.state == "lapsed":
            self._set_aside(book, above)
        self._books.setdefault(_request(budget), {})[budget] = book
        return book.account()

    async def hold(self, budget: str, holds: tuple[Hold, ...]) -> tuple[tuple[bool, ...], Account]:
        """See `services.budget.RedisLedger.hold`."""
        await self._wait()
        book = self._enter(budget)
        granted = tuple(self._held(book, hold) for hold in holds)
        return granted, book.account()

    async def commit(self, budget: str, commits: tuple[Commit, ...]) -> Account:
        """See `services.budget.RedisLedger.commit`."""
        await self._wait()
        book = self._enter(budget)
        for commit in commits:
            _check_op(commit.op)
            if book.ops.get(commit.op) != _SETTLED:
                _release(book, commit.op)
                _charge(book, _vector(commit.cost))
                book.ops[commit.op] = _SETTLED
        return book.account()

    async def renew(self, budget: str) -> bool:
        """See `services.budget.RedisLedger.renew`."""
        await self._wait()
        book = self._enter(budget)
        kept = not book.ran_out and book.state != "lapsed"
        book.ran_out = False
        until = self._loop.time() + self._lease_seconds
        book.leases.update(dict.fromkeys(book.leases, until))
        for child in _upwards(book):
            if child.parent is not None and _CHILD + child.name in child.parent.leases:
                child.parent.leases[_CHILD + child.name] = until
        return kept

    async def resize(self, budget: str, limits: Budget) -> Account:
        """See `services.budget.RedisLedger.resize`."""
        await self._wait()
        book = self._enter(budget)
        parent = book.parent
        if parent is None:
            raise BudgetConflict(
                f"Budget {budget!r} is open with {book.asked}, and is no child to be resized."
            )
        if book.state == "open":
            _resize(book, parent, _limits(limits))
            aside = [
                max(0, (limit or 0) - booked)
                for limit, booked in zip(book.limits, book.booked, strict=True)
            ]
            _release(parent, _CHILD + budget)
            self._aside(parent, _CHILD + budget, aside)
        return book.account()

    async def close(self, budget: str) -> Account:
        """See `services.budget.RedisLedger.close`."""
        await self._wait()
        book = self._enter(budget)
        if book.state == "open":
            self._settle(book, "closed")
        book.state = "closed"
        return book.account()

    async def account(self, budget: str) -> Account:
        """See `services.budget.RedisLedger.account`."""
        await self._wait()
        return self._enter(budget).account()

    def forget(self, request: str) -> None:
        """Drop a request's budget and all under it, as Redis does when their time is over."""
        self._books.pop(request, None)

    def _find(self, name: str) -> _Book | None:
        return self._books.get(_request(name), {}).get(name)

    async def _wait(self) -> None:
        if self._seconds:
            await asyncio.sleep(self._seconds)

    def _enter(self, name: str) -> _Book:
        """The budget, with all that ran out taken back from its root down to it."""
        book = self._find(name)
        if book is None:
            _check_name(name)
            raise UnknownBudget(f"Budget {name!r} was never opened: open it first.")
        for one in reversed(list(_upwards(book))):
            self._reap(one)
        return book

    def _reap(self, book: _Book) -> None:
        now = self._loop.time()
        if book.leases and min(book.leases.values()) <= now:
            for op in [op for op, until in book.leases.items() if until <= now]:
                self._lapse(book, op)
                book.ran_out = True

    def _lapse(self, book: _Book, op: str) -> None:
        """Take back what `op` holds; a child is ended, which charges what it had spent."""
        child = self._find(op.removeprefix(_CHILD)) if op.startswith(_CHILD) else None
        if child is not None:
            self._settle(child, "lapsed")
        else:
            _release(book, op)

    def _settle(self, book: _Book, state: str) -> None:
        """End an open budget, its children first; its parent is charged and gets back the rest."""
        for op in list(book.leases):
            self._lapse(book, op)
        book.state = state
        book.ran_out = book.ran_out or state == "lapsed"
        if book.parent is not None:
            due = [spent - booked for spent, booked in zip(book.spent, book.booked, strict=True)]
            _add(book.booked, due)
            _release(book.parent, _CHILD + book.name)
            _charge(book.parent, due)

    def _held(self, book: _Book, hold: Hold) -> bool:
        _check_op(hold.op)
        known = book.ops.get(hold.op)
        if known is not None:
            return not isinstance(known, str)
        asked = _vector(hold.cost)
        if book.state == "open" and book.fits(asked):
            self._aside(book, hold.op, asked)
            return True
        book.ops[hold.op] = _REFUSED
        return False

    def _aside(self, book: _Book, op: str, asked: Vector) -> None:
        _add(book.held, asked)
        book.ops[op] = asked
        book.leases[op] = self._loop.time() + self._lease_seconds

    def _set_aside(self, book: _Book, parent: _Book) -> None:
        """Have a child's limits, less what it spent, set aside in its parent."""
        rest = [
            max(0, (limit or 0) - spent)
            for limit, spent in zip(book.limits, book.spent, strict=True)
        ]
        if parent.state != "open" or not parent.fits(rest):
            raise BudgetRefused(
                f"Budget {book.name!r} would set {Cost(*rest)} aside in its parent, which has "
                f"{parent.account().left()} left or was closed: ask for less, or close a sibling."
            )
        self._aside(parent, _CHILD + book.name, rest)
        book.state = "open"


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"A budget is named '<request>' or '<request>/<child>', without braces: {name!r}."
        )


def _check_op(op: str) -> None:
    if op.startswith(_CHILD):
        raise ValueError(f"Operations named {_CHILD}... belong to the ledger: {op!r}.")


def _request(budget: str) -> str:
    """The request that a budget is of: the first part of its name."""
    return budget.partition("/")[0]


def _upwards(book: _Book) -> Iterator[_Book]:
    """The budget, its parent and so on."""
    above: _Book | None = book
    while above is not None:
        yield above
        above = above.parent


def _release(book: _Book, op: str) -> None:
    """Give back what `op` holds, and forget the operation."""
    held = book.ops.get(op)
    if held is not None and not isinstance(held, str):
        _add(book.held, held, -1)
        del book.ops[op]
        book.leases.pop(op, None)


def _charge(book: _Book, cost: Vector) -> None:
    """Count a cost as spent; where a child has ended, its parent pays."""
    _add(book.spent, cost)
    if book.parent is not None and book.state != "open":
        _add(book.booked, cost)
        _charge(book.parent, cost)


def _limit_by(child: _Book, parent: _Book) -> None:
    """Where only the parent is limited, the child takes all that the parent has left."""
    for place, (own, limit) in enumerate(zip(child.limits, parent.limits, strict=True)):
        if own is None and limit is not None:
            child.limits[place] = max(0, limit - parent.spent[place] - parent.held[place])


def _resize(child: _Book, parent: _Book, wanted: list[int | None]) -> None:
    for place, (asked, limit, above) in enumerate(
        zip(wanted, child.limits, parent.limits, strict=True)
    ):
        if asked is None or limit is None:
            continue
        more = max(asked, child.spent[place] + child.held[place]) - limit
        if more > 0 and above is not None:
            left = above - parent.spent[place] - parent.held[place]
            more = max(0, min(more, left))
        child.limits[place] = limit + more


def _add(into: Vector, more: Vector, sign: int = 1) -> None:
    for place, value in enumerate(more):
        into[place] += sign * value


def _vector(cost: Cost) -> Vector:
    vector = [
        cost.prompt_tokens,
        cost.cached_tokens,
        cost.completion_tokens,
        cost.reward_tokens,
        cost.candidates,
        cost.micro_usd,
    ]
    _check_range(vector)
    return vector


def _check_range(counts: Iterable[int]) -> None:
    if any(not 0 <= count <= LARGEST for count in counts):
        raise ValueError(f"Counts in a budget are integers from 0 to {LARGEST}.")


def _limits(budget: Budget) -> list[int | None]:
    limits = [
        None,
        None,
        budget.completion_tokens,
        budget.reward_tokens,
        budget.candidates,
        budget.micro_usd,
    ]
    _check_range(limit for limit in limits if limit is not None)
    return limits


def _budget(limits: list[int | None], deadline: float | None) -> Budget:
    _, _, completion, reward, candidates, micro_usd = limits
    return Budget(completion, reward, candidates, micro_usd, deadline)
