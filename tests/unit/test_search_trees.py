"""Tree strategies against the formulas and vectors of their papers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.domain import (
    Candidate,
    Cost,
    Expand,
    Finish,
    Grade,
    Message,
    Query,
    Result,
    Stopped,
    Task,
    Verify,
)
from planner.search import Search, Setup, search
from planner.search.ab_mcts import beta, gaussian, student
from planner.search.beam import spread
from planner.search.correcting import tail
from planner.search.particles import effective_share, logit, softmax, systematic
from planner.search.rebase import balance
from planner.selection import selector
from planner.stopping import parse

QUERY = Query((Message("user", "How many?"),), seed=3)
LEVELS = 3
"""Steps of a whole solution here; the last one has the answer."""

Judge = Callable[[Candidate], float]


def begin(strategy: str, candidates: int, said: str = "best") -> Search:
    """A search with a reward model and nothing that stops it early."""
    return search(strategy, Setup(QUERY, candidates, selector(said), parse("none"), True))


def end(task: Task, judge: Judge) -> Result:
    """Each step is the last digit of its path; every solution takes so many steps."""
    if isinstance(task, Grade):
        score = judge(task.candidate)
        return Result(task.id, "done", task.candidate.graded((score,), score))
    assert isinstance(task, Expand)
    text = (task.parent.text if task.parent else "") + f"{task.path[-1]}\n"
    whole = len(task.path) >= LEVELS or task.until == "end"
    if whole:
        text += f"#### {''.join(map(str, task.path))}"
    finish = Finish.STOP if whole else Finish.STEP
    return Result(task.id, "done", Candidate(task.path, text, (1,), finish, -0.1))


def run(under: Search, judge: Judge, room: int = 99) -> list[Expand]:
    """Drive it in the order of asking; what it had grown."""
    grown: list[Expand] = []
    flying: list[Task] = []
    while not under.done:
        flying += under.ask(room)
        task = flying.pop(0)
        if isinstance(task, Expand):
            grown.append(task)
        under.tell(task, end(task, judge))
    return grown


def by_digits(candidate: Candidate) -> float:
    """Higher digits are better, earlier ones most."""
    return sum(digit * 0.01**place for place, digit in enumerate(candidate.path, 1)) / 2


def test_beam_keeps_the_best_quarter_and_widens_it_again() -> None:
    """Of 8 nodes a level the best 2 go on, with 4 children each."""
    grown = run(begin("beam", 8), by_digits)
    levels = [[task.path for task in grown if len(task.path) == depth] for depth in (1, 2, 3)]
    assert levels[0] == [(place,) for place in range(8)]
    assert Counter(path[:1] for path in levels[1]) == {(7,): 4, (6,): 4}
    assert {path[:2] for path in levels[2]} == {(7, 3), (7, 2)}


def test_beam_ends_with_the_path_of_the_best_steps() -> None:
    """What it returns is the best-scored of all that finished."""
    under = begin("beam", 8)
    run(under, by_digits)
    assert under.best().answer == "733"
    assert under.progress() == (8, 8)


@given(st.integers(1, 100), st.integers(1, 100))
def test_spread_is_even_and_gives_all_away(count: int, over: int) -> None:
    """Shares differ by one at most and add up."""
    shares = spread(count, over)
    assert sum(shares) == count
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("strategy", ["beam", "rebase", "particles", "dvts"])
@given(
    tokens=st.integers(20, 1200),
    step=st.integers(1, 20),
    steps=st.integers(1, 12),
    likely=st.integers(5, 200),
    times=st.sampled_from((None, 1, 2, 4)),
    seed=st.integers(0, 99),
)
def test_a_tree_is_no_wider_than_its_budget(
    strategy: str, tokens: int, step: int, steps: int, likely: int, times: int | None, seed: int
) -> None:
    """What a budget can bring to its end comes to its end, and where levels do, all that grows."""
    known: dict[str, Any] = {"tokens": tokens, "likely": likely, "long": times and times * likely}
    rules = Setup(*(QUERY, 16, selector("best"), parse("none"), True), **known)
    under, dice = search(strategy, rules), random.Random(seed)
    left, cut, finished, flying = tokens, 0, 0, list[Task]()
    while not under.done:
        flying += under.ask(99)
        if not flying:
            break
        task = flying.pop(0)
        result = end(task, lambda _: dice.random())
        if isinstance(task, Expand) and left < step:
            cut += 1
            result = Result(task.id, "cancelled")
        elif isinstance(task, Expand):
            assert result.candidate is not None
            left -= step
            last = len(task.path) == steps
            finished += last
            node = replace(
                result.candidate,
                finish=Finish.STOP if last else Finish.STEP,
                token_ids=(1,) * step * len(task.path),
            )
            result = replace(result, candidate=node, cost=Cost(completion_tokens=step))
        under.tell(task, result)
    if step * steps <= max(4 / 3, times or 0) * likely <= tokens:
        assert finished
        assert strategy == "dvts" or not cut


def _bad_starts(node: Candidate) -> float:
    """Whatever begins with an even step is better than its siblings only where it ends in 3."""
    return 0.9 if node.path[-1] == 3 else 0.1


def test_dvts_keeps_the_candidates_of_its_subtrees_apart() -> None:
    """Answers that one subtree comes to and doesn't keep leave the others what is theirs."""
    under = search("dvts", Setup(QUERY, 8, selector("best"), parse("none"), True))
    ended: Counter[int] = Counter()
    flying: list[Task] = []
    while not under.done:
        flying += under.ask(99)
        # The even subtree is always first, and all but its last children are answers.
        task = flying.pop(flying.index(min(flying, key=lambda one: _subtree(one) != 0)))
        result = end(task, _bad_starts)
        if isinstance(task, Expand) and _subtree(task) == 0 and task.path[-1] not in (3, 6):
            assert result.candidate is not None
            node = replace(result.candidate, finish=Finish.STOP)
            result = replace(result, candidate=node)
        if isinstance(task, Expand) and result.candidate and result.candidate.finished:
            ended[_subtree(task)] += 1
        under.tell(task, result)
    assert ended == {0: 4, 1: 4}


