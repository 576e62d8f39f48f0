"""Self-consistency (Wang et al., arXiv 2203.11171): many chains of thought, and a vote."""

from __future__ import annotations

from planner.search.sampling import Sampling


class Majority(Sampling):
    """Samples that vote. The selector says how: one candidate one vote, or by score."""
