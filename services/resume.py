"""What a trace knows of its search, so that another process can go on from it.

Three readers need that: a runner that takes over a request whose runner died or was left, a request
that names an earlier one to keep its candidates, and `longthink replay`. What a search was asked
and told is its whole state, whatever its strategy: nothing here looks into it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from planner.domain import (
    Budget,
    Candidate,
    Cost,
    Expand,
    Finish,
    Grade,
    Outcome,
    Query,
    Result,
    Stopped,
    Task,
)
from planner.effort import Effort
from planner.errors import InvalidOption, LongthinkError
from planner.ports import Commit
from planner.replay import Asked, Entry, Hurried, lead, replay_log
from planner.search import Search, begin
from services.record import read_effort, read_query, read_result
from services.tenants import LOCAL
from services.trace import Event, Kind

_NEWS = (Kind.PLANNED, Kind.STEP, Kind.DECIDED)
_SUMS = (Kind.STANDING, Kind.CLOSED, Kind.SETTLED)
"""What says how much was spent until then, in all shares."""
_OF_THE_REQUEST = ("query", "effort", "prompt_tokens", "before", "tenant")
"""What is said of a request when it is opened; all the rest is what its search knew."""

_OTHERWISE = (KeyError, TypeError, ValueError)
"""What comes of reading what another version wrote."""

_OPS_OF_A_RUN = 1 << 32
"""More operations than one runner ever numbers."""


class BrokenTrace(LongthinkError):
    """A trace without its beginning, or one of another version."""


class OtherQuery(LongthinkError):
    """A request names an earlier one in which something else was asked."""


@dataclass(frozen=True, slots=True)
class Before:
    """The request before this one, whose candidates it keeps, and all that was spent until then."""

    trace_id: str
    spent: Cost


@dataclass(frozen=True, slots=True)
class Saved:
    """A request as its trace has it.

    `known` is what else its search knew when it began (see `planner.search.begin`). `events` are
    those that count, `recorded` all of them.
    """

    id: str
    query: Query
    effort: Effort
    known: Mapping[str, Any]
    before: Before | None
    tenant: str
    events: tuple[Event, ...]
    recorded: tuple[Event, ...]

    @classmethod
    def of(cls, trace_id: str, recorded: Sequence[Event]) -> Saved:
        """Raises BrokenTrace where the beginning is missing, or of another version."""
        if not recorded or recorded[0].kind is not Kind.OPENED:
            raise BrokenTrace("The beginning of this trace is missing.")
        opened = recorded[0].data
        # What an older trace doesn't say, its search didn't know.
        known = {name: it for name, it in opened.items() if name not in _OF_THE_REQUEST}
        before = opened.get("before")
        try:
            query, effort = read_query(opened["query"]), read_effort(opened["effort"])
            was = before and Before(before["trace_id"], Cost(**before["spent"]))
        except _OTHERWISE as error:
            raise BrokenTrace(f"This isn't a trace as longthink writes it: {error!r}.") from error
        return cls(
            trace_id,
            query,
            effort,
            known,
            was,
            owner(recorded),
            tuple(_counting(recorded)),
            tuple(recorded),
        )

    @property
    def left(self) -> bool:
        """Whether all its clients had left before it ended."""
        return _where_left(self.events) < len(self.events)

    @property
    def closed(self) -> Mapping[str, Any] | None:
        """What was said at its end."""
        return next((event.data for event in self.events if event.kind is Kind.CLOSED), None)

    @property
    def ended(self) -> bool:
        """Whether it came to its end, so that there is nothing to go on with."""
        return self.closed is not None and not self.left

    @property
    def limits(self) -> Budget:
        """What the ledger allows it."""
        return allowed(self.effort.budget, self.before)

    @property
    def spent(self) -> Cost:
        """All that is known to have been spent by then, in whatever share of its budget."""
        said = [Cost(**event.data["spent"]) for event in self.recorded if event.kind in _SUMS]
        paid = _ops(self.recorded, Kind.PAID).values()
        return at_least(said[-1] if said else Cost(), sum(paid, Cost()))

    def search(self) -> Search:
        """Its search, as it was before it was asked anything. Raises BrokenTrace where there is no
        such strategy any more, or it wants to know something else.
        """
        try:
            return begin(self.query, self.effort, **self.known)
        except (InvalidOption, *_OTHERWISE) as error:
            raise BrokenTrace("The search of this trace is another one now.") from error

    def log(self) -> Iterator[Entry]:
        """All that its search was asked and told before the end."""
        for event in self.events:
            match event.kind:
                case Kind.ASKED:
                    yield Asked(event.data["room"], tuple(event.data["tasks"]))
                case Kind.TOLD:
                    yield read_result(event.data)
                case Kind.HURRIED:
                    yield Hurried()
                case Kind.CLOSED:
                    # Calls that were cut off may report later; that is counted, no more.
                    return
                case _:
                    pass

    def outcome(self) -> Outcome:
        """What it came to, once it is closed, with its candidates in full.

        That is the search's own outcome, but for what its driver added: a reason to end it (its
        budget, its deadline, a client that left) and remarks. Raises planner.replay.Diverged.
        """
        closed = self.closed
        if closed is None:
            raise BrokenTrace("The end of this trace is missing.")
        best = replay_log(self.search(), self.log())
        reason = best.stopped if closed["reason"] is None else Stopped(closed["reason"])
        return replace(best, stopped=reason, notes=(*best.notes, *closed["remarks"]))


@dataclass(frozen=True, slots=True)
class Unsettled:
    """What the ledger may lack of a request whose runner died, by budget.

    `paid` are the calls that are known to have ended, `lost` those of which nobody will ever hear:
    such a call may have cost all that it held, and what nobody can know must not go unmetered.
    `budgets` are all that it had or may have opened.
    """

    paid: Mapping[str, tuple[Commit, ...]]
    lost: Mapping[str, tuple[Commit, ...]]
    budgets: frozenset[str]

    @classmethod
    def of(cls, recorded: Sequence[Event]) -> Unsettled:
        """From all events of its trace."""
        paid, lost = _calls(recorded)
        budgets = frozenset(e.data["budget"] for e in recorded if e.kind in (Kind.SENT, Kind.PAID))
        return cls(_by_budget(paid), _by_budget(lost), budgets)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a runner stands that takes a request over.

    `awaited` are the tasks that the search still waits for, and `begun` has by their ids what was
    made of them and what that has cost. `news` is how much of what the search has to say was said.
    Operations are numbered from `first_op`.
    """

    search: Search
    awaited: tuple[Task, ...]
    begun: Mapping[str, Result]
    unsettled: Unsettled
    news: int
    first_op: int

    @classmethod
    def of(cls, saved: Saved) -> Standing:
        """Raises planner.replay.Diverged where the search isn't the one on record any more."""
        events = _resumable(saved.events)
        search = saved.search()
        led = lead(search, replace(saved, events=tuple(events)).log())
        paid, lost = _calls(saved.recorded)
        runs = sum(event.kind is Kind.RESUMED for event in saved.recorded) + 1
        return cls(
            search,
            led.awaited,
            _begun(saved.recorded, {**paid, **lost}),
            Unsettled.of(saved.recorded),
            sum(event.kind in _NEWS for event in events),
            runs * _OPS_OF_A_RUN,
        )


