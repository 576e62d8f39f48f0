"""Replays a trace of the service: the same search, led through what was asked and told.

A trace is what `GET /v1/traces/{id}` sends. From the query and the effort in it the search is built
anew, and told what was told in the order on record (see `services.resume`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.errors import InvalidOption, LongthinkError
from planner.replay import Diverged
from services.record import outcome_data
from services.resume import BrokenTrace, Saved
from services.trace import Event, Kind


class TraceError(LongthinkError):
    """A trace that can't be replayed."""


@dataclass(frozen=True, slots=True)
class Retraced:
    """The outcome on record and the one arrived at, as JSON data.

    Where the search went another way there is no second one, and `diverged` says where that was.
    """

    trace_id: str
    recorded: Mapping[str, Any]
    replayed: Mapping[str, Any] | None
    diverged: str | None = None

    @property
    def same(self) -> bool:
        """Whether the replay came to the same outcome, in every part."""
        return self.recorded == self.replayed


def read_trace(path: Path) -> Any:
    """A trace that was saved as it was sent. Raises InvalidOption that names the file."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidOption(f"{path}: can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"{path}: isn't JSON: {error}.") from error


def retrace(trace: Any) -> Retraced:
    """Replay a trace. Raises TraceError where it isn't one, or isn't whole."""
    try:
        events = [_event(event) for event in trace["events"]]
        if events and all(event.kind is not Kind.CLOSED for event in events):
            raise _unended()
        saved = Saved.of(trace["id"], events)
        if saved.closed is None:
            raise _unended()
        return _compared(saved, saved.closed["outcome"])
    except BrokenTrace as error:
        raise TraceError(f"{error} So it can't be replayed.") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TraceError(f"This isn't a trace of longthink's: {error!r} is amiss.") from error


def _unended() -> TraceError:
    return TraceError(
        "This trace has no end, so there is nothing to compare with: either the search is still "
        "under way, or its service was lost in the middle of it."
    )


def _compared(saved: Saved, recorded: Mapping[str, Any]) -> Retraced:
    try:
        return Retraced(saved.id, recorded, outcome_data(saved.outcome()))
    except Diverged as diverged:
        return Retraced(saved.id, recorded, None, str(diverged))


def _event(sent: Any) -> Event:
    kind, data = Kind(sent["kind"]), sent["data"]
    return Event(sent.get("seq", 0), sent.get("seconds", 0.0), kind, data)
