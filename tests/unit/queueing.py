"""A cluster in virtual time: requests that come at random, engines that slow down as they fill."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from services.admission import Admission, Place, Refused, Rules
from services.expectations import Kind
from services.tenants import Tenant

SEQUENCES = 64


@dataclass(frozen=True)
class Stream:
    """A tenant's requests: so many a second, each of so many candidates, with a deadline."""

    tenant: Tenant
    rate: float
    candidates: int = 1
    deadline: float | None = 4.0


@dataclass
class Figures:
    """What became of one tenant's requests. `latencies` are those of answers in time."""

    asked: int = 0
    refused: int = 0
    late: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle latency, in seconds."""
        return sorted(self.latencies)[len(self.latencies) // 2]


@dataclass(eq=False)
class _Request:
    place: Place
    stream: Stream
    arrived: float
    left: int
    drawn: int = 0


class Cluster:
    """Engines that work on `SEQUENCES` candidates at once, the more of them the slower each.

    A candidate takes 100 to 140 tokens, of which one alone makes 200 a second and 64 together 64
    each. What is over its deadline goes on no longer, as in the driver; what is beyond the
    sequences slows all down alike, as it would with preemptions.
    """

    def __init__(self, rules: Rules, seed: int = 0) -> None:
        self.admission = Admission(rules)
        self.figures: dict[str, Figures] = {}
        self._chance = random.Random(seed)
        self._made = 0.0  # tokens that a candidate has made that was there from the beginning
        self._now = 0.0
        self._ends: list[tuple[float, int, _Request]] = []
        self._requests: dict[Place, _Request] = {}
        self._orders = count()

    def run(self, streams: Sequence[Stream], seconds: float) -> None:
        """Have all these arrive for so long."""
        for at, stream in self._arrivals(streams, seconds):
            self._until(at)
            self._arrive(stream)
        self._until(seconds + 30)

    def goodput(self, seconds: float) -> float:
        """Answers in time a second."""
        return sum(len(it.latencies) for it in self.figures.values()) / seconds

    def _arrivals(
        self, streams: Sequence[Stream], seconds: float
    ) -> Iterator[tuple[float, Stream]]:
        due = [(self._chance.expovariate(it.rate), at) for at, it in enumerate(streams)]
        while True:
            when, at = min(due)
            if when > seconds:
                return
            yield when, streams[at]
            due[at] = (when + self._chance.expovariate(streams[at].rate), at)

    def _arrive(self, stream: Stream) -> None:
        figures = self.figures.setdefault(stream.tenant.id, Figures())
        figures.asked += 1
        kind = Kind("single" if stream.candidates == 1 else "majority", stream.candidates)
        try:
            place = self.admission.ask(self._now, stream.tenant, kind, stream.deadline, 0.9)
        except Refused:
            figures.refused += 1
            self._hear()
            return
        self._requests[place] = _Request(place, stream, self._now, stream.candidates)
        if place.began is not None:
            self._begin(place)
        self._hear()

    def _begin(self, place: Place) -> None:
        request = self._requests[place]
        for _ in range(request.left):
            tokens = self._chance.uniform(100, 140)
            heappush(self._ends, (self._made + tokens, next(self._orders), request))

    def _hear(self) -> None:
        for place in self.admission.news():
            if place.refused is not None:
                request = self._requests.pop(place)
                self.figures[request.stream.tenant.id].refused += 1
            else:
                self._begin(place)

    def _speed(self) -> float:
        busy = len(self._ends)
        return 1 / (0.005 + 0.000168 * max(0, busy - 1)) if busy else 0.0

    def _until(self, when: float) -> None:
        while True:
            ahead = (self._ends[0][0] - self._made) / self._speed() if self._ends else 1e9
            due = min((it for it in map(self._due, self._requests) if it is not None), default=1e9)
            step = min(self._now + ahead, max(self._now, due))
            if step > when:
                self._pass(when - self._now)
                return
            self._pass(step - self._now)
            if self._now >= due:
                self._cut()
            elif self._ends:
                self._finish(heappop(self._ends)[2])

    def _due(self, place: Place) -> float | None:
        return place.until if place.began is None else place.deadline

    def _pass(self, seconds: float) -> None:
        self._made += seconds * self._speed()
        self._now += seconds

    def _finish(self, request: _Request) -> None:
        request.left -= 1
        request.drawn += 1
        if not request.left:
            self._over(request)

    def _cut(self) -> None:
        """End what its deadline, or its patience, has come for."""
        for place, request in list(self._requests.items()):
            due = self._due(place)
            if due is None or due > self._now:
                continue
            if place.began is None:
                self.admission.expire(place, self._now)
                self._hear()
            else:
                self._ends = sorted(it for it in self._ends if it[2] is not request)
                self._over(request)

    def _over(self, request: _Request) -> None:
        del self._requests[request.place]
        figures = self.figures[request.stream.tenant.id]
        if request.drawn:
            figures.latencies.append(self._now - request.arrived)
        else:
            figures.late += 1
        drawn = request.drawn
        self.admission.end(request.place, self._now, drawn=drawn, in_vain=not drawn)
        self._hear()
