"""What a person sees of a search while it thinks, made from the events of its trace.

Progress is told as lines, of which only the newest matters. A strategy with one candidate is shown
as it is written instead: then what was shown is never taken back, only continued.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.effort import Effort
from services.trace import Event, Kind

_LONGEST_ANSWER = 60


class Lines:
    """The state of a search in one line."""

    def __init__(self, effort: Effort) -> None:
        self._limit = effort.budget.completion_tokens
        self._failed = 0
        self._line = ""
        self._told = ""

    def see(self, event: Event) -> None:
        """Take in the next event."""
        match event.kind:
            case Kind.ASKED if not self._line:
                self._line = f"sampling {_count(len(event.data['tasks']), 'candidate')}"
            case Kind.TOLD if _lost_a_candidate(event.data):
                self._failed += 1
            case Kind.STANDING:
                self._line = self._standing(event.data)
            case _:
                pass

    @property
    def news(self) -> bool:
        """Whether there is a line that hasn't been taken."""
        return self._line != self._told

    def take(self) -> str:
        """The newest line, with its end."""
        self._told = self._line
        return self._line + "\n"

    def _standing(self, data: Mapping[str, Any]) -> str:
        parts = [f"{data['finished']} of {_count(data['planned'], 'candidate')}"]
        if data["answer"] is not None:
            parts.append(_leading(data["answer"], data["votes"]))
        if self._failed:
            parts.append(f"{self._failed} failed")
        of_budget = "" if self._limit is None else f" of {self._limit:,}"
        parts.append(f"{data['spent']['completion_tokens']:,} tokens{of_budget} spent")
        return " · ".join(parts)


class Typing:
    """The text of a single candidate while it is written.

    A candidate may take several calls of a worker. One that takes over from a worker that was lost
    may begin before where that one had come to, and says `after` how many characters; what was
    shown stays shown, and nothing more is until the new text has caught up.
    """

    def __init__(self) -> None:
        self._call = ""
        self._written = ""
        self._shown = ""

    def see(self, event: Event) -> None:
        """Take in the next event."""
        if event.kind is not Kind.TOKENS:
            return
        if event.data["id"] != self._call:
            self._call = event.data["id"]
            self._written = self._written[: event.data.get("after")]
        self._written += event.data["text"]

    def take(self) -> str:
        """What can be shown and wasn't yet."""
        return self._show(self._written) or ""

    def finish(self, text: str) -> str | None:
        """What remains to be shown of the whole text, or None if something else was shown."""
        return self._show(text)

    def _show(self, text: str) -> str | None:
        if not text.startswith(self._shown):
            return None
        fresh = text[len(self._shown) :]
        self._shown = text
        return fresh


def _lost_a_candidate(told: Mapping[str, Any]) -> bool:
    return told["status"] == "failed" and str(told["id"]).startswith("expand:")


def _leading(answer: str, votes: Any) -> str:
    cast = sum(vote["count"] for vote in votes)
    for_it = next((vote["count"] for vote in votes if vote["answer"] == answer), 0)
    return f"leading {_one_line(answer)} with {for_it} of {_count(cast, 'vote')}"


def _one_line(answer: str) -> str:
    line = " ".join(answer.split())
    return line if len(line) <= _LONGEST_ANSWER else line[: _LONGEST_ANSWER - 1] + "…"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
