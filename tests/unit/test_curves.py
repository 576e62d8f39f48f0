"""Curves from raw confidence to chance: known vectors, and what holds of any pairs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from statistics import fmean
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.curves import (
    Curve,
    Isotonic,
    Platt,
    curve_data,
    fit,
    fit_isotonic,
    fit_platt,
    held_out,
    pool_adjacent,
    read_curve,
)
from planner.reliability import Pair, expected_calibration_error

Fit: TypeAlias = Callable[[Sequence[Pair]], Curve]

pairs_drawn = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)
fits = pytest.mark.parametrize("fitted", [fit_platt, fit_isotonic, fit])


def outcomes(count: int, seed: int, bend: float = 1.0) -> list[Pair]:
    """Confidences drawn evenly, right as often as their `bend`th power says."""
    rng = random.Random(seed)
    raws = [rng.random() for _ in range(count)]
    return [(raw, rng.random() < raw**bend) for raw in raws]


@pytest.mark.parametrize(
    ("values", "weights", "pooled"),
    [
        ([1, 2, 3], [1, 1, 1], [1, 2, 3]),
        ([3, 2, 1], [1, 1, 1], [2, 2, 2]),
        ([1, 3, 2, 4], [1, 1, 1, 1], [1, 2.5, 2.5, 4]),
        ([1, 4, 2, 2], [1, 1, 1, 3], [1, 2.4, 2.4, 2.4]),
        ([5, 3], [1, 3], [3.5, 3.5]),
        ([1, 3, -2, 5, 0], [1, 1, 1, 1, 1], [2 / 3, 2 / 3, 2 / 3, 2.5, 2.5]),
        ([], [], []),
    ],
)
def test_violators_are_pooled(
    values: list[float], weights: list[float], pooled: list[float]
) -> None:
    """Worked by hand: what falls becomes its weighted mean."""
    assert pool_adjacent(values, weights) == pytest.approx(pooled)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=5))
def test_nothing_that_rises_is_nearer(drawn: list[tuple[int, int]]) -> None:
    """Of all rising sequences of means of what was drawn, none has less of an error."""
    values, weights = [float(value) for value, _ in drawn], [float(weight) for _, weight in drawn]
    found = pool_adjacent(values, weights)
    assert all(a <= b + 1e-12 for a, b in pairwise(found))

    def error(levels: list[float]) -> float:
        return sum(w * (v - x) ** 2 for v, w, x in zip(values, weights, levels, strict=True))

    # The best is made of means of runs, so every way to cut the values into runs has it among them.
    least = math.inf
    for cuts in product((False, True), repeat=len(values) - 1):
        runs, levels = [[0]], [0.0] * len(values)
        for place, cut in enumerate(cuts, 1):
            runs.append([place]) if cut else runs[-1].append(place)
        for run in runs:
            mean = sum(values[i] * weights[i] for i in run) / sum(weights[i] for i in run)
            for i in run:
                levels[i] = mean
        if all(a <= b for a, b in pairwise(levels)):
            least = min(least, error(levels))
    assert error(found) == pytest.approx(least)


def test_platt_finds_the_line_that_was_there() -> None:
    """Outcomes drawn from a line between log odds give that line back."""
    rng = random.Random(5)
    pairs = []
    for _ in range(20_000):
        raw = rng.uniform(0.05, 0.95)
        z = 0.5 * math.log(raw / (1 - raw)) - 1
        pairs.append((raw, rng.random() < 1 / (1 + math.exp(-z))))
    found = fit_platt(pairs)
    assert found.slope == pytest.approx(0.5, abs=0.05)
    assert found.offset == pytest.approx(-1, abs=0.05)


def test_platts_line_has_no_steeper_descent() -> None:
    """Against a plain search around it: no other line has less loss with the same prior."""
    pairs = outcomes(40, 3, bend=2.0)
    found = fit_platt(pairs)
    right = sum(correct for _, correct in pairs)
    high, low = (right + 1) / (right + 2), 1 / (len(pairs) - right + 2)

    def loss(slope: float, offset: float) -> float:
        total = (slope - 1) ** 2 / 2
        for raw, correct in pairs:
            held = min(0.999, max(0.001, raw))
            chance = 1 / (1 + math.exp(-(slope * math.log(held / (1 - held)) + offset)))
            target = high if correct else low
            total -= target * math.log(chance) + (1 - target) * math.log(1 - chance)
        return total

    best = loss(found.slope, found.offset)
    for step in (0.1, 0.01, 0.001):
        for down, across in product((-step, 0, step), repeat=2):
            assert best <= loss(found.slope + down, found.offset + across) + 1e-7


@fits
@given(pairs=pairs_drawn, looked_up=st.lists(st.floats(0, 1), min_size=2))
def test_a_curve_never_falls_and_is_never_certain(
    fitted: Fit, pairs: list[Pair], looked_up: list[float]
) -> None:
    """Whatever it was fitted on, it rises, and few pairs don't make it sure of anything."""
    curve = fitted(pairs)
    found = [curve.apply(raw) for raw in sorted(looked_up)]
    end = 1 / (len(pairs) + 2)
    assert all(a <= b for a, b in pairwise(found))
    assert all(end - 1e-12 <= chance <= 1 - end + 1e-12 for chance in found)


