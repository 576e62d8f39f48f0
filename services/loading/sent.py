"""What became of one request of a load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

_SPENDING = ("completion_tokens", "reward_tokens", "candidates", "usd")
"""The dimensions of a budget that can be overspent. A deadline is missed instead."""


class End(StrEnum):
    """How it ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """With 429 or 503: for the moment only, as the service says."""
    FAILED = "failed"
    """In any other way: an error, a broken connection, a reply that is none."""
    HUNG_UP = "hung_up"
    """Its client went away, as it was meant to."""
    UNFINISHED = "unfinished"
    """It was still waiting when the load was over."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request. Times are seconds from the start of the load.

    It was meant to be sent at `due`, was sent at `began`, and `first` is when the first sign of
    work came, if it was streamed and one did. `spent` and `overspent`, the dimensions in which that
    is more than the budget, are there if it was answered; `right`, once somebody has judged.
    """

    place: int
    split: str
    effort: str
    tenant: str
    streamed: bool
    due: float
    began: float
    ended: float
    end: End
    gold: str
    status: int | None = None
    code: str | None = None
    message: str | None = None
    retry_after: bool = False
    first: float | None = None
    answer: str | None = None
    stopped: str | None = None
    completion_tokens: int = 0
    overspent: tuple[str, ...] = ()
    trace_id: str | None = None
    right: bool | None = None

    @property
    def latency(self) -> float:
        """Seconds from when it was meant to be sent to its end."""
        return self.ended - self.due

    @property
    def late(self) -> float:
        """Seconds by which it was sent too late, which is the load generator's own fault."""
        return self.began - self.due

    def judged(self, right: bool) -> Self:
        """The same with a judgement."""
        return replace(self, right=right)

    def in_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """What `in_json` gave."""
        return cls(**{**said, "end": End(said["end"]), "overspent": tuple(said["overspent"])})


def overspent(ours: Mapping[str, Any]) -> tuple[str, ...]:
    """The dimensions in which a reply's `longthink` object says more was spent than allowed."""
    spent, limits = ours.get("spent", {}), ours.get("budget", {})
    return tuple(
        name
        for name in _SPENDING
        if limits.get(name) is not None and spent.get(name, 0) > limits[name]
    )
