"""Best-of-n (Cobbe et al., arXiv 2110.14168): sample n, grade every one, keep the best."""

from __future__ import annotations

from planner.search.sampling import Sampling


class BestOfN(Sampling):
    """Samples that are all graded, whatever selector then chooses among them."""

    @property
    def _wants_scores(self) -> bool:
        return self.setup.grades
