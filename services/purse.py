"""The purse: one request's view of its budget in the ledger.

It owns what the driver last knew of the account, and the commits that the ledger hasn't taken yet.
What always holds: a commit is kept until the ledger has it, in order; nothing is dropped because
Redis was away for a moment. With a journal, no call is sent that isn't in it, and nothing is
committed that isn't in it: so another process can settle what this one leaves behind.
"""

from __future__ import annotations

import asyncio

from planner.domain import Budget, Cost
from planner.errors import LedgerUnavailable
from planner.ports import Account, Commit, Hold, Ledger
from services.journal import Journal

_RETRY_SECONDS = 0.1


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
    def spent(self) -> Cost:
        """All that was spent, what the ledger has yet to hear of included."""
        return sum((commit.cost for commit in self._uncommitted), self._account.spent)

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

    async def renew(self) -> bool:
        """Renew the lease of all that is held; False if any of it had run out."""
        return await self._ledger.renew(self.budget)
