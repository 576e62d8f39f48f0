"""Plurality over canonical answers: self-consistency (Wang et al., arXiv 2203.11171)."""

from __future__ import annotations

from planner.selection.base import Selection, share, silent_last
from planner.tally import Group, Tally


class Majority:
    """The answer most candidates give. A tie goes to the higher score sum, then the first seen."""

    name = "majority"
    needs_scores = False
    needs_logprobs = False

    def choose(self, tally: Tally) -> Selection:
        groups = sorted(tally.groups.values(), key=_rank)
        return silent_last(groups, tally, ()) or Selection(
            tuple(groups), share(groups[0].count, tally.voters)
        )

    def settled(self, tally: Tally, remaining: int) -> bool:
        return tally.leader_count - tally.runner_up_count > remaining


def _rank(group: Group) -> tuple[float, float, tuple[int, ...]]:
    return (-group.count, -group.score_sum, group.first)
