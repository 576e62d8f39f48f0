"""A budget is shared out so that nearly all of it becomes finished candidates, side by side."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.domain import Budget, Cost, Prices
from planner.funding import (
    UNKNOWN,
    Experience,
    Growths,
    Lengths,
    Pace,
    affordable,
    first_instalments,
    next_instalment,
)

FREE = Prices()


def test_roomy_budget_holds_the_worst_case_at_once() -> None:
    """Where every candidate's worst case fits, there is nothing to share out."""
    for left in (Budget(), Budget(completion_tokens=16 * 400)):
        started = first_instalments(
            left, FREE, wanted=16, prompt_tokens=50, max_tokens=400, ample=150, least=1, trust=1.0
        )
        assert started == (16, 400)


def test_budget_of_sixteen_mean_candidates_starts_most_of_them() -> None:
    """Though each could take four times as much; the others start with what these give back."""
    left = Budget(completion_tokens=16 * 100)
    started = first_instalments(
        left, FREE, wanted=16, prompt_tokens=50, max_tokens=400, ample=150, least=1, trust=1.0
    )
    assert started == (10, 160)


def test_less_than_the_least_starts_nothing() -> None:
    """The last candidate gets what is left, if that is worth it."""
    left = Budget(completion_tokens=30)
    for least, expected in ((31, (0, 0)), (30, (1, 30)), (1, (1, 30))):
        started = first_instalments(
            left,
            FREE,
            wanted=4,
            prompt_tokens=9,
            max_tokens=400,
            ample=150,
            least=least,
            trust=1.0,
        )
        assert started == expected


def test_candidates_limit_what_is_started() -> None:
    """A limit on candidates counts before anything else."""
    left = Budget(candidates=3)
    assert first_instalments(
        left, FREE, wanted=16, prompt_tokens=9, max_tokens=10, ample=7, least=1, trust=1.0
    ) == (3, 10)


@given(
    st.integers(0, 5000),
    st.integers(0, 400),
    st.integers(1, 300),
    st.floats(0, 5, allow_nan=False),
    st.floats(0, 5, allow_nan=False),
)
def test_what_is_affordable_is_never_overspent(
    micro_usd: int, prompt_tokens: int, calls: int, prompt_price: float, price: float
) -> None:
    """Calls that use all they may, each priced by itself, rounded up, cost no more than is left."""
    prices = Prices(prompt=prompt_price, completion=price)
    tokens = affordable(Budget(micro_usd=micro_usd), prices, calls, prompt_tokens) // calls
    if tokens == 0:
        return
    each = Cost(prompt_tokens=prompt_tokens, completion_tokens=min(tokens, 10**6))
    assert calls * prices.micro_usd(each) <= micro_usd


@given(st.integers(0, 2**32))
def test_nearly_all_finish_on_the_budget_of_their_mean(seed: int) -> None:
    """Sixteen candidates of varied length on the budget of exactly what they take: 13 finish."""
    dice = random.Random(seed)
    lengths = [max(10, round(dice.gauss(100, 25))) for _ in range(16)]
    budget = sum(lengths)
    assert finished_side_by_side(lengths, budget, likely=100, max_tokens=400) >= 13


@pytest.mark.parametrize("likely", [25, 35, 50, 200, 400])
def test_most_finish_though_others_were_much_shorter_or_longer(likely: int) -> None:
    """What others took misleads by four times: of the budget of 16 still 12 finish, of 64 asked,
    and 15 on average.
    """
    finished = []
    for seed in range(200):
        dice = random.Random(seed)
        lengths = [max(10, round(dice.gauss(100, 25))) for _ in range(64)]
        finished.append(finished_side_by_side(lengths, 16 * 100, likely, max_tokens=400))
    assert min(finished) >= 12
    assert fmean(finished) >= 15


def test_short_questions_say_nothing_of_long_ones() -> None:
    """What is known hangs on the prompt's length; how fast it goes and how long plans are don't."""
    seen = Experience()
    for _ in range(50):
        seen.of(20).whole.saw(5)
        seen.of(20).bound.saw(70)
    assert seen.of(31).whole.likely(400) == 5
    assert seen.of(150).whole == Lengths()
    assert seen.of(150).bound is seen.of(20).bound is seen.bound
    assert seen.of(150).pace is seen.of(20).pace is seen.pace


