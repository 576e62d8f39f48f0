"""GenSelect: the model itself compares candidates and picks one, for what no vote can settle.

Several candidates are shown side by side in one call (as in universal self-consistency, Chen et
al., arXiv 2311.17311); more than fit go through a tournament. Who calls the model is
`planner.search.judged`; until it has spoken, and where it can't, the majority stands.
"""

from __future__ import annotations

from planner.selection.base import Selection
from planner.selection.majority import Majority
from planner.tally import Tally


class Judge:
    """The candidate that the model prefers, among one of each distinct answer."""

    name = "judge"
    needs_scores = False
    needs_logprobs = False

    def choose(self, tally: Tally) -> Selection:
        return Majority().choose(tally)

    def settled(self, tally: Tally, remaining: int) -> bool:
        # A judge may pick any answer there is, so nothing is settled while one more may come.
        return False
