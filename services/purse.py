"""The purse: one request's view of its budget in the ledger, and of the shares it is split into.

A purse owns what the driver last knew of one account, and the commits that the ledger hasn't taken
yet. What always holds: a commit is kept until the ledger has it, in order; nothing is dropped
because Redis was away for a moment. With a journal, no call is sent that isn't in it, and nothing
is committed that isn't in it: so another process can settle what this one leaves behind. Each share
is a budget of its own under the request's, opened when it is first named and closed when it isn't
any more, so that all together never come to more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from itertools import count
from secrets import token_hex

from planner.domain import Budget, Cost, Share
from planner.errors import LedgerUnavailable
from planner.ports import Account, Commit, Hold, Ledger
from services.journal import Journal

_RETRY_SECONDS = 0.1
_NOTHING = Share(0, 0, 0.0)


class Purse:
    """One budget, as its only spender sees it."""

    def __init__(
        self, ledger: Ledger, budget: str, account: Account, journal: Journal | None = None
    ) -> None:
        self.budget = budget
        self._journal = journal
        self._ledger = ledger
        self._account = account
        self._uncommitted: list[Commit] = []

    @property
    def left(self) -> Budget:
        """What can be asked for now, as far as is known."""
        return self._account.left()

    @property
    def owed(self) -> Cost:
        """What the ledger has yet to hear of."""
        return sum((commit.cost for commit in self._uncommitted), Cost())

    @property
    def spent(self) -> Cost:
        """All that was spent, what the ledger has yet to hear of included."""
        return self._account.spent + self.owed

    async def hold(self, holds: tuple[Hold, ...]) -> tuple[bool, ...]:
        """Ask the ledger; says which were granted. Raises LedgerUnavailable."""
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
                await self._journal.paid(self.budget, owed)
            self._account = await self._ledger.commit(self.budget, owed)
            del self._uncommitted[: len(owed)]

    async def insist(self, seconds: float) -> bool:
        """Settle however often it takes, for at most so long; whether the ledger has it all."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        await self.settle()
                        return True
                    except LedgerUnavailable:
                        await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError:
            return False

    async def resize(self, limits: Budget) -> None:
        """Have another limit on what it may spend in all. Raises LedgerUnavailable."""
        self._account = await self._ledger.resize(self.budget, limits)

    async def look(self) -> None:
        """See how it stands: what its shares do changes it. Raises LedgerUnavailable."""
        self._account = await self._ledger.account(self.budget)

    async def close(self) -> None:
        """Give back what wasn't spent. Raises LedgerUnavailable."""
        await self.settle()
        self._account = await self._ledger.close(self.budget)

    async def renew(self) -> bool:
        """Renew the lease of all that is held; False if any of it had run out."""
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
        late = sum((purse.owed for purse in self._closed.values()), Cost())
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
            self._closed[name] = self._shares.pop(name)
        for name in sorted(ending.intersection(busy)):
            await self._shares[name].resize(self._of(_NOTHING))
        # Those that get less make room for those that get more.
        for name in sorted(wanted, key=lambda name: self._growth(name, wanted[name])):
            if name not in self._shares:
                await self._open(name)
            await self._shares[name].resize(self._of(wanted[name]))
        await self._whole.look()
        self._wanted = dict(wanted)

    async def settle(self) -> None:
        """See `Purse.settle`; of all of them."""
        for purse in (self._whole, *self._shares.values()):
            await purse.settle()
        if late := [purse for purse in self._closed.values() if purse.owed != Cost()]:
            for purse in late:
                await purse.settle()
            await self._whole.look()

    async def insist(self, seconds: float) -> bool:
        """See `Purse.insist`; of all of them, side by side."""
        purses = (self._whole, *self._shares.values(), *self._closed.values())
        return all(await asyncio.gather(*(purse.insist(seconds) for purse in purses)))

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
