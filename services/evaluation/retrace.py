"""Replays a trace of the service: the same search, led through what was asked and told.

A trace is what `GET /v1/traces/{id}` sends. From the query and the effort in it the search is built
anew, and told what was told in the order on record. The recorded outcome is that search's own, but
for what the driver added from outside: a reason to end it (its budget, its deadline, a client that
left) and its remarks. So both are added to the replayed one before the two are compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.domain import Stopped
from planner.errors import InvalidOption, LongthinkError
from planner.replay import Asked, Diverged, Entry, Hurried, replay_log
from planner.search import Search, begin
from services.record import outcome_data, read_effort, read_query, read_result
from services.trace import Kind


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
        told = _Told.of(trace)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TraceError(f"This isn't a trace of longthink's: {error!r} is amiss.") from error
    try:
        outcome = replay_log(told.search, told.log)
    except Diverged as diverged:
        return Retraced(told.id, told.outcome, None, str(diverged))
    arrived = replace(
        outcome,
        stopped=told.reason or outcome.stopped,
        notes=(*outcome.notes, *told.remarks),
    )
    return Retraced(told.id, told.outcome, outcome_data(arrived))


@dataclass(frozen=True, slots=True)
class _Told:
    """What a trace tells that matters to its search."""

    id: str
    search: Search
    log: tuple[Entry, ...]
    outcome: Mapping[str, Any]
    reason: Stopped | None
    remarks: tuple[str, ...]

    @classmethod
    def of(cls, trace: Any) -> _Told:
        """Raises TraceError for a trace without its beginning or its end, and whatever else comes
        of reading what isn't a trace.
        """
        events = [(Kind(event["kind"]), event["data"]) for event in trace["events"]]
        kinds = [kind for kind, _ in events]
        if kinds[:1] != [Kind.OPENED]:
            raise TraceError("The beginning of this trace is missing, so it can't be replayed.")
        if Kind.CLOSED not in kinds:
            raise TraceError(
                "This trace has no end, so there is nothing to compare with: either the search is "
                "still under way, or its service was lost in the middle of it."
            )
        # Calls that were cut off may report after the end; that is counted, but changes nothing.
        end = kinds.index(Kind.CLOSED)
        opened, closed = events[0][1], events[end][1]
        return cls(
            id=trace["id"],
            search=begin(
                read_query(opened["query"]),
                read_effort(opened["effort"]),
                grades=opened["grades"],
                verifies=opened["verifies"],
                # An older trace says nothing of these, and its search knew nothing of them.
                context=opened.get("context"),
                tokens=opened.get("tokens"),
                likely=opened.get("likely"),
                prompt=opened.get("prompt"),
                draft=opened.get("draft"),
                timed=opened.get("timed", False),
                outlook=opened.get("outlook"),
            ),
            log=tuple(_entry(kind, data) for kind, data in events[:end] if kind in _HEARD),
            outcome=closed["outcome"],
            reason=None if closed["reason"] is None else Stopped(closed["reason"]),
            remarks=tuple(closed["remarks"]),
        )


_HEARD = (Kind.ASKED, Kind.HURRIED, Kind.TOLD)
"""The events that a search takes part in."""


def _entry(kind: Kind, data: Mapping[str, Any]) -> Entry:
    if kind is Kind.TOLD:
        return read_result(data)
    if kind is Kind.HURRIED:
        return Hurried()
    return Asked(data["room"], tuple(data["tasks"]))
