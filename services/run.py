"""One request under way, and what it comes to: what whoever waits for it has in hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from planner.domain import Budget, Cost, Outcome, Stopped
from planner.effort import Effort
from planner.errors import LedgerUnavailable
from services.allowance import Allowance
from services.calibration import Calibrations
from services.driver import Conclusion, Driver
from services.resume import Before, kept
from services.tenants import LOCAL, Tenant
from services.trace import Kind, Trace


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request came to.

    `unreported` calls, cut off at the end, have yet to say what they cost: `spent` counts each with
    all that it may have cost. `calibrated` is how likely the answer is right, by what answers like
    it were; None where that isn't known. `paid_before` is the part of `spent` that was booked with
    an earlier try of the same request. Of an earlier request, `reused` results were kept, and what
    that had spent counts against the budget: `before` says how much.
    """

    trace_id: str
    outcome: Outcome
    effort: Effort
    spent: Cost
    budget: Budget
    unreported: int = 0
    calibrated: float | None = None
    paid_before: Cost = Cost()
    reused: int = 0
    before: Before | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """How a request came to begin: after it had `waited` so many seconds, which count against its
    deadline, and with the `priority` of its calls in the engines, of which the lowest goes first.
    """

    waited: float = 0.0
    priority: int = 0


AT_ONCE = Admitted()


class Run:
    """One request under way. It goes on by itself until it is done or cancelled."""

    tenant = LOCAL
    """Whose it is."""
    allowance: Allowance | None = None
    """What of its tenant's limits it has set aside."""

    def __init__(
        self,
        trace: Trace,
        effort: Effort,
        driver: Driver,
        calibrations: Calibrations,
        *,
        before: Before | None = None,
        paid_before: Cost = Cost(),
        tenant: Tenant = LOCAL,
        allowance: Allowance | None = None,
    ) -> None:
        self.trace = trace
        self.tenant = tenant
        self.allowance = allowance
        self.effort = effort
        self.left = False
        self.over = asyncio.Event()
        self._driver = driver
        self._calibrations = calibrations
        self._before = before
        self._paid_before = paid_before

    async def reply(self) -> Reply:
        """Wait for the reply. Cancelling the wait doesn't cancel the run."""
        conclusion: Conclusion = await asyncio.shield(self._driver.concluded)
        if self.allowance is not None:
            # Whoever has the reply may ask again at once, and must find room for that.
            with suppress(LedgerUnavailable):
                await self.allowance.settle(conclusion.spent)
        return self._reply(conclusion)

    @property
    def spent(self) -> Cost:
        """All that was spent until now, as far as this process knows."""
        return self._driver.spent

    def heed(self, heard: Callable[[Reply | None], None]) -> None:
        """Have `heard` called with the reply once it is there, or with None where it failed."""

        def tell(concluded: asyncio.Future[Conclusion]) -> None:
            failed = concluded.cancelled() or concluded.exception() is not None
            heard(None if failed else self._reply(concluded.result()))

        self._driver.concluded.add_done_callback(tell)

    def _reply(self, conclusion: Conclusion) -> Reply:
        return Reply(
            self.trace.id,
            conclusion.outcome,
            self.effort,
            conclusion.spent,
            self.effort.budget,
            conclusion.unreported,
            self._calibrations.calibrated(self.effort, conclusion.outcome),
            self._paid_before,
            kept(self.trace.events),
            self._before,
        )

    def leave(self) -> None:
        """End it for now: nobody waits for it any more, but somebody may ask for it again."""
        self.left = True
        self.trace.append(Kind.LEFT)
        self.cancel()

    def cancel(self, reason: Stopped = Stopped.CANCELLED) -> None:
        """End it early, with the best answer so far."""
        self._driver.stop(reason)
