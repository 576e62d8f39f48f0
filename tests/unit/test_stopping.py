"""Stopping rules stop when their papers say, and not before."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.domain import Candidate, Finish, Stopped
from planner.errors import InvalidOption
from planner.selection import SELECTORS, selector
from planner.stopping import View, parse
from planner.stopping.beta import majority_probability
from planner.tally import Tally


def tally_of(answers: Sequence[int | None], scores: Sequence[float] | None = None) -> Tally:
    """A tally of finished candidates with these answers (None: gives none)."""
    tally = Tally()
    for index, answer in enumerate(answers):
        text = "no idea" if answer is None else f"#### {answer}"
        score = None if scores is None else scores[index]
        tally.add(Candidate((index,), text, finish=Finish.STOP, score=score))
    return tally


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
    """The published probabilities, and the published decisions at 0.95."""
    assert majority_probability(v1, v2) == pytest.approx(probability, abs=1e-6)
    view = View(tally_of([1] * v1 + [2] * v2), selector("majority"), remaining=50)
    assert (parse("beta:0.95").verdict(view) is Stopped.CONFIDENT) is stops


@given(st.integers(0, 60), st.integers(0, 60))
def test_beta_agrees_with_a_count_of_coin_tosses(v1: int, v2: int) -> None:
    """The closed form is the chance of at most v2 heads... counted the slow way."""
    pascal = [1]
    for _ in range(v1 + v2 + 1):
        pascal = [a + b for a, b in zip([0, *pascal], [*pascal, 0], strict=True)]
    slow = sum(pascal[v2 + 1 :]) / sum(pascal)
    assert majority_probability(v1, v2) == pytest.approx(slow, abs=1e-12)


@given(st.lists(st.integers(1, 4), max_size=12))
def test_horizon_of_beta_is_the_soonest_it_could_fire(answers: list[int]) -> None:
    """With as many more votes for the leader it fires, with one less it doesn't."""
    rule, majority = parse("beta:0.9"), selector("majority")
    tally = tally_of(answers)
    if rule.verdict(View(tally, majority, 1)):
        return
    horizon = rule.horizon(View(tally, majority, 100))
    assert horizon is not None
    leader = max(set(answers), key=answers.count, default=1)
    for more, fires in ((horizon, True), (horizon - 1, False)):
        view = View(tally_of([*answers, *[leader] * more]), majority, 100)
        assert (rule.verdict(view) is not None) is fires


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
    "text", ["", "beta:2", "beta:x", "beta:", "certain:1", "nonsense", "beta:0.95+", "none+beta"]
)
def test_wrong_rule_is_refused_by_name(text: str) -> None:
    """What can't be a rule is an invalid option that says so."""
    with pytest.raises(InvalidOption) as caught:
        parse(text)
    assert caught.value.param == "longthink.stop"
