"""Answers that turn out to be one vote together, from then on and from the beginning."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.domain import Candidate, Finish
from planner.selection import SELECTORS
from planner.tally import Tally

ANSWERS = ("aa", "bb", "cc", "dd", "ee")


def candidate(place: int, answer: str, score: float | None = None) -> Candidate:
    return Candidate((place,), f"#### {answer}", finish=Finish.STOP, score=score)


def counted(answers: Sequence[str]) -> Tally:
    tally = Tally()
    for place, answer in enumerate(answers):
        tally.add(candidate(place, answer, 0.5))
    return tally


def test_merged_answers_vote_together() -> None:
    """Two answers that are one have all the votes, scores and candidates of both."""
    tally = counted(["aa", "bb", "cc", "cc", "bb", "aa"])
    tally.merge("bb", "aa")
    group = tally.groups["aa"]
    assert tally.groups.keys() == {"aa", "cc"}
    assert (group.count, group.graded, group.score_sum, group.first) == (4, 4, 2.0, (0,))
    assert (tally.leader_count, tally.runner_up_count) == (4, 2)
    assert tally.voters == tally.finished == 6


def test_what_comes_later_joins_the_merged_group() -> None:
    """A candidate that gives a merged answer afterwards counts for the group, with its grade."""
    tally = counted(["aa", "bb"])
    tally.merge("aa", "bb")
    late = candidate(2, "bb")
    tally.add(late)
    tally.grade(late.graded((0.9,), 0.9))
    assert tally.groups["aa"].count == 3
    assert tally.groups["aa"].best.path == (2,)
    assert tally.name("bb") == "aa"


def test_answers_that_nobody_has_given_yet_can_be_merged() -> None:
    """What is known of an answer holds when it comes."""
    tally = Tally()
    tally.merge("bb", "aa")
    tally.add(candidate(0, "bb"))
    assert [group.answer for group in tally.groups.values()] == ["aa"]


def test_the_shortest_answer_names_the_group() -> None:
    """A group goes by the shortest way to write its answer."""
    tally = counted(["1/sqrt(2)", "x/y"])
    tally.merge("1/sqrt(2)", "x/y")
    assert tally.groups["x/y"].answer == "x/y"


@given(
    st.lists(st.sampled_from(ANSWERS), max_size=12),
    st.lists(st.tuples(st.sampled_from(ANSWERS), st.sampled_from(ANSWERS)), max_size=6),
    st.randoms(use_true_random=False),
)
def test_order_makes_no_difference(
    answers: list[str], merges: list[tuple[str, str]], chance: object
) -> None:
    """Candidates and merges give the same tally and the same choice in whatever order they come."""
    steps: list[Candidate | tuple[str, str]] = [
        candidate(place, answer, 0.5) for place, answer in enumerate(answers)
    ]
    steps += merges

    def play() -> Tally:
        tally = Tally()
        for step in steps:
            if isinstance(step, Candidate):
                tally.add(step)
            else:
                tally.merge(*step)
        return tally

    one = play()
    chance.shuffle(steps)  # type: ignore[attr-defined]
    other = play()
    assert one.groups == other.groups
    assert one.leader_count == other.leader_count
    assert one.runner_up_count == other.runner_up_count
    for selector in SELECTORS.values():
        assert selector.choose(one) == selector.choose(other)


@pytest.mark.parametrize("code", [False, True])
def test_code_is_tallied_as_code(code: bool) -> None:
    """A tally of programs groups candidates by their last block, any other by their answer."""
    tally = Tally(code=code)
    text = "```python\nprint(2)\n```\nThe answer is 7."
    tally.add(Candidate((0,), text, finish=Finish.STOP))
    assert tally.groups.keys() == {"print(2)" if code else "7"}
