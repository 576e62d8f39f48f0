"""Calibration error: known values, ties, and what chance alone shows."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.reliability import (
    chance_error,
    expected_calibration_error,
    log_loss,
    reliability,
)


def test_the_error_is_the_gap_of_each_bin() -> None:
    """Worked by hand: two bins of two, 0.2 and 0.15 apart."""
    pairs = [(0.2, False), (0.4, True), (0.6, False), (0.7, True)]
    low, high = reliability(pairs, 2)
    assert (low.count, low.accuracy, high.count, high.accuracy) == (2, 0.5, 2, 0.5)
    assert (low.confidence, high.confidence) == pytest.approx((0.3, 0.65))
    assert expected_calibration_error(pairs, 2) == pytest.approx((0.2 + 0.15) / 2)


def test_equals_are_not_put_in_an_order() -> None:
    """A hundred of one confidence, right as often as it says, show no error in any bin."""
    pairs = [(0.3, place < 30) for place in range(100)]
    assert expected_calibration_error(pairs) == pytest.approx(0)
    assert all(one.accuracy == pytest.approx(0.3) for one in reliability(pairs))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans())), st.integers(1, 20))
def test_bins_are_of_equal_mass(pairs: list[tuple[float, bool]], bins: int) -> None:
    """To one; together they hold every pair, and the error is a share."""
    found = reliability(pairs, bins)
    assert sum(one.count for one in found) == len(pairs)
    if len(pairs) >= bins:
        assert max(one.count for one in found) - min(one.count for one in found) <= 1
    assert 0 <= expected_calibration_error(pairs, bins) <= 1


@pytest.mark.parametrize("count", [100, 300, 3_000])
def test_chance_alone_shows_so_much(count: int) -> None:
    """Outcomes drawn as often right as was said have this error, on average."""
    rng = random.Random(count)
    raws = [rng.random() for _ in range(count)]
    shown = [
        expected_calibration_error([(raw, rng.random() < raw) for raw in raws]) for _ in range(200)
    ]
    assert chance_error(raws) == pytest.approx(sum(shown) / len(shown), rel=0.15)


def test_nothing_shows_nothing() -> None:
    """Without a pair there is no error, and no loss."""
    assert expected_calibration_error([]) == chance_error([]) == log_loss([]) == 0
    assert reliability([]) == ()


def test_the_loss_is_the_log_of_what_was_said() -> None:
    """Of what happened; what was thought impossible can't be made good."""
    assert log_loss([(0.5, True), (0.5, False)]) == pytest.approx(0.693147, abs=1e-6)
    assert log_loss([(0.9, True), (0.0, True)]) == float("inf")