def _subtree(task: Task) -> int:
    path = task.candidate.path if isinstance(task, Grade) else task.path
    return path[0] % 2


def test_dvts_writes_all_of_its_last_step_to_the_end() -> None:
    """Where the best child has finished, its siblings are answers of the subtree as well."""
    under = search("dvts", Setup(QUERY, 4, selector("best"), parse("none"), True))
    flying: list[Task] = []
    grown: list[Expand] = []
    while not under.done:
        flying += under.ask(99)
        task = flying.pop(0)
        result = end(task, lambda node: 0.9 if node.path == (2,) else 0.5)
        if isinstance(task, Expand):
            grown.append(task)
            if task.path == (2,):
                assert result.candidate is not None
                result = replace(result, candidate=replace(result.candidate, finish=Finish.STOP))
        under.tell(task, result)
    assert [task.path for task in grown if task.until == "end"] == [(0, 0), (1, 0), (3, 0)]
    assert under.progress()[0] == 4


def test_mcts_begins_no_more_walks_than_candidates() -> None:
    """Whatever comes when, finished candidates and walks in flight are no more than was asked."""
    for seed in range(20):
        dice = random.Random(seed)
        under = begin("mcts", 16)
        flying: list[Task] = []
        grown: set[tuple[int, ...]] = set()
        while not under.done:
            flying += under.ask(99)
            task = flying.pop(dice.randrange(len(flying)))
            if isinstance(task, Expand) and task.until == "end":
                grown.add(task.path)
            under.tell(task, end(task, by_digits))
        assert len(grown) <= 16
        assert under.surplus() == ()


def test_particles_come_to_no_more_answers_than_asked() -> None:
    """Finished particles that died out count, so that a budget of candidates is enough."""
    for seed in range(30):
        dice = random.Random(seed)
        rules = Setup(replace(QUERY, seed=seed), 16, selector("best"), parse("none"), True)
        under = search("particles", rules)
        finished, flying = 0, list[Task]()
        while not under.done:
            flying += under.ask(99)
            task = flying.pop(0)
            result = end(task, by_digits)
            if isinstance(task, Expand) and result.candidate and dice.random() < 0.3:
                result = replace(result, candidate=replace(result.candidate, finish=Finish.STOP))
            if isinstance(task, Expand) and result.candidate:
                finished += result.candidate.finished
            under.tell(task, result)
        assert finished <= 16


