"""Confidence is what DeepConf says it is, whole or token by token."""

from __future__ import annotations

import statistics
from math import inf, isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.confidence import (
    SlidingGroup,
    Watch,
    group_size,
    lowest_group,
    own_confidence,
    percentile,
    token_confidence,
)
from planner.domain import Floor

# Sums of these are exact in floating point.
CONFIDENCES = st.lists(st.integers(0, 640).map(lambda n: n / 32), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("logprobs", "confidence"),
    [
        ((-0.5,), 0.5),
        ((-0.1, -2.5, -4.0), 2.2),
        ((0.0, -16.0, -18.0, -20.0), 13.5),  # all but certain of one token
        ((-1.386294, -1.386294, -1.386294, -1.386294), 1.3863),  # at a loss between four
    ],
)
def test_token_confidence_is_minus_the_mean(logprobs: tuple[float, ...], confidence: float) -> None:
    """A position's confidence is minus the mean of its highest log-probabilities."""
    assert token_confidence(logprobs) == pytest.approx(confidence)


def test_a_token_that_was_ruled_out_leaves_the_confidence_finite() -> None:
    """Where all but one token is impossible, the model is very sure, but not infinitely so."""
    ruled_out = token_confidence((0.0, -inf, -inf))
    assert isfinite(ruled_out)
    assert ruled_out > token_confidence((0.0, -30.0, -30.0))


@pytest.mark.parametrize(
    ("window", "lowest"),
    [(1, 1.0), (2, 1.5), (3, 3.0), (4, 3.75), (6, 5.0), (7, 5.0), (2048, 5.0)],
)
def test_lowest_group_slides_over_full_windows(window: int, lowest: float) -> None:
    """The least sure window counts; a trace shorter than one counts whole."""
    assert lowest_group((8.0, 6.0, 2.0, 1.0, 6.0, 7.0), window) == pytest.approx(lowest)


@given(CONFIDENCES, st.integers(1, 70))
def test_lowest_group_is_the_least_mean_of_any_window(trace: list[float], window: int) -> None:
    """As counted the slow way."""
    size = min(window, len(trace))
    groups = [trace[start : start + size] for start in range(len(trace) - size + 1)]
    assert lowest_group(trace, window) == min(sum(group) / size for group in groups)


@given(CONFIDENCES, st.integers(1, 20), st.integers(0, 60))
def test_token_by_token_it_is_the_same(trace: list[float], window: int, known: int) -> None:
    """The groups that slide by are those of the whole, wherever one takes over."""
    before = trace[:known]
    sliding = SlidingGroup(window, before)
    groups = [sliding.add(confidence) for confidence in trace[known:]]
    ends = range(len(before) + 1, len(trace) + 1)
    whole = [sum(trace[end - window : end]) / window if end >= window else None for end in ends]
    assert groups == whole


@given(CONFIDENCES, st.integers(1, 20), st.floats(0.0, 20.0))
def test_watch_finds_what_the_whole_trace_shows(
    trace: list[float], window: int, least: float
) -> None:
    """A trace has fallen under its floor if it has a full window and its lowest group is under."""
    watch = Watch(Floor(least, window))
    for confidence in trace:
        watch.saw((-round(confidence, 4),))
    rounded = [round(confidence, 4) for confidence in trace]
    if abs(lowest_group(rounded, window) - least) > 1e-9:
        full = len(trace) >= window
        assert watch.fallen is (full and lowest_group(rounded, window) < least)


def test_what_has_fallen_stays_fallen() -> None:
    """A candidate that became sure again was in doubt all the same; one with no floor never is."""
    watch, free = Watch(Floor(1.0, 2)), Watch(None)
    for confidence in (0.5, 0.5, 9.0, 9.0):
        watch.saw((-confidence,))
        free.saw((-confidence,))
    assert watch.fallen
    assert not free.fallen


@pytest.mark.parametrize(
    ("tokens", "window"), [(1, 16), (64, 16), (120, 30), (4000.4, 1000), (8192, 2048), (1e5, 2048)]
)
def test_groups_fit_the_length_of_what_they_are_of(tokens: float, window: int) -> None:
    """A quarter of the length, between 16 tokens and the paper's 2,048."""
    assert group_size(tokens) == window


def test_own_confidence_is_that_of_its_least_sure_quarter() -> None:
    """Of 80 tokens, 20 in a row that the model was less sure of."""
    assert own_confidence((9.0,) * 30 + (4.0,) * 20 + (9.0,) * 30) == pytest.approx(4.0)
    assert own_confidence((2.0, 4.0)) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1.0), (10, 1.3), (50, 2.5), (90, 3.7), (100, 4.0)]
)
def test_percentile_interpolates(percent: float, value: float) -> None:
    """Linearly between the two nearest, in whatever order they come."""
    assert percentile((3.0, 1.0, 4.0, 2.0), percent) == pytest.approx(value)
    assert percentile((7.0,), percent) == 7.0


@given(st.lists(st.floats(0.0, 30.0), min_size=2, max_size=40), st.integers(1, 99))
def test_percentile_is_the_usual_one(values: list[float], percent: int) -> None:
    """The standard library finds the same one among all hundredths."""
    hundredths = statistics.quantiles(values, n=100, method="inclusive")
    assert percentile(values, percent) == pytest.approx(hundredths[percent - 1])
