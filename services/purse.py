"""The purse: one request's view of its budget in the ledger, and of the shares it is split into.

A purse owns what the driver last knew of one account, and the commits that the ledger hasn't taken
yet. What always holds: a commit is kept until the ledger has it, in order; nothing is dropped
because Redis was away for a while. A Redis that has lost its data knows the budget no more: that
counts as a ledger out of reach, so the search ends, and what was spent is booked anew. With a
journal, no call is sent that isn't in it, and nothing is committed that isn't in it: so another
process can settle what this one leaves behind. Each share is a budget of its own under the
request's, opened when it is first named and closed when it isn't any more, so that all together
never come to more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from secrets import token_hex

from planner.domain import Budget, Cost, Share
from planner.errors import LedgerUnavailable, UnknownBudget
from planner.ports import Account, Commit, Hold, Ledger
from services.journal import Journal

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two tries to have the ledger take what is owed: they grow."""
_BEFORE = "before"
"""The operation that books what was spent with a Redis that has lost its data."""
_NOTHING = Share(0, 0, 0.0)


class BudgetForgotten(LedgerUnavailable):
    """Redis was restarted without its data, or hasn't got all of it after a failover."""


class Purse:
    """One budget, as its only spender sees it."""

    def __init__(
        self, ledger: Ledger, budget: str, account: Account, journal: Journal | None = None
    ) -> None:
        self.budget = budget
        self._journal = journal
        self._ledger = ledger
        self._account = account
        self._opened_with = account.limits
        self._uncommitted: list[Commit] = []
        self._noted = 0
        """So many of them are in the journal, from the first on."""

    @property
    def left(self) -> Budget:
        """What can be asked for now, as far as is known."""
        return self._account.left()

    @property
    def owed(self) -> Cost:
        """What the ledger has yet to hear of."""
        return sum((commit.cost for commit in self._uncommitted), Cost())

    @property
    def booked(self) -> Cost:
        """What the ledger has heard of, when it was last asked."""
        return self._account.spent

    @property
    def spent(self) -> Cost:
        """All that was spent, what the ledger has yet to hear of included."""
        return self.booked + self.owed

    async def hold(self, holds: tuple[Hold, ...]) -> tuple[bool, ...]:
        """Ask the ledger; says which were granted. Raises LedgerUnavailable."""
        async with _known():
            granted, self._account = await self._ledger.hold(self.budget, holds)
        if self._journal is not None:
            sent = [hold for hold, yes in zip(holds, granted, strict=True) if yes]
            await self._journal.sent(self.budget, sent)
        return granted

    def owe(self, commit: Commit) -> None:
        """Note what a call cost; `settle` carries it to the ledger."""
        self._uncommitted.append(commit)

    async def settle(self) -> None:
        """Carry over all that is owed, in one call. Raises LedgerUnavailable, losing nothing."""
        if owed := tuple(self._uncommitted):
            if self._journal is not None:
                fresh, self._noted = owed[self._noted :], len(owed)
                await self._journal.paid(self.budget, fresh)
            async with _known():
                self._account = await self._ledger.commit(self.budget, owed)
            del self._uncommitted[: len(owed)]
            self._noted -= len(owed)

    async def reopen(self, spent: Cost) -> None:
        """Book all that was spent, with a Redis that knows nothing of it. Raises LedgerUnavailable.

        What was held is forgotten there too, so it is for the end, when nothing is held any more.
        """
        await self._ledger.open(self.budget, self._opened_with)
        async with _known():
            self._account = await self._ledger.commit(self.budget, (Commit(_BEFORE, spent),))
        self._uncommitted.clear()
        self._noted = 0

    async def resize(self, limits: Budget) -> None:
        """Have another limit on what it may spend in all. Raises LedgerUnavailable."""
        async with _known():
            self._account = await self._ledger.resize(self.budget, limits)

    async def look(self) -> None:
        """See how it stands: what its shares do changes it. Raises LedgerUnavailable."""
        async with _known():
            self._account = await self._ledger.account(self.budget)

    async def close(self) -> None:
        """Give back what wasn't spent. Raises LedgerUnavailable."""
        await self.settle()
        async with _known():
            self._account = await self._ledger.close(self.budget)

    async def renew(self) -> bool:
        """Renew the lease of all that is held; False if any of it had run out."""
        async with _known():
            return await self._ledger.renew(self.budget)


