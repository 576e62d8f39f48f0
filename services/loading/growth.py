"""Whether a service grows while it is under load for long, and whether anything stays behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from statistics import median

from services.loading.watch import Sample

MOST = 0.05
"""Memory may grow by less than this share."""
LONG = 600.0
"""Seconds from which on growth is judged: before, processes are still warming up."""
_GROWS = ("pss", "rss", "processes", "files", "tasks", "keys")
_LEAST = 20
"""So many samples at least, for there to be a second tenth and a last one."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One measure, the medians of its second tenth and its last: what warms up does so before."""

    name: str
    early: float
    late: float

    @property
    def share(self) -> float:
        """By how much it grew, as a share of what it was."""
        return self.late / self.early - 1 if self.early else 0.0


@dataclass(frozen=True, slots=True)
class Soak:
    """What came of looking at a service under load.

    `before` and `after` are the service at rest, once it had answered something, and in the end;
    in between there were `seconds` of load.
    """

    seconds: float
    growths: tuple[Growth, ...]
    before: Sample
    after: Sample
    samples: int

    @property
    def memory(self) -> Growth | None:
        """The growth of the memory, where the processes could be seen for long enough."""
        return next((one for one in self.growths if one.name == "pss"), None)

    @property
    def orphans(self) -> int | None:
        """Tasks that the load left behind."""
        if self.before.tasks is None or self.after.tasks is None:
            return None
        return max(0, self.after.tasks - self.before.tasks)

    def amiss(self) -> list[str]:
        """What doesn't hold, a sentence each."""
        found = []
        memory = self.memory if self.seconds >= LONG else None
        if memory is not None and memory.share >= MOST:
            found.append(
                f"Memory grew by {memory.share:.1%}, from {memory.early / 2**20:,.0f} MiB."
            )
        if self.orphans:
            found.append(f"{self.orphans} tasks more than before are left in the event loop.")
        found += [
            f"{left} requests are left that nobody waits for ({name})."
            for name in ("in_flight", "running", "waiting", "kept")
            if (left := getattr(self.after, name))
        ]
        if self.after.unexpiring:
            named = ", ".join(self.after.bare)
            found.append(f"{self.after.unexpiring} keys in Redis have no time to live: {named}")
        return found


def soak(samples: Sequence[Sample], before: Sample, after: Sample, seconds: float) -> Soak:
    """What these samples, in the order of time, come to, after so many seconds of load."""
    found = [growth for name in _GROWS if (growth := grown(samples, name)) is not None]
    return Soak(seconds, tuple(found), before, after, len(samples))


def grown(samples: Sequence[Sample], name: str) -> Growth | None:
    """How one measure grew; None where it wasn't seen often enough."""
    seen = [float(value) for one in samples if (value := getattr(one, name)) is not None]
    if len(seen) < _LEAST:
        return None
    tenth = floor(len(seen) / 10)
    return Growth(name, median(seen[tenth : 2 * tenth]), median(seen[-tenth:]))
