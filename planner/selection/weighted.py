"""Votes weighted by score (Snell et al., arXiv 2408.03314; search-and-learn)."""

from __future__ import annotations

from planner.selection.base import Selection, share, silent_last
from planner.selection.majority import Majority
from planner.tally import Group, Tally

_MOST = 1.0  # the highest score there is


class Weighted:
    """The answer with the highest sum of scores.

    A candidate without a score weighs as much as the mean of those that have one. Where none has,
    it is the plain majority.
    """

    name = "weighted"
    needs_scores = True
    needs_logprobs = False

    def choose(self, tally: Tally) -> Selection:
        if tally.graded == 0:
            return fall_back(tally, self.name)
        mean = _mean(tally)
        weights = {id(group): _weight(group, mean) for group in tally.groups.values()}
        groups = sorted(tally.groups.values(), key=lambda g: (-weights[id(g)], g.first))
        return silent_last(groups, tally, ()) or Selection(
            tuple(groups), share(weights[id(groups[0])], sum(weights.values()))
        )

    def settled(self, tally: Tally, remaining: int) -> bool:
        ungraded = tally.finished - tally.graded
        if not tally.groups or ungraded:
            return False
        first, second = top_two([group.score_sum for group in tally.groups.values()])
        return first - second > remaining * _MOST


def fall_back(tally: Tally, name: str, missing: str = "a score") -> Selection:
    """The majority instead, and a note of it where there was something to choose from.

    `missing` is what no candidate has.
    """
    plain = Majority().choose(tally)
    if len(plain.ranked) < 2 and tally.silent is None:
        return plain
    note = f"No candidate has {missing}, so {name} fell back to majority."
    return Selection(plain.ranked, plain.confidence, (note, *plain.notes))


def top_two(values: list[float]) -> tuple[float, float]:
    """The two highest of `values` (0 where there aren't as many)."""
    first = second = 0.0
    for value in values:
        if value > first:
            first, second = value, first
        elif value > second:
            second = value
    return first, second


def _mean(tally: Tally) -> float:
    total = sum(group.score_sum for group in tally.groups.values())
    if tally.silent is not None:
        total += tally.silent.score_sum
    return total / tally.graded


def _weight(group: Group, mean: float) -> float:
    return group.score_sum + (group.count - group.graded) * mean
