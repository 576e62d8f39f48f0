"""Confidence decides: which answer wins, and which candidates are given up under way."""

from __future__ import annotations

import itertools

import pytest

from planner.confidence import lowest_group
from planner.domain import Candidate, Expand, Finish, Floor, Query, Result, Task
from planner.errors import InvalidOption
from planner.search import Search, Setup, search
from planner.search.tree import Tree
from planner.selection import SELECTORS, selector
from planner.stopping import parse
from planner.tally import Tally


def candidate(index: int, answer: str | None, *sure: float) -> Candidate:
    """A finished candidate, and how sure the model was of each of its tokens."""
    text = "no idea" if answer is None else f"#### {answer}"
    return Candidate((index,), text, finish=Finish.STOP, token_confidences=sure)


def tally_of(*candidates: Candidate) -> Tally:
    """The tally of these candidates."""
    tally = Tally()
    for one in candidates:
        tally.add(one)
    return tally


def test_a_sure_candidate_outweighs_two_that_guess() -> None:
    """A vote weighs as much as its least confident group; the majority says otherwise."""
    tally = tally_of(
        candidate(0, "1", 3.0, 3.0), candidate(1, "1", 4.0), candidate(2, "2", 7.0, 9.0)
    )
    assert selector("majority").choose(tally).ranked[0].answer == "1"
    chosen = selector("confidence").choose(tally)
    assert [group.answer for group in chosen.ranked] == ["2", "1"]
    # 8 of 15 nats, in three votes of 5 each.
    assert chosen.confidence == pytest.approx((1.6 + 1) / (3 + 2))
    assert chosen.notes == ()


def test_the_least_confident_group_is_what_weighs() -> None:
    """One weak passage weighs a candidate down, however sure the rest was."""
    shaky = (9.0,) * 48 + (1.0,) * 16
    tally = tally_of(candidate(0, "1", *shaky), candidate(1, "2", *((2.0,) * 64)))
    assert selector("confidence").choose(tally).ranked[0].answer == "2"


def test_a_candidate_without_log_probabilities_weighs_the_mean() -> None:
    """What isn't known is neither for nor against it."""
    tally = tally_of(candidate(0, "1", 6.0), candidate(1, "2"), candidate(2, "2", 0.5))
    assert selector("confidence").choose(tally).ranked[0].answer == "1"
    more = tally_of(candidate(0, "1", 6.0), candidate(1, "2"), candidate(2, "2", 4.0))
    assert selector("confidence").choose(more).ranked[0].answer == "2"


def test_without_log_probabilities_the_majority_decides_and_the_reply_says_so() -> None:
    """The fallback is stated."""
    chosen = selector("confidence").choose(
        tally_of(candidate(0, "1"), candidate(1, "2"), candidate(2, "2"))
    )
    assert chosen.ranked[0].answer == "2"
    assert chosen.notes == (
        "No candidate has log-probabilities, so confidence fell back to majority.",
    )


def test_order_of_arrival_changes_no_weight() -> None:
    """Any order gives the same ranking."""
    candidates = [
        candidate(0, "1", 2.0),
        candidate(1, "2", 1.5),
        candidate(2, None, 9.0),
        candidate(3, "2", 0.5),
        candidate(4, "3"),
    ]
    rankings = {
        tuple(group.answer for group in selector("confidence").choose(tally_of(*order)).ranked)
        for order in itertools.permutations(candidates)
    }
    assert rankings == {("3", "1", "2")}


def test_confidence_is_never_settled_while_a_candidate_may_come() -> None:
    """There is no limit to how sure the next one could be."""
    tally = tally_of(*(candidate(index, "1", 20.0) for index in range(9)))
    assert not selector("confidence").settled(tally, 1)
    assert selector("confidence").settled(tally, 0)


@pytest.mark.parametrize(
    ("text", "keep", "window"),
    [("confidence", 90.0, None), ("confidence:10", 10.0, None), ("confidence:50:64", 50.0, 64)],
)
def test_rule_is_written_with_what_it_keeps_and_its_window(
    text: str, keep: float, window: int | None
) -> None:
    """Both have defaults."""
    (rule,) = parse(text).rules[1:]
    assert (vars(rule)["keep"], vars(rule)["window"]) == (keep, window)


@pytest.mark.parametrize(
    "text",
    [
        "confidence:",
        "confidence:0",
        "confidence:100",
        "confidence:nan",
        "confidence:90:",
        "confidence:90:0",
        "confidence:90:1.5",
        "confidence:90:16:2",
    ],
)
def test_wrong_setting_is_refused(text: str) -> None:
    """What can't be a percentage or a window is an invalid option."""
    with pytest.raises(InvalidOption) as caught:
        parse(text)
    assert caught.value.param == "longthink.stop"


def setup(stop: str, candidates: int, select: str = "confidence") -> Setup:
    """What a strategy is given, without a reward model."""
    return Setup(Query(()), candidates, selector(select), parse(stop), grades=False)


def majority(stop: str, candidates: int) -> Search:
    """A majority whose votes are weighted by confidence."""
    return search("majority", setup(stop, candidates))


