"""Adaptive-Consistency (Aggarwal et al., arXiv 2305.11860): stop when the majority is likely final.

With the two highest counts v1 >= v2 of answers, the share of the first among both has, from a
uniform prior, the posterior Beta(v1 + 1, v2 + 1). Stop when P(share > 1/2) reaches the threshold.
For whole numbers that is, with n = v1 + v2 + 1,

    1 - sum of C(n, k) for k <= v2, divided by 2^n.

So for each v2 there is a fewest v1 that will do. They are found one after another, exactly, by
Pascal's rule, each from the one before; a verdict is then a comparison.
"""

from __future__ import annotations

from planner.domain import Stopped
from planner.stopping.base import View


class Beta:
    """Stop once the leading answer is the majority with probability `threshold` (0.95)."""

    def __init__(self, threshold: float = 0.95) -> None:
        self.threshold = threshold
        # Where the table has come to: n, C(n, v2), the sum up to it, and the fewest v1 by v2.
        self._n, self._last, self._below = 1, 1, 1
        self._fewest: list[int] = []

    def verdict(self, view: View) -> Stopped | None:
        return Stopped.CONFIDENT if self._missing(view) <= 0 else None

    def horizon(self, view: View) -> int | None:
        return max(1, self._missing(view))

    def _missing(self, view: View) -> int:
        """The fewest further votes for the leader that satisfy the rule."""
        while len(self._fewest) <= view.tally.runner_up_count:
            self._find_next()
        return self._fewest[view.tally.runner_up_count] - view.tally.leader_count

    def _find_next(self) -> None:
        v2 = len(self._fewest)
        if v2 > 0:  # one more vote for the runner-up
            self._below = 2 * self._below - self._last
            self._n += 1
            self._last = self._last * self._n // v2
            self._below += self._last
        while 1.0 - self._below / (1 << self._n) < self.threshold:  # one more for the leader
            self._below = 2 * self._below - self._last
            self._n += 1
            self._last = self._last * self._n // (self._n - v2)
        self._fewest.append(self._n - 1 - v2)
