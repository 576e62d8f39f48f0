"""Beam search with a process reward model (Snell et al., arXiv 2408.03314; search-and-learn)."""

from __future__ import annotations

from collections.abc import Sequence

from planner.domain import Candidate
from planner.search.levels import Levels, unfinished
from planner.search.tree import value

BEAM_WIDTH = 4


class Beam(Levels):
    """Of N nodes a level the best N / M grow on, with M children each (M = 4).

    Nodes that have finished leave the beam, which gets narrower by them.
    """

    def _next_level(self, level: Sequence[Candidate]) -> Sequence[tuple[Candidate, int]]:
        best = sorted(unfinished(level), key=lambda node: (-value(node), node.path))
        kept = min(len(best), -(-self._width // BEAM_WIDTH))
        return list(zip(best, spread(self._width, kept), strict=False))


def spread(count: int, over: int) -> list[int]:
    """`count` things dealt out to so many as evenly as can be, the first getting what is left."""
    return [count // over + (place < count % over) for place in range(over)]
