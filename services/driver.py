"""The driver: the only loop that does I/O for a search.

It asks the search what to do, holds what that may cost, sends it to the workers, settles what it
really cost, tells the search, and cancels what the search no longer wants; until the search is
done, its deadline has come, its budget is used up or somebody ends it. What always holds:

- no call runs that isn't held for, and every hold is settled with what its call really cost;
- every task that was asked is told exactly once, unless a worker never says what became of it;
- there is an outcome, whatever failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import count
from math import inf, isfinite
from time import perf_counter
from typing import Any, TypeAlias

from planner.confidence import TOP
from planner.domain import (
    Candidate,
    Cost,
    Expand,
    Finish,
    Grade,
    Outcome,
    Prices,
    Query,
    Result,
    Stopped,
    Task,
    Verify,
)
from planner.errors import LedgerUnavailable
from planner.funding import Growths, first_instalments, next_instalment
from planner.ports import Commit, Hold
from planner.search import Search
from planner.steps import AGGREGATES
from services.flights import TRIES, Flight, Grading, Twin
from services.lengths import SeenLengths
from services.lineup import LinedUp, LineUp
from services.purse import Purse, Purses
from services.record import outcome_data, result_data, standing_data
from services.second_tries import LEAST_LATE_SECONDS, SecondTries, backoff
from services.trace import Kind, Trace
from workers import messages
from workers.ports import Pool

_GRADE_MARGIN = 32
"""Tokens that a reward model's template may need beyond the generator's; it says so if more."""

_LOOK_SECONDS = 0.25
"""How often it is looked whether any call is late."""


@dataclass(frozen=True, slots=True)
class _Rested:
    """A task whose call was lost may be tried again now."""

    task_id: str


_News: TypeAlias = (
    messages.GenerationEvent
    | messages.Graded
    | messages.Verified
    | tuple[LinedUp, ...]
    | _Rested
    | None
)


@dataclass(frozen=True, slots=True)
class Manner:
    """How searches are driven, the same for all requests of a profile.

    `step_delimiter` ends a step; `aggregate` names how step scores become one; with `doubts`, a
    step of a plan is told how sure the answers are that it builds on; `max_in_flight` bounds the
    calls of one request at a time, and `first_wave` those that a request with a deadline begins
    with; `lease_seconds` is that of the ledger;
    `settle_seconds` is how long a reply waits for the true cost of what was cancelled, and
    `late_seconds` how long that is awaited after the reply; what the ledger couldn't be told by
    then, as Redis was away, is kept for `owed_seconds`; `progress_seconds` lie at least between
    two standings in the trace.
    """

    prices: Prices = Prices()
    step_delimiter: str = "\n\n"
    aggregate: str = "last"
    doubts: bool = False
    max_in_flight: int = 256
    first_wave: int = 16
    lease_seconds: float = 10.0
    settle_seconds: float = 0.25
    late_seconds: float = 10.0
    owed_seconds: float = 600.0
    progress_seconds: float = 0.1


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The outcome and everything that was spent on it, calls that haven't reported included."""

    outcome: Outcome
    spent: Cost
    unreported: int = 0


