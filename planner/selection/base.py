"""What a selector is: the rule that chooses the answer from what is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from planner.tally import Group, Tally


@dataclass(frozen=True, slots=True)
class Selection:
    """Groups, best first; how much of the evidence is behind the first, in [0, 1]; what to note."""

    ranked: tuple[Group, ...]
    confidence: float
    notes: tuple[str, ...] = ()


class Selector(Protocol):
    """Chooses the answer. Pure: the same tally gives the same selection."""

    name: str
    needs_scores: bool
    needs_logprobs: bool

    def choose(self, tally: Tally) -> Selection:
        """Rank the answers of a tally. Empty only where nothing has finished."""

    def settled(self, tally: Tally, remaining: int) -> bool:
        """Whether `remaining` more candidates could not change the first of the ranking."""


def silent_last(groups: list[Group], tally: Tally, notes: tuple[str, ...]) -> Selection | None:
    """What every selector does where no candidate gives an answer; None where one does."""
    if groups:
        return None
    if tally.silent is None:
        return Selection((), 0.0, notes)
    by = "the best-scored candidate" if tally.silent.graded else "the first candidate"
    note = f"No candidate gave an answer that could be found; this is {by}."
    return Selection((tally.silent,), tally.silent.best_score, (*notes, note))


def share(part: float, whole: float) -> float:
    """`part` of `whole` as a confidence, held back from certainty while there is little evidence.

    Laplace's rule of succession: one vote of one gives 2/3, ten of ten 11/12.
    """
    return (part + 1.0) / (whole + 2.0)
