"""What a sample says of the whole: shares, means and percentiles with their 95% intervals.

Pure arithmetic on the standard library. An interval is (low, high), low <= high.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, exp, lgamma, log, log1p, sqrt
from statistics import fmean, stdev
from typing import TypeAlias

Interval: TypeAlias = tuple[float, float]

_Z95 = 1.959963984540054
"""The normal distribution's 97.5th percentile: 95% of it lies within so many deviations."""


def wilson(right: float, total: int) -> Interval:
    """The score interval of a share (Wilson 1927): sound at 0, at 1 and for few questions.

    `right` may also be a sum of values in [0, 1], which vary no more than ones and zeros of the
    same mean: the interval is then rather too wide than too narrow.
    """
    share = right / total
    middle = share + _Z95**2 / (2 * total)
    reach = _Z95 * sqrt(max(0.0, share * (1 - share)) / total + _Z95**2 / (4 * total**2))
    scale = 1 + _Z95**2 / total
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def pass_at_k(candidates: int, right: int, k: int) -> float:
    """The chance that k of `candidates`, drawn without looking, have one of the `right` ones.

    The unbiased estimate 1 - C(n - c, k) / C(n, k) (Chen et al., arXiv 2107.03374). Raises
    ValueError where fewer than k are there.
    """
    if not 1 <= k <= candidates:
        raise ValueError(f"pass@{k} takes at least {k} candidates, not {candidates}")
    return 1 - comb(candidates - right, k) / comb(candidates, k)


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Student's interval of a mean; None for fewer than two values, which show no spread."""
    if len(values) < 2:
        return None
    mean = fmean(values)
    reach = student(len(values) - 1) * stdev(values, mean) / sqrt(len(values))
    return mean - reach, mean + reach


def student(freedom: int) -> float:
    """The 97.5th percentile of Student's distribution, to 0.01 from 3 degrees of freedom on.

    Up to 2 it is exact, beyond it Fisher and Cornish's expansion (Abramowitz and Stegun 26.7.5).
    """
    if freedom <= 2:
        return (12.706204736174707, 4.302652729749464)[freedom - 1]
    z, v = _Z95, float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v**power for power, term in enumerate(terms, 1))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of these, in ascending order, lie below; between two, interpolated."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def percentile_interval(ordered: Sequence[float], share: float) -> Interval | None:
    """The values that a percentile lies between, whatever the distribution.

    Of n values in ascending order those around place n * share: how many lie below the true
    percentile follows the binomial distribution. None where there are too few for 95%. `share` is
    strictly between 0 and 1.
    """
    spread = 0.0
    low = high = None
    for place in range(len(ordered)):
        spread += _binomial(place, len(ordered), share)
        # So many lie below the true percentile, or fewer, with the chance `spread`.
        if spread <= 0.025:
            low = place
        if high is None and spread >= 0.975:
            high = place
    if low is None or high is None:
        return None
    return ordered[low], ordered[high]


def difference(only_one: int, only_other: int, both: int, neither: int) -> Interval:
    """The interval of the difference of two shares of the same questions, one less the other.

    `only_one` questions were right by the one alone, and so on. Newcombe (1998, Statistics in
    Medicine 17, 2635-2650), method 10: the two score intervals put together, less what the two
    have in common.
    """
    total = only_one + only_other + both + neither
    one, other = both + only_one, both + only_other
    low_one, high_one = wilson(one, total)
    low_other, high_other = wilson(other, total)
    share_one, share_other = one / total, other / total
    together = _correlation(only_one, only_other, both, neither)
    down, up = share_one - low_one, high_one - share_one
    down_other, up_other = share_other - low_other, high_other - share_other
    gap = share_one - share_other
    return (
        max(-1.0, gap - sqrt(max(0.0, down**2 - 2 * together * down * up_other + up_other**2))),
        min(1.0, gap + sqrt(max(0.0, up**2 - 2 * together * up * down_other + down_other**2))),
    )


def mcnemar(only_one: int, only_other: int) -> float:
    """How likely so uneven a split is between equals: McNemar's test, exact and two-sided."""
    split = only_one + only_other
    tail = sum(comb(split, k) for k in range(min(only_one, only_other) + 1))
    return min(1.0, 2 * tail / (1 << split))


def _binomial(count: int, total: int, share: float) -> float:
    """The chance of `count` in `total`, each with the chance `share`, strictly between 0 and 1."""
    ways = lgamma(total + 1) - lgamma(count + 1) - lgamma(total - count + 1)
    return exp(ways + count * log(share) + (total - count) * log1p(-share))


def _correlation(only_one: int, only_other: int, both: int, neither: int) -> float:
    """Phi of the two, with the correction for continuity where it is positive."""
    total = only_one + only_other + both + neither
    one, other = both + only_one, both + only_other
    margins = one * (total - one) * other * (total - other)
    if margins == 0:
        return 0.0
    crossed: float = both * neither - only_one * only_other
    if crossed > 0:
        crossed = max(0.0, crossed - total / 2)
    return crossed / sqrt(margins)
