"""Which of several ways to answer is the better one: by cost, and question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from services.evaluation.estimates import Interval, difference, mcnemar
from services.evaluation.results import Results
from services.evaluation.variants import ONE_PASS, Variant

Point: TypeAlias = tuple[float, float]
"""What it costs and what it gives: mean completion tokens and accuracy."""

_LEVEL = 0.05


def pareto(points: Sequence[Point]) -> tuple[int, ...]:
    """The places of the points that none beats, in ascending order of their costs.

    One beats another that gives no more for no less, and isn't the same in both.
    """
    order = sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1]))
    front: list[int] = []
    for place in order:
        if (
            not front
            or points[place][1] > points[front[-1]][1]
            or points[place] == points[front[-1]]
        ):
            front.append(place)
    return tuple(front)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two variants on the questions that both have answered.

    `gap` is the accuracy of `one` less that of `other`, `ci95` Newcombe's interval of it and
    `chance` what McNemar's exact test says of two that are equals.
    """

    one: Variant
    other: Variant
    queries: int
    gap: float
    ci95: Interval
    chance: float

    @property
    def telling(self) -> bool:
        """Whether it is more than equals would show by chance, one time in twenty."""
        return self.chance < _LEVEL


def pair(one: Variant, other: Variant, results: Results) -> Pair | None:
    """How these two compare; None where they have no question in common."""
    left, right = _right(one, results), _right(other, results)
    shared = left.keys() & right.keys()
    if not shared:
        return None
    only_one = sum(left[name] and not right[name] for name in shared)
    only_other = sum(right[name] and not left[name] for name in shared)
    both = sum(left[name] and right[name] for name in shared)
    return Pair(
        one,
        other,
        len(shared),
        (only_one - only_other) / len(shared),
        difference(only_one, only_other, both, len(shared) - only_one - only_other - both),
        mcnemar(only_one, only_other),
    )


@dataclass(frozen=True, slots=True)
class Round:
    """The variants that compare with each other, and all pairs of them, in the order of both."""

    title: str
    variants: tuple[Variant, ...]
    pairs: Mapping[tuple[str, str], Pair]
    """By the keys of the two."""


def rounds(results: Results, variants: Sequence[Variant]) -> tuple[Round, ...]:
    """One for each number of candidates, or of candidates' worth, and each deadline, with `single`
    in all of them.
    """
    single = [variant for variant in variants if variant.strategy == ONE_PASS]
    others = [variant for variant in variants if variant.strategy != ONE_PASS]
    found = []
    for spent in dict.fromkeys(_spent(one) for one in others):
        alike = [one for one in others if _spent(one) == spent]
        due = alike[0].deadline
        among = (*(one for one in single if one.deadline in (None, due)), *alike)
        pairs = {
            (one.key, other.key): compared
            for one in among
            for other in among
            if one != other and (compared := pair(one, other, results)) is not None
        }
        if pairs:
            found.append(Round(_title(alike[0]), among, pairs))
    return tuple(found)


def _spent(variant: Variant) -> tuple[int | None, bool, float | None]:
    """What those have in common that compare."""
    return variant.candidates, variant.worth, variant.deadline


def _title(variant: Variant) -> str:
    due = "" if variant.deadline is None else f"{variant.deadline:g} s"
    return ", ".join(told for told in (_number(variant), due) if told)


def _number(variant: Variant) -> str:
    number = variant.candidates
    if number is None:
        return "" if variant.deadline is not None else "whatever an effort means"
    if variant.worth:
        return f"{number} candidate{'s’' if number > 1 else '’s'} worth of tokens"
    return f"{number} candidate{'s' if number > 1 else ''}"


def _right(variant: Variant, results: Results) -> dict[str, bool]:
    """Each question that has a reply, and whether it is right."""
    replies = (record for record in results.of(variant.key) if record.error is None)
    return {record.question: record.right for record in replies}
