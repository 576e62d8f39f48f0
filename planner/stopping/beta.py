"""Adaptive-Consistency (Aggarwal et al., arXiv 2305.11860): stop when the majority is likely final.

With the two highest counts v1 >= v2 of answers, the share of the first among both has, from a
uniform prior, the posterior Beta(v1 + 1, v2 + 1). Stop when P(share > 1/2) reaches the threshold.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb

from planner.domain import Stopped
from planner.stopping.base import View


class Beta:
    """Stop once the leading answer is the majority with probability `threshold` (0.95)."""

    def __init__(self, threshold: float = 0.95) -> None:
        self.threshold = threshold

    def verdict(self, view: View) -> Stopped | None:
        tally = view.tally
        if majority_probability(tally.leader_count, tally.runner_up_count) >= self.threshold:
            return Stopped.CONFIDENT
        return None

    def horizon(self, view: View) -> int | None:
        return _votes_missing(view.tally.leader_count, view.tally.runner_up_count, self.threshold)


@lru_cache(maxsize=65_536)
def majority_probability(v1: int, v2: int) -> float:
    """P(Beta(v1 + 1, v2 + 1) > 1/2), by the closed form for whole numbers."""
    n = v1 + v2 + 1
    below = sum(comb(n, k) for k in range(v2 + 1))
    return 1.0 - below / (1 << n)


@lru_cache(maxsize=65_536)
def _votes_missing(v1: int, v2: int, threshold: float) -> int:
    """The fewest further votes for the leader that satisfy the rule."""
    missing = 1
    while majority_probability(v1 + missing, v2) < threshold:
        missing += 1
    return missing
