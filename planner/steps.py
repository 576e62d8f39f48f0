"""Steps of a solution, and one score out of the scores of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod


def split_steps(text: str, delimiter: str) -> tuple[str, ...]:
    """The steps of `text`: what stands between delimiters, without those that are blank."""
    return tuple(step for step in text.split(delimiter) if step.strip())


def _last(scores: Sequence[float]) -> float:
    return scores[-1]


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "last": _last,
    "min": min,
    "product": prod,
    "mean": _mean,
}
"""How the scores of steps become the score of a candidate (Snell et al., arXiv 2408.03314, E)."""
