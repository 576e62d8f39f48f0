"""The rows of an evaluation: one a strategy and number of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from planner.replay import independent
from services.evaluation.estimates import (
    Interval,
    mean_interval,
    pass_at_k,
    percentile,
    percentile_interval,
    wilson,
)
from services.evaluation.questions import by_difficulty
from services.evaluation.results import Record, Results
from services.evaluation.variants import Variant, Worth


@dataclass(frozen=True, slots=True)
class PassAt:
    """The share of questions in which k candidates would have the answer among them."""

    k: int
    share: float
    ci95: Interval


LATE = 0.25
"""Seconds after its deadline that a reply may take to reach whoever asked."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a variant came to on one split."""

    split: str
    queries: int
    accuracy: float
    ci95: Interval
    mean_completion_tokens: float


@dataclass(frozen=True, slots=True)
class Row:
    """What one variant came to, over the questions that got a reply.

    `accuracy` and `pass_at_k` (any candidate right) are shares of one. What ends in `ci95` is an
    interval: Wilson's for shares (`ci95` alone is the accuracy's), Student's for means, and one
    free of any distribution for percentiles. None is what can't be told, as without any reply.

    `worth` says that `candidates` counts candidates' worth of completion tokens, and
    `budget_tokens` how many those are, which no request may exceed.

    With a `deadline`, in seconds, `in_time` is the share of all requests, failed ones included,
    that had a reply by then and LATE seconds more, and `answered` of those whose reply had an
    answer.

    `parts` has each split of a mix by itself.

    `pass_at` estimates pass@k for k = 1, 2, 4 and so on, as far as every question has so many
    candidates; only for strategies whose candidates are independent of each other. It is unbiased
    where none was left out for what others said: without a stopping rule, `majority@none` say.
    """

    strategy: str
    candidates: int | None
    queries: int
    accuracy: float | None = None
    ci95: Interval | None = None
    pass_at_k: float | None = None
    mean_completion_tokens: float | None = None
    mean_reward_tokens: float | None = None
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    worth: bool = False
    budget_tokens: int | None = None
    pass_at_k_ci95: Interval | None = None
    mean_completion_tokens_ci95: Interval | None = None
    mean_reward_tokens_ci95: Interval | None = None
    p50_seconds_ci95: Interval | None = None
    p95_seconds_ci95: Interval | None = None
    pass_at: tuple[PassAt, ...] = ()
    deadline: float | None = None
    effort: str | None = None
    in_time: float | None = None
    in_time_ci95: Interval | None = None
    answered: float | None = None
    answered_ci95: Interval | None = None
    parts: tuple[Part, ...] = ()

    @property
    def line(self) -> str:
        """What it is a point of: its strategy's line, or the one of all efforts."""
        return self.strategy if self.effort is None else "reasoning_effort"


def rows(
    results: Results, variants: Sequence[Variant], worth: Worth | None = None
) -> tuple[Row, ...]:
    """A row a variant, in their order."""
    return tuple(row(variant, results.of(variant.key), worth) for variant in variants)


def row(variant: Variant, records: Sequence[Record], worth: Worth | None = None) -> Row:
    """What these records of one variant come to; those with an error are left out."""
    replies = [record for record in records if record.error is None]
    most = None
    if variant.worth and worth is not None and variant.candidates is not None:
        limits = worth.limits(variant.strategy, variant.candidates)
        most = limits.get("completion_tokens")
    spending: dict[str, Any] = {
        "worth": variant.worth,
        "budget_tokens": most,
        "effort": variant.effort,
        **_timely(variant.deadline, records),
    }
    if not replies:
        return Row(variant.written, variant.candidates, 0, **spending)
    right = sum(record.right for record in replies)
    passed = sum(record.passed for record in replies)
    completion = [record.completion_tokens for record in replies]
    reward = [record.reward_tokens for record in replies]
    seconds = sorted(record.seconds for record in replies)
    total = len(replies)
    return Row(
        strategy=variant.written,
        candidates=variant.candidates,
        queries=total,
        accuracy=round(right / total, 4),
        ci95=_rounded(wilson(right, total), 4),
        pass_at_k=round(passed / total, 4),
        mean_completion_tokens=round(fmean(completion), 2),
        mean_reward_tokens=round(fmean(reward), 2),
        p50_seconds=round(percentile(seconds, 0.50), 4),
        p95_seconds=round(percentile(seconds, 0.95), 4),
        **spending,
        pass_at_k_ci95=_rounded(wilson(passed, total), 4),
        mean_completion_tokens_ci95=_rounded(mean_interval(completion), 2),
        mean_reward_tokens_ci95=_rounded(mean_interval(reward), 2),
        p50_seconds_ci95=_rounded(percentile_interval(seconds, 0.50), 4),
        p95_seconds_ci95=_rounded(percentile_interval(seconds, 0.95), 4),
        pass_at=pass_at(replies) if independent(variant.strategy) else (),
        parts=parts(replies),
    )


def parts(replies: Sequence[Record]) -> tuple[Part, ...]:
    """Each split by itself; none where there is but one."""
    splits = by_difficulty(record.split for record in replies)
    if len(splits) < 2:
        return ()
    found = []
    for split in splits:
        inside = [record for record in replies if record.split == split]
        right = sum(record.right for record in inside)
        low, high = wilson(right, len(inside))
        found.append(
            Part(
                split,
                len(inside),
                round(right / len(inside), 4),
                (round(low, 4), round(high, 4)),
                round(fmean(record.completion_tokens for record in inside), 2),
            )
        )
    return tuple(found)


def _timely(deadline: float | None, records: Sequence[Record]) -> dict[str, Any]:
    """How many kept a deadline, where there was one."""
    if deadline is None or not records:
        return {"deadline": deadline}
    replies = [record for record in records if record.error is None]
    in_time = sum(record.seconds <= deadline + LATE for record in replies)
    answered = sum(record.answer is not None for record in replies)
    total = len(records)
    return {
        "deadline": deadline,
        "in_time": round(in_time / total, 4),
        "in_time_ci95": _rounded(wilson(in_time, total), 4),
        "answered": round(answered / total, 4),
        "answered_ci95": _rounded(wilson(answered, total), 4),
    }


def pass_at(replies: Sequence[Record]) -> tuple[PassAt, ...]:
    """pass@k for each power of two that no question has fewer candidates than."""
    least = min(record.finished for record in replies)
    found = []
    for k in (2**power for power in range(least.bit_length())):
        total = sum(pass_at_k(record.finished, record.correct, k) for record in replies)
        low, high = wilson(total, len(replies))
        found.append(PassAt(k, round(total / len(replies), 4), (round(low, 4), round(high, 4))))
    return tuple(found)


def _rounded(interval: Interval | None, places: int) -> Interval | None:
    return None if interval is None else (round(interval[0], places), round(interval[1], places))
