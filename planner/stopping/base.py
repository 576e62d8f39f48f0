"""What a stopping rule is: when more candidates aren't worth waiting for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from planner.domain import Stopped
from planner.selection import Selector
from planner.tally import Tally


@dataclass(frozen=True, slots=True)
class View:
    """What a rule may look at. `remaining` candidates may still finish or get their score."""

    tally: Tally
    selector: Selector
    remaining: int

    @property
    def agreed(self) -> bool:
        """Whether the answer that would be chosen now has the most votes, or there is none."""
        ranked = self.selector.choose(self.tally).ranked if self.selector.needs_scores else ()
        if not ranked:
            return True
        return ranked[0].answer is not None and ranked[0].count >= self.tally.leader_count


class Rule(Protocol):
    """One reason to stop. Pure."""

    def verdict(self, view: View) -> Stopped | None:
        """What the search should say stopped it, or None to go on."""

    def horizon(self, view: View) -> int | None:
        """The fewest further candidates after which this rule could fire; None if it can't tell.

        A search doesn't start more than that at a time, as those beyond would be wasted should
        the rule fire.
        """
