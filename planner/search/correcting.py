"""Answers written from answers: what all strategies share that show the model its attempts.

Attempts are shown as far as they leave room in the model's context for an answer that may be a
quarter longer than the longest of them, but for half of the context at least. Where they don't,
fewer are shown; a single one loses its oldest words, as its answer stands at its end.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.domain import Candidate, Expand, Path
from planner.prompts import asked, conversation, refine_messages
from planner.search.base import Setup
from planner.search.tree import Tree

INSTRUCTION_TOKENS = 48
"""What the words around the attempts take at most."""
_CUT = "[...]"


class Correcting(Tree):
    """A search whose nodes may be whole answers that correct others."""

    _steers = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._fewer = 0
        self._cut = 0

    def _correct(self, path: Path, attempts: Sequence[Candidate]) -> None:
        """Have an answer written from these, at least one of them."""
        question = conversation(self.setup.query.messages)
        shown = self._shown(attempts)
        self._write(Expand(path, messages=asked(refine_messages(question, shown))))

    def _shown(self, attempts: Sequence[Candidate]) -> list[str]:
        """The texts of the attempts, as far as there is room for them."""
        room = self._room(attempts)
        lengths = list(map(length, attempts))
        if room is None or sum(lengths) <= room:
            return [attempt.text for attempt in attempts]
        fitting = 1
        while sum(lengths[: fitting + 1]) <= room:
            fitting += 1
        self._fewer += fitting < len(attempts)
        if fitting > 1 or lengths[0] <= room:
            return [attempt.text for attempt in attempts[:fitting]]
        self._cut += 1
        return [tail(attempts[0].text, room / lengths[0])]

    def _room(self, attempts: Sequence[Candidate]) -> int | None:
        """The tokens that attempts may take; None where nothing is known of the context."""
        context = self.setup.context
        if context is None:
            return None
        longest = max(map(length, attempts))
        answer = min(longest + longest // 4, self.setup.query.sampling.max_tokens, context // 2)
        return max(1, context - answer - INSTRUCTION_TOKENS)

    def _remarks(self) -> tuple[str, ...]:
        notes = list(super()._remarks())
        if self._fewer:
            notes.append(f"{self._fewer} times the context had no room for all attempts.")
        if self._cut:
            notes.append(f"{self._cut} times an attempt was too long to be shown from its start.")
        return tuple(notes)


def tail(text: str, part: float) -> str:
    """About so large a part of the text, and no more: its last words, behind a mark."""
    kept = text[len(text) - int(len(text) * part) :]
    _, _, words = kept.partition(" ")
    return f"{_CUT} {words or kept}"


def length(attempt: Candidate) -> int:
    """Its length in tokens; where it came without them, no less than that."""
    return len(attempt.token_ids) or len(attempt.text)
