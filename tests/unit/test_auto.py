"""Auto decides on what its samples show: when to stop, widen, grow a tree, plan, or ask a judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest

from planner.calibration import Calibration
from planner.curves import Isotonic
from planner.domain import (
    Candidate,
    Cost,
    Expand,
    Finish,
    Grade,
    Message,
    News,
    Query,
    Result,
    Stopped,
    Task,
)
from planner.outlook import Lesson, Outlook
from planner.search import Search, Setup, search
from planner.search.drafting import FIRST_DRAFTS
from planner.selection import selector
from planner.stopping import parse

QUERY = Query((Message("user", "How many?"),), seed=1)
PLAN = json.dumps(
    {
        "steps": [
            {"id": "a", "question": "How many first?", "needs": []},
            {"id": "b", "question": "And then, with $a?", "needs": ["a"]},
        ]
    }
)
NO_PLANS = Outlook({"lost/decompose": (400.0, 0.0)})
"""Where plans have never helped."""

Answers = Callable[[Expand], tuple[str, float]]


def auto(candidates: int = 32, **said: object) -> Search:
    setup = Setup(QUERY, candidates, selector("weighted"), parse("beta:0.95"), grades=True)
    known = {"outlook": Outlook(), "tokens": None} | said
    return search("auto", Setup(**{**{f: getattr(setup, f) for f in setup.__slots__}, **known}))


def run(
    under: Search,
    answer: Answers,
    drafting: Callable[[Expand], None] = lambda _: None,
    hearing: Callable[[News], None] = lambda _: None,
) -> list[str]:
    """Drive it to its end; what it decided, in order."""
    scores: dict[tuple[int, ...], float] = {}
    decided: list[str] = []
    waiting: list[Task] = []
    for _ in range(2000):
        news = list(under.news())
        for one in news:
            hearing(one)
        decided += [one.data["what"] for one in news if one.kind == "decided"]
        if under.done:
            return decided
        waiting += under.ask(64)
        task = waiting.pop(0)
        if isinstance(task, Grade):
            score = scores[task.candidate.path]
            under.tell(task, Result(task.id, "done", task.candidate.graded((score,), score)))
        elif isinstance(task, Expand) and task.schema:
            drafting(task)
            made = Candidate(task.path, PLAN, (1,), Finish.STOP)
            under.tell(task, Result(task.id, "done", made, Cost(completion_tokens=20)))
        elif isinstance(task, Expand):
            said, scores[task.path] = answer(task)
            made = Candidate(task.path, said, (1,), Finish.STOP)
            cost = Cost(completion_tokens=10, candidates=1)
            under.tell(task, Result(task.id, "done", made, cost))
        unwanted = {one.id for one in under.surplus()}
        for task in [one for one in waiting if one.id in unwanted]:
            under.tell(task, Result(task.id, "cancelled"))
            waiting.remove(task)
    raise AssertionError("it doesn't end")


def differing(score: float) -> Answers:
    numbers: Iterator[int] = count()
    return lambda task: (f"#### {next(numbers)}", score)


def test_two_that_agree_and_score_well_are_enough() -> None:
    under = auto()
    assert run(under, lambda _: ("#### 7", 0.9)) == ["probe", "stop"]
    assert under.best().answer == "7"
    assert under.progress()[0] == 2


@pytest.mark.parametrize("score", [0.1, 0.8])
def test_two_that_agree_but_score_badly_are_not(score: float) -> None:
    """They may be wrong in the same way, which two more that agree make unlikely."""
    under = auto()
    assert run(under, lambda _: ("#### 7", score)) == ["probe", "widen", "stop"]
    assert under.stopped is Stopped.CONFIDENT
    assert under.progress()[0] == 4


def test_three_of_four_that_agree_and_score_badly_are_seen_to_hold() -> None:
    """A few samples more tell whether that holds; a tree takes many times as many."""
    answers = iter(["7", "8"])
    telling = iter([0.3, 0.1])
    under = auto(candidates=64)
    decided = run(under, lambda _: (f"#### {next(answers, 7)}", next(telling, 0.3)))
    assert decided == ["probe", "widen", "widen", "stop"]
    assert under.stopped is Stopped.CONFIDENT
    assert under.best().answer == "7"
    assert under.progress()[0] < 16


def test_who_can_pay_for_a_few_samples_has_them_side_by_side() -> None:
    """Nothing that they would show leaves enough to go on with."""
    few = auto(tokens=490, likely=100)
    assert len(few.ask(100)) == 4  # unanimous, they would satisfy the rule
    more = auto(tokens=500, likely=100)
    assert len(more.ask(100)) == 2


def test_who_may_take_many_samples_sees_two_more_before_a_plan() -> None:
    """One of two that differ may just have been unlucky: that is cheap to find out."""
    numbers = iter(["7", "8"])
    answer: Answers = lambda _: (f"#### {next(numbers, 7)}", 0.95)  # noqa: E731
    decided = run(auto(candidates=64), answer)
    assert decided[:2] == ["probe", "widen"]
    assert "decompose" not in decided
    assert run(auto(candidates=64), differing(0.95))[:3] == ["probe", "widen", "decompose"]


def test_a_plan_is_tried_where_more_samples_differ_from_two_that_scored_badly() -> None:
    answers = iter(["7", "7", "8", "9"])
    decided = run(auto(), lambda _: (f"#### {next(answers, 7)}", 0.1))
    assert decided[:3] == ["probe", "widen", "decompose"]


def test_it_ends_as_its_samples_did_where_they_went_on_last() -> None:
    """The plan that was tried in between came to nothing; they satisfied the rule."""
    answers = iter(["1", "2", *["1"] * 40])
    under = auto(query=replace(QUERY, messages=(Message("user", "What is 17 of 23 of 512?"),)))
    decided = run(under, lambda _: (f"#### {next(answers)}", 0.95))
    assert decided[:3] == ["probe", "decompose", "widen"]
    assert under.stopped is Stopped.CONFIDENT


def test_samples_that_lean_are_widened_until_the_rule_is_satisfied() -> None:
    answers = iter(["1", "2", *["1"] * 40])
    under = auto(outlook=NO_PLANS)
    decided = run(under, lambda _: (f"#### {next(answers)}", 0.9))
    assert decided == ["probe", "widen", "widen", "stop"]
    assert under.best().answer == "1"
    assert under.progress()[0] < 32


@pytest.mark.parametrize("score", [0.5, 0.95])
def test_lost_samples_lead_to_a_plan(score: float) -> None:
    """No two agree, however well they score: the question is taken apart."""

    def answer(task: Expand) -> tuple[str, float]:
        return ("#### 5", 0.3) if task.messages else lost(task)

    lost = differing(score)
    under = auto()
    decided = run(under, answer)
    assert decided[:2] == ["probe", "decompose"]
    assert under.best().answer == "5"


def test_a_question_that_cannot_be_taken_apart_costs_two_plans_only() -> None:
    """Plans of which none is one of the question end the attempt; the samples go on."""
    under = auto(query=replace(QUERY, messages=(Message("user", "What is 17 of 23 of 512?"),)))
    drafts: list[Expand] = []
    decided = run(under, differing(0.1), drafts.append)
    assert decided[:3] == ["probe", "decompose", "widen"]
    assert len(drafts) == FIRST_DRAFTS


def test_steps_count_by_what_they_take_where_nobody_limits_candidates() -> None:
    """An effort says how much to think: the answers to a step are shorter than whole ones."""
    allotted: dict[bool, list[int]] = {True: [], False: []}
    for strict, heard in allotted.items():
        lost = differing(0.1)

        def hear(news: News, heard: list[int] = heard) -> None:
            if news.kind == "step":
                heard.append(news.data["candidates"])

        def answer(task: Expand, lost: Answers = lost) -> tuple[str, float]:
            return ("#### 5", 0.3) if task.messages else lost(task)

        under = auto(10, strict=strict)
        run(under, answer, hearing=hear)
        assert under.best().answer == "5"
    assert allotted[False][0] > allotted[True][0] > 0


def test_scores_that_tell_lead_to_a_tree() -> None:
    scores, answers = iter([0.9, 0.1] * 200), iter("1212" * 100)
    under = auto(outlook=NO_PLANS)
    decided = run(under, lambda _: (f"#### {next(answers)}", next(scores)))
    assert decided[:3] == ["probe", "widen", "tree"]


def test_whether_a_lead_holds_is_seen_from_more_samples_before_a_tree() -> None:
    """They end as soon as the rule is satisfied, and a tree goes on."""
    answers = iter(["1", "2", *["1"] * 40])

    def answer(_: Expand) -> tuple[str, float]:
        said = next(answers)
        return f"#### {said}", 0.95 if said == "1" else 0.1

    under = auto(256)
    assert run(under, answer) == ["probe", "widen", "widen", "stop"]
    assert under.progress()[0] < 16


def test_answers_that_cannot_be_voted_on_go_to_the_judge() -> None:
    numbers = count()
    under = auto(8)
    decided = run(under, lambda _: (f"Once upon a time {'long ' * next(numbers)}ago", 0.5))
    assert "judge" in decided
    assert under.best().best is not None


@pytest.mark.parametrize("candidates", [1, 2, 3, 5])
def test_a_small_budget_is_never_exceeded(candidates: int) -> None:
    under = auto(candidates)
    run(under, differing(0.1))
    assert under.progress()[0] <= candidates


def test_it_says_why() -> None:
    under = auto()
    waiting = list(under.ask(9))
    (probe,) = under.news()
    assert probe.kind == "decided"
    assert len(waiting) == 2
    assert set(probe.data) == {"path", "what", "why", "figures"}


def test_experience_changes_its_mind() -> None:
    """Where plans have never helped and more samples always have, it doesn't plan."""
    outlook = Outlook({"lost/decompose": (400.0, 0.0), "lost/widen": (400.0, 0.5)})
    assert "decompose" not in run(auto(outlook=outlook), differing(0.1))[:3]


