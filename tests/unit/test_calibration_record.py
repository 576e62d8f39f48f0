"""What is known of a model: which curve an answer goes by, and the form it is kept in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planner.calibration import (
    ANY,
    Calibration,
    Gain,
    calibration_data,
    family,
    read_calibration,
)
from planner.curves import Isotonic, Platt


def level(chance: float) -> Isotonic:
    return Isotonic(((0.5, chance),), 100)


KNOWN = Calibration(
    "m",
    {
        "plan(beam)/weighted": level(0.9),
        "plan/weighted": level(0.8),
        "majority/majority": Platt(0.5, 0.25, 300),
        ANY: level(0.6),
    },
    (Gain("majority@none", 16, 2049.0, 0.707, 300), Gain("auto", None, 900.5, 0.8, 40, (0.5, 1.0))),
    "hard, 300 questions",
)


@pytest.mark.parametrize(
    ("strategy", "selector", "chance"),
    [
        ("plan(beam)", "weighted", 0.9),
        ("plan(dvts)", "weighted", 0.8),
        ("plan", "weighted", 0.8),
        ("plan", "best", 0.6),
        ("beam", "weighted", 0.6),
    ],
)
def test_the_nearest_curve_counts(strategy: str, selector: str, chance: float) -> None:
    """Its own, that of the strategy without what is inside it, or the one for all."""
    assert KNOWN.apply(strategy, selector, 0.5, 16) == chance


def test_without_a_curve_nothing_is_claimed() -> None:
    """Another strategy's curve says nothing of this one."""
    assert (
        Calibration("m", {family("beam", "weighted"): level(0.9)}).apply("x", "y", 0.5, 1) is None
    )


@pytest.mark.parametrize(
    ("finished", "chance"), [(0, 0.1), (1, 0.1), (2, 0.5), (7, 0.5), (8, 0.3), (31, 0.3), (32, 0.9)]
)
def test_few_votes_go_by_the_curve_of_few(finished: int, chance: float) -> None:
    """Where there is one; the same share is worth more of many."""
    known = Calibration(
        "m",
        {
            "majority/majority": level(0.5),
            "majority/majority:1": level(0.1),
            "majority/majority:31": level(0.3),
            "majority/majority:more": level(0.9),
            "*:7": level(0.0),
        },
    )
    assert known.apply("majority", "majority", 0.5, finished) == chance


def test_it_survives_json() -> None:
    """What is written is read back the same."""
    assert read_calibration(json.loads(json.dumps(calibration_data(KNOWN)))) == KNOWN


def test_the_newer_is_put_over_the_older() -> None:
    """Curve by curve and strategy by strategy; what only the older has stays."""
    newer = Calibration(
        "m", {ANY: level(0.1)}, (Gain("auto", None, 1.0, 0.5, 10),), "easy, 10 questions"
    )
    both = newer.over(KNOWN)
    assert both.curves[ANY] == level(0.1)
    assert both.curves["plan/weighted"] == level(0.8)
    assert [(gain.strategy, gain.tokens) for gain in both.gains] == [
        ("majority@none", 2049.0),
        ("auto", 1.0),
    ]
    assert both.source == "easy, 10 questions"
    assert newer.over(None) == newer


DATA = calibration_data(KNOWN)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {**DATA, "curves": []},
        {**DATA, "curves": {"x": 3}},
        {**DATA, "gains": 3},
        {**DATA, "gains": [{}]},
        {**DATA, "gains": [{**DATA["gains"][0], "probe": [1]}]},
        {**DATA, "gains": [{**DATA["gains"][0], "tokens": "many"}]},
    ],
)
def test_what_is_no_calibration_is_refused(data: Any) -> None:
    """With what is amiss."""
    with pytest.raises(ValueError, match=r"amiss|could not convert"):
        read_calibration(data)
