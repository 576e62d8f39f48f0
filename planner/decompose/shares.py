"""What each step of a plan may spend: shares that follow how hard each has turned out to be."""

from __future__ import annotations

from collections.abc import Mapping


def weight(question: str, unsure: float | None) -> float:
    """How much of what is left a step should have, next to others.

    Longer questions take longer answers. `unsure` is how far its answers are from agreeing, in
    [0, 1]; None where it has none yet, which counts as half.
    """
    return (len(question) + 40) * (0.5 + (0.5 if unsure is None else unsure))


def divide(left: int, weights: Mapping[str, float]) -> dict[str, int]:
    """`left` whole things in proportion to the weights, with none left over.

    By the largest remainder; where there are enough, nobody gets none. All weights are above 0.
    """
    if not weights:
        return {}
    least = 1 if left >= len(weights) else 0
    whole = sum(weights.values())
    spare = max(0, left - least * len(weights))
    exact = {name: spare * one / whole for name, one in weights.items()}
    parts = {name: least + int(part) for name, part in exact.items()}
    over = max(0, left - sum(parts.values()))
    for name in sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))[:over]:
        parts[name] += 1
    return parts
