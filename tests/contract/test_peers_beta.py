"""The rule `beta` beside two others: its authors' Adaptive-Consistency, and its_hub's.

The authors integrate the posterior numerically; its_hub sums binomial coefficients. Both are asked
whether to stop at the same votes.
"""

from __future__ import annotations

import random

from adaptive_consistency import BetaStoppingCriteria  # type: ignore[import-untyped]
from its_hub import BetaSelfConsistency  # type: ignore[import-untyped]

from planner.domain import Stopped
from planner.selection import selector
from planner.stopping import View
from planner.stopping.beta import Beta
from tests.unit.votes import counted, tally_of

THRESHOLDS = (0.6, 0.8, 0.9, 0.95, 0.97, 0.99, 0.999)
"""None of them is a probability that whole numbers of votes give exactly."""
CASES = 3_000


def test_it_stops_where_its_authors_stop() -> None:
    """For any answers to any number of samples up to their cap of 40, ties and all."""
    dice = random.Random(21)
    rules = {threshold: Beta(threshold) for threshold in THRESHOLDS}
    stopped = 0
    for _ in range(CASES):
        threshold = dice.choice(THRESHOLDS)
        weights = [dice.random() ** 3 for _ in range(dice.randint(1, 6))]
        answers = dice.choices(range(len(weights)), weights, k=dice.randint(1, 40))
        theirs = BetaStoppingCriteria(threshold).should_stop(answers)
        view = View(tally_of(answers), selector("majority"), remaining=40)
        ours = rules[threshold].verdict(view)
        assert (ours is Stopped.CONFIDENT) == theirs["stop"], (threshold, answers)
        stopped += theirs["stop"]
    assert CASES / 4 < stopped < CASES * 3 / 4


def test_it_stops_where_its_hub_stops() -> None:
    """For any two counts up to a hundred and more, and it says how many votes are missing."""
    dice = random.Random(22)
    rules = {threshold: Beta(threshold) for threshold in THRESHOLDS}
    stopped = 0
    for _ in range(CASES):
        threshold = dice.choice(THRESHOLDS)
        v2 = dice.randrange(100)
        v1 = v2 + dice.randrange(40)
        enough = BetaSelfConsistency.beta_stopping_probability
        view = counted(v1, v2, v1 + v2, remaining=400)
        stops = enough(v1, v2) >= threshold
        assert (rules[threshold].verdict(view) is Stopped.CONFIDENT) == stops, (threshold, v1, v2)
        missing = rules[threshold].horizon(view)
        assert missing is not None
        if not stops:
            assert enough(v1 + missing, v2) >= threshold > enough(v1 + missing - 1, v2)
        stopped += stops
    assert CASES / 4 < stopped < CASES * 3 / 4