def finish(under: Search, task: Task, *sure: float) -> None:
    """Tell that a sample finished, or was given up if that was to be."""
    assert isinstance(task, Expand)
    floor = task.floor
    weak = floor is not None and lowest_group(sure, floor.window) < floor.confidence
    made = Candidate(
        task.path,
        "#### 1",
        finish=Finish.DOUBTFUL if weak else Finish.STOP,
        token_confidences=sure,
    )
    under.tell(task, Result(task.id, "done", made))


@pytest.mark.parametrize(
    ("keep", "least"), [(90, 1.3), (50, 2.5), (10, 3.7)], ids=["lenient", "middling", "strict"]
)
def test_warm_up_runs_whole_and_makes_the_floor(keep: int, least: float) -> None:
    """Four of eight come first, and what all but `keep` percent of them lie under is the floor."""
    under = majority(f"confidence:{keep}:2", 8)
    warm = list(under.ask(99))
    assert [task.floor for task in warm if isinstance(task, Expand)] == [None] * 4
    for task, lowest in zip(warm, (3.0, 1.0, 4.0, 2.0), strict=True):
        assert list(under.ask(99)) == []
        finish(under, task, 9.0, lowest, lowest, 9.0)
    later = under.ask(99)
    floors = [task.floor for task in later if isinstance(task, Expand) and task.floor]
    assert [floor.window for floor in floors] == [2] * 4
    assert [floor.confidence for floor in floors] == pytest.approx([least] * 4)


@pytest.mark.parametrize(
    ("candidates", "first"), [(1, 1), (3, 3), (4, 4), (10, 5), (32, 16), (256, 16)]
)
def test_warm_up_is_half_but_neither_few_nor_many(candidates: int, first: int) -> None:
    """Sixteen as in the paper; half where fewer are allowed; no fewer than four."""
    assert len(majority("confidence", candidates).ask(999)) == first


def test_window_follows_from_the_length_of_the_warm_up() -> None:
    """A quarter of the mean length."""
    under = majority("confidence", 8)
    for task, length in zip(under.ask(99), (80, 120, 160, 120), strict=True):
        finish(under, task, *(2.0,) * length)
    (task, *_) = under.ask(1)
    assert isinstance(task, Expand)
    assert task.floor == Floor(2.0, 30)


def test_a_lost_warm_up_candidate_is_replaced() -> None:
    """The floor waits for as many as it needs, whatever fails."""
    under = majority("confidence:50:1", 8)
    first, *others = under.ask(99)
    under.tell(first, Result(first.id, "failed", error="the worker was lost"))
    (another,) = under.ask(99)
    for task in [*others, another]:
        assert isinstance(task, Expand)
        assert task.floor is None
        finish(under, task, 3.0)
    assert {task.floor for task in under.ask(99) if isinstance(task, Expand)} == {Floor(3.0, 1)}


def test_what_is_given_up_does_not_vote_and_the_reply_counts_it() -> None:
    """Of eight, two fall under the floor: six votes, and a note."""
    under = majority("confidence:90:2", 8)
    for task in under.ask(99):
        finish(under, task, 3.0, 3.0)
    for task, sure in zip(under.ask(99), (5.0, 1.0, 2.0, 4.0), strict=True):
        finish(under, task, sure, sure)
    assert under.done
    outcome = under.best()
    assert [vote.count for vote in outcome.votes] == [6]
    assert outcome.notes == ("2 of 8 candidates were given up early for low confidence.",)


def test_without_log_probabilities_nothing_is_given_up_and_the_reply_says_so() -> None:
    """A worker that has none to give doesn't hold the search up."""
    under = majority("confidence", 8)
    for _ in range(2):
        for task in under.ask(99):
            assert isinstance(task, Expand)
            assert task.floor is None
            finish(under, task)
    assert under.done
    assert any("no log-probabilities" in note for note in under.best().notes)


def test_the_strictest_of_several_rules_counts() -> None:
    """Under one floor is under all that are higher."""
    warm_up = parse("confidence:90:1+confidence:10:1").warm_up(8)
    for index, lowest in enumerate((3.0, 1.0, 4.0, 2.0)):
        warm_up.saw(candidate(index, "1", lowest))
    assert warm_up.floor is not None
    assert warm_up.floor.confidence == pytest.approx(3.7)


@pytest.mark.parametrize("stop", ["none", "beta:0.9", "confidence"])
@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_log_probabilities_are_asked_for_only_where_they_matter(name: str, stop: str) -> None:
    """Only for the selector, or for the rule, that is named after confidence."""
    asks = search("majority", setup(stop, 4, name)).needs_logprobs
    assert asks is ("confidence" in (name, stop))


class Sprout(Tree):
    """A tree of one step, to see what all trees have in common."""

    def _grown(self, node: Candidate) -> None:
        raise NotImplementedError

    def _lost(self, task: Expand) -> None:
        raise NotImplementedError


def test_a_tree_says_that_it_gives_nothing_up() -> None:
    """The rule is about whole candidates that are written in one go, which a tree's aren't."""
    (note,) = Sprout(setup("confidence", 4)).best().notes
    assert "Only independent samples" in note
    assert Sprout(setup("certain", 4)).best().notes == ()
