"""Votes weighted by how sure the model was: DeepConf's (Fu et al., arXiv 2508.15260)."""

from __future__ import annotations

from planner.selection.base import Selection, share, silent_last
from planner.selection.weighted import fall_back
from planner.tally import Group, Tally


class Confidence:
    """The answer with the highest sum of its candidates' lowest group confidences.

    A candidate whose log-probabilities are missing weighs as much as the mean of the others. Where
    all are missing, it is the plain majority.
    """

    name = "confidence"
    needs_scores = False
    needs_logprobs = True

    def choose(self, tally: Tally) -> Selection:
        if not tally.confidence_sum:
            return fall_back(tally, self.name, "log-probabilities")
        mean = tally.confidence_sum / tally.confident
        votes = {id(group): _votes(group, mean) for group in tally.groups.values()}
        groups = sorted(tally.groups.values(), key=lambda g: (-votes[id(g)], g.first))
        return silent_last(groups, tally, ()) or Selection(
            tuple(groups), share(votes[id(groups[0])], sum(votes.values()))
        )

    def settled(self, tally: Tally, remaining: int) -> bool:
        # There is no highest confidence, so a single candidate could outweigh all the others.
        return remaining == 0 and tally.finished > 0


def _votes(group: Group, mean: float) -> float:
    """The weight of a group, in votes of candidates of mean confidence."""
    return group.confidence_sum / mean + (group.count - group.confident)
