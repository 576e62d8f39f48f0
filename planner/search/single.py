"""One sample, one answer: the pass that everything else is measured against."""

from __future__ import annotations

from dataclasses import replace

from planner.search.base import Setup
from planner.search.sampling import Sampling


class Single(Sampling):
    """A single sample; there is nothing to select or to grade."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(replace(setup, candidates=1))

    @property
    def _wants_scores(self) -> bool:
        return False

    def widen(self, candidates: int) -> bool:
        return False