def test_a_decision_that_changes_nothing_has_gained_nothing() -> None:
    """Nor has it lost anything, though the answer looks less likely than it did."""
    answers = iter(["1", "2", "1", "3", *["4", "1"] * 20])
    under = auto(8, outlook=NO_PLANS)
    run(under, lambda _: (f"#### {next(answers)}", 0.9))
    assert under.best().answer == "1"
    assert under.lessons()
    assert all(lesson.gain == 0.0 for lesson in under.lessons())


@pytest.mark.parametrize(
    ("right", "expected"), [("plan/weighted", "5"), ("majority/weighted", "1")]
)
def test_confidence_counts_as_much_as_such_answers_were_worth(right: str, expected: str) -> None:
    """Whether a plan's answer or the samples' is believed hangs on which was right in the past."""

    def answer(task: Expand) -> tuple[str, float]:
        return (f"#### {5 if task.messages else next(samples)}", 0.5)

    low, high = (Isotonic(((0.0, at), (1.0, at + 0.05)), 100) for at in (0.05, 0.6))
    curves = {
        name: high if name == right else low for name in ("plan/weighted", "majority/weighted")
    }
    samples = iter([1, 2, *[1] * 40])
    under = auto(24, outlook=Outlook(calibration=Calibration("m", curves)))
    assert run(under, answer)[:3] == ["probe", "decompose", "widen"]
    assert under.best().answer == expected


def test_what_was_found_is_a_lesson() -> None:
    answers = iter(["1", "2", *["1"] * 40])
    under = auto(outlook=NO_PLANS)
    run(under, lambda _: (f"#### {next(answers)}", 0.9))
    first = under.lessons()[0]
    assert isinstance(first, Lesson)
    assert first.name == "lost/widen"
    assert first.tokens > 0
    assert [lesson.action for lesson in under.lessons()] == ["widen", "widen"]


def test_outlook_moves_from_its_prior_to_what_was_seen() -> None:
    prior = Outlook().gain("lean", "widen")
    some = Outlook({"lean/widen": (20.0, 1.0)}).gain("lean", "widen")
    much = Outlook({"lean/widen": (2000.0, 1.0)}).gain("lean", "widen")
    assert some == pytest.approx((prior + 1.0) / 2)
    assert prior < some < much < 1.0
    seen = Outlook({"lean/widen": (20.0, 1.0)})
    assert Outlook.read(json.loads(json.dumps(seen.data()))) == seen
