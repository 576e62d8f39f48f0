"""What a simulation came to, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it came and was answered, in seconds, and what became of it.

    `answered` says that there was an answer, `right` that it was the right one.
    """

    began: float
    ended: float
    answered: bool = False
    right: bool = False
    refused: bool = False
    candidates: int = 0
    completion_tokens: int = 0
    reward_tokens: int = 0

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Figures:
    """A point of a table: so many workers under such a load.

    `offered`, `throughput` and `goodput` are requests a second: that came, that were replied to,
    and that got an answer in time. `busy` are the parts of the time in which engines and
    orchestrators were busy. `own_ms` is the CPU time of planner and driver a candidate, measured
    while this was simulated, without that of Python's collector, and `real_seconds` what simulating
    took.
    """

    workers: int
    rewards: int
    orchestrators: int
    offered: float
    throughput: float
    goodput: float
    in_time: float
    right: float
    p50: float
    p99: float
    refused: int
    requests: int
    candidates: float
    completion_tokens: float
    reward_tokens: float
    busy: float
    rewards_busy: float
    orchestrators_busy: float
    own_ms: float
    real_seconds: float


def quantile(values: Sequence[float], part: float) -> float:
    """The value that so large a part of them doesn't exceed; 0 where there are none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def mean(values: Sequence[float]) -> float:
    """Their mean; 0 where there are none."""
    return sum(values) / len(values) if values else 0.0
