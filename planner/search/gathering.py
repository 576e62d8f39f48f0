"""What all strategies share: a tally of what has finished, and the outcome chosen from it."""

from __future__ import annotations

from planner.domain import Outcome, Stopped
from planner.search.base import Search, Setup
from planner.tally import Tally


class Gathering(Search):
    """A search whose finished candidates are tallied, and whose selector chooses among them."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._tally = Tally()
        self._stopped: Stopped | None = None

    @property
    def stopped(self) -> Stopped | None:
        return self._stopped or (Stopped.COMPLETE if self.done else None)

    def best(self) -> Outcome:
        chosen = self.setup.selector.choose(self._tally)
        ranked = tuple(group.best for group in chosen.ranked)
        notes = chosen.notes
        if not ranked and self._tally.partial is not None:
            ranked = (self._tally.partial,)
            notes = (*notes, "No candidate could finish; this is as far as the longest one came.")
        if self.setup.selector.needs_scores and not self.setup.grades:
            notes = ("The profile has no reward model.", *notes)
        notes = (*notes, *self._remarks())
        return Outcome(
            ranked=ranked,
            answer=chosen.ranked[0].answer if chosen.ranked else None,
            confidence=chosen.confidence,
            votes=tuple(group.vote() for group in chosen.ranked if group.answer is not None),
            stopped=self.stopped,
            selector=self.setup.selector.name,
            notes=notes,
        )

    def _remarks(self) -> tuple[str, ...]:
        """What else the reply should say of how the search went."""
        if self.setup.stop.needs_logprobs:
            return ("Only independent samples can be given up for low confidence; these aren't.",)
        return ()

    def progress(self) -> tuple[int, int]:
        return self._tally.finished, self.setup.candidates
