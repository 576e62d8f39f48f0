"""Early-Stopping Self-Consistency (Li et al., arXiv 2401.10480): stop when a window is unanimous.

Candidates, in the order in which they finish, are cut into windows of the same size. The rule fires
at the end of the first window whose candidates all give the same answer; the vote is then over all
so far, that window and those before it. A candidate that gives no answer takes its place in a
window and agrees with nothing.

With Q the chance that a window is unanimous (the sum of p^size over the answers' chances p), a
search of at most L windows takes size * (1 + (1 - Q) + ... + (1 - Q)^(L - 1)) candidates on
average.
"""

from __future__ import annotations

from planner.domain import Stopped
from planner.stopping.base import View


class Window:
    """Stop once the newest whole window of `size` candidates (5) is unanimous."""

    def __init__(self, size: int = 5) -> None:
        self.size = size

    def verdict(self, view: View) -> Stopped | None:
        into = view.tally.finished % self.size
        if view.tally.streak >= self.size + into:
            return Stopped.CONFIDENT
        return None

    def horizon(self, view: View) -> int | None:
        into = view.tally.finished % self.size
        if view.tally.streak >= into:
            return self.size - into
        return 2 * self.size - into  # the present window is broken already
