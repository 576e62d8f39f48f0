"""The pool and the ledger, as they are, with a watch on them.

Each keeps to the port it stands for and adds nothing to what goes through it. Of every call of a
worker it is told how it ended, exactly once, or that nobody heard of that.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar, cast

from planner.domain import Budget, Writer
from planner.errors import LedgerUnavailable
from planner.ports import Account, Commit, Hold, Ledger
from services.meters import Meters
from services.watch import AnyCall, Called, Watch
from workers.messages import (
    Generate,
    Generated,
    GenerationEvent,
    Grade,
    Graded,
    Prompt,
    Verified,
    Verify,
)
from workers.ports import Pool

Said = TypeVar("Said", bound=GenerationEvent | Graded | Verified)


class ObservedPool:
    """A `workers.ports.Pool` whose calls are watched and measured."""

    def __init__(self, pool: Pool, watch: Watch, meters: Meters) -> None:
        self._pool = pool
        self._watch = watch
        self._meters = meters

    @property
    def plans(self) -> bool:
        """See `workers.ports.Pool`."""
        return self._pool.plans

    @property
    def grades(self) -> bool:
        """See `workers.ports.Pool`."""
        return self._pool.grades

    @property
    def verifies(self) -> bool:
        """See `workers.ports.Pool`."""
        return self._pool.verifies

    async def prepare(
        self, messages: tuple[tuple[str, str], ...], writer: Writer = "reasoner"
    ) -> Prompt:
        """See `workers.ports.Pool`."""
        with self._meters.stage("prepare"):
            return await self._pool.prepare(messages, writer)

    async def encode(self, text: str, writer: Writer = "reasoner") -> tuple[int, ...]:
        """See `workers.ports.Pool`."""
        with self._meters.stage("encode"):
            return await self._pool.encode(text, writer)

    def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[GenerationEvent]:
        """See `workers.ports.Pool`."""
        return self._heard(batch, self._pool.generate(batch))

    def elsewhere(self, call_id: str) -> bool:
        """See `workers.ports.Pool`."""
        return self._pool.elsewhere(call_id)

    async def cancel(self, ids: Collection[str]) -> None:
        """See `workers.ports.Pool`."""
        await self._pool.cancel(ids)

    def grade(self, batch: tuple[Grade, ...]) -> AsyncIterator[Graded]:
        """See `workers.ports.Pool`."""
        return self._heard(batch, self._pool.grade(batch))

    def verify(self, batch: tuple[Verify, ...]) -> AsyncIterator[Verified]:
        """See `workers.ports.Pool`."""
        return self._heard(batch, self._pool.verify(batch))

    def _heard(self, batch: Sequence[AnyCall], said: AsyncIterator[Said]) -> AsyncIterator[Said]:
        """All that comes of a batch that is on its way since now."""
        return _Heard(self._watch, self._meters, batch).read(said)


class _Heard:
    """The calls of one batch that nobody has heard the end of."""

    def __init__(self, watch: Watch, meters: Meters, batch: Sequence[AnyCall]) -> None:
        self._watch = watch
        self._in_flight: Callable[[AnyCall, int], None] = meters.in_flight
        self._sent = monotonic()
        self._open: dict[str, AnyCall] = {call.id: call for call in batch}

    async def read(self, said: AsyncIterator[Said]) -> AsyncGenerator[Said, None]:
        """Hand on what is said, and note each end. Closed early, it closes what it reads."""
        for call in self._open.values():
            self._in_flight(call, 1)
        try:
            async for one in said:
                if isinstance(one, Generated | Graded | Verified) and one.id in self._open:
                    self._end(self._open[one.id], one)
                yield one
        finally:
            for call in list(self._open.values()):
                self._end(call, None)
            if isinstance(said, AsyncGenerator):
                await cast("AsyncGenerator[Said, None]", said).aclose()

    def _end(self, call: AnyCall, made: Generated | Graded | Verified | None) -> None:
        del self._open[call.id]
        self._in_flight(call, -1)
        self._watch.called(Called(call, made, self._sent, monotonic()))


class ObservedLedger:
    """A `planner.ports.Ledger` whose round trips are measured."""

    def __init__(self, ledger: Ledger, meters: Meters) -> None:
        self._ledger = ledger
        self._meters = meters

    async def open(self, budget: str, limits: Budget, *, parent: str | None = None) -> Account:
        """See `planner.ports.Ledger`."""
        with self._timed("open"):
            return await self._ledger.open(budget, limits, parent=parent)

    async def hold(self, budget: str, holds: tuple[Hold, ...]) -> tuple[tuple[bool, ...], Account]:
        """See `planner.ports.Ledger`."""
        with self._timed("hold"):
            return await self._ledger.hold(budget, holds)

    async def commit(self, budget: str, commits: tuple[Commit, ...]) -> Account:
        """See `planner.ports.Ledger`."""
        with self._timed("commit"):
            return await self._ledger.commit(budget, commits)

    async def renew(self, budget: str) -> bool:
        """See `planner.ports.Ledger`."""
        with self._timed("renew"):
            return await self._ledger.renew(budget)

    async def resize(self, budget: str, limits: Budget) -> Account:
        """See `planner.ports.Ledger`."""
        with self._timed("resize"):
            return await self._ledger.resize(budget, limits)

    async def close(self, budget: str) -> Account:
        """See `planner.ports.Ledger`."""
        with self._timed("close"):
            return await self._ledger.close(budget)

    async def account(self, budget: str) -> Account:
        """See `planner.ports.Ledger`."""
        with self._timed("account"):
            return await self._ledger.account(budget)

    @contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        began = monotonic()
        try:
            yield
        except LedgerUnavailable:
            self._meters.ledger_failed(operation)
            raise
        finally:
            self._meters.ledger_took(operation, monotonic() - began)
