"""Best-of-n: the highest score wins (Cobbe et al., arXiv 2110.14168)."""

from __future__ import annotations

from planner.selection.base import Selection, silent_last
from planner.selection.weighted import fall_back
from planner.tally import Tally

_SILENT = "Most candidates gave no answer that could be found; this is the best-scored of them."


class Best:
    """The answer of the candidate with the highest score; the plain majority where none has one.

    Where most candidates give no answer that could be found, those are in it, too.
    """

    name = "best"
    needs_scores = True
    needs_logprobs = False

    def choose(self, tally: Tally) -> Selection:
        if tally.graded == 0:
            return fall_back(tally, self.name)
        groups = list(tally.groups.values())
        if groups and tally.silent is not None and tally.silent.count > tally.voters:
            groups.append(tally.silent)
        groups.sort(key=lambda group: (-group.best_score, -group.count, group.first))
        if (silent := silent_last(groups, tally, ())) is not None:
            return silent
        notes = () if groups[0].answer is not None else (_SILENT,)
        return Selection(tuple(groups), groups[0].best_score, notes)

    def settled(self, tally: Tally, remaining: int) -> bool:
        # A better score can always come.
        return remaining == 0 and tally.finished > 0
