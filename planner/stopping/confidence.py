"""DeepConf online (Fu et al., arXiv 2508.15260): stop a candidate that turns out weak while it is
being written.

The first candidates, the warm-up, run whole. From their lowest group confidences comes a floor,
under which all but the most confident `keep` percent of them lie. Each later candidate carries the
floor to its worker, which gives it up as soon as a full window of its tokens is under it; what is
given up doesn't vote. So nothing is streamed back for it, and nothing is generated that a round
trip would have taken.

Unlike in the published code, candidates of the warm-up keep their vote even under the floor: they
are paid for, and where few candidates are allowed they are half of all there will be.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.confidence import group_size, lowest_group, percentile
from planner.domain import Candidate, Floor, Stopped
from planner.stopping.base import View

_WARM_UP = 16
_LEAST_WARM_UP = 4
"""Fewer than that say too little of what is weak."""


class Confidence:
    """Keep the most confident `keep` percent: 90 is lenient, 10 strict (the paper's eta).

    `window` is the size of a group in tokens. By default it is what suits the mean length of the
    warm-up (`planner.confidence.group_size`). The rule ends no search; it goes with others that do.
    """

    def __init__(self, keep: float = 90.0, window: int | None = None) -> None:
        self.keep = keep
        self.window = window

    def verdict(self, view: View) -> Stopped | None:
        return None

    def horizon(self, view: View) -> int | None:
        return None

    def floor(self, traces: Sequence[Sequence[float]]) -> Floor | None:
        """What the token confidences of the warm-up make the floor; None where it has none."""
        if not traces:
            return None
        window = self.window or group_size(sum(map(len, traces)) / len(traces))
        lowest = [lowest_group(trace, window) for trace in traces]
        return Floor(percentile(lowest, 100.0 - self.keep), window)


class WarmUp:
    """The candidates that run whole before there is a floor, for one search.

    They are 16, or half of the `candidates` allowed where that is fewer, but at least 4. Without a
    rule there are none, and there never is a floor.
    """

    def __init__(self, rule: Confidence | None, candidates: int) -> None:
        self.floor: Floor | None = None
        self.missing = 0
        """How many have yet to finish. More than these would run without the floor."""
        if rule is not None:
            self.missing = min(_WARM_UP, max(_LEAST_WARM_UP, candidates // 2))
        self._rule = rule
        self._traces: list[Sequence[float]] = []

    def saw(self, candidate: Candidate) -> None:
        """Take in a candidate that has finished; the last of the warm-up makes the floor."""
        if self._rule is None or not self.missing:
            return
        self.missing -= 1
        if candidate.token_confidences:
            self._traces.append(candidate.token_confidences)
        if not self.missing:
            self.floor = self._rule.floor(self._traces)
            self._traces.clear()
