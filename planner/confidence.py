"""How sure a model was of what it wrote, by DeepConf's measures (Fu et al., arXiv 2508.15260).

The confidence of a token is minus the mean of the `TOP` highest log-probabilities at its position:
the surer the model was of one token, the unlikelier all the others are. A group is a window of
tokens that follow one another, and its confidence is their mean; a candidate is as confident as
its least confident group. All are in nats, 0 or more and finite, with no highest value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from math import floor as rounded_down
from operator import sub

from planner.domain import Floor

TOP = 20
"""How many log-probabilities a position has to come with."""

_IMPOSSIBLE = -100.0
"""The log-probability of a token that was ruled out, in place of minus infinity."""

_LARGEST_GROUP = 2048
_SMALLEST_GROUP = 16


def token_confidence(logprobs: Sequence[float]) -> float:
    """The confidence of one position, from the highest log-probabilities there; at least one.

    To four decimals, which tells groups apart as well, and takes a third of the room in a trace.
    """
    return round(-sum(max(_IMPOSSIBLE, one) for one in logprobs) / len(logprobs), 4)


def group_size(tokens: float) -> int:
    """The window for candidates of about so many tokens.

    The paper's 2,048 suits solutions of ten thousand tokens and more. In a shorter one it would
    span everything, and no group could be told from the whole; so it is a quarter of the length
    there, but not under 16 tokens, of which too few would be left to mean over.
    """
    return max(_SMALLEST_GROUP, min(_LARGEST_GROUP, round(tokens / 4)))


def lowest_group(confidences: Sequence[float], window: int) -> float:
    """The lowest confidence of any full group; of them all, where there are fewer than `window`.

    `confidences` are those of a candidate's tokens, at least one.
    """
    size = min(window, len(confidences))
    sums = list(accumulate(confidences, initial=0.0))
    lowest: float = min(map(sub, sums[size:], sums))
    return lowest / size


def own_confidence(confidences: Sequence[float]) -> float:
    """The lowest group confidence of a candidate, with the window for its own length."""
    return lowest_group(confidences, group_size(len(confidences)))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of at least one `values` are under, interpolated linearly."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = rounded_down(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


class SlidingGroup:
    """The confidence of the last `window` tokens, as they come: constant time a token.

    `before` are the confidences of the tokens that came before the first one, as far as known.
    """

    def __init__(self, window: int, before: Sequence[float] = ()) -> None:
        self._window = window
        self._tokens: deque[float] = deque(before, maxlen=window)
        self._sum = sum(self._tokens)

    def add(self, confidence: float) -> float | None:
        """Take in one token; the confidence of the group it ends, None where that isn't full."""
        if len(self._tokens) == self._window:
            self._sum -= self._tokens[0]
        self._tokens.append(confidence)
        self._sum += confidence
        return self._sum / self._window if len(self._tokens) == self._window else None


def falls_at(confidences: Sequence[float], floor: Floor) -> int | None:
    """After how many tokens a full group was under the floor; None where none was."""
    group = SlidingGroup(floor.window)
    for tokens, one in enumerate(confidences, 1):
        mean = group.add(one)
        if mean is not None and mean < floor.confidence:
            return tokens
    return None


class Watch:
    """Whether a candidate that is being written has fallen under its floor; never, without one."""

    def __init__(self, floor: Floor | None, before: Sequence[float] = ()) -> None:
        """`before` are the confidences of its tokens so far; the last window of them will do."""
        self.fallen = False
        self._least = floor.confidence if floor else 0.0
        self._group = SlidingGroup(floor.window, before) if floor else None

    def saw(self, logprobs: Sequence[float]) -> None:
        """Take in the log-probabilities of one more position."""
        if self._group is not None:
            group = self._group.add(token_confidence(logprobs))
            self.fallen = self.fallen or (group is not None and group < self._least)