def test_earlier_rounds_without_an_answer_meet_no_judge() -> None:
    """What the last round of a recursive search answers stands, whatever the first ones lacked."""
    under = begin("recursive", 16, "judge")
    flying: list[Task] = []
    while not under.done:
        flying += under.ask(99)
        task = flying.pop(0)
        assert isinstance(task, Expand)
        text = "#### 5" if task.path[-1] == 3 else "no idea"
        node = Candidate(task.path, text, (1,), Finish.STOP)
        under.tell(task, Result(task.id, "done", node))
    assert under.best().answer == "5"


def test_only_what_needs_scores_is_graded() -> None:
    """Corrections that vote cost no reward tokens; where scores choose or steer, all are graded."""
    for strategy in ("refine", "recursive", "budget_forcing", "budget_forcing_thinking"):
        for said, wanted in (("majority", False), ("weighted", True)):
            graded = 0
            under = begin(strategy, 4, said)
            flying: list[Task] = []
            while not under.done:
                flying += under.ask(99)
                task = flying.pop(0)
                graded += isinstance(task, Grade)
                under.tell(task, end(task, by_digits))
            assert bool(graded) == wanted


def test_dvts_never_mixes_its_subtrees() -> None:
    """Two subtrees of four: in each the best child of its own goes on."""
    grown = run(begin("dvts", 8), by_digits)
    second = Counter(task.path[:1] for task in grown if len(task.path) == 2)
    assert second == {(7,): 4, (6,): 4}
    third = Counter(task.path[:2] for task in grown if len(task.path) == 3)
    assert third == {(7, 3): 4, (6, 3): 4}


def test_rebase_shares_by_the_published_vector() -> None:
    """Scores .9, .5, .1 at width 16 give 14, 2, 0."""
    assert balance([0.9, 0.5, 0.1], 16) == [14, 2, 0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 64))
def test_rebase_gives_away_its_width_exactly(scores: list[float], width: int) -> None:
    """Rounding neither adds a child nor loses one, and a better node never gets fewer."""
    shares = balance(scores, width)
    assert sum(shares) == width
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    assert shares[best] >= shares[worst]
    assert balance([0.5] * 4, 16) == [4, 4, 4, 4]


@given(
    st.lists(st.floats(1e-6, 1), min_size=1, max_size=30),
    st.integers(1, 64),
    st.floats(0, 1, exclude_max=True),
)
def test_systematic_resampling_keeps_close_to_the_weights(
    raw: list[float], count: int, u: float
) -> None:
    """A particle of weight w is drawn floor(N w) or ceil(N w) times."""
    weights = [one / sum(raw) for one in raw]
    drawn = Counter(systematic(weights, count, u))
    assert drawn.total() == count
    for place, weight in enumerate(weights):
        assert abs(drawn[place] - count * weight) < 1 + 1e-6


def test_weights_of_particles() -> None:
    """Logits are clipped, and the effective share runs from 1 / N to 1."""
    assert logit(0.5) == 0.0
    assert (logit(1.0), logit(0.0)) == pytest.approx((16.118, -16.118), abs=1e-3)
    assert softmax([logit(0.8), logit(0.2)]) == pytest.approx([16 / 17, 1 / 17])
    assert effective_share([0.25] * 4) == 1.0
    assert effective_share([1.0, 0.0, 0.0, 0.0]) == 0.25


def drawn_from_the_good_one(strategy: str) -> int:
    """How many of 16 particles grow from the one good first step."""
    grown = run(begin(strategy, 16), lambda node: 0.999 if node.path[0] == 5 else 0.001)
    second = Counter(task.path[0] for task in grown if len(task.path) == 2)
    assert second.total() == 16
    return second[5]


@pytest.mark.parametrize("strategy", ["particles", "particles_multinomial"])
def test_particles_gather_where_the_scores_are(strategy: str) -> None:
    """With one good first step all of the second level grows from it."""
    assert drawn_from_the_good_one(strategy) == 16


def test_annealed_particles_stay_apart_at_first() -> None:
    """Where one particle has nearly all the weight, it is softened, and others live on."""
    assert drawn_from_the_good_one("particles_annealed") < 8


