"""The whole path of one request, from what it asks to its reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import structlog
from redis.exceptions import RedisError

from planner.domain import Cost, Outcome, Query, Result, Task
from planner.effort import PRESETS, Effort, Options, Preset, settle
from planner.errors import LedgerUnavailable, LongthinkError, UnknownBudget
from planner.funding import Experience
from planner.ports import Account, Ledger
from planner.replay import Diverged
from planner.search import AUTO, Search, begin, split
from services.admission import Reason, Refused
from services.allowance import Allowance, Allowances
from services.calibration import Calibrations
from services.driver import Conclusion, Driver, Manner
from services.dues import held, set_aside, side_by_side, while_kept, within
from services.idempotency import Lease
from services.journal import Journal
from services.outlook import OutlookStore
from services.purse import Purses
from services.record import effort_data, query_data
from services.resume import (
    Before,
    BrokenTrace,
    Earlier,
    Recollection,
    Saved,
    Standing,
    Unsettled,
    allowed,
    at_least,
)
from services.run import AT_ONCE, Admitted, Run
from services.second_tries import SecondTries
from services.tenants import LOCAL, Tenant
from services.trace import Kind, Superseded, Trace, TraceStore
from workers.messages import Prompt
from workers.ports import Pool

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_LAST_WORDS_SECONDS = 2.0
"""How long what is still to be written to Redis may take at the end."""


class UnknownTrace(LongthinkError):
    """There is no such trace, or there is none any more."""


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
        allowances: Allowances | None = None,
        second_tries: SecondTries | None = None,
    ) -> None:
        """Without `calibrations` confidence stays raw, without `allowances` nobody is limited."""
        self._pool = pool
        self._ledger = ledger
        self._traces = traces
        self._manner = manner
        self._presets = presets
        self._default_effort = default_effort
        self._outlooks = outlooks
        self._calibrations = calibrations or Calibrations(model="")
        self._allowances = allowances
        self._seen = Experience()
        self._context: int | None = None
        """The model's, in tokens, once a prompt has been read."""
        self._second_tries = second_tries or SecondTries()
        self._runs: dict[asyncio.Task[None], Run] = {}
        self._opening: set[asyncio.Future[None]] = set()
        """Done when a request has begun that is about to, or has failed to."""
        self._preparing: set[asyncio.Timeout] = set()
        self._draining = False

    async def start(
        self,
        query: Query,
        options: Options,
        *,
        trace_id: str,
        stream_tokens: bool = False,
        earlier: Earlier | None = None,
        lease: Lease | None = None,
        tenant: Tenant = LOCAL,
        admitted: Admitted = AT_ONCE,
    ) -> Run:
        """Check everything, open the budget, begin; for `tenant`, who alone may see it.

        With a `lease` the run can be taken up again from its trace, here or elsewhere. What is
        known from an `earlier` request isn't paid for again.

        Raises InvalidOption (PromptTooLong), OverLimit, LedgerUnavailable, WorkersUnavailable:
        nothing was spent then.
        """
        self._calibrations.refresh_soon()
        effort = settle(options, presets=self._presets, default=self._default_effort)
        before = earlier.before if earlier else None
        with self._beginning():
            allowance = await self._reserve(tenant, trace_id, query, effort, before)
            try:
                opening = self._opened(
                    query, effort, trace_id, earlier, lease, tenant, allowance, admitted
                )
                course = await while_kept(allowance, opening)
            except BaseException:
                if allowance is not None:
                    # Out of reach, Redis lets it lapse.
                    with suppress(LedgerUnavailable):
                        await allowance.settle(Cost())
                raise
            return self._begin(course, lease, stream_tokens=stream_tokens)

    async def _opened(
        self,
        query: Query,
        effort: Effort,
        trace_id: str,
        earlier: Earlier | None,
        lease: Lease | None,
        tenant: Tenant,
        allowance: Allowance | None,
        admitted: Admitted,
    ) -> _Course:
        """All that a new run begins with, its budget and its trace opened."""
        before = earlier.before if earlier else None
        if allowance is not None:
            effort = within(allowance, effort, before)
        due = _due(effort, admitted)
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
            "doubts": self._manner.doubts,
            "outlook": await self._outlook(effort),
        }
        strategy = begin(query, effort, **known)
        recall = _recall(earlier, strategy) if earlier else _nothing
        account = await self._ledger.open(trace_id, allowed(effort.budget, before))
        if allowance is not None:
            await allowance.check()

        trace = Trace(trace_id, self._traces, runner=lease.runner if lease else None)
        trace.append(
            Kind.OPENED,
            query=query_data(query),
            effort=effort_data(effort),
            prompt_tokens=prompt_tokens,
            tenant=tenant.id,
            **known,
            **({} if before is None else {"before": asdict(before)}),
        )
        course = _Course(query, effort, trace, strategy, prompt, account, due, before, tenant)
        return replace(course, allowance=allowance, priority=admitted.priority, recall=recall)

    async def _reserve(
        self,
        tenant: Tenant,
        trace_id: str,
        query: Query,
        effort: Effort,
        before: Before | None,
        *,
        whole: bool = False,
    ) -> Allowance | None:
        # A token has some four letters; it only has to be about right.
        likely = self._seen.of(sum(len(one.content) for one in query.messages) // 4).whole
        return await set_aside(
            self._allowances,
            tenant,
            trace_id,
            query,
            effort,
            before,
            context=self._context,
            lengths=likely,
            prices=self._manner.prices,
            whole=whole,
        )

    async def resume(
        self,
        saved: Saved,
        *,
        lease: Lease,
        stream_tokens: bool = False,
        admitted: Admitted = AT_ONCE,
    ) -> Run:
        """Go on from where a run had come to that has died, or was left.

        Its deadline begins anew, as its client does. Raises as `start` does.
        """
        due = _due(saved.effort, admitted)
        standing = Standing.of(saved)
        tenant = lease.key.tenant
        with self._beginning():
            allowance = await self._reserve(
                tenant, saved.id, saved.query, saved.effort, saved.before, whole=True
            )
            opening = self._reopened(saved, standing, lease, due, allowance, admitted)
            try:
                course = await while_kept(allowance, opening)
            except Superseded:
                raise  # what is set aside is for whoever took it over
            except BaseException:
                if allowance is not None:
                    # Out of reach, or with a Redis that has lost its data, it lapses.
                    with suppress(LedgerUnavailable, UnknownBudget):
                        await allowance.settle(await self._spent(saved))
                raise
            return self._begin(course, lease, stream_tokens=stream_tokens)

    async def _reopened(
        self,
        saved: Saved,
        standing: Standing,
        lease: Lease,
        due: float | None,
        allowance: Allowance | None,
        admitted: Admitted,
    ) -> _Course:
        """All that a run goes on with, what was spent on it until now settled."""
        prompt = await self._prepare(saved.query, due)
        await self._ledger.open(saved.id, saved.limits)
        if allowance is not None:
            await allowance.check()
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
        return _Course(
            saved.query,
            saved.effort,
            trace,
            standing.search,
            prompt,
            account,
            due,
            saved.before,
            lease.key.tenant,
            allowance,
            priority=admitted.priority,
            paid_before=account.spent,
            pending=standing.awaited,
            recall=lambda task: standing.begun.get(task.id) or recollection(task),
            first_op=standing.first_op,
        )

    async def settle(self, saved: Saved, lease: Lease) -> None:
        """See to it that the ledger has all of a request that has ended."""
        unsettled = Unsettled.of(saved.recorded)
        if unsettled.lost:
            await self._ledger.open(saved.id, saved.limits)
            trace = Trace(saved.id, self._traces, begun=saved.recorded, runner=lease.runner)
            account = await self._settle(trace, unsettled)
            if self._allowances is not None and lease.key.tenant.limits is not None:
                await self._allowances.settle(lease.key.tenant, saved.id, account.spent)

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

    async def earlier(self, trace_id: str, tenant: Tenant = LOCAL) -> Earlier:
        """A request of the tenant's own whose candidates a new one is to keep.

        Raises UnknownTrace where there is none, LedgerUnavailable when Redis can't be reached.
        """
        gone = UnknownTrace(
            "There is no such trace any more: traces are kept for a limited time, and not beyond a "
            "restart of the service. Send the request without longthink.trace_id."
        )
        try:
            saved = await self.saved(trace_id)
        except BrokenTrace:
            saved = None
        if saved is None or saved.tenant != tenant.id:
            raise gone
        try:
            spent = await self._spent(saved)
        except UnknownBudget:
            raise gone from None
        if saved.before is not None:
            spent += saved.before.spent
        return Earlier(saved, Before(trace_id, spent))

    async def _spent(self, saved: Saved) -> Cost:
        """All that a request has spent, as far as is known. Of shares that are still open its
        account knows nothing, but its trace does. Raises LedgerUnavailable, UnknownBudget.
        """
        account = await self._ledger.account(saved.id)
        run = self.find(saved.id)
        return at_least(saved.spent if run is None else run.spent, account.spent)

    async def _recollect(self, saved: Saved, search: Search) -> Callable[[Task], Result | None]:
        """What a request knew of an earlier one, if that is still there."""
        # One that is gone, or that another version wrote down, knows of nothing.
        with suppress(BrokenTrace, Diverged):
            earlier = await self.saved(saved.before.trace_id) if saved.before else None
            if earlier is not None:
                return Recollection(earlier, logprobs=search.needs_logprobs)
        return _nothing

    async def _prepare(self, query: Query, due: float | None) -> Prompt:
        messages = tuple((message.role, message.content) for message in query.messages)
        try:
            async with self._patience(due):
                prompt = await self._pool.prepare(messages)
                self._context = len(prompt.token_ids) + prompt.context_left
                return prompt
        except TimeoutError:
            if self._draining:
                raise Refused(Reason.DRAINING) from None
            return Prompt((), 0)  # The deadline has come: nothing begins that would need it.

    @asynccontextmanager
    async def _patience(self, due: float | None) -> AsyncIterator[None]:
        """While inside, wait until it is due, or all runs are to end. Raises TimeoutError then."""
        until = asyncio.get_running_loop().time() if self._draining else due
        async with asyncio.timeout_at(until) as patience:
            self._preparing.add(patience)
            try:
                yield
            finally:
                self._preparing.discard(patience)

    @contextmanager
    def _beginning(self) -> Iterator[None]:
        """While inside, a request is about to be under way."""
        begun = asyncio.get_running_loop().create_future()
        self._opening.add(begun)
        try:
            yield
        finally:
            self._opening.discard(begun)
            begun.set_result(None)

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
            manner=side_by_side(self._manner, course.allowance),
            lengths=self._seen.of(len(course.prompt.token_ids)),
            deadline=course.due,
            cache_salt=course.tenant.cache_salt,
            priority=course.priority,
            stream_tokens=stream_tokens,
            pending=course.pending,
            recall=course.recall,
            first_op=course.first_op,
            second_tries=self._second_tries,
        )
        driver.concluded.add_done_callback(partial(self._learn, course.effort))
        run = Run(
            trace,
            course.effort,
            driver,
            self._calibrations,
            before=course.before,
            paid_before=course.paid_before,
            tenant=course.tenant,
            allowance=course.allowance,
        )
        running = self._see_through(run, driver, course.search, lease)
        task = asyncio.get_running_loop().create_task(running, name=f"run {trace.id}")
        self._runs[task] = run
        task.add_done_callback(self._runs.pop)
        if self._draining:
            run.cancel()
        return run

    def calibrated(self, effort: Effort, outcome: Outcome) -> float | None:
        """How likely the answer of an outcome is right, as far as that is known."""
        return self._calibrations.calibrated(effort, outcome)

    def one_pass(self) -> float | None:
        """The seconds that one candidate is likely to take; None where none has been seen."""
        return self._seen.one_pass()

    def find(self, trace_id: str) -> Run | None:
        """The run with this trace, while it is under way in this process."""
        return next((run for run in self._runs.values() if run.trace.id == trace_id), None)

    async def finished(self, seconds: float, hurry: asyncio.Event) -> None:
        """Return when no run is under way or about to be, so many seconds have passed, or `hurry`
        is set.
        """
        waiting = asyncio.create_task(hurry.wait())
        until = asyncio.get_running_loop().time() + seconds
        try:
            while self._under_way and not hurry.is_set():
                left = until - asyncio.get_running_loop().time()
                if left <= 0:
                    return
                some: list[asyncio.Future[Any]] = [waiting, *self._under_way]
                await asyncio.wait(some, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    @property
    def _under_way(self) -> tuple[asyncio.Future[None], ...]:
        """What is done when a run is over, or has begun that was about to."""
        return (*self._runs, *self._opening)

    async def drain(self, seconds: float) -> None:
        """End every run with the best it has, and wait for them for at most so long.

        One that begins from now on ends at once. What waits for an engine to begin is refused.
        """
        until = asyncio.get_running_loop().time() + seconds
        self._draining = True
        for run in list(self._runs.values()):
            run.cancel()
        for patience in self._preparing:
            if not patience.expired():
                patience.reschedule(0.0)
        while under_way := self._under_way:
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await asyncio.wait(under_way, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for task in list(self._runs):
            task.cancel()
        if self._runs:
            # They still close their budgets, and may write.
            await asyncio.wait(list(self._runs), timeout=1.0)
        # A Redis that hangs must not hold up the end.
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
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
            async with (
                lease.kept() if lease else nullcontext(),
                held(run.allowance, driver),
            ):
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
        try:
            # What is left keeps its shares, and what was spent in them isn't the whole's yet.
            spent = run.spent if run.left else (await self._ledger.close(run.trace.id)).spent
        except UnknownBudget:
            spent = run.spent  # Redis has lost its data, and the tenant has spent it all the same
        try:
            if run.allowance is not None:
                await run.allowance.settle(spent)
        finally:
            if lease is not None:
                await lease.release()


def _nothing(_: Task) -> None:
    """What is known of a task where nothing is."""


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
    tenant: Tenant
    allowance: Allowance | None = None
    priority: int = 0
    paid_before: Cost = Cost()
    pending: tuple[Task, ...] = ()
    recall: Callable[[Task], Result | None] = _nothing
    first_op: int = 0


def _recall(earlier: Earlier, search: Search) -> Recollection:
    """What an earlier request knows of tasks. Raises UnknownTrace where that can't be read."""
    try:
        return Recollection(earlier.saved, logprobs=search.needs_logprobs)
    except (BrokenTrace, Diverged) as error:
        raise UnknownTrace(
            "longthink.trace_id names a request of another version of the service, whose "
            "candidates can't be kept. Send the request without it."
        ) from error


def _due(effort: Effort, admitted: Admitted) -> float | None:
    """When it has to be over, on the event loop's clock."""
    seconds = effort.budget.deadline_seconds
    if seconds is None:
        return None
    return asyncio.get_running_loop().time() + seconds - admitted.waited


def _is(kind: type[Exception], error: Exception) -> bool:
    """Whether it is of that kind, or a group of which one is."""
    if isinstance(error, ExceptionGroup):
        return error.subgroup(kind) is not None
    return isinstance(error, kind)
