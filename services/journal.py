"""The journal: what a request's calls may cost and did cost, in its trace before anywhere else.

A request that may be taken up by another process keeps one. What always holds: a call that was sent
is in it with what it holds; a call that the ledger has settled is in it with what it cost, and so
is, before that, what became of its task. So whoever reads it knows all that was paid for, and may
settle all of it once more, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple

from planner.ports import Commit, Hold
from services.trace import Kind, Trace


class Journal:
    """Writes into a trace, and returns when Redis has it.

    Raises LedgerUnavailable where it doesn't, and Superseded where another runs the request now.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    async def opened(self, budget: str) -> None:
        """This share of the budget is about to be opened."""
        self._trace.append(Kind.SENT, budget=budget, ops={})
        await self._trace.kept()

    async def sent(self, budget: str, holds: Iterable[Hold]) -> None:
        """These calls are about to be sent."""
        if ops := {hold.op: list(astuple(hold.cost)) for hold in holds}:
            self._trace.append(Kind.SENT, budget=budget, ops=ops)
            await self._trace.kept()

    async def paid(self, budget: str, commits: Iterable[Commit]) -> None:
        """These calls have ended, and all that came of them is in the trace.

        Without any it only waits until Redis has those from before.
        """
        if ops := {commit.op: list(astuple(commit.cost)) for commit in commits}:
            self._trace.append(Kind.PAID, budget=budget, ops=ops)
        await self._trace.kept()
