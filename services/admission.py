"""Admission: which requests may begin now, which wait for it, and which are refused.

A pure state machine. It owns no tasks, sockets or clock: whoever asks says what time it is, in
seconds of a clock that never goes back (`services/gate.py` does for the service). Every threshold
is a setting, see `Rules`. What always holds:

- Those that run take no more of the engines than there is, but for a part of the last that began;
  and whatever its size, one may always run. While engines are missing there is less, for those that
  would begin.
- At most `queue_requests` wait. Each of them is started, refused or gone, once.
- Who has less of the engines than its share, and asked for something of late, finds room for one
  request more than runs: others who have theirs leave it.
- A lower `Tenant.priority` goes first. Within one, tenants that have work waiting are served in
  proportion to their weights, counted in candidates, by start-time fair queueing (Goyal, Vin and
  Cheng, "Start-time Fair Queuing", SIGCOMM 1996); and a tenant's own in the order they came.
- Nothing is started that couldn't be answered in time, and nothing waits that won't be.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count

from planner.errors import LongthinkError
from services.expectations import Expectations, Kind
from services.tenants import Tenant

_UNBOUNDED = float("inf")
_ROUNDING = 1e-6
_MOST_ACCOUNTS = 1024
"""Past so many tenants, those are forgotten that aren't ahead of others."""


class Reason(StrEnum):
    """Why a request is refused; the code that its client is told."""

    DRAINING = "draining"
    QUEUE_FULL = "queue_full"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline_unreachable"
    OVER_SHARE = "over_share"


_TOLD = {
    Reason.DRAINING: "The service is being stopped and takes nothing new.",
    Reason.QUEUE_FULL: "All places in the queue are taken.",
    Reason.OVERLOADED: "The service has more to do than it can, and the wait would be too long.",
    Reason.DEADLINE: "The request would have to wait too long to be answered by its deadline.",
    Reason.OVER_SHARE: "Your own requests take your whole share of the service: others would do.",
}


class Refused(LongthinkError):
    """A request may not begin. Nothing was spent; `retry_seconds` from now there may be room.

    For `holds_seconds` others like it needn't be looked at: there is as much to do then as by half
    of the wait that this one would have had.
    """

    def __init__(
        self, reason: Reason, retry_seconds: float = 0.0, holds_seconds: float = 0.0
    ) -> None:
        super().__init__(_TOLD[reason])
        self.reason = reason
        self.retry_seconds = retry_seconds
        self.holds_seconds = holds_seconds

    @property
    def own(self) -> bool:
        """Whether it is the tenant that asks too much, rather than all together."""
        return self.reason is Reason.OVER_SHARE


@dataclass(frozen=True, slots=True)
class Rules:
    """The thresholds; see `services.settings.AdmissionSettings` for what each does.

    `capacity` is the candidates that the engines can work on at once.
    """

    capacity: float = _UNBOUNDED
    queue_requests: int = 512
    wait_seconds: float = 30.0
    deadline_share: float = 0.5
    surety: float = 0.75
    reserve_seconds: float = 10.0
    memory: int = 64
    backoff: float = 0.9
    least_fill: float = 0.1


@dataclass(slots=True, eq=False)
class Place:
    """One request: waiting, running, or done with.

    `width` is the candidates it counts for, `tag` its virtual start; `until` is when waiting has
    no more sense, and `deadline` when it has to be answered. Times are the caller's clock.
    """

    tenant: Tenant
    kind: Kind
    width: float
    tag: float
    order: int
    arrived: float
    deadline: float | None
    until: float
    began: float | None = None
    over: bool = False
    refused: Refused | None = None

    @property
    def turn(self) -> tuple[int, float, int]:
        """What the queue is sorted by."""
        return self.tenant.priority, self.tag, self.order


@dataclass(slots=True)
class _Account:
    """A tenant's virtual time: where its last request ends, had it its weight's part of all."""

    finish: float = 0.0


@dataclass(slots=True)
class _Presence:
    """A tenant that asked for something: when last, for how many candidates; and what it runs."""

    tenant: Tenant
    seen: float
    width: float
    running: float = 0.0


