"""Stopping rules stop when their papers say, and not before."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.domain import Stopped
from planner.errors import InvalidOption
from planner.selection import SELECTORS, selector
from planner.stopping import View, parse
from planner.stopping.beta import Beta
from tests.unit.votes import counted, tally_of


@pytest.mark.parametrize(
    ("v1", "v2", "probability", "stops"),
    [
        (3, 0, 0.9375, False),
        (4, 0, 0.96875, True),
        (5, 1, 0.9375, False),
        (6, 1, 0.964844, True),
        (8, 2, 0.967285, True),
        (20, 11, 0.944908, False),
    ],
)
def test_beta_stops_where_adaptive_consistency_does(
    v1: int, v2: int, probability: float, stops: bool
) -> None:
    """The published decisions at 0.95, and the published probabilities: they are where it turns."""
    view = View(tally_of([1] * v1 + [2] * v2), selector("majority"), remaining=50)
    assert (parse("beta:0.95").verdict(view) is Stopped.CONFIDENT) is stops
    assert Beta(probability - 1e-6).verdict(view) is Stopped.CONFIDENT
    assert Beta(probability + 1e-6).verdict(view) is None


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.501, 0.999))
def test_beta_agrees_with_a_count_of_coin_tosses(one: int, other: int, threshold: float) -> None:
    """It stops where the posterior, summed up the slow way, reaches the threshold."""
    v1, v2 = max(one, other), min(one, other)
    pascal = [1]
    for _ in range(v1 + v2 + 1):
        pascal = [a + b for a, b in zip([0, *pascal], [*pascal, 0], strict=True)]
    slow = 1.0 - sum(pascal[: v2 + 1]) / sum(pascal)
    verdict = Beta(threshold).verdict(counted(v1, v2, v1 + v2, 9))
    assert (verdict is not None) is (slow >= threshold)


FEWEST_VOTES = {
    0.80: (2, 3, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 21, 22, 23, 24, 25, 26, 27),
    0.90: (3, 5, 6, 8, 9, 11, 12, 13, 15, 16, 17, 19, 20, 21, 22, 23, 25, 26, 27, 28, 30, 31),
    0.95: (4, 6, 8, 9, 11, 12, 14, 15, 17, 18, 19, 21, 22, 23, 25, 26, 27, 29, 30, 31, 32, 34),
    0.99: (6, 9, 11, 13, 14, 16, 18, 19, 21, 23, 24, 26, 27, 28, 30, 31, 33, 34, 35, 37, 38, 40),
}
"""By threshold: the fewest votes for the leader at which the authors' own package
(adaptive_consistency 1.0.0) stops where the runner-up has 0, 1, 2, ... votes."""


@pytest.mark.parametrize("threshold", sorted(FEWEST_VOTES))
def test_beta_decides_like_the_package_of_its_authors(threshold: float) -> None:
    """It goes on below the package's count of votes, and stops from there on."""
    rule = parse(f"beta:{threshold}")
    for v2, fewest in enumerate(FEWEST_VOTES[threshold]):
        for v1 in range(v2, fewest + 3):
            verdict = rule.verdict(counted(v1, v2, v1 + v2, 99))
            assert (verdict is Stopped.CONFIDENT) is (v1 >= fewest)


@given(
    st.lists(st.sampled_from([1, 2, 3, None]), max_size=10),
    st.lists(st.sampled_from([1, 2, 3, 4, None]), max_size=5),
    st.sampled_from(sorted(SELECTORS)),
    st.randoms(use_true_random=False),
)
def test_certain_never_stops_on_an_answer_that_could_change(
    seen: list[int | None], to_come: list[int | None], name: str, dice: random.Random
) -> None:
    """Once it fires, no candidates still to come, with any scores, change the choice."""
    scores = [dice.random() for _ in [*seen, *to_come]]
    before = tally_of(seen, scores[: len(seen)])
    if parse("certain").verdict(View(before, selector(name), len(to_come))) is None:
        return
    after = tally_of([*seen, *to_come], scores)
    first, last = selector(name).choose(before), selector(name).choose(after)
    assert first.ranked[0].answer == last.ranked[0].answer


def test_certain_fires_once_the_lead_exceeds_the_rest() -> None:
    """9 of 16 agree: the other 7 can't change it; 8 of 15 with one to come can't either."""
    majority = selector("majority")
    certain = parse("certain")
    assert certain.verdict(View(tally_of([1] * 9), majority, 7)) is Stopped.CERTAIN
    assert certain.verdict(View(tally_of([1] * 8), majority, 8)) is None
    assert certain.verdict(View(tally_of([1] * 8 + [2] * 6), majority, 2)) is None


def test_none_takes_everything() -> None:
    """`none` never fires."""
    assert parse("none").verdict(View(tally_of([1] * 100), selector("majority"), 1)) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "beta:2", "beta:x", "beta:", "beta:nan", "certain:1", "nonsense", "beta:0.95+"),
        *("none+beta", "window:1", "window:2.5", "window:-5", "window:" + "9" * 5000),
        *("consensus:1", "consensus:", "consensus:many", "deadline:3", "budget:", "marginal:0"),
        *("marginal:-1", "marginal:nan", "marginal:inf", "marginal:cheap", "marginal:100"),
    ],
)
def test_wrong_rule_is_refused_by_name(text: str) -> None:
    """What can't be a rule is an invalid option that says so."""
    with pytest.raises(InvalidOption) as caught:
        parse(text)
    assert caught.value.param == "longthink.stop"


def test_none_is_not_offered_as_a_part() -> None:
    """What may be joined and what stands alone are told apart, so nothing refused is offered."""
    with pytest.raises(InvalidOption, match=r"none alone, not 'none\+beta'") as caught:
        parse("none+beta")
    parts = str(caught.value).partition("made of ")[2].partition(", joined by")[0].split(", ")
    assert parse("+".join(parts)).rules
    assert "none" not in parts