def votes_of_copies(dead: float) -> dict[str, int]:
    """Of eight particles the first two finish at once, the second with the higher score."""
    under = begin("particles", 8, "majority")
    flying: list[Task] = []
    while not under.done:
        flying += under.ask(8)
        task = flying.pop(0)
        result = end(task, lambda node: {0: dead, 1: 0.8}.get(node.path[0], 0.5))
        if isinstance(task, Expand) and task.path in {(0,), (1,)}:
            made = Candidate(task.path, f"#### {task.path[0]}", (1,), Finish.STOP)
            result = Result(task.id, "done", made)
        under.tell(task, result)
        assert under.best().best is not None or under.progress() == (0, 8)
    return {vote.answer: vote.count for vote in under.best().votes}


def test_particles_of_the_end_vote_each_as_often_as_it_was_drawn() -> None:
    """What has finished and died out has no vote, and what was copied has one for each copy."""
    votes = votes_of_copies(dead=0.0)
    assert "0" not in votes
    assert votes["1"] > 1
    assert sum(votes.values()) == 8


def test_particles_end_where_all_that_were_drawn_have_finished() -> None:
    """A single sure particle takes the places of all, and nothing need grow any more."""
    assert votes_of_copies(dead=1.0) == {"0": 8}


@pytest.mark.parametrize("strategy", ["mcts", "mcts_puct"])
def test_mcts_spends_most_where_the_value_is(strategy: str) -> None:
    """More is grown beneath a first step of value 0.9 than beneath any other of 0.1."""
    grown = run(begin(strategy, 24), lambda node: 0.9 if node.path[0] == 2 else 0.1)
    beneath = Counter(task.path[0] for task in grown if len(task.path) > 1)
    assert beneath[2] > max(beneath[place] for place in (0, 1, 3))


def test_mcts_sends_side_by_side_walks_to_different_places() -> None:
    """Eight growths at once: all children of the query first, and none of them twice."""
    under = begin("mcts", 8)
    first = [task.path for task in under.ask(8) if isinstance(task, Expand)]
    assert first == [(0,), (1,), (2,), (3,)]
    assert list(under.ask(8)) == []


def test_ab_mcts_posteriors_are_the_published_ones() -> None:
    """After the rewards .2, .8, .5."""
    rewards = [0.2, 0.8, 0.5]
    squares = sum(reward**2 for reward in rewards)
    assert gaussian(3, sum(rewards), squares) == pytest.approx((0.375, 4, 4, 0.116875))
    assert gaussian(0, 0.0, 0.0) == (0.0, 1.0, 1.0, 0.1)
    assert beta(3, sum(rewards)) == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize("strategy", ["ab_mcts", "ab_mcts_beta"])
def test_ab_mcts_corrects_what_it_goes_on_with(strategy: str) -> None:
    """A child of an answer is asked for with that answer shown; both ways are taken."""
    under = search(strategy, Setup(QUERY, 40, selector("best"), parse("none"), True))
    dice = random.Random(1)
    grown = run(under, lambda node: dice.random(), room=1)
    assert len(grown) == 40
    assert all((task.messages is None) == (len(task.path) == 1) for task in grown)
    deep = [task for task in grown if len(task.path) > 1]
    assert deep
    assert len(deep) < 40
    assert all(task.messages and "Attempt 1" in task.messages[-1].content for task in deep)


@pytest.mark.parametrize(("candidates", "most"), [(1, 1), (3, 1), (16, 4), (40, 10)])
def test_ab_mcts_goes_deep_however_much_room_there_is(candidates: int, most: int) -> None:
    """A quarter of N is in flight at most, so that what comes back steers what comes next."""
    under = begin("ab_mcts", candidates)
    assert len(under.ask(99)) == most
    grown = run(begin("ab_mcts", candidates), by_digits)
    assert len(grown) == candidates
    assert max(len(task.path) for task in grown) > 1 or candidates < 4


