"""The rows of an evaluation: one a strategy and number of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

from services.evaluation.results import Record, Results
from services.evaluation.variants import Variant

_Z95 = 1.959963984540054
"""The normal distribution's 97.5th percentile: 95% of it lies within so many deviations."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one variant came to, over the questions that got a reply.

    `accuracy` and `pass_at_k` (any candidate right) are shares of one; `ci95` is Wilson's interval
    of the accuracy. Without any reply they are None.
    """

    strategy: str
    candidates: int
    queries: int
    accuracy: float | None
    ci95: tuple[float, float] | None
    pass_at_k: float | None
    mean_completion_tokens: float | None
    mean_reward_tokens: float | None
    p50_seconds: float | None
    p95_seconds: float | None


def rows(results: Results, variants: Sequence[Variant]) -> tuple[Row, ...]:
    """A row a variant, in their order."""
    return tuple(row(variant, results.of(variant.key)) for variant in variants)


def row(variant: Variant, records: Sequence[Record]) -> Row:
    """What these records of one variant come to; those with an error are left out."""
    replies = [record for record in records if record.error is None]
    if not replies:
        return Row(variant.written, variant.candidates, 0, *(None,) * 7)
    right = sum(record.right for record in replies)
    seconds = sorted(record.seconds for record in replies)
    low, high = wilson(right, len(replies))
    return Row(
        strategy=variant.written,
        candidates=variant.candidates,
        queries=len(replies),
        accuracy=round(right / len(replies), 4),
        ci95=(round(low, 4), round(high, 4)),
        pass_at_k=round(fmean(record.passed for record in replies), 4),
        mean_completion_tokens=round(fmean(record.completion_tokens for record in replies), 2),
        mean_reward_tokens=round(fmean(record.reward_tokens for record in replies), 2),
        p50_seconds=round(percentile(seconds, 0.50), 4),
        p95_seconds=round(percentile(seconds, 0.95), 4),
    )


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson 1927): sound at 0, at 1 and for few questions."""
    share = right / total
    middle = share + _Z95**2 / (2 * total)
    reach = _Z95 * sqrt(share * (1 - share) / total + _Z95**2 / (4 * total**2))
    scale = 1 + _Z95**2 / total
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of these, in ascending order, lie below; between two, interpolated."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