class Driver:
    """Drives one search. `await run()` once; `concluded` has its conclusion, maybe sooner."""

    def __init__(
        self,
        search: Search,
        query: Query,
        prompt: messages.Prompt,
        *,
        pool: Pool,
        purses: Purses,
        trace: Trace,
        manner: Manner,
        lengths: Growths,
        deadline: float | None,
        cache_salt: str = "",
        priority: int = 0,
        stream_tokens: bool = False,
        pending: Sequence[Task] = (),
        recall: Callable[[Task], Result | None] = lambda _: None,
        first_op: int = 0,
        second_tries: SecondTries | None = None,
    ) -> None:
        """`deadline` is on the event loop's clock; `lengths` are those of all requests alike. Of
        calls that wait in an engine, those of the lowest `priority` go first.

        Nothing that is read for one `cache_salt` is taken from what was read for another.

        `pending` are tasks that the search has asked for already. `recall` says what is known of a
        task beforehand: how it ended, if that is "done", or else what was made of it until now.
        `first_op` is beyond the numbers of all operations that there were on the purse.
        `second_tries` are those that all requests of a process share.
        """
        self._loop = asyncio.get_running_loop()
        self.concluded: asyncio.Future[Conclusion] = self._loop.create_future()
        self._search = search
        self._query = query
        self._prompt = prompt
        self._line = LineUp(query, prompt, pool)
        self._pool = pool
        self._purses = purses
        self._trace = trace
        self._manner = manner
        self._lengths = SeenLengths(lengths, search)
        self._deadline = deadline
        self._cache_salt = cache_salt
        self._priority = priority
        self._stream = stream_tokens
        self._pending = pending
        self._recall = recall
        self._ops = count(first_op)
        self._second = second_tries or SecondTries()
        # By the ids of their tasks, those that aren't with the workers:
        self._lining_up: dict[str, Expand] = {}
        self._unstarted: dict[str, Flight] = {}
        self._waiting: dict[str, Flight] = {}
        self._ungraded: dict[str, Grading] = {}
        self._resting: dict[str, Flight | Grading] = {}
        # By the ids of their calls, those that are:
        self._flying: dict[str, Flight] = {}
        self._grading: dict[str, Grading] = {}
        self._twins: dict[str, Twin] = {}
        self._comparing: dict[str, Verify] = {}
        self._cancelled: set[str] = set()
        self._group = asyncio.TaskGroup()
        self._errands: set[asyncio.Task[None]] = set()
        self._inbox: asyncio.Queue[_News] = asyncio.Queue()
        self._told = 0
        self._ended_flights = 0
        self._reason: Stopped | None = None
        self._notes: list[str] = []
        self._unscored = 0
        self._next_standing = 0.0
        self._next_look = 0.0
        self._unreported = 0
        self._began = self._loop.time()
        self._hurried = False

    @property
    def spent(self) -> Cost:
        """All that was spent until now, what the ledger has yet to hear of included."""
        return self._purses.spent

    def stop(self, reason: Stopped) -> None:
        """End the search with the best so far."""
        if self._reason is None:
            self._reason = reason
            self._inbox.put_nowait(None)

    async def run(self) -> None:
        """Drive the search to its end, then settle what was cut off by it."""
        async with self._group:
            renewal = self._group.create_task(self._keep_lease())
            renewal.add_done_callback(self._heed)
            await self._drive()
            self._cancel(self._running(), self._reason)
            await self._settle_within(self._manner.settle_seconds)
            self._conclude()
            await self._settle_within(self._manner.late_seconds)
            self._write_off()
            await self._purses.insist(self._manner.owed_seconds)
            renewal.cancel()

    async def _drive(self) -> None:
        self._take_on(self._pending)
        try:
            while not self._ended():
                if self._past(self._deadline):
                    self.stop(Stopped.DEADLINE)
                    break
                if not self._hurried and self._past(self._last_call()):
                    self._hurry()
                if await self._launch() or (self._stuck() and self._starve()):
                    # What the search was told just now may have given it more to ask for.
                    self._inbox.put_nowait(None)
                elif self._stuck():
                    for flight in self._unstarted.values():
                        self._lengths.cut(flight)
                    self.stop(Stopped.BUDGET)
                if not self._ended():
                    await self._await(self._deadline if self._hurried else self._last_call())
        except LedgerUnavailable as error:
            self.stop(Stopped.BUDGET)
            self._notes.append(f"{error} The search ended with the best answer it had.")

    def _running(self) -> set[str]:
        """The calls that are with the workers."""
        return {*self._flying, *self._grading, *self._twins, *self._comparing}

    def _idle(self) -> set[str]:
        """The tasks that aren't with the workers, or only to be put into tokens."""
        return {
            *self._lining_up,
            *self._unstarted,
            *self._waiting,
            *self._ungraded,
            *self._resting,
        }

    def _stuck(self) -> bool:
        """Whether nothing runs and nothing is about to: what is left couldn't be started."""
        return not (self._running() or self._lining_up or self._resting)

    def _starve(self) -> bool:
        """Let the search know that its shares can't pay for what waits; whether any does."""
        starved = [flight for flight in self._unstarted.values() if flight.task.share is not None]
        for flight in starved:
            del self._unstarted[flight.task.id]
            error = "Its share of the budget has too little left."
            self._tell(flight.task, flight.result("cancelled", Finish.BUDGET, error))
        return bool(starved)

    def _last_call(self) -> float | None:
        """When there is just time for one more pass before the deadline, on the loop's clock."""
        if self._deadline is None:
            return None
        likely = self._lengths.whole.likely(self._query.sampling.max_tokens)
        whole = self._deadline - self._began
        return self._deadline - self._lengths.pace.last_pass(likely, whole)

    def _hurry(self) -> None:
        """Have the search come to an answer in the time that is left for one."""
        self._hurried = True
        self._trace.append(Kind.HURRIED)
        self._search.hurry()
        self._drop_surplus()

    def _past(self, deadline: float | None) -> bool:
        return deadline is not None and self._loop.time() >= deadline

    def _ended(self) -> bool:
        return self._reason is not None or self._search.done

    async def _launch(self) -> bool:
        """Start whatever the search wants and the budget affords.

        Says if the search was told of anything: of what can't be afforded, say.
        """
        told = self._told
        room = self._room()
        if room > 0 and (asked := self._search.ask(room)):
            self._trace.append(Kind.ASKED, room=room, tasks=[task.id for task in asked])
            self._take_on(asked)
        self._write_news()
        await self._purses.share_out(self._search.shares(), self._busy())
        for start in (self._start_grading, self._continue_waiting, self._start_flights):
            if not self._ended():
                await start()
        return self._told > told

    def _busy(self) -> set[str]:
        """The shares that calls run in."""
        running = self._with_workers()
        return {one.task.share for one in running if one.task.share is not None}

    def _with_workers(self) -> list[Flight | Grading | Twin]:
        """All that calls are under way for and is held for."""
        return [*self._flying.values(), *self._grading.values(), *self._twins.values()]

    def _take_on(self, asked: Sequence[Task]) -> None:
        """Have tasks done, but for those of which it is known how they end."""
        known = {task.id: result for task in asked if (result := self._recall(task))}
        ended = {it for it, result in known.items() if result.status == "done"}
        fresh = [task for task in asked if task.id not in ended]
        for task in asked:
            if task.id in ended:
                self._tell(task, known[task.id])
        self._line_up([task for task in fresh if isinstance(task, Expand)])
        for task in fresh:
            if isinstance(task, Grade):
                self._ungraded[task.id] = Grading(task, self._reading(task.candidate))
            elif isinstance(task, Verify):
                self._compare(task)

    def _room(self) -> int:
        """How many more tasks may be in flight.

        Towards a deadline the search starts narrow, so that there is an answer early, and every
        candidate that ends makes room for two.
        """
        most = self._manner.max_in_flight
        if self._deadline is not None:
            most = min(most, self._manner.first_wave + self._ended_flights)
        return most - len(self._idle()) - len(self._flying) - len(self._grading)

    async def _await(self, deadline: float | None) -> None:
        """Wait for news, or for the deadline; now and then, send a second time what is late."""
        while self._second.hedging and self._flying:
            if self._past(self._next_look):
                await self._hedge()
                self._next_look = self._loop.time() + _LOOK_SECONDS
            if deadline is not None and deadline <= self._next_look:
                break
            if await self._hear(self._next_look):
                return
        await self._hear(deadline)

    async def _hear(self, deadline: float | None) -> bool:
        """Wait for news; settle and tell all there is of it. False if the deadline came first."""
        # Where news keep coming the wait below never waits, and no timeout ends it.
        if self._past(deadline):
            return False
        try:
            async with asyncio.timeout_at(deadline):
                news = [await self._inbox.get()]
        except TimeoutError:
            return False
        while not self._inbox.empty():
            news.append(self._inbox.get_nowait())
        for one in news:
            self._take(one)
        self._drop_surplus()
        self._write_news()
        self._standing()
        await self._purses.settle()
        return True

    def _take(self, news: _News) -> None:
        match news:
            case messages.Tokens() if news.id in self._flying:
                self._wrote(self._flying[news.id], news)
            case messages.Generated() if news.id in self._flying:
                self._landed(self._flying.pop(news.id), news)
            case messages.Generated() if news.id in self._twins:
                self._twin_landed(self._twins.pop(news.id), news)
            case messages.Graded() if news.id in self._grading:
                self._graded(self._grading.pop(news.id), news)
            case messages.Verified() if news.id in self._comparing:
                self._compared(self._comparing.pop(news.id), news)
            case tuple():
                self._lined_up(news)
            case _Rested():
                self._rested(news.task_id)
            case _:  # a wake-up, or news of a call that was written off
                pass

    def _tell(self, task: Task, result: Result) -> None:
        self._told += 1
        self._search.tell(task, result)
        self._trace.append(Kind.TOLD, **result_data(result))

    def _write_news(self) -> None:
        """Write down what the search has to say of its plans and decisions."""
        for news in self._search.news():
            self._trace.append(Kind(news.kind), **news.data)

    # Generating

    def _line_up(self, tasks: Sequence[Expand]) -> None:
        """Make flights of tasks. Those that need a worker for it come as news, all together."""
        at_once = [self._line.at_once(task) for task in tasks]
        later = [task for task, lined_up in zip(tasks, at_once, strict=True) if lined_up is None]
        self._lining_up.update((task.id, task) for task in tasks)
        self._lined_up([lined_up for lined_up in at_once if lined_up is not None])

        # Those that ask the same have one prompt made, by the first of them.
        alike: dict[object, list[Expand]] = {}
        for task in later:
            alike.setdefault(task.messages or task.id, []).append(task)

        async def ask() -> None:
            lined_up = await asyncio.gather(*map(self._line.ask_all, alike.values()))
            self._inbox.put_nowait(tuple(one for some in lined_up for one in some))

        if later:
            self._run_errand(ask())

    def _lined_up(self, ready: Sequence[LinedUp]) -> None:
        """Tasks have a flight each, or the reason why they have failed."""
        for one in ready:
            if self._lining_up.pop(one.task.id, None) is None:
                continue  # nobody wants it any more
            if not isinstance(one.made, Flight):
                self._tell(one.task, Result(one.task.id, "failed", error=one.made))
            elif (begun := self._recall(one.task)) is None:
                self._unstarted[one.task.id] = one.made
            else:
                self._go_on(one.made, begun)

    def _go_on(self, flight: Flight, begun: Result) -> None:
        """Go on from what was made of a task before this driver was there."""
        flight.take_up(begun)
        flight.begin_again()
        if self._stream and flight.text:
            self._trace.append(Kind.TOKENS, id=flight.task.id, after=0, text=flight.text)
        if flight.missing < 1:
            self._tell(flight.task, flight.result("done", Finish.LENGTH))
        elif flight.token_ids:
            self._waiting[flight.task.id] = flight
        else:
            self._unstarted[flight.task.id] = flight

    async def _start_flights(self) -> None:
        """Start as many as can be funded side by side, of each kind by itself."""
        alike: dict[tuple[str, bool, str], list[Flight]] = {}
        for flight in self._unstarted.values():
            alike.setdefault(flight.kind, []).append(flight)
        short = {flight.task.share or "" for flight in self._waiting.values()}
        for kind in sorted(alike):
            if kind[0] not in short:
                await self._start_alike(alike[kind])

    async def _start_alike(self, flights: list[Flight]) -> None:
        """The same for flights that are likely to take as much as each other."""
        left = self._purse(flights[0]).left
        if not flights[0].task.counts:
            # What counts as no candidate needs none of those that are left.
            left = replace(left, candidates=None)
        longest = max(flight.limit for flight in flights)
        likely = max(map(self._lengths.likely, flights))
        started, tokens = first_instalments(
            left,
            self._manner.prices,
            wanted=len(flights),
            prompt_tokens=max(flight.prompt_tokens for flight in flights),
            max_tokens=longest,
            ample=max(map(self._lengths.ample, flights)),
            least=self._lengths.least(likely, alone=not self._flying),
            trust=self._lengths.trust(flights[0], self._flying.values()),
        )
        for flight in flights[:started]:
            self._fund(flight, min(tokens, flight.limit))
        await self._send(flights[:started])

    async def _continue_waiting(self) -> None:
        """Fund the next instalment of those that used theirs up, in the order of their nodes."""
        short: set[str | None] = set()
        for flight in sorted(self._waiting.values(), key=lambda flight: flight.task.path):
            share = flight.task.share
            if share in short:
                continue
            # What a beaten twin holds comes back, too.
            flies = bool(self._flying or self._twins)
            tokens = next_instalment(
                self._purse(flight).left,
                self._manner.prices,
                prompt_tokens=flight.prompt_tokens,
                missing=flight.missing,
                likely=self._lengths.likely(flight),
                waiting=sum(one.task.share == share for one in self._waiting.values()),
                alone=not flies,
            )
            if tokens == 0 and flies:
                short.add(share)
                continue
            if tokens:
                self._fund(flight, tokens)
                await self._send([flight])
            if self._waiting.pop(flight.task.id, None):
                self._lengths.cut(flight)
                self._tell(flight.task, flight.result("done", Finish.BUDGET))

    def _fund(self, flight: Flight, tokens: int) -> None:
        flight.fund(self._op(flight.task), tokens, self._manner.prices)

    async def _send(self, flights: list[Flight]) -> None:
        """Hold for funded flights and send them off as one batch; those refused stay behind."""
        batch = []
        for flight, granted in zip(flights, await self._hold(flights), strict=True):
            if granted:
                self._unstarted.pop(flight.task.id, None)
                self._waiting.pop(flight.task.id, None)
                call = self._call_of(flight, stream=self._stream)
                self._flying[call.id] = flight
                flight.sent, flight.looked, flight.shown = self._loop.time(), 0.0, False
                batch.append(call)
        if batch:
            self._second.sent(sum(not flight.losses for flight in flights))
            self._carry(self._pool.generate(tuple(batch)))

    def _call_of(self, flight: Flight, *, stream: bool) -> messages.Generate:
        return flight.call(
            self._call_id(flight.op),
            self._query,
            self._manner.step_delimiter,
            stream=stream,
            top_logprobs=TOP if self._search.needs_logprobs else 0,
            cache_salt=self._cache_salt,
            priority=self._priority,
        )

    def _wrote(self, flight: Flight, news: messages.Tokens) -> None:
        """The call that carries a flight shows what it writes: no other may replace that now."""
        # What the calls before this one wrote stays written.
        after = len(flight.text)
        self._trace.append(Kind.TOKENS, id=news.id, after=after, text=news.text)
        flight.shown = True
        call_id, twin = self._race(flight)
        if twin is not None:
            twin.racing = False
            self._cancel({call_id})

    def _landed(self, flight: Flight, made: messages.Generated) -> None:
        """The call that carries a flight has ended. If another does the same, one is enough."""
        call_id, twin = self._race(flight)
        if twin is not None and made.finish == "failed":
            del self._twins[call_id]
            self._purse(flight).owe(twin.take_over(made, self._manner.prices))
            self._flying[call_id] = flight
            return
        if twin is not None:
            twin.racing = False
            self._cancel({call_id})
        cost = flight.take(made, self._manner.prices)
        self._purse(flight).owe(Commit(flight.op, cost))
        self._done(flight, made)

    def _twin_landed(self, twin: Twin, made: messages.Generated) -> None:
        """A call that does the same as another has ended: it has won, or only its cost counts."""
        flight, cost = twin.flight, twin.cost(made, self._manner.prices)
        self._purse(twin).owe(Commit(twin.op, cost))
        if not twin.racing or made.finish in ("failed", "cancelled"):
            twin.racing = False
            return
        call_id = self._call_id(flight.op)
        beaten = self._twins[call_id] = twin.win()
        del self._flying[call_id]
        beaten.candidates = flight.take(made, self._manner.prices).candidates
        self._cancel({call_id})
        self._done(flight, made)

    def _race(self, flight: Flight) -> tuple[str, Twin | None]:
        """The call that races the one that carries a flight, if there is one."""
        for call_id, twin in self._twins.items():
            if twin.flight is flight and twin.racing:
                return call_id, twin
        return "", None

    def _done(self, flight: Flight, made: messages.Generated) -> None:
        """A call has done what it could for a task, which ends with it unless it is to go on."""
        task, finish = flight.task, flight.finish(made)
        self._ended_flights += 1
        if task.writer == "reasoner" or not self._pool.plans:
            # What a planner takes says nothing of the last pass, for which time is kept back.
            self._lengths.pace.saw(self._loop.time() - flight.sent, made.completion_tokens)
            self._second.paces.saw(self._loop.time() - flight.sent, made.completion_tokens)
        if made.lost and self._may_try_again(flight):
            flight.begin_again()
            self._rest(flight)
        elif finish is None and task.schema is not None:
            self._tell(task, flight.result("done", Finish.LENGTH))
        elif finish is None:
            self._waiting[task.id] = flight
            if self._trace.resumable:
                so_far = flight.result("cancelled", Finish.CANCELLED)
                self._trace.append(Kind.PART, **result_data(so_far))
        elif made.finish == "failed":
            self._tell(task, flight.result("failed", finish, made.error))
        elif made.finish == "cancelled":
            self._tell(task, flight.result("cancelled", finish))
        else:
            self._lengths.ended(flight, finish)
            self._tell(task, flight.result("done", finish))

    # Trying again

    def _may_try_again(self, one: Flight | Grading) -> bool:
        return one.losses < TRIES and self._second.retries.take()

    def _rest(self, one: Flight | Grading) -> None:
        """Try again after a while: others that were lost with it would come at the same moment."""
        task_id = one.task.id
        self._resting[task_id] = one

        async def rest() -> None:
            await asyncio.sleep(backoff(one.losses))
            self._inbox.put_nowait(_Rested(task_id))

        self._run_errand(rest())

    def _rested(self, task_id: str) -> None:
        match self._resting.pop(task_id, None):
            case Flight() as flight:
                self._waiting[task_id] = flight
            case Grading() as grading:
                self._ungraded[task_id] = grading
            case None:  # nobody wants it any more
                pass

    async def _hedge(self) -> None:
        """Send what is late a second time, to another worker, as far as the budget has room.

        One look at each call now and then is enough, and one second try.
        """
        now = self._loop.time()
        for call_id, flight in list(self._flying.items()):
            if call_id in self._cancelled:
                continue
            if self._is_late(flight, now) and self._pool.elsewhere(call_id):
                if not self._second.hedges.take():
                    return
                flight.looked = inf
                await self._send_again(flight)

    def _is_late(self, flight: Flight, now: float) -> bool:
        """Whether its call takes far longer than others do for as much, and nobody sees it write.

        What was shown can't be taken back for what another call makes of it.
        """
        if flight.shown:
            return False
        if now - flight.looked < _LOOK_SECONDS or now - flight.sent < LEAST_LATE_SECONDS:
            return False
        flight.looked = now
        tokens = min(flight.held.completion_tokens, self._lengths.ample(flight))
        late = self._second.paces.late(tokens)
        return late is not None and now - flight.sent > late

    async def _send_again(self, flight: Flight) -> None:
        twin = Twin(flight, self._op(flight.task), replace(flight.held, candidates=0))
        (granted,) = await self._hold([twin])
        if not granted:
            return
        rival, call_id = self._call_id(flight.op), self._call_id(twin.op)
        call = self._call_of(flight, stream=False)
        self._twins[call_id] = twin
        self._trace.append(Kind.HEDGED, id=flight.task.id, call=call_id)
        self._carry(self._pool.generate((replace(call, id=call_id, rival=rival),)))

    # Grading

    async def _start_grading(self) -> None:
        """Grade what can be paid for, as one batch; the others stay without a score."""
        gradings = list(self._ungraded.values())
        for grading in gradings:
            grading.fund(self._op(grading.task), self._manner.prices)
        granted = await self._hold(gradings)
        self._ungraded.clear()
        batch = []
        for grading, yes in zip(gradings, granted, strict=True):
            if yes:
                call = grading.call(
                    self._call_id(grading.op),
                    self._query,
                    self._manner.step_delimiter,
                    cache_salt=self._cache_salt,
                    priority=self._priority,
                )
                self._grading[call.id] = grading
                batch.append(call)
            else:
                error = "The budget has too little left for the reward model to read it."
                self._tell(grading.task, grading.result("failed", error=error))
        if batch:
            self._second.sent(sum(not grading.losses for grading in gradings))
            self._carry(self._pool.grade(tuple(batch)))

    def _graded(self, grading: Grading, made: messages.Graded) -> None:
        """A grading call has ended; its task too, unless it is to be tried again."""
        self._purse(grading).owe(Commit(grading.op, grading.take(made, self._manner.prices)))
        task = grading.task
        if made.finish == "done" and not made.step_scores:
            self._tell(task, grading.result("failed", error="It has no step to score."))
        elif made.finish == "done" and not all(map(isfinite, made.step_scores)):
            self._tell(task, grading.result("failed", error="Its scores are no numbers."))
        elif made.finish == "done":
            score = AGGREGATES[self._manner.aggregate](made.step_scores)
            candidate = task.candidate.graded(made.step_scores, score)
            self._tell(task, grading.result("done", candidate, worker=made.worker))
        elif made.finish == "cancelled":
            self._tell(task, grading.result("cancelled"))
        elif made.needs > grading.needs:
            grading.needs = made.needs
            self._ungraded[task.id] = grading
        elif made.lost and self._may_try_again(grading):
            self._rest(grading)
        else:
            self._unscored += made.lost or not made.worker  # none was there to take it
            self._tell(task, grading.result("failed", error=made.error))

    def _reading(self, candidate: Candidate) -> int:
        """About how many tokens a reward model reads of `candidate`; it says so if it's more."""
        steps = candidate.text.count(self._manner.step_delimiter) + 1
        made = len(candidate.token_ids) or len(candidate.text)
        return len(self._prompt.token_ids) + made + steps + _GRADE_MARGIN

    # Comparing answers, which takes no tokens

    def _compare(self, task: Verify) -> None:
        call = messages.Verify(self._call_id(self._op(task)), task.answers, task.apart, task.code)
        self._comparing[call.id] = task
        self._carry(self._pool.verify((call,)))

    def _compared(self, task: Verify, made: messages.Verified) -> None:
        result = Result(task.id, made.finish, error=made.error, worker=made.worker)
        self._tell(task, replace(result, same=made.same, notes=made.notes))

    # Cancelling and concluding

    def _drop_surplus(self) -> None:
        """Cancel what the search no longer wants."""
        surplus = {task.id for task in self._search.surplus()}
        if surplus:
            self._abandon(surplus)
            flying = {call for call, one in self._flying.items() if one.task.id in surplus}
            grading = {call for call, one in self._grading.items() if one.task.id in surplus}
            twins = {call for call, one in self._twins.items() if one.task.id in surplus}
            self._cancel(flying | grading | twins)

    def _cancel(self, calls: Collection[str], why: Stopped | None = None) -> None:
        """Cancel calls that run; what they made until then is still heard of.

        `why` is what ended the search; without it, what they make can't change the answer. Nobody
        waits for a worker to take that in: one that hangs would hold up the request.
        """
        fresh = set(calls) - self._cancelled
        if fresh:
            self._cancelled |= fresh
            self._trace.append(Kind.CANCELLED, calls=sorted(fresh), why=why or "surplus")
            self._run_errand(self._pool.cancel(fresh))

    async def _settle_within(self, seconds: float) -> None:
        """Hear how the cancelled calls ended, for at most so long."""
        until = self._loop.time() + seconds
        while self._running():
            # What the ledger can't be told now stays owed in the purse.
            with suppress(LedgerUnavailable):
                if not await self._hear(until):
                    break
        self._abandon(self._idle())

    def _abandon(self, unwanted: Collection[str]) -> None:
        """Tell the search that these of the tasks that aren't with the workers will not run."""
        for task_id in [it for it in self._lining_up if it in unwanted]:
            self._tell(self._lining_up.pop(task_id), Result(task_id, "cancelled"))
        for flights in (self._unstarted, self._waiting):
            for flight in [flights.pop(it) for it in list(flights) if it in unwanted]:
                self._tell(flight.task, flight.result("cancelled", Finish.CANCELLED))
        for task_id in [it for it in self._ungraded if it in unwanted]:
            grading = self._ungraded.pop(task_id)
            self._tell(grading.task, grading.result("cancelled"))
        for one in [self._resting.pop(it) for it in list(self._resting) if it in unwanted]:
            if isinstance(one, Flight):
                self._tell(one.task, one.result("cancelled", Finish.CANCELLED))
            else:
                self._tell(one.task, one.result("cancelled"))

    def _conclude(self) -> None:
        """Settle on the outcome. Calls that have yet to report count with all they may cost."""
        self._write_news()
        began = perf_counter()
        best = self._search.best()
        choosing = perf_counter() - began
        if self._hurried and self._reason is None:
            self._reason = Stopped.DEADLINE
        if self._unscored:
            self._notes.append(
                f"The reward model was lost: {self._unscored} gradings failed, and what they were "
                "for went without a score."
            )
        stopped = self._reason or self._search.stopped
        outcome = replace(best, stopped=stopped, notes=(*best.notes, *self._notes))
        unreported = self._with_workers()
        spent = sum((one.held for one in unreported), self._purses.spent)
        self._trace.append(
            Kind.CLOSED,
            outcome=outcome_data(outcome),
            spent=asdict(spent),
            reason=self._reason,
            remarks=list(self._notes),
            unreported=len(unreported),
            choosing_seconds=choosing,
        )
        self._unreported = len(unreported)
        self.concluded.set_result(Conclusion(outcome, spent, self._unreported))

    def _write_off(self) -> None:
        """Charge what never reported back with all it may have cost, and let go of it."""
        for flight in self._flying.values():
            self._purse(flight).owe(Commit(flight.op, flight.held))
        for grading in self._grading.values():
            self._purse(grading).owe(Commit(grading.op, grading.held))
        for twin in self._twins.values():
            held = replace(twin.held, candidates=twin.candidates)
            self._purse(twin).owe(Commit(twin.op, held))
        if self._unreported:
            self._trace.append(Kind.SETTLED, spent=asdict(self._purses.spent))
        for errand in self._errands:
            errand.cancel()

    def _standing(self) -> None:
        """Write down how things stand, unless that was a moment ago."""
        now = self._loop.time()
        if now < self._next_standing:
            return
        self._next_standing = now + self._manner.progress_seconds
        best = self._search.best()
        finished, planned = self._search.progress()
        self._trace.append(
            Kind.STANDING,
            finished=finished,
            planned=planned,
            running=len(self._flying),
            **standing_data(best),
            spent=asdict(self._purses.spent),
        )

    # Plumbing

    def _purse(self, one: Flight | Grading | Twin) -> Purse:
        """What pays for it."""
        return self._purses[one.task.share]

    async def _hold(self, flights: Sequence[Flight | Grading | Twin]) -> list[bool]:
        """Hold for each, by the purse that pays for it; says which were granted."""
        granted: dict[str, bool] = {}
        for share in dict.fromkeys(one.task.share for one in flights):
            holds = tuple(Hold(one.op, one.held) for one in flights if one.task.share == share)
            verdicts = await self._purses[share].hold(holds)
            granted.update(zip((hold.op for hold in holds), verdicts, strict=True))
        return [granted[one.op] for one in flights]

    def _carry(self, events: AsyncIterator[Any]) -> None:
        """Carry what a batch has to say into the inbox."""

        async def carry() -> None:
            async for event in events:
                self._inbox.put_nowait(event)

        self._run_errand(carry())

    def _run_errand(self, errand: Coroutine[Any, Any, None]) -> None:
        """Have something done beside the loop, until everything is written off."""
        task = self._group.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        task.add_done_callback(self._heed)

    def _heed(self, task: asyncio.Task[None]) -> None:
        """Have who waits for the reply hear of a failure now.

        The group hands it on once all its tasks have ended, and a worker's stream may take its
        time to.
        """
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.concluded.done():
            self.concluded.set_exception(error)
            self.concluded.exception()  # there may be nobody here to hear of it

    async def _keep_lease(self) -> None:
        """Renew the holds well before they lapse; end the search if they did."""
        while True:
            await asyncio.sleep(self._manner.lease_seconds / 3)
            # Out of reach, the ledger stops the search by itself when it is next needed.
            with suppress(LedgerUnavailable):
                if not await self._purses.renew():
                    self._notes.append("The budget's lease had run out; the search ended there.")
                    self.stop(Stopped.BUDGET)

    def _op(self, task: Task) -> str:
        return f"{task.id}#{next(self._ops)}"

    def _call_id(self, op: str) -> str:
        return f"{self._trace.id}/{op}"
