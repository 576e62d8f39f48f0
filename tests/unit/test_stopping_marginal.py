"""`marginal` weighs what a further candidate is expected to bring against its price."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist, fmean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from planner.domain import Stopped
from planner.stopping import parse
from planner.stopping.marginal import gain_a_candidate
from tests.unit.votes import counted

COUNTS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60)).map(
    lambda votes: (max(votes[:2]), min(votes[:2]), sum(votes))
)
"""The leader's votes, the runner-up's, and how many candidates have finished."""
REMAINING = st.integers(1, 300)


@given(COUNTS, REMAINING)
def test_vote_for_the_leader_lowers_the_gain(counts: tuple[int, int, int], left: int) -> None:
    """The surer the leader, the less there is to win: less than by any other vote, or none."""
    v1, v2, n = counts
    after = gain_a_candidate(v1 + 1, v2, n + 1, left)
    assert after <= gain_a_candidate(v1, v2, n, left)
    assert after <= gain_a_candidate(v1, v2, n + 1, left)
    assert after <= gain_a_candidate(max(v1, v2 + 1), min(v1, v2 + 1), n + 1, left)


@given(COUNTS, REMAINING, st.integers(0, 300))
def test_fewer_candidates_to_come_bring_no_more(
    counts: tuple[int, int, int], left: int, more: int
) -> None:
    """What could be won with fewer could be won with all of them."""
    assert gain_a_candidate(*counts, left) <= gain_a_candidate(*counts, left + more)


@given(COUNTS, REMAINING, st.integers(0, 20))
def test_nothing_is_gained_where_the_lead_is_out_of_reach(
    counts: tuple[int, int, int], left: int, beyond: int
) -> None:
    """As many as the lead can at best draw level."""
    v1, v2, n = counts
    assert gain_a_candidate(v1 + left + beyond, v2 + min(v1 - v2, beyond), n, left) == 0.0


@given(COUNTS, REMAINING, st.floats(0.001, 10), st.floats(1.0, 10))
def test_dearer_candidates_are_given_up_sooner(
    counts: tuple[int, int, int], left: int, price: float, times: float
) -> None:
    """What isn't worth its price isn't worth more either."""
    view = counted(*counts, left)
    if parse(f"marginal:{price}").verdict(view) is Stopped.CONFIDENT:
        assert parse(f"marginal:{min(99.0, price * times)}").verdict(view) is not None


@given(COUNTS, st.integers(1, 200))
def test_gain_is_the_mean_of_what_the_posterior_promises(
    counts: tuple[int, int, int], left: int
) -> None:
    """It is the best mean, over how many more to take, of the integral that it stands for."""
    v1, v2, n = counts
    assume(left > v1 - v2)
    best, further, votes = 0.0, 1, v1 + v2 + 2
    while further <= left:
        pair = votes / (n + 3)
        more = pair * further
        believed = NormalDist((v1 - v2) / votes, sqrt(more / (votes * (votes + more))))
        cuts = [believed.stdev * cut / 100 for cut in range(1, 900)]
        integral = sum(cut * believed.pdf(-cut) for cut in cuts) * believed.stdev / 100
        if further > v1 - v2:
            best = max(best, pair * integral / further)
        further *= 2
    assert gain_a_candidate(v1, v2, n, left) == pytest.approx(best, rel=1e-3, abs=1e-9)


def test_scattered_votes_are_given_up_where_beta_goes_on() -> None:
    """Twelve against eleven of sixty matters less than twelve against eleven of twenty-three."""
    close, scattered = counted(12, 11, 23, 40), counted(12, 11, 60, 40)
    rule = parse("marginal:0.2")
    assert rule.verdict(close) is None
    assert rule.verdict(scattered) is Stopped.CONFIDENT
    assert parse("beta").verdict(scattered) is None


def test_unanimous_candidates_are_enough_after_a_few() -> None:
    """At its default price, five that agree will do of 64; three won't."""
    rule = parse("marginal")
    assert rule.verdict(counted(3, 0, 3, 61)) is None
    assert rule.verdict(counted(5, 0, 5, 59)) is Stopped.CONFIDENT


ALL = 64


def votes_on(dice: random.Random) -> list[int]:
    """Samples of one question; 0 is the right answer.

    How often a sample is right differs from question to question; the wrong ones go to few or many
    other answers.
    """
    right = dice.betavariate(0.8, 0.9)
    scatter = 2.0 ** dice.uniform(-1, 3.5)
    shares, left = [right], 1 - right
    for _ in range(20):
        part = left * dice.betavariate(1, scatter)
        shares.append(part)
        left -= part
    return dice.choices(range(len(shares)), shares, k=ALL)


def taken_by(votes: Sequence[int]) -> int:
    """How many of these candidates a search takes with the default rule."""
    rule, tally = parse("marginal"), Counter[int]()
    for taken, vote in enumerate(votes, start=1):
        tally[vote] += 1
        first, second = sorted([0, *tally.values()])[:-3:-1]
        if rule.verdict(counted(first, second, taken, ALL - taken)):
            return taken
    return ALL


def chance_of_right(votes: Sequence[int]) -> float:
    """1 where the right answer has the most votes; where it is tied, its part of that."""
    tally = Counter(votes)
    best = [answer for answer, count in tally.items() if count == max(tally.values())]
    return (0 in best) / len(best)


def test_default_keeps_the_accuracy_of_64_for_a_third_of_their_candidates() -> None:
    """Within half a point over 3,000 made-up questions, of which a sample gets a half right."""
    dice = random.Random(11)
    questions = [votes_on(dice) for _ in range(3000)]
    taken = [taken_by(votes) for votes in questions]
    assert fmean(taken) <= 0.35 * ALL
    stopped = [chance_of_right(votes[:n]) for votes, n in zip(questions, taken, strict=True)]
    assert fmean(stopped) >= fmean(map(chance_of_right, questions)) - 0.005
    assert fmean(votes[0] == 0 for votes in questions) == pytest.approx(0.47, abs=0.02)