@fits
@given(pairs=pairs_drawn)
def test_a_curve_survives_json(fitted: Fit, pairs: list[Pair]) -> None:
    """What is written is read back the same."""
    curve = fitted(pairs)
    assert read_curve(curve_data(curve)) == curve


@fits
def test_what_is_calibrated_stays_what_it_is(fitted: Fit) -> None:
    """On outcomes as often right as was said, the curve is nearly the diagonal."""
    curve = fitted(outcomes(20_000, 1))
    gaps = [abs(curve.apply(raw / 100) - raw / 100) for raw in range(2, 99)]
    assert fmean(gaps) < 0.02
    assert max(gaps) < 0.08


@fits
def test_overconfidence_is_taken_back(fitted: Fit) -> None:
    """Fitted on one half, it tells of the other half as often as it is right."""
    curve = fitted(outcomes(4_000, 2, bend=3.0))
    told = [(curve.apply(raw), correct) for raw, correct in outcomes(4_000, 7, bend=3.0)]
    assert expected_calibration_error(outcomes(4_000, 7, bend=3.0)) > 0.2
    assert expected_calibration_error(told) < 0.05


def test_one_confidence_for_all_becomes_how_often_they_are_right() -> None:
    """As with a single sample, whose vote is always one of one."""
    pairs = [(2 / 3, place < 30) for place in range(100)]
    assert fit(pairs).apply(2 / 3) == pytest.approx(0.3, abs=0.01)


def test_a_confidence_that_misleads_is_not_turned_round() -> None:
    """Where the surer are the wronger, all get the share of those right."""
    curve = fit_platt([(place / 100, place < 50) for place in range(101)])
    assert curve.slope == 0
    assert curve.apply(0.01) == curve.apply(0.99) == pytest.approx(0.5, abs=0.01)


def test_the_kind_is_chosen_by_what_is_told_of_others() -> None:
    """A step is no line: with enough pairs isotonic regression tells more; with few Platt does."""
    rng = random.Random(4)
    raws = [rng.random() for _ in range(2_000)]
    steps = [
        (raw, rng.random() < (0.1 if raw < 0.4 else 0.5 if raw < 0.8 else 0.6)) for raw in raws
    ]
    assert isinstance(fit(steps), Isotonic)
    assert isinstance(fit(outcomes(60, 9)), Platt)


def test_answers_to_one_question_are_not_parted() -> None:
    """Copies of a pair would tell of each other: as one group, none tells of itself."""
    pairs = [(place // 10 / 20, place // 10 % 2 == 0) for place in range(200)]
    groups = [place // 10 for place in range(200)]
    together = held_out(pairs, groups, fit_isotonic)
    assert len({round(chance, 9) for chance in together[:10]}) == 1
    apart = held_out(pairs, None, fit_isotonic)
    assert together != apart


def test_a_lone_group_is_told_nothing() -> None:
    """There is nothing to fit on."""
    assert held_out([(0.9, True), (0.1, False)], ["q", "q"]) == [0.5, 0.5]
    assert held_out([]) == []


@pytest.mark.parametrize("fitted", [fit_platt, fit_isotonic, fit])
def test_nothing_gives_no_curve(fitted: Fit) -> None:
    """A curve takes one pair at least."""
    with pytest.raises(ValueError, match="one pair"):
        fitted([])


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        None,
        {"kind": "spline"},
        {"kind": "platt", "slope": -1, "offset": 0, "count": 3},
        {"kind": "platt", "slope": math.inf, "offset": 0, "count": 3},
        {"kind": "platt", "slope": 1, "offset": 0, "count": -1},
        {"kind": "platt", "slope": 1, "count": 3},
        {"kind": "isotonic", "points": [], "count": 3},
        {"kind": "isotonic", "points": [[0, 0.5], [1, 0.4]], "count": 3},
        {"kind": "isotonic", "points": [[0.5, 0.5], [0.5, 0.6]], "count": 3},
        {"kind": "isotonic", "points": [[0.5, 1.5]], "count": 3},
        {"kind": "isotonic", "points": [[0.5]], "count": 3},
        {"kind": "isotonic", "points": 7, "count": 3},
    ],
)
def test_what_is_no_curve_is_refused(data: object) -> None:
    """A file that somebody edited can't make a curve that falls, or leaves the range."""
    with pytest.raises(ValueError, match=r"must|isn't|has|no kind|unpack|count"):
        read_curve(data)


def test_between_points_lie_straight_lines() -> None:
    """And beyond the ends it is level."""
    curve: Curve = Isotonic(((0.2, 0.1), (0.6, 0.5)), 10)
    assert [curve.apply(raw) for raw in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx(
        [0.1, 0.1, 0.3, 0.5, 0.5]
    )
