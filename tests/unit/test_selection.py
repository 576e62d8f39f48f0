"""Selectors choose what their papers choose, and say so where they couldn't."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.domain import Candidate, Finish
from planner.errors import InvalidOption
from planner.selection import SELECTORS, selector
from planner.tally import Tally

# Sums of these are exact in floating point, so that no order of adding makes or breaks a tie.
SCORES = st.integers(0, 64).map(lambda sixtyfourths: sixtyfourths / 64)


def candidate(index: int, answer: str | None, score: float | None = None) -> Candidate:
    """A finished candidate."""
    text = "no idea" if answer is None else f"#### {answer}"
    return Candidate((index,), text, finish=Finish.STOP, score=score)


def tally_of(*candidates: Candidate) -> Tally:
    """The tally of these candidates."""
    tally = Tally()
    for one in candidates:
        tally.add(one)
    return tally


def test_majority_counts_equal_answers_together() -> None:
    """1/2 and 0.5 are two votes for one answer."""
    tally = tally_of(candidate(0, "3"), candidate(1, "1/2"), candidate(2, "0.5"))
    chosen = selector("majority").choose(tally)
    assert [(group.answer, group.count) for group in chosen.ranked] == [("0.5", 2), ("3", 1)]


def test_tie_goes_to_the_higher_score_sum_then_to_the_first_node() -> None:
    """As self-consistency breaks it."""
    by_score = tally_of(candidate(0, "1", 0.2), candidate(1, "2", 0.9))
    assert selector("majority").choose(by_score).ranked[0].answer == "2"
    by_order = tally_of(candidate(5, "1"), candidate(3, "2"))
    assert selector("majority").choose(by_order).ranked[0].answer == "2"


def test_weighted_sums_scores_and_best_takes_the_highest() -> None:
    """Two middling candidates outweigh one good one, but aren't better than it."""
    tally = tally_of(candidate(0, "1", 0.5), candidate(1, "1", 0.6), candidate(2, "2", 0.9))
    assert selector("weighted").choose(tally).ranked[0].answer == "1"
    assert selector("best").choose(tally).ranked[0].answer == "2"
    assert selector("best").choose(tally).ranked[0].best.path == (2,)


def test_ungraded_candidate_weighs_the_mean() -> None:
    """A candidate whose grade was lost isn't worth nothing."""
    tally = tally_of(candidate(0, "1", 0.5), candidate(1, "2"), candidate(2, "2"))
    assert selector("weighted").choose(tally).ranked[0].answer == "2"


@pytest.mark.parametrize("name", ["weighted", "best"])
def test_without_scores_the_majority_decides_and_the_reply_says_so(name: str) -> None:
    """The fallback is stated."""
    tally = tally_of(candidate(0, "1"), candidate(1, "2"), candidate(2, "2"))
    chosen = selector(name).choose(tally)
    assert chosen.ranked[0].answer == "2"
    assert "fell back to majority" in chosen.notes[0]


def measured(name: str, values: Sequence[float | None], *, later: bool) -> Tally:
    """Candidates for 1, 2 and 2 with what this selector goes by, graded as they come or later."""
    tally = Tally()
    for index, (answer, value) in enumerate(zip("122", values, strict=True)):
        one = candidate(index, answer)
        sure = () if value is None else (value,) * 16
        whole = replace(one, token_confidences=sure) if name == "confidence" else one
        graded = whole if name == "confidence" else replace(whole, score=value)
        tally.add(whole if later else graded)
        if later:
            tally.grade(graded)
    return tally


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("odd", [nan, inf, -inf])
@pytest.mark.parametrize("name", ["weighted", "best", "confidence"])
def test_what_is_no_number_counts_as_none(name: str, odd: float, later: bool) -> None:
    """One odd score leaves the choice to the others; where all are odd, the majority has it."""
    chosen = selector(name).choose(measured(name, (0.9, odd, 0.2), later=later))
    without = selector(name).choose(measured(name, (0.9, None, 0.2), later=later))
    assert [group.vote() for group in chosen.ranked] == [group.vote() for group in without.ranked]
    assert chosen.confidence == without.confidence
    assert chosen.ranked[0].answer == "1"
    all_odd = selector(name).choose(measured(name, (odd, odd, odd), later=later))
    assert all_odd.ranked[0].answer == "2"
    assert "fell back to majority" in all_odd.notes[0]


def test_best_goes_by_scores_alone_where_most_give_no_answer() -> None:
    """An essay is no worse for naming no number at its end; the reply says how it was chosen."""
    essays = [candidate(index, None, 0.7 + index / 10) for index in range(3)]
    chosen = selector("best").choose(tally_of(*essays, candidate(9, "1945", 0.1)))
    assert chosen.ranked[0].best.path == (2,)
    assert chosen.confidence == pytest.approx(0.9)
    assert "no answer" in chosen.notes[0]
    better = selector("best").choose(tally_of(*essays, candidate(9, "1945", 0.95)))
    assert (better.ranked[0].answer, better.notes) == ("1945", ())


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_candidate_without_an_answer_does_not_vote(name: str) -> None:
    """However many are silent, an answer wins; where all are, the best-scored one does."""
    silent = [candidate(index, None, 0.9) for index in range(3)]
    voters = [candidate(9 + index, "7", 0.1) for index in range(1 if name != "best" else 3)]
    chosen = selector(name).choose(tally_of(*silent, *voters))
    assert chosen.ranked[0].answer == "7"
    all_silent = selector(name).choose(tally_of(*silent[:2], candidate(5, None, 0.95)))
    assert all_silent.ranked[0].best.path == (5,)
    assert "No candidate gave an answer" in all_silent.notes[-1]


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_nothing_finished_gives_nothing(name: str) -> None:
    """An empty tally has no ranking and no confidence."""
    assert selector(name).choose(Tally()).ranked == ()


@given(
    st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.none() | SCORES), max_size=7),
    st.sampled_from(sorted(SELECTORS)),
    st.integers(0, 5039),
    st.booleans(),
)
def test_order_of_arrival_changes_nothing(
    said: list[tuple[str | None, float | None]], name: str, order: int, graded_later: bool
) -> None:
    """Candidates and grades in any order give the same ranking."""
    candidates = [candidate(index, *one) for index, one in enumerate(said)]
    orders = itertools.permutations(candidates)
    shuffled = next(itertools.islice(orders, order % max(1, len(candidates)), None))
    other = Tally()
    for one in shuffled:
        other.add(Candidate(one.path, one.text, finish=one.finish) if graded_later else one)
    if graded_later:
        for one in reversed(shuffled):
            other.grade(one)
    here, there = selector(name).choose(tally_of(*candidates)), selector(name).choose(other)
    assert [g.answer for g in here.ranked] == [g.answer for g in there.ranked]
    assert [g.best.path for g in here.ranked] == [g.best.path for g in there.ranked]
    assert here.confidence == pytest.approx(there.confidence)


def test_unknown_selector_is_refused_by_name() -> None:
    """The error names the option and what it may be."""
    with pytest.raises(InvalidOption, match="majority, weighted, best") as caught:
        selector("coin")
    assert caught.value.param == "longthink.selector"


def test_an_answer_that_is_known_is_not_looked_for() -> None:
    """A candidate that comes with its answer votes for it, whatever its text says."""
    told = replace(candidate(0, "7"), answer=r"\frac{1}{2}")
    silent = replace(candidate(1, "7"), answer=" ")
    tally = tally_of(told, silent, candidate(2, "0.5"))
    assert {answer: group.count for answer, group in tally.groups.items()} == {"0.5": 2}
    assert tally.silent is not None
    assert tally.silent.best == silent
