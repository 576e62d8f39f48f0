"""A search that is fed with what is on record: samples one by one, or a log of asks and tells."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.domain import (
    Budget,
    Candidate,
    Expand,
    Finish,
    Grade,
    Message,
    Outcome,
    Query,
    Result,
    Stopped,
    Task,
)
from planner.effort import Effort
from planner.errors import InvalidOption
from planner.replay import Asked, Diverged, Entry, Sample, replay_log, replay_samples
from planner.search import STRATEGIES, begin
from planner.search.sampling import Sampling
from planner.search.tree import Tree
from planner.selection import SELECTORS, selector
from planner.tally import Tally

QUERY = Query((Message("user", "How many?"),))
INDEPENDENT = [
    name
    for name, kind in STRATEGIES.items()
    if isinstance(kind, type) and issubclass(kind, Sampling)
]
EFFORT = Effort("majority", "majority", "none", 64, Budget())
SAMPLES = st.lists(
    st.builds(
        Sample,
        text=st.sampled_from(["#### 1", "#### 2", "no idea"]),
        answer=st.none() | st.sampled_from(["1", "2/2", ""]),
        tokens=st.none() | st.integers(0, 9),
        score=st.none() | st.floats(0, 1),
    ),
    min_size=1,
    max_size=12,
)
EFFORTS = st.builds(
    Effort,
    strategy=st.sampled_from(INDEPENDENT),
    selector=st.sampled_from(sorted(SELECTORS.keys() - {"judge"})),
    stop=st.sampled_from(["none", "certain", "beta:0.95", "beta:0.6"]),
    candidates=st.integers(1, 15),
    budget=st.just(Budget()),
)


def said(*answers: int) -> list[Sample]:
    """Samples with these answers."""
    return [Sample(f"#### {answer}") for answer in answers]


def test_answers_of_another_form_vote_together() -> None:
    """As in the service, where there is something that compares them."""
    samples = [Sample("", answer) for answer in ("1+x", "x+1", "(x+1)", "7", "7")]
    effort = Effort("majority", "majority", "none", 5, Budget())

    def same(one: str, other: str) -> bool:
        return "x" in one and "x" in other

    alone = replay_samples(QUERY, effort, samples, grades=False)
    together = replay_samples(QUERY, effort, samples, grades=False, same=same)
    assert alone.outcome.answer == "7"
    assert [vote.count for vote in together.outcome.votes] == [3, 2]
    assert together.outcome.answer in ("1+x", "x+1", "(x+1)")


@given(EFFORTS, SAMPLES, st.booleans())
def test_samples_are_taken_from_the_first_on(
    effort: Effort, samples: list[Sample], grades: bool
) -> None:
    """What is taken is a beginning of the samples, and the others change nothing."""
    replayed = replay_samples(QUERY, effort, samples, grades=grades)
    most = 1 if effort.strategy == "single" else min(effort.candidates, len(samples))
    assert replayed.planned == most
    assert 1 <= replayed.taken <= most
    assert effort.stop != "none" or replayed.taken == most
    others = [*samples[: replayed.taken], *said(*[9] * (len(samples) - replayed.taken))]
    assert replay_samples(QUERY, effort, others, grades=grades) == replayed


@given(EFFORTS, SAMPLES)
def test_the_selector_has_all_that_was_taken(effort: Effort, samples: list[Sample]) -> None:
    """The outcome is what the selector chooses of the samples that were taken, scores and all."""
    effort = replace(effort, strategy="best_of_n")
    replayed = replay_samples(QUERY, effort, samples, grades=True)
    tally = Tally()
    for index, sample in enumerate(samples[: replayed.taken]):
        tally.add(replace(sample.candidate(index), score=sample.score))
    chosen = selector(effort.selector).choose(tally)
    assert replayed.outcome.answer == chosen.ranked[0].answer
    assert replayed.outcome.confidence == pytest.approx(chosen.confidence)


@pytest.mark.parametrize(
    ("answers", "taken"),
    [
        ((1, 1, 1, 1, 2, 2, 2, 2), 4),
        ((1, 1, 2, 1, 1, 1, 1, 2), 7),
        ((2, 1, 1, 1, 1, 1, 1, 2, 2, 2), 7),
    ],
)
def test_a_rule_sees_the_samples_one_by_one(answers: tuple[int, ...], taken: int) -> None:
    """Adaptive-Consistency stops at 4 to 0 and at 6 to 1, wherever in the file that is."""
    effort = replace(EFFORT, stop="beta:0.95")
    samples = said(*answers, *range(100, 130))
    replayed = replay_samples(QUERY, effort, samples, grades=False)
    assert (replayed.taken, replayed.outcome.answer) == (taken, "1")
    assert replayed.outcome.stopped is Stopped.CONFIDENT


def test_without_a_rule_all_are_taken() -> None:
    """`none` takes what is there, or as many as it may; fewer samples are no hindrance."""
    samples = said(1, 1, 1, 1, 1, 1)
    for candidates, taken in ((4, 4), (6, 6), (99, 6)):
        effort = replace(EFFORT, candidates=candidates)
        replayed = replay_samples(QUERY, effort, samples, grades=False)
        assert (replayed.taken, replayed.outcome.votes[0].count) == (taken, taken)
        assert replayed.outcome.stopped is Stopped.COMPLETE


def test_a_certain_lead_needs_no_more_samples() -> None:
    """With 3 of 5 votes for one answer, the other two aren't looked at."""
    effort = replace(EFFORT, stop="certain")
    assert replay_samples(QUERY, effort, said(1, 1, 1, 2, 2), grades=False).taken == 3


