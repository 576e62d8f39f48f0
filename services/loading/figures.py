"""What a load came to: throughput, latencies, goodput, waste and what went wrong.

Pure arithmetic on the records. What always holds: a latency counts from when the request was meant
to be sent, so that a service that stalls is charged with every request that should have come
meanwhile, and what never ended took at least until the load was over; the window is as long as
requests were sent, and only what ended in it counts a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from services.loading.sent import End, Sent


@dataclass(frozen=True, slots=True)
class Spread:
    """How numbers of seconds are spread. A percentile is one of them, the nearest rank."""

    count: int
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Spread | None:
        """None where there are none."""
        ranked = sorted(seconds)
        if not ranked:
            return None
        p50, p90, p95, p99 = (percentile(ranked, one) for one in (50, 90, 95, 99))
        return cls(len(ranked), p50, p90, p95, p99, max=ranked[-1])


def percentile(ranked: Sequence[float], percent: float) -> float:
    """The smallest of these that at least so many percent are no greater than.

    `ranked` is ascending and not empty.
    """
    return ranked[max(0, ceil(percent / 100 * len(ranked)) - 1)]


@dataclass(frozen=True, slots=True)
class Refusals:
    """The refusals with one status and code, and how soon they came."""

    status: int
    code: str | None
    count: int
    without_retry_after: int
    latency: Spread


@dataclass(frozen=True, slots=True)
class Figures:
    """Of all requests of a load, or of some of them. Rates are a second of the window.

    `good` answers are right and in time. `tokens_per_right` is None where no answer was right, and
    counts what the wrong ones took, too.
    """

    name: str
    sent: int
    answered: int
    refused: int
    failed: int
    hung_up: int
    unfinished: int
    right: int
    good: int
    in_time: int
    overspent: int
    completion_tokens: int
    throughput: float
    goodput: float
    accuracy: float | None
    tokens_per_right: float | None
    latency: Spread | None
    first_progress: Spread | None
    seconds_late: Spread | None


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of a load: together, and by split, effort, tenant and kind of reply.

    What didn't end is nobody's fault where the load was `interrupted`.
    """

    seconds: float
    together: Figures
    groups: dict[str, tuple[Figures, ...]]
    refusals: tuple[Refusals, ...]
    failures: tuple[tuple[str, int], ...]
    overspent: tuple[str, ...]
    interrupted: bool = False

    @property
    def unanswered(self) -> int:
        """The requests that the service left without any reply."""
        return 0 if self.interrupted else self.together.unfinished

    @property
    def sound(self) -> bool:
        """Whether all came to an end, nothing failed but by a refusal, and nothing overspent."""
        return not (self.together.failed or self.unanswered or self.overspent)


_BY: dict[str, Callable[[Sent], str]] = {
    "split": lambda one: one.split,
    "effort": lambda one: one.effort,
    "tenant": lambda one: one.tenant,
    "reply": lambda one: "streamed" if one.streamed else "plain",
}


def report(
    records: Sequence[Sent], seconds: float, timely: float | None, *, interrupted: bool = False
) -> Report:
    """The figures of a load in which requests were sent for so many seconds.

    A reply is in time up to `timely` seconds, always where that is None.
    """
    groups = {}
    for kind, name_of in _BY.items():
        names = sorted({name_of(one) for one in records})
        groups[kind] = tuple(
            figures(
                name, [one for one in records if name_of(one) == name], seconds, timely, interrupted
            )
            for name in names
        )
    return Report(
        seconds=seconds,
        together=figures("all", records, seconds, timely, interrupted),
        groups={kind: rows for kind, rows in groups.items() if len(rows) > 1},
        refusals=tuple(refusals(records)),
        failures=tuple(Counter(_told(one) for one in _those(records, End.FAILED)).most_common()),
        interrupted=interrupted,
        overspent=tuple(
            f"{one.trace_id}: {', '.join(one.overspent)}" for one in records if one.overspent
        ),
    )


def figures(
    name: str,
    records: Sequence[Sent],
    seconds: float,
    timely: float | None,
    interrupted: bool = False,
) -> Figures:
    """The figures of these requests."""
    answered = _those(records, End.ANSWERED)
    right = [one for one in answered if one.right]
    timed = [one for one in answered if in_time(one, timely)]
    good = [one for one in right if in_time(one, timely)]
    waited = answered if interrupted else [*answered, *_those(records, End.UNFINISHED)]
    tokens = sum(one.completion_tokens for one in answered)
    ends = Counter(one.end for one in records)
    return Figures(
        name=name,
        sent=len(records),
        answered=len(answered),
        refused=ends[End.REFUSED],
        failed=ends[End.FAILED],
        hung_up=ends[End.HUNG_UP],
        unfinished=ends[End.UNFINISHED],
        right=len(right),
        good=len(good),
        in_time=len(timed),
        overspent=sum(bool(one.overspent) for one in records),
        completion_tokens=tokens,
        throughput=_rate(answered, seconds),
        goodput=_rate(good, seconds),
        accuracy=len(right) / len(answered) if answered else None,
        tokens_per_right=tokens / len(right) if right else None,
        latency=Spread.of(one.latency for one in waited),
        first_progress=Spread.of(one.first - one.due for one in records if one.first is not None),
        seconds_late=Spread.of(one.late for one in records),
    )


def in_time(one: Sent, timely: float | None) -> bool:
    """Whether its reply came soon enough after it was meant to be asked for."""
    return timely is None or one.latency <= timely


def refusals(records: Sequence[Sent]) -> list[Refusals]:
    """The refusals by status and code, the most frequent first."""
    kinds: dict[tuple[int, str | None], list[Sent]] = {}
    for one in _those(records, End.REFUSED):
        kinds.setdefault((one.status or 0, one.code), []).append(one)
    found = []
    for (status, code), those in kinds.items():
        bare = sum(not one.retry_after for one in those)
        if spread := Spread.of(one.ended - one.began for one in those):
            found.append(Refusals(status, code, len(those), bare, spread))
    return sorted(found, key=lambda one: -one.count)


def _those(records: Iterable[Sent], end: End) -> list[Sent]:
    return [one for one in records if one.end is end]


def _rate(records: Sequence[Sent], seconds: float) -> float:
    return sum(one.ended <= seconds for one in records) / seconds if seconds > 0 else 0.0


def _told(one: Sent) -> str:
    status = "no status" if one.status is None else f"{one.status}"
    return f"{status}: {one.message or one.code or 'no reason'}"
