"""What holds of every rule that looks at votes, and how soon each could fire."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.domain import Query, Result, Stopped, Task
from planner.search import Setup, search
from planner.selection import selector
from planner.stopping import ALWAYS, RULES, View, parse
from planner.tally import Tally
from tests.unit.votes import finished, tally_of

MAJORITY = selector("majority")

EXACT = [
    *("beta:0.8", "beta:0.95", "window:2", "window:5", "consensus:2", "consensus:4"),
    *("marginal:0.001", "marginal", "marginal:0.5", "marginal:20"),
    *("beta:0.9+window:3", "marginal:0.1+consensus:3", "beta:0.95+deadline"),
]
"""Rules whose horizon is exactly the soonest that they could fire."""

ANSWERS = st.lists(st.sampled_from([1, 1, 1, 2, 2, 3, 4, None]), max_size=24)


def test_all_rules_are_looked_at_here() -> None:
    """A rule that is new in the registry is written in the list above, too."""
    written = {part.partition(":")[0] for text in EXACT for part in text.split("+")}
    # `confidence` ends candidates, not the search, so it has no horizon to keep.
    assert written - set(ALWAYS) == set(RULES) - {"confidence"}


@given(st.sampled_from(EXACT), ANSWERS, ANSWERS)
def test_no_rule_fires_sooner_than_its_horizon_said(
    text: str, seen: list[int | None], to_come: list[int | None]
) -> None:
    """Whatever the next candidates say, nothing fires before as many have come."""
    rule, tally, remaining = parse(text), tally_of(seen), len(to_come) + 30
    if rule.verdict(View(tally, MAJORITY, remaining)):
        return
    horizon = rule.horizon(View(tally, MAJORITY, remaining))
    assert horizon is not None
    for more, answer in enumerate(to_come[: horizon - 1], start=1):
        tally.add(finished(len(seen) + more, answer))
        assert rule.verdict(View(tally, MAJORITY, remaining - more)) is not Stopped.CONFIDENT


@given(st.sampled_from(EXACT), ANSWERS, st.integers(1, 60))
def test_every_rule_can_fire_at_its_horizon(
    text: str, seen: list[int | None], remaining: int
) -> None:
    """There is an answer that, given by all candidates up to the horizon, makes it fire there.

    It is the leader's, or the one that the last candidate gave; or there aren't as many to come.
    """
    rule, tally = parse(text), tally_of(seen)
    if rule.verdict(View(tally, MAJORITY, remaining)):
        return
    horizon = rule.horizon(View(tally, MAJORITY, remaining))
    assert horizon is not None
    if horizon >= remaining:
        return
    leader = max(set(seen) - {None}, key=seen.count, default=1)
    latest = seen[-1] if seen and seen[-1] is not None else leader
    assert any(
        rule.verdict(View(tally_of([*seen, *[answer] * horizon]), MAJORITY, remaining - horizon))
        for answer in (leader, latest)
    )


@given(st.sampled_from(EXACT), ANSWERS, st.integers(1, 60))
def test_no_rule_nears_by_more_than_one_candidate_a_candidate(
    text: str, seen: list[int | None], remaining: int
) -> None:
    """So what was started within the horizon is never more than is still worth waiting for."""
    rule, tally, before = parse(text), Tally(), 1
    for index, answer in enumerate(seen):
        left = remaining + len(seen) - index
        if rule.verdict(View(tally, MAJORITY, left)):
            return
        horizon = rule.horizon(View(tally, MAJORITY, left))
        assert horizon is not None
        assert horizon >= before - 1
        before = horizon
        tally.add(finished(index, answer))


@pytest.mark.parametrize("word", ALWAYS)
def test_what_always_holds_may_be_written_and_changes_nothing(word: str) -> None:
    """With the word or without it, and wherever it stands, the composition is the same."""
    plain, written = parse("beta:0.95"), (parse(f"beta:0.95+{word}"), parse(f"{word}+beta:0.95"))
    for rule in written:
        assert [type(part) for part in rule.rules] == [type(part) for part in plain.rules]
        for votes in range(8):
            view = View(tally_of([7] * votes), MAJORITY, 9)
            assert rule.verdict(view) == plain.verdict(view)
    assert [type(part) for part in parse(word).rules] == [type(plain.rules[0])]


@pytest.mark.parametrize("name", sorted(RULES.keys() - {"confidence"}))
def test_rule_has_a_default_and_says_that_it_is_confident(name: str) -> None:
    """A bare name will do; unanimous candidates satisfy any rule sooner or later."""
    rule = parse(name)
    assert rule.verdict(View(tally_of([1]), MAJORITY, 50)) is None
    assert rule.verdict(View(tally_of([1] * 20), MAJORITY, 50)) is Stopped.CONFIDENT


@pytest.mark.parametrize("name", sorted(RULES.keys() - {"confidence"}))
def test_no_rule_fires_for_an_answer_that_is_not_chosen(name: str) -> None:
    """Six votes that weigh less than one don't say that this one is final."""
    answers, scores = [2, *[1] * 6], [0.95, *[0.15] * 6]
    view = View(tally_of(answers, scores), selector("weighted"), 50)
    assert selector("weighted").choose(view.tally).ranked[0].answer == "2"
    assert parse(name).verdict(view) is None
    assert parse(name).horizon(view) != 1
    agreed = View(tally_of([1] * 20, [0.5] * 20), selector("weighted"), 50)
    assert parse(name).verdict(agreed) is Stopped.CONFIDENT


@pytest.mark.parametrize("text", ["marginal:10", "beta:0.51", "window:2", "consensus:2"])
def test_no_rule_fires_before_there_is_anything(text: str) -> None:
    """Where all have failed so far, one more is worth trying."""
    assert parse(text).verdict(View(tally_of([]), MAJORITY, 15)) is None


@given(st.sampled_from(EXACT), st.randoms(use_true_random=False), st.integers(1, 64))
def test_nothing_is_in_flight_in_a_vote_when_a_rule_fires(
    text: str, dice: random.Random, room: int
) -> None:
    """What is started within the horizon is all needed, in whatever order it comes."""
    setup = Setup(Query(()), 64, MAJORITY, parse(text), grades=False)
    vote = search("majority", setup)
    flying: list[Task] = []
    while not vote.done:
        flying.extend(vote.ask(room - len(flying)))
        task = flying.pop(dice.randrange(len(flying)))
        candidate = finished(len(flying), dice.choice([1, 1, 1, 2, 2, 3, None]))
        vote.tell(task, Result(task.id, "done", candidate))
    if vote.stopped is Stopped.CONFIDENT:
        assert flying == []
