"""The memory of step scores: what it gives back is what was computed for that very text."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from workers.step_scores import StepScores, prefix_names

TAG = 9
STEPS = st.lists(st.lists(st.integers(0, 2), max_size=2), min_size=1, max_size=4)


def _written(steps: list[list[int]]) -> tuple[list[int], list[int]]:
    """The tokens of these steps with a tag after each, and where the tags are."""
    token_ids: list[int] = []
    ends = []
    for step in steps:
        token_ids += [*step, TAG]
        ends.append(len(token_ids) - 1)
    return token_ids, ends


@given(STEPS, STEPS)
def test_names_are_alike_for_alike_beginnings_only(
    one: list[list[int]], other: list[list[int]]
) -> None:
    """The names of two candidates agree as far as their steps do, and never after."""
    named = [prefix_names(*_written(steps)) for steps in (one, other)]
    for at, (left, right) in enumerate(zip(*named, strict=False)):
        assert (left == right) == (one[: at + 1] == other[: at + 1])
    for names in named:
        assert all(left != right for left, right in combinations(names, 2))


@given(st.lists(st.tuples(STEPS, st.integers(0, 4), st.booleans()), max_size=30))
def test_scores_are_those_of_the_text_or_missed(
    calls: list[tuple[list[list[int]], int, bool]],
) -> None:
    """However many steps each reading skips, and whoever goes away, no score is another's."""
    scores = StepScores(most=6)
    for steps, skipped, gone in calls:
        token_ids, ends = _written(steps)
        names = prefix_names(token_ids, ends)
        truth = [float(sum(token_ids[: end + 1])) for end in ends]
        if gone:
            scores.miss(names)
            continue
        whole = scores.missed(names)
        told = scores.complete(names, truth if whole else truth[skipped:])
        if told is None:
            assert not whole
            assert scores.missed(names)
            told = scores.complete(names, truth)
        assert told == tuple(truth)


def test_what_was_used_last_is_remembered() -> None:
    """Of more steps than are kept, those go first that were asked for longest ago."""
    scores = StepScores(most=3)
    names = [b"a", b"b", b"c"]
    assert scores.complete(names, [0.1, 0.2, 0.3]) == (0.1, 0.2, 0.3)
    assert scores.complete(names[:1], []) == (0.1,)
    assert scores.complete([b"d"], [0.4]) == (0.4,)
    assert scores.complete(names[:1], []) == (0.1,)
    assert scores.complete(names[1:2], []) is None


def test_what_nobody_heard_is_to_be_read_again() -> None:
    """A step whose reader went away counts as missed until its score is heard."""
    scores = StepScores()
    assert scores.complete([b"a"], [0.1]) == (0.1,)
    assert not scores.missed([b"a", b"b"])
    scores.miss([b"a", b"b"])
    assert scores.missed([b"a", b"b"])
    assert not scores.missed([b"a"])
    assert scores.complete([b"a", b"b"], [0.1, 0.2]) == (0.1, 0.2)
    assert not scores.missed([b"a", b"b"])


def test_what_is_read_under_one_salt_has_other_names_under_another() -> None:
    """No tenant is told the scores of what only another had read."""
    ids, ends = [1, 2, 3, 4], [1, 3]
    assert prefix_names(ids, ends, "a") == prefix_names(ids, ends, "a")
    for one, other in zip(prefix_names(ids, ends, "a"), prefix_names(ids, ends, "b"), strict=True):
        assert one != other
