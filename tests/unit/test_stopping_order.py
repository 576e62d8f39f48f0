"""Rules that look at the order of answers: windows and runs."""

from __future__ import annotations

import random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.domain import Candidate, Finish, Stopped
from planner.selection import selector
from planner.stopping import View, parse
from planner.stopping.window import Window
from planner.tally import Tally
from tests.unit.votes import finished, tally_of

MAJORITY = selector("majority")
ORDERS = st.lists(st.sampled_from([1, 1, 1, 2, None]), max_size=20)


def candidates_taken(text: str, answers: list[int | None]) -> int:
    """After how many of these candidates the rule fires; all of them where it doesn't."""
    rule, tally = parse(text), Tally()
    for index, answer in enumerate(answers):
        tally.add(finished(index, answer))
        if rule.verdict(View(tally, MAJORITY, 1000)):
            return index + 1
    return len(answers)


@pytest.mark.parametrize(
    ("answers", "taken"),
    [
        ([1, 1, 1, 2, 2, 2], 3),
        ([2, 1, 1, 1, 1, 1, 1], 6),  # five in a row, and no whole window until here
        ([1, 1, None, 1, 1, None, 1, 1, 1], 9),  # no answer is no agreement
        ([None, None, None, 1, 1, 1], 6),  # nor do three without one agree
        ([1, 2, 3, 1, 2, 3], 6),  # never
    ],
)
def test_window_stops_at_the_end_of_a_unanimous_window(
    answers: list[int | None], taken: int
) -> None:
    """Windows of three, cut from the first candidate on."""
    assert candidates_taken("window:3", answers) == taken


@pytest.mark.parametrize(
    ("answers", "taken"),
    [
        ([2, 1, 1, 1, 1], 4),  # wherever the run begins
        ([1, 1, 2, 1, 1, 1], 6),
        ([1, 1, None, 1, 1], 5),  # a candidate without an answer ends the run
        ([None, None, None, None], 4),  # and is none
    ],
)
def test_consensus_stops_after_equal_answers_in_a_row(
    answers: list[int | None], taken: int
) -> None:
    """Three of them."""
    assert candidates_taken("consensus:3", answers) == taken


@given(ORDERS, st.integers(2, 5))
def test_window_and_consensus_stop_where_the_list_of_answers_says(
    answers: list[int | None], size: int
) -> None:
    """The same as looking through all of the answers each time."""

    def agree(some: list[int | None]) -> bool:
        return len(some) == size and set(some) in ({1}, {2})

    ends = range(1, len(answers) + 1)
    windows = [end for end in ends if end % size == 0 and agree(answers[end - size : end])]
    runs = [end for end in ends if agree(answers[max(0, end - size) : end])]
    assert candidates_taken(f"window:{size}", answers) == min(windows, default=len(answers))
    assert candidates_taken(f"consensus:{size}", answers) == min(runs, default=len(answers))


@given(ORDERS, st.integers(2, 5))
def test_window_never_stops_before_consensus(answers: list[int | None], size: int) -> None:
    """A unanimous window is a run; and a longer run takes longer."""
    by_run = candidates_taken(f"consensus:{size}", answers)
    assert by_run <= candidates_taken(f"window:{size}", answers)
    assert by_run <= candidates_taken(f"consensus:{size + 1}", answers)


def test_vote_after_a_window_is_over_all_so_far() -> None:
    """The last window decides when, all of them decide what."""
    mixed = tally_of([1, 1, 3, 1, 1, 3, 2, 2, 2])
    assert parse("window:3").verdict(View(mixed, MAJORITY, 9)) is Stopped.CONFIDENT
    assert MAJORITY.choose(mixed).ranked[0].answer == "1"


def test_candidate_that_was_cut_is_in_no_window() -> None:
    """It has not finished, so it neither fills a window nor ends a run."""
    tally = tally_of([1, 1])
    tally.add(Candidate((2,), "#### 2", finish=Finish.CANCELLED))
    tally.add(finished(3, 1))
    assert parse("window:3").verdict(View(tally, MAJORITY, 9)) is Stopped.CONFIDENT
    assert parse("consensus:3").verdict(View(tally, MAJORITY, 9)) is Stopped.CONFIDENT


@pytest.mark.parametrize(
    ("seen", "window", "consensus"),
    [
        ([], 4, 3),
        ([1], 3, 2),
        ([1, 2], 6, 2),  # this window is broken: two to its end, and four more
        ([1, 2, 2, 2], 4, 1),  # a new one begins
        ([1, 2, 2, 2, 3, 3], 2, 1),
        ([1, 1, None], 5, 3),
    ],
)
def test_horizon_is_the_end_of_the_soonest_window_or_run(
    seen: list[int | None], window: int, consensus: int
) -> None:
    """Windows of four, runs of three."""
    view = View(tally_of(seen), MAJORITY, 40)
    assert parse("window:4").horizon(view) == window
    assert parse("consensus:3").horizon(view) == consensus


@pytest.mark.parametrize(
    ("chances", "size", "most"),
    [((0.6, 0.3, 0.1), 5, 40), ((0.9, 0.1), 5, 40), ((0.5, 0.5), 4, 16), ((0.3, 0.3), 3, 30)],
)
def test_window_takes_as_many_candidates_as_its_paper_expects(
    chances: tuple[float, ...], size: int, most: int
) -> None:
    """The formula of the paper is within four standard errors of the rule on random answers.

    What the chances leave is the chance of no answer.
    """
    dice, rule, taken = random.Random(5), Window(size), list[float]()
    faces, weights = [*range(len(chances)), None], [*chances, max(0.0, 1.0 - sum(chances))]
    pool = [finished(0, face) for face in faces]
    for _ in range(1000):
        tally = Tally()
        for candidate in dice.choices(pool, weights, k=most):
            tally.add(candidate)
            if rule.verdict(View(tally, MAJORITY, most)):
                break
        taken.append(tally.finished)
    unanimous, windows = sum(chance**size for chance in chances), most // size
    expected = size * (
        sum((i + 1) * unanimous * (1 - unanimous) ** i for i in range(windows - 1))
        + windows * (1 - unanimous) ** (windows - 1)
    )
    assert fmean(taken) == pytest.approx(expected, abs=4 * stdev(taken) / len(taken) ** 0.5)