class Recollection:
    """What is known of tasks from an earlier request, for one that asks the same query.

    A task that was done is one that needn't be done again, if all is the same that its result hangs
    on; its seed is, as that hangs on the query and its path. One that was cut goes on from there.
    With `logprobs`, only results that say how sure the model was are of use.
    """

    def __init__(self, earlier: Saved, *, logprobs: bool) -> None:
        self._results: dict[Hashable, Result] = {}
        for task, result in lead(earlier.search(), earlier.log()).told:
            made = result.candidate
            unsure = isinstance(task, Expand) and made is not None and not made.token_confidences
            if made is not None and not (logprobs and unsure):
                self._results[_name(task)] = result

    def __call__(self, task: Task) -> Result | None:
        """How the task ended ("done"), or what was made of it; at no cost."""
        result = self._results.get(_name(task))
        if result is None or result.candidate is None:
            return None
        made = result.candidate
        if isinstance(task, Grade) and result.status == "done" and made.score is not None:
            graded = task.candidate.graded(made.step_scores, made.score)
            return replace(result, candidate=graded, cost=Cost())
        if not isinstance(task, Expand) or result.status == "failed":
            return None
        if result.status == "done" and made.finish is not Finish.BUDGET:
            return replace(result, cost=Cost())
        # It counts as a candidate already, and is paid for up to here.
        return replace(result, status="cancelled", cost=Cost(candidates=result.cost.candidates))


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier request whose candidates are to be kept."""

    saved: Saved
    before: Before

    def query(self, asked: Query, *, seeded: bool) -> Query:
        """The query that both are about. `seeded` says if `asked` names its seed.

        Raises OtherQuery where there is none.
        """
        query = asked if seeded else replace(asked, seed=self.saved.query.seed)
        if query != self.saved.query:
            raise OtherQuery(
                "longthink.trace_id names a request with other messages, another seed or other "
                "sampling options: repeat those, and change only the effort and the budget."
            )
        return query


def owner(events: Sequence[Event]) -> str:
    """The id of the tenant whose trace begins so. One that doesn't say was made where there was no
    other than the local one.
    """
    return str(events[0].data.get("tenant", LOCAL.id)) if events else LOCAL.id


def allowed(budget: Budget, before: Before | None) -> Budget:
    """What of a budget is there to spend, after what was spent on the same query before."""
    if before is None:
        return budget

    def rest(dimension: str) -> int | None:
        limit: int | None = getattr(budget, dimension)
        spent: int = getattr(before.spent, dimension)
        return None if limit is None else max(0, limit - spent)

    dimensions = ("completion_tokens", "reward_tokens", "candidates", "micro_usd")
    return replace(budget, **{name: rest(name) for name in dimensions})


def at_least(one: Cost, other: Cost) -> Cost:
    """What something cost of which two know that it cost no less."""
    return Cost(
        **{it.name: max(getattr(one, it.name), getattr(other, it.name)) for it in fields(Cost)}
    )


def kept(events: Iterable[Event]) -> int:
    """How many results of workers were told that this request hasn't paid for."""
    told = [event.data for event in events if event.kind is Kind.TOLD]
    return sum(
        it["status"] == "done" and it["candidate"] is not None and not _paid(it["cost"])
        for it in told
    )


