"""The whole path of one request, from what it asks to its reply."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from planner.domain import Budget, Cost, Outcome, Query, Stopped
from planner.effort import PRESETS, Effort, Options, Preset, settle
from planner.errors import LedgerUnavailable
from planner.funding import Growths
from planner.ports import Ledger
from planner.search import Search, begin
from services.calibration import Calibrations
from services.driver import Conclusion, Driver, Manner
from services.outlook import OutlookStore
from services.purse import Purses
from services.record import effort_data, query_data
from services.trace import Kind, Trace, TraceStore
from workers.messages import Prompt
from workers.ports import Pool

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request came to.

    `unreported` calls, cut off at the end, have yet to say what they cost: `spent` counts each with
    all that it may have cost. `calibrated` is how likely the answer is right, by what answers like
    it were; None where that isn't known.
    """

    trace_id: str
    outcome: Outcome
    effort: Effort
    spent: Cost
    budget: Budget
    unreported: int = 0
    calibrated: float | None = None


class Run:
    """One request under way. It goes on by itself until it is done or cancelled."""

    def __init__(
        self, trace: Trace, effort: Effort, driver: Driver, calibrations: Calibrations
    ) -> None:
        self.trace = trace
        self.effort = effort
        self._driver = driver
        self._calibrations = calibrations

    async def reply(self) -> Reply:
        """Wait for the reply. Cancelling the wait doesn't cancel the run."""
        conclusion: Conclusion = await asyncio.shield(self._driver.concluded)
        return Reply(
            self.trace.id,
            conclusion.outcome,
            self.effort,
            conclusion.spent,
            self.effort.budget,
            conclusion.unreported,
            self._calibrations.calibrated(self.effort, conclusion.outcome),
        )

    def cancel(self, reason: Stopped = Stopped.CANCELLED) -> None:
        """End it early, with the best answer so far."""
        self._driver.stop(reason)


class Reasoner:
    """Starts runs, and knows those that are under way."""

    def __init__(
        self,
        pool: Pool,
        ledger: Ledger,
        traces: TraceStore,
        manner: Manner,
        *,
        presets: Mapping[str, Preset] = PRESETS,
        default_effort: str = "medium",
        outlooks: OutlookStore | None = None,
        calibrations: Calibrations | None = None,
    ) -> None:
        """Without `calibrations`, confidence stays raw."""
        self._pool = pool
        self._ledger = ledger
        self._traces = traces
        self._manner = manner
        self._presets = presets
        self._default_effort = default_effort
        self._outlooks = outlooks
        self._calibrations = calibrations or Calibrations(model="")
        self._lengths = Growths()
        self._runs: dict[asyncio.Task[None], Run] = {}

    async def start(
        self, query: Query, options: Options, *, trace_id: str, stream_tokens: bool = False
    ) -> Run:
        """Check everything, open the budget, begin.

        Raises InvalidOption (PromptTooLong), LedgerUnavailable, WorkersUnavailable: nothing was
        spent then.
        """
        self._calibrations.refresh_soon()
        loop = asyncio.get_running_loop()
        deadline = options.budget.deadline_seconds
        due = None if deadline is None else loop.time() + deadline
        effort = settle(options, presets=self._presets, default=self._default_effort)
        messages = tuple((message.role, message.content) for message in query.messages)
        try:
            async with asyncio.timeout_at(due):
                prompt = await self._pool.prepare(messages)
        except TimeoutError:
            prompt = Prompt((), 0)  # The deadline has come: nothing begins that would need it.
        prompt_tokens, context = len(prompt.token_ids), prompt.context_left
        longest = min(query.sampling.max_tokens or context, context)
        known: dict[str, Any] = {
            "grades": self._pool.grades,
            "verifies": self._pool.verifies,
            "context": context,
            "tokens": effort.budget.completion_tokens,
            "likely": self._lengths.whole.likely(longest),
            "prompt": prompt_tokens,
            "draft": self._draft(context),
            "timed": deadline is not None,
            "outlook": await self._outlook(effort),
        }
        strategy = begin(query, effort, **known)
        account = await self._ledger.open(trace_id, effort.budget)

        trace = Trace(trace_id, self._traces)
        trace.append(
            Kind.OPENED,
            query=query_data(query),
            effort=effort_data(effort),
            prompt_tokens=prompt_tokens,
            **known,
        )
        driver = Driver(
            strategy,
            query,
            prompt,
            pool=self._pool,
            purses=Purses(self._ledger, trace_id, account),
            trace=trace,
            manner=self._manner,
            lengths=self._lengths,
            deadline=due,
            stream_tokens=stream_tokens,
        )
        driver.concluded.add_done_callback(partial(self._learn, effort))
        run = Run(trace, effort, driver, self._calibrations)
        task = loop.create_task(
            self._see_through(trace_id, driver, strategy), name=f"run {trace_id}"
        )
        self._runs[task] = run
        task.add_done_callback(self._runs.pop)
        return run

    def find(self, trace_id: str) -> Run | None:
        """The run with this trace, while it is under way in this process."""
        return next((run for run in self._runs.values() if run.trace.id == trace_id), None)

    async def drain(self, seconds: float) -> None:
        """End every run with the best it has, and wait for them for at most so long."""
        for run in list(self._runs.values()):
            run.cancel()
        if self._runs:
            await asyncio.wait(list(self._runs), timeout=seconds)
        for task in list(self._runs):
            task.cancel()
        await self._traces.aclose()
        await self._calibrations.aclose()

    def _learn(self, effort: Effort, concluded: asyncio.Future[Conclusion]) -> None:
        """Count a request that came to something."""
        if not concluded.cancelled() and concluded.exception() is None:
            conclusion = concluded.result()
            self._calibrations.note(effort, conclusion.outcome, conclusion.spent)

    def _draft(self, context: int) -> int | None:
        """How long a plan is likely to be, once there was one."""
        seen = self._lengths.bound
        return None if seen.mean is None else seen.likely(context)

    async def _outlook(self, effort: Effort) -> dict[str, Any] | None:
        """What past requests have found, for a strategy that decides by it."""
        if self._outlooks is None or "auto" not in effort.strategy:
            return None
        return (await self._outlooks.current()).data()

    async def _see_through(self, trace_id: str, driver: Driver, search: Search) -> None:
        """Run the driver and close its budget, whatever happens.

        Who waits for the reply hears of a failure. Nobody waits for this task, so it must not fail
        as well: asyncio would write out what the error says, which may quote a prompt.
        """
        try:
            await driver.run()
        except Exception as error:  # noqa: BLE001  it is handed on, or logged
            if driver.concluded.done():
                _log.exception("run failed after its reply", request_id=trace_id)
            else:
                driver.concluded.set_exception(error)
        except BaseException as error:
            if not driver.concluded.done():
                driver.concluded.set_exception(error)
            raise
        finally:
            # Out of reach, the ledger lets the budget lapse by itself.
            with suppress(LedgerUnavailable):
                await self._ledger.close(trace_id)
            if self._outlooks is not None:
                await self._outlooks.learn(search.lessons())