def finished_side_by_side(lengths: list[int], budget: int, likely: int, max_tokens: int) -> int:
    """How many finish when all advance a token at a time and are funded as the driver funds."""
    learnt = Lengths(likely, fade=0.25)
    left, begun, running = budget, 0, dict[int, int]()
    made, finished, waiting = [0] * len(lengths), 0, list[int]()
    while True:
        if not waiting:
            count, tokens = first_instalments(
                Budget(completion_tokens=left),
                FREE,
                wanted=len(lengths) - begun,
                prompt_tokens=0,
                max_tokens=max_tokens,
                ample=learnt.ample(max_tokens),
                least=learnt.likely(max_tokens) // (1 if running else 2),
                trust=1.0 if learnt.seen >= max(1, len(running)) else 0.0 if running else UNKNOWN,
            )
            running |= dict.fromkeys(range(begun, begun + count), tokens)
            begun, left = begun + count, left - count * tokens
        if not running and not waiting:
            break
        for index in [*waiting]:
            grant = next_instalment(
                Budget(completion_tokens=left),
                FREE,
                prompt_tokens=0,
                missing=max_tokens - made[index],
                likely=learnt.likely(max_tokens),
                waiting=len(waiting),
                alone=not running,
            )
            if grant == 0 and running:
                break
            waiting.remove(index)
            if grant:
                running[index] = grant
                left -= grant
        for index in [*running]:
            made[index] += 1
            running[index] -= 1
            if made[index] == lengths[index]:
                left += running.pop(index)
                learnt.saw(made[index])
                finished += 1
            elif running[index] == 0:
                del running[index]
                waiting.append(index)
    assert sum(made) <= budget
    return finished


def test_lengths_follow_what_is_seen() -> None:
    """Nothing seen: a quarter of the most; afterwards the running mean, within the most."""
    lengths = Lengths()
    assert lengths.likely(400) == 100
    lengths.saw(50)
    assert lengths.likely(400) == 50
    for _ in range(500):
        lengths.saw(80)
    assert lengths.likely(400) == 80
    assert lengths.likely(60) == 60


def test_own_lengths_soon_outweigh_what_others_took() -> None:
    """A mean to begin with counts as one; the third of its own has moved it most of the way."""
    lengths = Growths(whole=Lengths(40.0)).followed(fade=0.25).whole
    assert (lengths.likely(400), lengths.seen) == (40, 0)
    for expected in (80, 93, 100):
        lengths.saw(120)
        assert lengths.likely(400) == expected
    assert lengths.seen == 3


def test_a_long_one_is_longer_where_lengths_differ() -> None:
    """Easy and hard questions in turn: the mean says little, and twice the spread is added."""
    alike, mixed = Lengths(fade=0.05), Lengths(fade=0.05)
    for _ in range(200):
        for tokens in (50, 150):
            alike.saw(100)
            mixed.saw(tokens)
    assert alike.long(400) == alike.likely(400) == 100
    assert mixed.likely(400) == pytest.approx(100, abs=5)
    assert mixed.long(400) == pytest.approx(200, abs=10)


@pytest.mark.parametrize(
    ("pace", "tokens", "whole", "kept"),
    [
        (None, 40, 8.0, 2.0),
        (0.01, 40, 0.4, 0.2),
        (0.01, 40, 2.0, 0.7),
        (0.001, 40, 2.0, 0.5),
        (0.001, 40, 60.0, 1.0),
        (0.01, 400, 60.0, 6.1),
    ],
)
def test_time_is_kept_for_a_last_pass_and_a_stall(
    pace: float | None, tokens: int, whole: float, kept: float
) -> None:
    """What it takes at its pace, or as long as a machine may stall; never more than half."""
    assert Pace(pace).last_pass(tokens, whole) == pytest.approx(kept)


def test_where_none_was_seen_a_long_one_takes_all_it_may() -> None:
    """One that is begun on what is likely may wait for more; a tree that is too wide is lost."""
    unseen = Lengths()
    assert (unseen.likely(400), unseen.ample(400), unseen.long(400)) == (100, 150, 400)


@pytest.mark.parametrize(
    ("learn", "short", "long", "mean"),
    [(Lengths.outgrew, 50, 90, 70), (Lengths.missed, 30, 50, 100)],
)
def test_what_was_cut_short_counts_if_it_was_long_already(
    learn: Callable[[Lengths, int], None], short: int, long: int, mean: int
) -> None:
    """It says nothing where as much is expected, or nothing yet; for twice as much where nothing
    of its search came to an end.
    """
    lengths = Lengths()
    learn(lengths, 90)
    assert lengths == Lengths()
    lengths.saw(60)
    learn(lengths, short)
    assert lengths.mean == 60
    learn(lengths, long)
    assert lengths.mean == mean
