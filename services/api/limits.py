"""What the edge allows itself and its clients, and what it takes where a request says nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.domain import Sampling


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    body_bytes: int = 1 << 20
    """A longer request body is refused, before it is read where it says how long it is."""

    body_seconds: float = 30.0
    """A request body that takes longer to arrive is refused."""

    sampling: Sampling = field(default=Sampling())
    """The temperature, top_p and length of a candidate where a request names none."""

    progress_seconds: float = 0.1
    """A stream tells its progress no more often than this."""

    heartbeat_seconds: float = 5.0
    """A stream that has been silent for so long sends a comment, lest a proxy close it."""

    probe_seconds: float = 5.0
    """How long engines have to answer a question of readiness or for their metrics."""

    retry_seconds: float = 1.0
    """When a client that was refused with 503 should try again."""