def _paid(cost: Mapping[str, int]) -> bool:
    return bool(cost["prompt_tokens"] or cost["completion_tokens"] or cost["reward_tokens"])


def _counting(recorded: Iterable[Event]) -> list[Event]:
    """The events that count, now that later runners have gone on from some of them."""
    events: list[Event] = []
    for event in recorded:
        if event.kind is Kind.RESUMED:
            events = _resumable(events)
        events.append(event)
    return events


def _resumable(events: Sequence[Event]) -> list[Event]:
    """Without the end of a run that was left: that its tasks were cancelled then means nothing."""
    left = _where_left(events)
    return [*events[:left], *(event for event in events[left:] if not _of_an_end(event))]


def _where_left(events: Sequence[Event]) -> int:
    """Where the last run was left; beyond the end, if it wasn't."""
    for at in reversed(range(len(events))):
        if events[at].kind is Kind.LEFT:
            return at
        if events[at].kind is Kind.RESUMED:
            break
    return len(events)


def _of_an_end(event: Event) -> bool:
    if event.kind is Kind.TOLD:
        return bool(event.data["status"] == "cancelled")
    return event.kind in (Kind.CLOSED, Kind.SETTLED)


_Op = tuple[str, str]
"""A budget, and an operation on it."""


def _calls(recorded: Sequence[Event]) -> tuple[dict[_Op, Cost], dict[_Op, Cost]]:
    """What calls cost that have ended, and what those may cost that never will.

    The candidate of a lost call is that of the call that does its task again; where the task was
    done by another call before, it is this one's.
    """
    sent, paid = _ops(recorded, Kind.SENT), _ops(recorded, Kind.PAID)
    told = [event.data for event in recorded if event.kind is Kind.TOLD]
    done = {it["id"] for it in told if it["status"] == "done" and _is_whole(it)}
    lost = {op: cost for op, cost in sent.items() if op not in paid}
    return paid, {
        op: cost if _task_of(op) in done else replace(cost, candidates=0)
        for op, cost in lost.items()
    }


def _is_whole(told: Mapping[str, Any]) -> bool:
    """Whether what a task came to is a candidate; one more step of a partial one isn't."""
    candidate = told["candidate"]
    return candidate is not None and candidate["finish"] in (Finish.STOP, Finish.LENGTH)


def _task_of(op: _Op) -> str:
    return op[1].rpartition("#")[0]


def _ops(events: Iterable[Event], kind: Kind) -> dict[_Op, Cost]:
    return {
        (event.data["budget"], op): Cost(*cost)
        for event in events
        if event.kind is kind
        for op, cost in event.data["ops"].items()
    }


def _by_budget(costs: Mapping[_Op, Cost]) -> dict[str, tuple[Commit, ...]]:
    budgets: dict[str, tuple[Commit, ...]] = {}
    for (budget, op), cost in costs.items():
        budgets[budget] = (*budgets.get(budget, ()), Commit(op, cost))
    return budgets


def _begun(events: Iterable[Event], costs: Mapping[_Op, Cost]) -> dict[str, Result]:
    """By task, what was last seen of it, with the cost of all its calls."""
    begun: dict[str, Result] = {}
    for event in events:
        if event.kind is Kind.PART or _cut(event):
            begun[event.data["id"]] = read_result(event.data)
    spent: dict[str, Cost] = {}
    for op, cost in costs.items():
        task_id = _task_of(op)
        spent[task_id] = spent.get(task_id, Cost()) + cost
    for task_id, cost in spent.items():
        last = begun.get(task_id, Result(task_id, "cancelled"))
        begun[task_id] = replace(last, status="cancelled", cost=cost)
    return begun


def _cut(event: Event) -> bool:
    return event.kind is Kind.TOLD and event.data["status"] == "cancelled"


def _name(task: Task) -> Hashable:
    """All that the result of a task hangs on, but for the query."""
    if isinstance(task, Expand):
        parent = task.parent or Candidate(())
        return replace(task, parent=None, share=None), parent.text, parent.token_ids
    if isinstance(task, Grade):
        return "grade", task.candidate.path, task.candidate.text
    return task.id