class Purses:
    """The purse of a request, and those of its shares. What is in no share is in the first."""

    def __init__(
        self, ledger: Ledger, budget: str, account: Account, journal: Journal | None = None
    ) -> None:
        self._ledger = ledger
        self._journal = journal
        self._limits = account.limits
        self._whole = Purse(ledger, budget, account, journal)
        self._shares: dict[str, Purse] = {}
        self._wanted: Mapping[str, Share] = {}
        self._closed: dict[str, Purse] = {}
        """Shares that are at their end; what still reports there is charged to the whole."""
        self._unseen = Cost()
        """What they have spent of which the whole has yet to hear."""
        # A request that is gone on with by another process must not meet the names of the first.
        self._mark = token_hex(3)
        self._opened = count()

    def __getitem__(self, share: str | None) -> Purse:
        """The purse that pays for a share; the first for one that isn't there."""
        if share is None:
            return self._whole
        return self._shares.get(share) or self._closed.get(share) or self._whole

    @property
    def spent(self) -> Cost:
        """All that was spent, what the ledger has yet to hear of included."""
        late = sum((purse.owed for purse in self._closed.values()), self._unseen)
        return sum((purse.spent for purse in self._shares.values()), self._whole.spent + late)

    async def share_out(self, wanted: Mapping[str, Share], busy: Collection[str]) -> None:
        """Open, size and close shares until there are those wanted. Raises LedgerUnavailable.

        One that isn't wanted any more but is `busy`, as calls run that it has held for, keeps what
        these may cost, and is closed when they have ended.
        """
        ending = self._shares.keys() - wanted.keys()
        ended = sorted(ending.difference(busy))
        if wanted == self._wanted and not ended:
            return
        for name in ended:
            await self._shares[name].close()
            self._closed[name] = closed = self._shares.pop(name)
            self._unseen += closed.booked
        for name in sorted(ending.intersection(busy)):
            await self._shares[name].resize(self._of(_NOTHING))
        # Those that get less make room for those that get more.
        for name in sorted(wanted, key=lambda name: self._growth(name, wanted[name])):
            if name not in self._shares:
                await self._open(name)
            await self._shares[name].resize(self._of(wanted[name]))
        await self._look()
        self._wanted = dict(wanted)

    async def settle(self) -> None:
        """See `Purse.settle`; of all of them."""
        for purse in (self._whole, *self._shares.values()):
            await purse.settle()
        if late := [purse for purse in self._closed.values() if purse.owed != Cost()]:
            for purse in late:
                owed = purse.owed
                await purse.settle()
                self._unseen += owed
            await self._look()

    async def _look(self) -> None:
        """See how the whole stands, with all that shares which are at their end have spent."""
        await self._whole.look()
        self._unseen = Cost()

    async def insist(self, seconds: float) -> bool:
        """Settle however often it takes, for at most so long; whether the ledger has it all."""
        pause = _FIRST_PAUSE
        try:
            async with asyncio.timeout(seconds):
                while not await self._settled():
                    # Not all at once, where many wait for the same Redis.
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                    pause = min(_LONGEST_PAUSE, 2 * pause)
        except TimeoutError:
            return False
        return True

    async def _settled(self) -> bool:
        """Have the ledger take all that is owed, if it can be reached; whether it has."""
        try:
            for purse in (self._whole, *self._shares.values(), *self._closed.values()):
                await purse.settle()
        except BudgetForgotten:
            return await self._reopened()
        except LedgerUnavailable:
            return False
        return True

    async def _reopened(self) -> bool:
        """Book all that was spent, in whatever share, as the request's."""
        with suppress(LedgerUnavailable):
            await self._whole.reopen(self.spent)
            self._shares.clear()
            self._closed.clear()
            self._unseen = Cost()
            return True
        return False

    async def renew(self) -> bool:
        """See `Purse.renew`; of all that are open."""
        # Shares may come and go while one of them is renewed.
        kept = [await purse.renew() for purse in list(self._shares.values())]
        return all([await self._whole.renew(), *kept])

    async def _open(self, name: str) -> None:
        """Open a share with nothing in it; it gets what there is when it is sized."""
        # A share that is wanted again is another budget: the first one has ended.
        budget = f"{self._whole.budget}/{name}-{self._mark}{next(self._opened)}"
        nothing = self._of(_NOTHING)
        if self._journal is not None:
            await self._journal.opened(budget)
        async with _known():
            account = await self._ledger.open(budget, nothing, parent=self._whole.budget)
        self._shares[name] = Purse(self._ledger, budget, account, self._journal)

    def _of(self, share: Share) -> Budget:
        """A share as limits, in the dimensions that the request is limited in."""
        limits = self._limits

        def part(limit: int | None) -> int | None:
            return None if limit is None else int(limit * share.part)

        def most(limit: int | None, wanted: int | None) -> int | None:
            return part(limit) if limit is None or wanted is None else min(limit, wanted)

        return Budget(
            completion_tokens=most(limits.completion_tokens, share.completion_tokens),
            reward_tokens=part(limits.reward_tokens),
            candidates=most(limits.candidates, share.candidates),
            micro_usd=part(limits.micro_usd),
        )

    def _growth(self, name: str, share: Share) -> float:
        before = self._wanted.get(name)
        return share.part - before.part if before else share.part


@asynccontextmanager
async def _known() -> AsyncIterator[None]:
    """Raises BudgetForgotten where Redis knows no such budget: it was opened."""
    try:
        yield
    except UnknownBudget as error:
        raise BudgetForgotten("Redis has lost the budget of this request.") from error