def test_what_a_sample_says_its_answer_is_goes_before_its_text() -> None:
    """Its own answer counts, in any way to write it; an empty one is none."""
    samples = [
        Sample("#### 7", answer="1/2"),
        Sample("0.5\n#### 0.50"),
        Sample("#### 7", answer=""),
    ]
    outcome = replay_samples(QUERY, EFFORT, samples, grades=False).outcome
    assert [(vote.answer, vote.count) for vote in outcome.votes] == [("0.5", 2)]


def test_recorded_scores_grade() -> None:
    """The best-scored sample wins; one without a score still votes."""
    samples = [Sample("#### 1"), Sample("#### 1", score=0.2), Sample("#### 2", score=0.9)]
    best = replace(EFFORT, strategy="best_of_n", selector="best")
    assert replay_samples(QUERY, best, samples, grades=True).outcome.answer == "2"
    votes = replay_samples(QUERY, replace(best, selector="majority"), samples, grades=True)
    assert [(one.answer, one.count, one.score) for one in votes.outcome.votes] == [
        ("1", 2, 0.2),
        ("2", 1, 0.9),
    ]


def test_recorded_confidences_vote() -> None:
    """The surest sample outweighs two of which the model was unsure."""
    samples = [
        Sample("#### 1", token_confidences=(1.0,) * 20),
        Sample("#### 2", token_confidences=(9.0,) * 20),
        Sample("#### 1", token_confidences=(1.0,) * 20),
    ]
    effort = replace(EFFORT, selector="confidence")
    outcome = replay_samples(QUERY, effort, samples, grades=False).outcome
    assert (outcome.answer, outcome.notes) == ("2", ())


def test_a_sample_under_the_floor_is_given_up() -> None:
    """After a warm-up of four, the fifth ends where its group falls; only that much is counted."""
    sure, lost = (5.0,) * 12, (5.0,) * 4 + (1.0,) * 8
    samples = [Sample("#### 1", tokens=12, token_confidences=sure) for _ in range(8)]
    samples[4] = Sample("#### 2", tokens=12, token_confidences=lost)
    effort = replace(EFFORT, stop="confidence:90:4+window:99", candidates=8)
    replayed = replay_samples(QUERY, effort, samples, grades=False)
    assert [(vote.answer, vote.count) for vote in replayed.outcome.votes] == [("1", 4)]
    assert (replayed.taken, replayed.tokens) == (5, 4 * 12 + 5)
    assert "1 of 5 candidates were given up early for low confidence." in replayed.outcome.notes


class Twig(Tree):
    """A tree of one step."""

    def _grown(self, node: Candidate) -> None:
        self._grow(node)

    def _lost(self, task: Expand) -> None:
        self._grow(None)


def test_a_search_over_partial_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole samples have no continuations to give; the message says so, and what can be done."""
    monkeypatch.setitem(STRATEGIES, "twig", Twig)
    with pytest.raises(InvalidOption, match="'twig' can't be replayed over samples") as refused:
        replay_samples(QUERY, replace(EFFORT, strategy="twig"), said(1), grades=False)
    assert "single, majority, best_of_n" in str(refused.value)
    assert "twig" not in str(refused.value).partition("independently")[2]


def drive(effort: Effort, grades: bool, seed: int) -> tuple[list[Entry], Outcome]:
    """A search whose results come in any order, some failed; its log, and its outcome."""
    dice, under = random.Random(seed), begin(QUERY, effort, grades=grades)
    log: list[Entry] = []
    flying: list[Task] = []
    while not under.done:
        room = dice.randrange(1, 6)
        if asked := under.ask(room):
            log.append(Asked(room, tuple(task.id for task in asked)))
            flying.extend(asked)
        task = flying.pop(dice.randrange(len(flying)))
        result = ended(task, dice)
        under.tell(task, result)
        log.append(result)
    return log, under.best()


def ended(task: Task, dice: random.Random) -> Result:
    """How a task may end."""
    if dice.random() < 0.2:
        return Result(task.id, "failed", error="the worker was lost")
    if isinstance(task, Expand):
        text = f"#### {dice.randrange(3)}"
        return Result(task.id, "done", Candidate(task.path, text, finish=Finish.STOP))
    assert isinstance(task, Grade)
    score = dice.random()
    return Result(task.id, "done", task.candidate.graded((score,), score))


@given(EFFORTS, st.booleans(), st.integers(0, 2**32))
def test_a_log_leads_to_the_same_outcome(effort: Effort, grades: bool, seed: int) -> None:
    """Whatever the order was and whatever failed, a new search comes to the very same outcome."""
    log, outcome = drive(effort, grades, seed)
    assert replay_log(begin(QUERY, effort, grades=grades), log) == outcome


def test_a_search_that_asks_for_something_else_is_found_out() -> None:
    """With another number of candidates the search isn't the one of the log."""
    effort = replace(EFFORT, candidates=8)
    log = [Asked(8, tuple(f"expand:{index}" for index in range(8)))]
    assert replay_log(begin(QUERY, effort, grades=False), log) == Outcome(selector="majority")
    other = begin(QUERY, replace(effort, candidates=2), grades=False)
    with pytest.raises(Diverged, match=r"expand:3 and 4 more was .*now is expand:0, expand:1\."):
        replay_log(other, log)


def test_a_result_of_nothing_is_found_out() -> None:
    """A log that tells of a task which wasn't asked for, or twice of one, isn't followed."""
    first = Result("expand:0", "done", Candidate((0,), "#### 1", finish=Finish.STOP))
    asked = Asked(1, ("expand:0",))
    logs: list[list[Entry]] = [[first], [asked, first, first]]
    for log in logs:
        with pytest.raises(Diverged, match="expand:0 was told, but isn't asked for"):
            replay_log(begin(QUERY, EFFORT, grades=False), log)
