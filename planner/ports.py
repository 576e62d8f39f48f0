"""What the driver needs of whoever keeps the budget: a `Ledger` that says yes or no beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from planner.domain import Budget, Cost


@dataclass(frozen=True, slots=True)
class Account:
    """A budget as the ledger has it. A dimension of `limits` without a limit is None."""

    limits: Budget
    spent: Cost
    held: Cost

    def left(self) -> Budget:
        """What can still be asked for, in every limited dimension; never negative."""

        def rest(dimension: str) -> int | None:
            limit: int | None = getattr(self.limits, dimension)
            if limit is None:
                return None
            used: int = getattr(self.spent, dimension) + getattr(self.held, dimension)
            return max(0, limit - used)

        return Budget(
            completion_tokens=rest("completion_tokens"),
            reward_tokens=rest("reward_tokens"),
            candidates=rest("candidates"),
            micro_usd=rest("micro_usd"),
            deadline_seconds=self.limits.deadline_seconds,
        )


@dataclass(frozen=True, slots=True)
class Hold:
    """Ask to set `cost` aside under the operation id `op`."""

    op: str
    cost: Cost


@dataclass(frozen=True, slots=True)
class Commit:
    """Turn the hold of `op` into `cost` spent; what was held beyond it goes back.

    With a zero cost it is a release. Without a hold (its lease ran out) the cost still counts.
    """

    op: str
    cost: Cost


class Ledger(Protocol):
    """Budgets that nothing overspends. Every call is atomic and idempotent by operation id.

    Raises LedgerUnavailable when the store can't be reached, UnknownBudget for a budget that was
    never opened. `spent + held <= limit` holds in every dimension at every moment.
    """

    async def open(self, budget: str, limits: Budget, *, parent: str | None = None) -> Account:
        """Open a budget. A child sets its limits aside in `parent`, all of them or it is refused.

        Opening it again with the same limits changes nothing.
        """

    async def hold(self, budget: str, holds: tuple[Hold, ...]) -> tuple[tuple[bool, ...], Account]:
        """Set each aside in order, each wholly or not at all; says which were granted."""

    async def commit(self, budget: str, commits: tuple[Commit, ...]) -> Account:
        """Settle each. A second commit of the same op changes nothing."""

    async def renew(self, budget: str) -> bool:
        """Renew the lease of every hold; False if any had run out since the last renewal."""

    async def resize(self, budget: str, limits: Budget) -> Account:
        """Set anew what a child may spend in all, as far as its parent has it left.

        It keeps what it has spent and holds, however little it is to have.
        """

    async def close(self, budget: str) -> Account:
        """Release what is held, and give a parent back what was not spent. Idempotent."""

    async def account(self, budget: str) -> Account:
        """The budget as it stands."""
