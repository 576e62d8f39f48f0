"""How far confidence can be trusted: what was claimed of answers, and how often they were right.

Pure arithmetic on pairs of a confidence in [0, 1] and whether that answer was right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, pi, sqrt
from statistics import fmean
from typing import TypeAlias

Pair: TypeAlias = tuple[float, bool]
"""A raw confidence, and whether the answer was right."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Outcomes of like confidence: how many, how sure they were on average, how many were right.

    Ties are shared out among bins, so `right` needn't be whole.
    """

    count: int
    confidence: float
    accuracy: float


def reliability(pairs: Sequence[Pair], bins: int = 10) -> tuple[Bin, ...]:
    """The pairs in order of confidence, in `bins` of equal numbers, to one.

    What has the same confidence can't be put into an order, so each such pair counts as right by
    the share of all of them that are.
    """
    alike: defaultdict[float, list[bool]] = defaultdict(list)
    for raw, correct in pairs:
        alike[raw].append(correct)
    ordered = [(raw, fmean(correct)) for raw, correct in sorted(alike.items()) for _ in correct]
    found = []
    for place in range(bins):
        inside = ordered[place * len(ordered) // bins : (place + 1) * len(ordered) // bins]
        if inside:
            confidence, accuracy = (fmean(column) for column in zip(*inside, strict=True))
            found.append(Bin(len(inside), confidence, accuracy))
    return tuple(found)


def expected_calibration_error(pairs: Sequence[Pair], bins: int = 10) -> float:
    """How far confidence and accuracy are apart: sum over bins of n_b / n * |accuracy - mean|.

    Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599), with bins of equal
    mass (Nixon et al., "Measuring Calibration in Deep Learning", arXiv 1904.01685). 0 without a
    pair.
    """
    return sum(
        one.count / len(pairs) * abs(one.accuracy - one.confidence)
        for one in reliability(pairs, bins)
    )


def chance_error(confidences: Sequence[float], bins: int = 10) -> float:
    """The calibration error that so few outcomes show of confidences that are exactly right.

    A bin of n outcomes has an accuracy that is off by sqrt(2 / pi * sum p (1 - p)) / n on average
    (normal approximation), however well calibrated they are.
    """
    ordered = sorted(confidences)
    found = 0.0
    for place in range(bins):
        inside = ordered[place * len(ordered) // bins : (place + 1) * len(ordered) // bins]
        found += sqrt(2 / pi * sum(one * (1 - one) for one in inside)) / max(1, len(ordered))
    return found


def log_loss(pairs: Sequence[Pair]) -> float:
    """How surprising the outcomes are, in nats a pair; infinite if one was thought impossible."""
    total = 0.0
    for chance, correct in pairs:
        likely = chance if correct else 1 - chance
        total += -log(likely) if likely > 0 else inf
    return total / max(1, len(pairs))