@dataclass(slots=True)
class Admission:
    """The requests of one process that run and wait."""

    rules: Rules = Rules()
    closed: bool = False
    present: float = 1.0
    """The part that is there, above 0, of the engines that `rules.capacity` counts (`adjust`)."""
    expected: Expectations = field(init=False)
    _limit: float = field(init=False)
    _eased: float = -_UNBOUNDED
    _running: float = 0.0
    _virtual: float = 0.0
    _accounts: dict[str, _Account] = field(default_factory=dict)
    _present: dict[str, _Presence] = field(default_factory=dict)
    _begun: dict[Place, None] = field(default_factory=dict)
    _alone: set[Place] = field(default_factory=set)
    """Those of them that had room beside them all the time."""
    _queue: list[Place] = field(default_factory=list)
    _news: list[Place] = field(default_factory=list)
    _orders: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.expected = Expectations(self.rules.memory)
        self._limit = self.rules.capacity

    @property
    def limit(self) -> float:
        """The candidates that may run at once, for now."""
        return self._limit * self.present

    @property
    def running(self) -> float:
        """The candidates that those which run count for."""
        return self._running

    @property
    def waiting(self) -> int:
        """The requests that wait."""
        return len(self._queue)

    def news(self) -> list[Place]:
        """Those that waited and were started or refused, since the last time this was asked."""
        news, self._news = self._news, []
        return news

    def adjust(self, present: float, now: float) -> None:
        """So much of the engines is there from now on. Begins what there is room for then."""
        if present == self.present:
            return
        self.present = present
        if self._running >= self.limit - _ROUNDING:
            self._alone.clear()
        self._advance(now)

    def check(self, tenant: Tenant, now: float) -> None:
        """Raise Refused where nothing that this tenant could ask now would be let in."""
        if self.closed:
            raise Refused(Reason.DRAINING)
        if self._full():
            self._make_room(tenant, now, dry=True)

    def ask(
        self,
        now: float,
        tenant: Tenant,
        kind: Kind,
        deadline: float | None = None,
        one_pass: float | None = None,
    ) -> Place:
        """A place for a request: begun, or in the queue.

        `deadline` is seconds from now, and `one_pass` those that one candidate takes, where that
        is known. Raises Refused where it can't be answered in time, or there is no room for it.
        """
        if self.closed:
            raise Refused(Reason.DRAINING)
        place = self._place(now, tenant, kind, deadline, one_pass)
        self._saw(place)
        if self._fits(tenant, now) and not any(one.turn < place.turn for one in self._queue):
            self._book(place)
            self._begin(place, now)
            return place
        self._refuse_late(place, now)
        if self._full():
            self._make_room(tenant, now)
        self._book(place)
        insort(self._queue, place, key=lambda one: one.turn)
        self._advance(now)
        return place

    def leave(self, place: Place, now: float) -> None:
        """Whoever asked is gone, or nothing came of beginning it. Idempotent."""
        if place.over:
            return
        place.over = True
        if place.began is None:
            self._withdraw(place)
        else:
            self._free(place)
        self._advance(now)

    def expire(self, place: Place, now: float) -> None:
        """Refuse a request that has waited in vain. Does nothing to one that doesn't wait."""
        if not place.over and place.began is None:
            self._withdraw(place)
            self._refuse_waited(place, now)
            self._advance(now)

    def end(self, place: Place, now: float, *, drawn: int, in_vain: bool = False) -> None:
        """A request that ran has ended. `in_vain`: its deadline came before any answer did."""
        if place.over or place.began is None:
            return
        place.over = True
        seconds = now - place.began
        full = place not in self._alone
        self.expected.saw(place.kind, place.width, drawn=drawn, seconds=seconds, full=full)
        self._adapt(place, now, in_vain=in_vain)
        self._free(place)
        self._advance(now)

    def close(self) -> None:
        """Take nothing more, and refuse all that wait."""
        self.closed = True
        while self._queue:
            self._refuse(self._queue.pop(), Refused(Reason.DRAINING))

    # Who goes next

    def _place(
        self, now: float, tenant: Tenant, kind: Kind, deadline: float | None, one_pass: float | None
    ) -> Place:
        return Place(
            tenant,
            kind,
            min(self.expected.width(kind), self.rules.capacity),
            tag=max(self._virtual, self._accounts.get(tenant.id, _Account()).finish),
            order=next(self._orders),
            arrived=now,
            deadline=None if deadline is None else now + deadline,
            until=now + self._patience(kind, deadline, one_pass),
        )

    def _patience(self, kind: Kind, deadline: float | None, one_pass: float | None) -> float:
        """How long a request may wait and still be worth beginning."""
        if deadline is None:
            return self.rules.wait_seconds
        usual = self.expected.seconds(kind)
        needed = self.rules.deadline_share * deadline
        if usual is not None:
            needed = min(needed, usual)
        # Sooner than one candidate takes there is no answer at all.
        return max(0.0, deadline - max(needed, one_pass or 0.0))

    def _book(self, place: Place) -> None:
        if len(self._accounts) >= _MOST_ACCOUNTS:
            ahead = {it: one for it, one in self._accounts.items() if one.finish > self._virtual}
            self._accounts = ahead
        account = self._accounts.setdefault(place.tenant.id, _Account())
        account.finish = place.tag + place.width / place.tenant.weight

    def _presence(self, place: Place) -> _Presence:
        """The tenant of a request among those that are here; others are forgotten in time."""
        present = self._present.get(place.tenant.id)
        if present is None:
            since = place.arrived - self.rules.reserve_seconds
            here = {it: one for it, one in self._present.items() if one.running or one.seen > since}
            present = _Presence(place.tenant, place.arrived, place.width)
            self._present = {**here, place.tenant.id: present}
        return present

    def _saw(self, place: Place) -> None:
        present = self._presence(place)
        present.tenant, present.seen, present.width = place.tenant, place.arrived, place.width

    def _fits(self, tenant: Tenant, now: float) -> bool:
        return not self._begun or self._running < self._room(tenant, now) - _ROUNDING

    def _room(self, tenant: Tenant, now: float) -> float:
        """Below how many candidates under way a tenant's next request may begin.

        One that has its share leaves room for a request of those that asked of late and have less
        than theirs: without it, whoever asks most often would have every place that becomes free.
        It is a quarter of all at most, and none is left for those of a lower class.
        """
        since = now - self.rules.reserve_seconds
        others = [
            one
            for it, one in self._present.items()
            if it != tenant.id and one.seen > since and one.tenant.priority <= tenant.priority
        ]
        if not others:
            return self.limit
        part = self.limit / (tenant.weight + sum(one.tenant.weight for one in others))
        own = self._present.get(tenant.id)
        if own is None or own.running < part * tenant.weight:
            return self.limit
        left = [one.width for one in others if one.running < part * one.tenant.weight]
        return self.limit - min(max(left, default=0.0), self.limit / 4)

    def _begin(self, place: Place, now: float) -> None:
        place.began = now
        self._running += place.width
        self._presence(place).running += place.width
        self._begun[place] = None
        self._alone.add(place)
        if not self._fits(place.tenant, now):
            self._alone.clear()
        self._virtual = max(self._virtual, place.tag)

    def _advance(self, now: float) -> None:
        """Begin what there is room for, and refuse what has come to wait too long."""
        while (place := self._next(now)) is not None:
            self._queue.remove(place)
            if now > place.until:
                self._shift(place)
                self._refuse_waited(place, now)
                continue
            self._begin(place, now)
            self._news.append(place)

    def _next(self, now: float) -> Place | None:
        """The first of those that wait whose tenant finds room."""
        if self._begun and self._running >= self.limit - _ROUNDING:
            return None
        full = set[str]()
        for place in self._queue:
            if place.tenant.id not in full:
                if self._fits(place.tenant, now):
                    return place
                full.add(place.tenant.id)
        return None

    def _withdraw(self, place: Place) -> None:
        """Take a request out of the queue."""
        self._queue.remove(place)
        self._shift(place)

    def _shift(self, gone: Place) -> None:
        """Have its tenant's later requests move up: what wasn't served isn't charged."""
        account = self._accounts.get(gone.tenant.id)
        if account is None:
            return
        served = gone.width / gone.tenant.weight
        account.finish = max(self._virtual, account.finish - served)
        for place in self._queue:
            if place.tenant.id == gone.tenant.id and place.order > gone.order:
                place.tag = max(self._virtual, place.tag - served)
        self._queue.sort(key=lambda one: one.turn)

    def _free(self, place: Place) -> None:
        self._running -= place.width
        del self._begun[place]
        self._present[place.tenant.id].running -= place.width
        self._alone.discard(place)
        if not self._begun:
            self._running = 0.0  # no rest of rounding stays behind
            for one in self._present.values():
                one.running = 0.0
            if not self._queue:
                # Whoever comes next finds everybody equal; nobody need be remembered.
                self._accounts.clear()
                self._virtual = 0.0

    # Who is refused

    def _refuse(self, place: Place, why: Refused) -> None:
        place.over, place.refused = True, why
        self._news.append(place)

    def _refuse_waited(self, place: Place, now: float) -> None:
        wait = self._wait(place.tenant, self._queued_width(), now)
        self._refuse(place, Refused(_late(place), wait))

    def _refuse_late(self, place: Place, now: float) -> None:
        """Raise Refused for a request that would wait for longer than it may.

        Where more come than can be served the queue is as long as it may be, and what is expected
        of a wait is only about right: to be refused at once is better than after most of it.
        """
        patience = self.rules.surety * (place.until - now)
        wait = self._wait(place.tenant, self._ahead(place), now)
        if wait <= patience:
            return
        newcomer = self._wait(place.tenant, self._ahead(place, tag=self._virtual), now)
        if newcomer <= patience and len({one.tenant.id for one in self._queue}) > 1:
            raise Refused(Reason.OVER_SHARE, wait - patience, wait / 2)
        raise Refused(_late(place), wait - patience, wait / 2)

    def _wait(self, tenant: Tenant, ahead: float, now: float) -> float:
        """How long a tenant is likely to wait with so many candidates ahead of it.

        Places become free in the order in which they were taken, a turnover later; whoever takes
        one then has it for a turnover, and so on. Those that are overdue are free soon, but no
        more of them a second than were on average.
        """
        turnover = self.expected.turnover
        needed = self._running + ahead - self._room(tenant, now)
        if turnover is None or needed < 0:
            return 0.0  # nothing has ended yet: nobody is refused for what nobody knows
        usual = needed * turnover / self.limit
        rounds, rest = divmod(needed, self._running) if self._running else (0.0, 0.0)
        for place in self._begun:
            rest -= place.width
            if rest < 0 and place.began is not None:
                left = max(0.0, place.began + turnover - now)
                return max(usual, rounds * turnover + left)
        return usual

    def _ahead(self, place: Place, tag: float | None = None) -> float:
        """The candidates of all that wait and would go before a place, had it that tag."""
        turn = (place.tenant.priority, place.tag if tag is None else tag, place.order)
        return sum(one.width for one in self._queue if one.turn < turn)

    def _queued_width(self) -> float:
        return sum(one.width for one in self._queue)

    def _full(self) -> bool:
        return len(self._queue) >= self.rules.queue_requests

    def _make_room(self, newcomer: Tenant, now: float, *, dry: bool = False) -> None:
        """Have the tenant that is furthest over its share of a full queue give up its last place.

        Raises Refused if that is the newcomer. Those of a higher `priority` give way to others.
        """
        held = Counter(one.tenant.id for one in self._queue)
        tenants = {one.tenant.id: one.tenant for one in self._queue}
        held[newcomer.id] += 1
        tenants[newcomer.id] = newcomer
        most = max(
            tenants.values(),
            key=lambda it: (it.priority, held[it.id] / it.weight, it.id == newcomer.id),
        )
        retry = self._wait(newcomer, self._queued_width() / max(1, len(self._queue)), now)
        if most.id == newcomer.id:
            why = Reason.OVER_SHARE if len(tenants) > 1 else Reason.QUEUE_FULL
            raise Refused(why, retry, self._wait(newcomer, self._queued_width(), now) / 2)
        if not dry:
            last = max(
                (one for one in self._queue if one.tenant.id == most.id), key=lambda it: it.turn
            )
            self._withdraw(last)
            self._refuse(last, Refused(Reason.OVER_SHARE, retry))

    # How much may run at once

    def _adapt(self, place: Place, now: float, *, in_vain: bool) -> None:
        """Fewer side by side when deadlines pass without an answer, and slowly more again.

        Additive increase, multiplicative decrease: one step down for all those that were begun
        under the same limit, and up a twentieth of the capacity for a limit's worth that went well.
        """
        rules = self.rules
        if rules.capacity == _UNBOUNDED:
            return
        if not in_vain:
            step = 0.05 * rules.capacity * min(1.0, place.width / self.limit)
            self._limit = min(rules.capacity, self._limit + step)
        elif place.began is not None and place.began > self._eased:
            self._limit = max(rules.least_fill * rules.capacity, self._limit * rules.backoff)
            self._eased = now


def _late(place: Place) -> Reason:
    """Why a request is refused that would wait, or has waited, for too long."""
    return Reason.OVERLOADED if place.deadline is None else Reason.DEADLINE
