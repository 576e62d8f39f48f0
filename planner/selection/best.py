"""Best-of-n: the highest score wins (Cobbe et al., arXiv 2110.14168)."""

from __future__ import annotations

from planner.selection.base import Selection, silent_last
from planner.selection.weighted import fall_back
from planner.tally import Tally


class Best:
    """The answer of the candidate with the highest score; the plain majority where none has one."""

    name = "best"
    needs_scores = True
    needs_logprobs = False

    def choose(self, tally: Tally) -> Selection:
        if tally.graded == 0:
            return fall_back(tally, self.name)
        groups = sorted(tally.groups.values(), key=lambda g: (-g.best_score, -g.count, g.first))
        return silent_last(groups, tally, ()) or Selection(tuple(groups), groups[0].best_score)

    def settled(self, tally: Tally, remaining: int) -> bool:
        # A better score can always come.
        return remaining == 0 and tally.finished > 0