def test_refinement_shows_each_version_to_the_next() -> None:
    """Four versions a chain, the later ones written from the one before."""
    grown = run(begin("refine", 8), lambda node: 0.5)
    assert sorted(len(task.path) for task in grown) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_recursive_aggregation_lets_the_last_round_vote() -> None:
    """Four rounds of four; each later answer is written from four of the round before."""
    under = begin("recursive", 16, "majority")
    grown = run(under, lambda node: 0.5)
    assert len(grown) == 16
    shown = [task.messages[-1].content.count("Attempt") for task in grown if task.messages]
    assert shown == [4] * 12
    assert {vote.answer[-1] for vote in under.best().votes} == {"3"}


@pytest.mark.parametrize("candidates", [1, 2, 3])
def test_recursive_aggregation_of_a_few_has_as_many_rounds(candidates: int) -> None:
    """It writes no more answers than it was allowed."""
    under = begin("recursive", candidates, "majority")
    assert len(run(under, lambda node: 0.5)) == candidates
    assert [vote.count for vote in under.best().votes] == [1]


def test_recursive_aggregation_is_not_ended_by_votes_of_earlier_rounds() -> None:
    """Twelve of sixteen agree, and are outvoted by the last round."""
    rules = parse("certain+consensus:5+beta")
    under = search("recursive", Setup(QUERY, 16, selector("majority"), rules, False))
    while not under.done:
        for task in under.ask(99):
            assert isinstance(task, Expand)
            text = "#### 2" if task.path[1:] == (3,) else "#### 1"
            under.tell(task, answered(task, text))
    assert {vote.answer: vote.count for vote in under.best().votes} == {"2": 4}


def test_recursive_aggregation_keeps_answers_merged_to_the_end() -> None:
    """Two forms of one answer that were found equal in an early round count as one in the last."""
    under = search(
        "recursive", Setup(QUERY, 16, selector("majority"), parse("none"), False, verifies=True)
    )
    compared = 0
    while not under.done:
        for task in under.ask(99):
            if isinstance(task, Verify):
                compared += 1
                under.tell(task, Result(task.id, "done", same=(task.answers,)))
                continue
            assert isinstance(task, Expand)
            text = f"#### {'x+1' if task.path[0] % 2 else '1+x'}"
            under.tell(task, answered(task, text))
    assert [vote.count for vote in under.best().votes] == [4]
    assert compared == 1


WORDS = " ".join(f"w{place}" for place in range(100))
"""An attempt of a hundred tokens."""


def shown(strategy: str, context: int | None) -> tuple[set[tuple[int, bool]], Search]:
    """How many attempts were shown and whether each to the end, in a context of that size."""
    setup = Setup(QUERY, 16, selector("majority"), parse("none"), False, context=context)
    under, seen = search(strategy, setup), set()
    while not under.done:
        for task in under.ask(99):
            assert isinstance(task, Expand)
            if task.messages:
                text = task.messages[-1].content
                seen.add((text.count("Attempt "), text.count("w99") == text.count("Attempt ")))
            made = Candidate(task.path, WORDS, tuple(range(100)), Finish.STOP)
            under.tell(task, Result(task.id, "done", made))
    return seen, under


@pytest.mark.parametrize(("context", "attempts"), [(None, 4), (600, 4), (400, 2), (280, 1)])
def test_as_many_attempts_are_shown_as_the_context_has_room_for(
    context: int | None, attempts: int
) -> None:
    """Room is left for an answer longer than they are, and the reply says that some were not."""
    seen, under = shown("recursive", context)
    assert seen == {(attempts, True)}
    note = "12 times the context had no room for all attempts."
    assert (note in under.best().notes) is (attempts < 4)


@pytest.mark.parametrize("strategy", ["refine", "ab_mcts", "ab_mcts_beta", "recursive"])
def test_an_attempt_too_long_to_be_shown_loses_its_oldest_words(strategy: str) -> None:
    """Its end is there, where its answer is, and the reply says so."""
    seen, under = shown(strategy, 200)
    assert seen == {(1, True)}
    assert "too long to be shown from its start" in " ".join(under.best().notes)


@given(st.text(alphabet="ab ", min_size=1, max_size=60), st.floats(0, 1))
def test_the_tail_of_a_text_is_no_longer_than_it_may_be(text: str, part: float) -> None:
    """It is what the text ends with, behind a mark."""
    kept = tail(text, part).removeprefix("[...] ")
    assert text.endswith(kept)
    assert len(kept) <= len(text) * part


