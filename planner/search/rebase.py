"""REBASE (Wu et al., arXiv 2408.00724): reward-balanced search.

The remaining width is shared over the nodes of a level by the softmax of their scores, so good
nodes get many children and fair ones still a few: n_i = ceil(W e^{s_i / T} / S), nodes in the
order of their scores, W and S each time less what has been given away.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp

from planner.domain import Candidate
from planner.search.levels import Levels, unfinished
from planner.search.tree import value

TEMPERATURE = 0.2


class Rebase(Levels):
    """Every level grows in proportion to e^(score / T), T = 0.2."""

    def _next_level(self, level: Sequence[Candidate]) -> Sequence[tuple[Candidate, int]]:
        nodes = unfinished(level)
        if not nodes:
            return ()
        shares = balance([value(node) for node in nodes], self._width)
        return [(node, share) for node, share in zip(nodes, shares, strict=True) if share]


def balance(scores: Sequence[float], width: int, temperature: float = TEMPERATURE) -> list[int]:
    """The children of each node, in the order of `scores` (in [0, 1]); their sum is `width`."""
    top = max(scores)
    weights = [exp((score - top) / temperature) for score in scores]
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    left, total = width, sum(weights)
    shares = [0] * len(scores)
    for place in order:
        # Rounding could give away more than there is, or leave a last child to nobody.
        share = ceil(left * weights[place] / total - 1e-9) if total > 0 else left
        shares[place] = min(left, share)
        left -= shares[place]
        total -= weights[place]
    shares[order[0]] += left
    return shares
