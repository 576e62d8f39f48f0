"""Shares, means, percentiles and their intervals, against published values and by brute force."""

from __future__ import annotations

from itertools import combinations
from math import comb
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.estimates import (
    difference,
    mcnemar,
    mean_interval,
    pass_at_k,
    percentile_interval,
    student,
    wilson,
)

counts = st.integers(0, 40)


@pytest.mark.parametrize(
    ("candidates", "right", "k", "share"),
    [
        (1, 0, 1, 0.0),
        (1, 1, 1, 1.0),
        (10, 3, 1, 0.3),
        (10, 3, 2, 1 - 21 / 45),
        (10, 3, 8, 1.0),
        (16, 0, 16, 0.0),
        (16, 1, 16, 1.0),
        (200, 10, 100, 1 - comb(190, 100) / comb(200, 100)),
    ],
)
def test_pass_at_k_is_the_unbiased_estimate(
    candidates: int, right: int, k: int, share: float
) -> None:
    """1 - C(n - c, k) / C(n, k)."""
    assert pass_at_k(candidates, right, k) == pytest.approx(share, abs=1e-12)


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_what_drawing_gives(total: int, data: st.DataObject) -> None:
    """It is the share of all draws of k candidates that have a right one among them."""
    right, k = data.draw(st.integers(0, total)), data.draw(st.integers(1, total))
    draws = list(combinations([True] * right + [False] * (total - right), k))
    assert pass_at_k(total, right, k) == pytest.approx(fmean(map(any, draws)))


@pytest.mark.parametrize(("candidates", "k"), [(4, 5), (0, 1), (4, 0)])
def test_pass_at_more_than_there_are_is_not_known(candidates: int, k: int) -> None:
    """Of four candidates there is no telling what five would have given."""
    with pytest.raises(ValueError, match="takes at least"):
        pass_at_k(candidates, 0, k)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)],
)
def test_students_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    """The 97.5th percentile by degrees of freedom."""
    assert student(freedom) == pytest.approx(quantile, abs=0.005)


def test_the_interval_of_a_mean_is_students() -> None:
    """Mean 3, deviation sqrt(2.5), five values: 3 ± 2.776 · 0.7071."""
    interval = mean_interval([1, 2, 3, 4, 5])
    assert interval == pytest.approx((1.037, 4.963), abs=0.002)
    assert mean_interval([7.0]) is None


def test_the_interval_of_a_median_is_that_of_its_ranks() -> None:
    """Of ten values it is the second to the ninth, of a hundred the 40th to the 61st."""
    assert percentile_interval(list(range(1, 11)), 0.5) == (2, 9)
    assert percentile_interval(list(range(1, 101)), 0.5) == (40, 61)


def test_the_interval_of_a_percentile_needs_enough_values() -> None:
    """Among fifty values none lies surely above the 95th percentile; among many, some do."""
    assert percentile_interval([float(one) for one in range(50)], 0.95) is None
    assert percentile_interval([], 0.5) is None
    low, high = percentile_interval([float(one) for one in range(2000)], 0.95) or (0, 0)
    assert 1870 < low < 1900 < high < 1930


def test_the_interval_of_a_percentile_holds_it_as_often_as_it_says() -> None:
    """Of 400 samples of 60 uniform values, the interval of the median has 0.5 in some 95%."""
    dice = Random(7)
    held = 0
    for _ in range(400):
        low, high = percentile_interval(sorted(dice.random() for _ in range(60)), 0.5) or (1, 0)
        held += low <= 0.5 <= high
    assert 0.93 <= held / 400 <= 0.99


@pytest.mark.parametrize(
    ("only_one", "only_other", "both", "neither", "low", "high"),
    [(12, 2, 20, 16, 0.0562, 0.3292), (12, 2, 36, 0, 0.0569, 0.3404)],
)
def test_the_interval_of_a_difference_is_newcombes(
    only_one: int, only_other: int, both: int, neither: int, low: float, high: float
) -> None:
    """Worked examples of method 10 for paired shares."""
    assert difference(only_one, only_other, both, neither) == pytest.approx((low, high), abs=5e-5)


@given(counts, counts, counts, counts)
def test_a_difference_lies_in_its_interval_and_turns_with_it(
    only_one: int, only_other: int, both: int, neither: int
) -> None:
    """The interval holds the difference, lies in [-1, 1], and swaps its ends with the two."""
    total = only_one + only_other + both + neither
    if total == 0:
        return
    low, high = difference(only_one, only_other, both, neither)
    assert -1 <= low <= (only_one - only_other) / total + 1e-12
    assert (only_one - only_other) / total - 1e-12 <= high <= 1
    turned = difference(only_other, only_one, both, neither)
    assert turned == pytest.approx((-high, -low), abs=1e-12)


def test_pairs_that_mostly_agree_tell_more_than_two_samples_would() -> None:
    """Eight points apart on 300 questions: with few disagreements, zero is out of the interval."""
    alike, apart = difference(30, 6, 180, 84), difference(90, 66, 120, 24)
    assert alike[0] > 0.03
    assert apart[0] < 0.0 < apart[1]


@pytest.mark.parametrize(
    ("only_one", "only_other", "chance"),
    [(0, 0, 1.0), (5, 5, 1.0), (5, 0, 0.0625), (10, 2, 0.03857), (2, 10, 0.03857), (1, 0, 1.0)],
)
def test_mcnemars_test_is_exact(only_one: int, only_other: int, chance: float) -> None:
    """Both tails of a fair coin thrown as often as the two disagree."""
    assert mcnemar(only_one, only_other) == pytest.approx(chance, abs=1e-4)


def test_a_sum_of_parts_has_an_interval_too() -> None:
    """Shares of questions between 0 and 1 count as they are."""
    low, high = wilson(2.5, 10)
    assert wilson(2, 10)[0] < low < 0.25 < high < wilson(3, 10)[1]