def test_draws_from_students_t_are_as_in_its_table() -> None:
    """With four degrees of freedom: the median, the upper quartile and the top twentieth."""
    dice = random.Random(5)
    draws = sorted(student(4.0, dice) for _ in range(40_000))
    assert draws[20_000] == pytest.approx(0.0, abs=0.02)
    assert draws[30_000] == pytest.approx(0.7407, abs=0.02)
    assert draws[38_000] == pytest.approx(2.1318, abs=0.06)


def test_budget_forcing_goes_on_after_wait() -> None:
    """What had ended is continued, three times."""
    grown = run(begin("budget_forcing", 4), lambda node: 0.5)
    assert [task.append for task in grown] == ["", "\nWait\n", "\nWait\n", "\nWait\n"]
    assert all(task.parent is not None for task in grown[1:])


def test_thoughts_are_no_answers() -> None:
    """A thinking model's thought is extended, and only what follows it votes."""
    under = begin("budget_forcing_thinking", 2, "majority")
    grown = run(under, lambda node: 0.5)
    assert len(grown) == 2 * 5
    assert {len(task.path) for task in grown if not task.stop} == {5}
    assert under.progress() == (2, 2)


def test_a_judge_decides_between_answers() -> None:
    """It is shown one candidate of each answer, and its verdict stands, with the votes beside."""
    under = search("majority", Setup(QUERY, 6, selector("judge"), parse("none"), False))
    verdict = None
    while not under.done:
        for task in under.ask(9):
            assert isinstance(task, Expand)
            if task.counts:
                answer = "12" if task.path[0] < 4 else "13"
                made = Candidate(task.path, f"#### {answer}", (1,), Finish.STOP)
            else:
                assert task.messages is not None
                assert task.messages[-1].content.count("Attempt") == 2
                verdict = Candidate(task.path, "Best: 2", (1,), Finish.STOP)
                made = verdict
            under.tell(task, Result(task.id, "done", made))
    assert verdict is not None
    assert under.best().answer == "13"
    assert {vote.answer: vote.count for vote in under.best().votes} == {"12": 4, "13": 2}


@pytest.mark.parametrize("late", ["12", "13", "14", "x+1"])
def test_what_ends_after_the_judge_was_called_changes_nothing(late: str) -> None:
    """The judge's pick stays the answer, with the votes that were shown to it."""
    setup = Setup(QUERY, 16, selector("judge"), parse("consensus:2"), False, verifies=True)
    under = search("refine", setup)
    *chains, straggler = reversed(under.ask(99))
    for task, answer in zip(chains, ["12", "13", "13"], strict=True):
        under.tell(task, answered(task, f"#### {answer}"))
    (match,) = under.ask(99)
    under.tell(straggler, answered(straggler, f"#### {late}"))
    assert not under.ask(99)
    under.tell(match, answered(match, "Best: 1"))
    assert under.done
    assert under.best().answer == "13"
    assert [(vote.answer, vote.count) for vote in under.best().votes] == [("13", 2), ("12", 1)]
    assert under.best().stopped is Stopped.CONFIDENT


@pytest.mark.parametrize(("context", "cut"), [(None, False), (800, False), (300, True)])
def test_a_judge_is_shown_the_ends_where_its_context_is_small(
    context: int | None, cut: bool
) -> None:
    """All in a match are cut by the same part, and the reply says so."""
    setup = Setup(QUERY, 4, selector("judge"), parse("none"), False, context=context)
    under = search("majority", setup)
    for place, task in enumerate(under.ask(4)):
        assert isinstance(task, Expand)
        made = Candidate(task.path, f"{WORDS} #### {place}", tuple(range(100)), Finish.STOP)
        under.tell(task, Result(task.id, "done", made))
    (match,) = under.ask(4)
    assert isinstance(match, Expand)
    assert match.messages
    assert match.messages[-1].content.count("[...]") == (4 if cut else 0)
    assert all(f"w99 #### {place}" in match.messages[-1].content for place in range(4))
    under.tell(match, answered(match, "Best: 3"))
    assert under.best().answer == "2"
    assert ("cut" in " ".join(under.best().notes)) is cut


def answered(task: Task, text: str) -> Result:
    assert isinstance(task, Expand)
    return Result(task.id, "done", Candidate(task.path, text, (1,), Finish.STOP))
