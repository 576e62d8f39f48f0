"""The whole path of one request, from what it asks to its reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import structlog
from redis.exceptions import RedisError

from planner.domain import Budget, Cost, Outcome, Query, Result, Stopped, Task
from planner.effort import PRESETS, Effort, Options, Preset, settle
from planner.errors import LedgerUnavailable, LongthinkError, UnknownBudget
from planner.funding import Experience
from planner.ports import Account, Ledger
from planner.search import AUTO, Search, begin, split
from services.calibration import Calibrations
from services.driver import Conclusion, Driver, Manner
from services.idempotency import Lease
from services.journal import Journal
from services.outlook import OutlookStore
from services.purse import Purses
from services.record import effort_data, query_data
from services.resume import Before, Earlier, Recollection, Saved, Standing, Unsettled, allowed, kept
from services.trace import Kind, Superseded, Trace, TraceStore
from workers.messages import Prompt
from workers.ports import Pool

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


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


class UnknownTrace(LongthinkError):
    """There is no such trace, or there is none any more."""


class Run:
    """One request under way. It goes on by itself until it is done or cancelled."""

    def __init__(
        self,
        trace: Trace,
        effort: Effort,
        driver: Driver,
        calibrations: Calibrations,
        *,
        before: Before | None = None,
        paid_before: Cost = Cost(),
    ) -> None:
        self.trace = trace
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
        self._seen = Experience()
        self._runs: dict[asyncio.Task[None], Run] = {}

    async def start(
        self,
        query: Query,
        options: Options,
        *,
        trace_id: str,
        stream_tokens: bool = False,
        earlier: Earlier | None = None,
        lease: Lease | None = None,
    ) -> Run:
        """Check everything, open the budget, begin.

        With a `lease` the run can be taken up again from its trace, here or elsewhere. What is
        known from an `earlier` request isn't paid for again.

        Raises InvalidOption (PromptTooLong), LedgerUnavailable, WorkersUnavailable: nothing was
        spent then.
        """
        self._calibrations.refresh_soon()
        effort = settle(options, presets=self._presets, default=self._default_effort)
        before = earlier.before if earlier else None
        due = _due(effort)
        prompt = await self._prepare(query, due)
        prompt_tokens, context = len(prompt.token_ids), prompt.context_left
        longest = min(query.sampling.max_tokens or context, context)
        whole = self._seen.of(prompt_tokens).whole
        known: dict[str, Any] = {
            "grades": self._pool.grades,
            "verifies": self._pool.verifies,
            "context": context,
            "tokens": effort.budget.completion_tokens,
            "likely": whole.likely(longest),
            "long": whole.long(longest),
            "spent": before.spent.completion_tokens if before else 0,
            "prompt": prompt_tokens,
            "draft": self._draft(context),
            "timed": due is not None,
            "outlook": await self._outlook(effort),
        }
        strategy = begin(query, effort, **known)
        account = await self._ledger.open(trace_id, allowed(effort.budget, before))

        trace = Trace(trace_id, self._traces, runner=lease.runner if lease else None)
        trace.append(
            Kind.OPENED,
            query=query_data(query),
            effort=effort_data(effort),
            prompt_tokens=prompt_tokens,
            **known,
            **({} if before is None else {"before": asdict(before)}),
        )
        course = _Course(query, effort, trace, strategy, prompt, account, due, before)
        if earlier is not None:
            recall = Recollection(earlier.saved, logprobs=strategy.needs_logprobs)
            course = replace(course, recall=recall)
        return self._begin(course, lease, stream_tokens=stream_tokens)

    async def resume(self, saved: Saved, *, lease: Lease, stream_tokens: bool = False) -> Run:
        """Go on from where a run had come to that has died, or was left.

        Its deadline begins anew, as its client does. Raises as `start` does.
        """
        due = _due(saved.effort)
        standing = Standing.of(saved)
        prompt = await self._prepare(saved.query, due)
        await self._ledger.open(saved.id, saved.limits)
        trace = Trace(saved.id, self._traces, begun=saved.recorded, runner=lease.runner)
        trace.append(
            Kind.RESUMED,
            again=[task.id for task in standing.awaited],
            lost=[it.op for lost in standing.unsettled.lost.values() for it in lost],
        )
        for news in standing.search.news()[standing.news :]:
            trace.append(Kind(news.kind), **news.data)
        account = await self._settle(trace, standing.unsettled)
        recollection = await self._recollect(saved, standing.search)
        course = _Course(
            saved.query,
            saved.effort,
            trace,
            standing.search,
            prompt,
            account,
            due,
            saved.before,
            paid_before=account.spent,
            pending=standing.awaited,
            recall=lambda task: standing.begun.get(task.id) or recollection(task),
            first_op=standing.first_op,
        )
        return self._begin(course, lease, stream_tokens=stream_tokens)

    async def settle(self, saved: Saved, lease: Lease) -> None:
        """See to it that the ledger has all of a request that has ended."""
        unsettled = Unsettled.of(saved.recorded)
        if unsettled.lost:
            await self._ledger.open(saved.id, saved.limits)
            trace = Trace(saved.id, self._traces, begun=saved.recorded, runner=lease.runner)
            await self._settle(trace, unsettled)

    async def _settle(self, trace: Trace, unsettled: Unsettled) -> Account:
        """Charge what a runner left behind: what it had charged already counts once."""
        for budget, lost in unsettled.lost.items():
            await Journal(trace).paid(budget, lost)
        for costs in (unsettled.paid, unsettled.lost):
            for budget, commits in costs.items():
                await self._ledger.commit(budget, commits)
        # Whoever goes on splits what is left anew.
        for share in sorted(unsettled.budgets - {trace.id}, reverse=True):
            with suppress(UnknownBudget):  # it was to be opened, and wasn't
                await self._ledger.close(share)
        return await self._ledger.account(trace.id)

    async def saved(self, trace_id: str) -> Saved | None:
        """A request as its trace has it, or None where there is no trace of it.

        Raises LedgerUnavailable when Redis can't be reached.
        """
        await self._traces.kept(trace_id)
        try:
            events = await self._traces.read(trace_id)
        except RedisError as error:
            raise LedgerUnavailable(f"Traces can't be read: {error}") from error
        return Saved.of(trace_id, events) if events else None

    async def earlier(self, trace_id: str) -> Earlier:
        """A request whose candidates a new one is to keep.

        Raises UnknownTrace where there is none, LedgerUnavailable when Redis can't be reached.
        """
        gone = UnknownTrace(
            "There is no such trace any more: traces are kept for a limited time, and not beyond a "
            "restart of the service. Send the request without longthink.trace_id."
        )
        saved = await self.saved(trace_id)
        if saved is None:
            raise gone
        try:
            account = await self._ledger.account(trace_id)
        except UnknownBudget:
            raise gone from None
        spent = account.spent + (saved.before.spent if saved.before else Cost())
        return Earlier(saved, Before(trace_id, spent))

    async def _recollect(self, saved: Saved, search: Search) -> Callable[[Task], Result | None]:
        """What a request knew of an earlier one, if that is still there."""
        earlier = await self.saved(saved.before.trace_id) if saved.before else None
        if earlier is None:
            return lambda _: None
        return Recollection(earlier, logprobs=search.needs_logprobs)

    async def _prepare(self, query: Query, due: float | None) -> Prompt:
        messages = tuple((message.role, message.content) for message in query.messages)
        try:
            async with asyncio.timeout_at(due):
                return await self._pool.prepare(messages)
        except TimeoutError:
            return Prompt((), 0)  # The deadline has come: nothing begins that would need it.

    def _begin(self, course: _Course, lease: Lease | None, *, stream_tokens: bool) -> Run:
        """Let it run from here."""
        trace = course.trace
        journal = Journal(trace) if trace.resumable else None
        driver = Driver(
            course.search,
            course.query,
            course.prompt,
            pool=self._pool,
            purses=Purses(self._ledger, trace.id, course.account, journal),
            trace=trace,
            manner=self._manner,
            lengths=self._seen.of(len(course.prompt.token_ids)),
            deadline=course.due,
            stream_tokens=stream_tokens,
            pending=course.pending,
            recall=course.recall,
            first_op=course.first_op,
        )
        driver.concluded.add_done_callback(partial(self._learn, course.effort))
        run = Run(
            trace,
            course.effort,
            driver,
            self._calibrations,
            before=course.before,
            paid_before=course.paid_before,
        )
        running = self._see_through(run, driver, course.search, lease)
        task = asyncio.get_running_loop().create_task(running, name=f"run {trace.id}")
        self._runs[task] = run
        task.add_done_callback(self._runs.pop)
        return run

    def calibrated(self, effort: Effort, outcome: Outcome) -> float | None:
        """How likely the answer of an outcome is right, as far as that is known."""
        return self._calibrations.calibrated(effort, outcome)

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
        if self._runs:
            # They still close their budgets, and may write.
            await asyncio.wait(list(self._runs), timeout=1.0)
        await self._traces.aclose()
        await self._calibrations.aclose()

    def _learn(self, effort: Effort, concluded: asyncio.Future[Conclusion]) -> None:
        """Count a request that came to something."""
        if not concluded.cancelled() and concluded.exception() is None:
            conclusion = concluded.result()
            self._calibrations.note(effort, conclusion.outcome, conclusion.spent)

    def _draft(self, context: int) -> int | None:
        """How long a plan is likely to be, once there was one."""
        seen = self._seen.bound
        return None if seen.mean is None else seen.likely(context)

    async def _outlook(self, effort: Effort) -> dict[str, Any] | None:
        """What past requests have found, for a strategy that decides by it."""
        if self._outlooks is None or "auto" not in effort.strategy:
            return None
        outlook = await self._outlooks.current()
        known = self._calibrations.known
        ways = {split(name)[0] for name in AUTO.values()}
        return replace(outlook, calibration=known.only(ways) if known else None).data()

    async def _see_through(
        self, run: Run, driver: Driver, search: Search, lease: Lease | None
    ) -> None:
        """Run the driver and close its budget, whatever happens.

        Who waits for the reply hears of a failure. Nobody waits for this task, so it must not fail
        as well: asyncio would write out what the error says, which may quote a prompt.
        """
        superseded = False
        try:
            async with lease.kept() if lease else nullcontext():
                await driver.run()
        except Exception as error:  # noqa: BLE001  it is handed on, or logged
            superseded = _is(Superseded, error)
            if superseded:
                _log.warning("run taken over by another process", request_id=run.trace.id)
                error = Superseded("Another runner took it over.")
            if not driver.concluded.done():
                driver.concluded.set_exception(error)
                driver.concluded.exception()  # there may be nobody here to hear of it
            elif driver.concluded.exception() is None and not superseded:
                _log.exception("run failed after its reply", request_id=run.trace.id)
        except BaseException as error:
            if not driver.concluded.done():
                driver.concluded.set_exception(error)
            raise
        finally:
            # Out of reach, the ledger lets the budget lapse by itself, and the lease goes as well.
            with suppress(LedgerUnavailable, Superseded):
                if not superseded:
                    await self._end(run, lease)
            if self._outlooks is not None:
                await self._outlooks.learn(search.lessons())
            run.over.set()

    async def _end(self, run: Run, lease: Lease | None) -> None:
        """Close a run's budget, unless somebody may go on with it, and let go of it."""
        if lease is not None:
            await run.trace.kept()
        if not run.left:
            await self._ledger.close(run.trace.id)
        if lease is not None:
            await lease.release()


@dataclass(frozen=True, slots=True)
class _Course:
    """All that a run begins with."""

    query: Query
    effort: Effort
    trace: Trace
    search: Search
    prompt: Prompt
    account: Account
    due: float | None
    before: Before | None
    paid_before: Cost = Cost()
    pending: tuple[Task, ...] = ()
    recall: Callable[[Task], Result | None] = lambda _: None
    first_op: int = 0


def _due(effort: Effort) -> float | None:
    """When it has to be over, on the event loop's clock."""
    seconds = effort.budget.deadline_seconds
    return None if seconds is None else asyncio.get_running_loop().time() + seconds


def _is(kind: type[Exception], error: Exception) -> bool:
    """Whether it is of that kind, or a group of which one is."""
    if isinstance(error, ExceptionGroup):
        return error.subgroup(kind) is not None
    return isinstance(error, kind)
