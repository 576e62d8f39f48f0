"""What an evaluation compares besides strategies: efforts, deadlines, splits, what is inside."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InvalidOption
from services.evaluation import sections
from services.evaluation.chart import spots
from services.evaluation.comparison import rounds
from services.evaluation.pictures import draw_deadlines
from services.evaluation.plan import Plan
from services.evaluation.questions import Question, mixed, synthetic
from services.evaluation.results import Record, Results, opened
from services.evaluation.run import Job, Sampling
from services.evaluation.spreads import spreads
from services.evaluation.summary import Row, row, rows
from services.evaluation.variants import (
    EFFORTS,
    SINGLE,
    Variant,
    Worth,
    split_outside,
    variants,
)

QUESTION = Question("q", "?", "2")
SAMPLING = Sampling("m", 0, 0.8)


def plan(**said: Any) -> Plan:
    usual: dict[str, Any] = {
        **dict.fromkeys(("split", "file", "dataset", "strategies", "efforts", "candidates")),
        **dict.fromkeys(("budgets", "deadlines", "tokens", "max_tokens")),
        "split": "easy",
        "limit": 2,
        "seed": 0,
        "temperature": 0.8,
        "width": 0.75,
    }
    return Plan.of(**{**usual, **said})


def record(variant: Variant, name: str, **said: Any) -> Record:
    said.setdefault("answer", "2")
    return Record(variant.key, variant.written, variant.candidates, name, "2", **said)


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("plan(beam)", ("plan(beam)", None, None)),
        ("plan(beam)/weighted@beta:0.95", ("plan(beam)", "weighted", "beta:0.95")),
        (
            "plan(majority/weighted@beta:0.95)/best@none",
            ("plan(majority/weighted@beta:0.95)", "best", "none"),
        ),
        ("plan(plan(beam/best))", ("plan(plan(beam/best))", None, None)),
    ],
)
def test_what_is_in_brackets_is_of_the_strategy_inside(
    written: str, parts: tuple[str, str | None, str | None]
) -> None:
    """Its selector and its rule are its own; the service gets it as it stands."""
    (made,) = variants([written], [4])
    assert (made.strategy, made.selector, made.stop) == parts
    assert made.options()["strategy"] == parts[0]
    assert Variant.named(made.key) == made


@pytest.mark.parametrize("text", ["majority(", "majority)(", "majority(beam))", "majority(a@b"])
def test_brackets_that_are_not_closed_are_refused(text: str) -> None:
    """With what was written."""
    with pytest.raises(InvalidOption, match="brackets must be closed"):
        variants([text], [1])


@given(st.lists(st.text("ab(/)", max_size=6), min_size=1, max_size=4))
def test_only_marks_outside_brackets_part(drawn: list[str]) -> None:
    """What is put together of balanced parts comes apart into these."""
    balanced = [f"({text.replace('(', '').replace(')', '')})" for text in drawn]
    assert split_outside("/".join(balanced), "/") == tuple(balanced)


@pytest.mark.parametrize("strategy", ["plan(beam)", "least_to_most(majority)", "atoms", "auto"])
def test_what_decides_by_itself_goes_on_until_its_budget_is_used_up(strategy: str) -> None:
    """So it may have many more candidates than its tokens are likely to pay for."""
    limits = Worth(100.0, 0.75).limits(strategy, 16)
    assert limits == {"candidates": 64, "completion_tokens": 1600}


def test_an_effort_names_no_strategy() -> None:
    """The word is the request's own field, and the service decides all else."""
    (made,) = variants([], [], efforts=["high"])
    body = Job(QUESTION, made, 1).body(SAMPLING)
    assert (made.key, body["reasoning_effort"], body["longthink"]) == ("effort=high", "high", {})
    assert Variant.named(made.key) == made
    assert made.settled == ("auto", "weighted")


def test_a_strategy_asks_for_no_effort() -> None:
    """It has that of a request that names none."""
    (made,) = variants(["majority"], [4])
    assert "reasoning_effort" not in Job(QUESTION, made, 1).body(SAMPLING)


def test_a_deadline_is_part_of_the_budget() -> None:
    """With a number of candidates or without one, for strategies and for efforts."""
    made = variants(["single", "majority"], [16], deadlines=[0.5, 10], efforts=["max"])
    assert [one.key for one in made] == [
        "single x1 <0.5s",
        "single x1 <10s",
        "majority x16 <0.5s",
        "majority x16 <10s",
        "effort=max <0.5s",
        "effort=max <10s",
    ]
    assert made[2].options()["budget"] == {"candidates": 16, "deadline_seconds": 0.5}
    assert made[4].options() == {"budget": {"deadline_seconds": 0.5}}
    assert [Variant.named(one.key) for one in made] == list(made)
    (free,) = variants(["beam"], [], deadlines=[2.5])
    assert (free.key, free.options()["budget"]) == ("beam <2.5s", {"deadline_seconds": 2.5})


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"efforts": "low,huge"}, "must be one of none, minimal"),
        ({"deadlines": "0"}, "more than 0 seconds"),
        ({"deadlines": "inf"}, "more than 0 seconds"),
        ({"deadlines": "soon"}, "takes seconds with commas"),
        ({"efforts": "low", "budgets": "4"}, "says by itself what it spends"),
        ({"efforts": "low", "strategies": ""}, "at least one strategy"),
        ({"split": "easy,heavy"}, "--split must be one of"),
        ({"split": "easy,"}, "--split must be one of"),
    ],
)
def test_nonsense_is_refused(said: dict[str, Any], told: str) -> None:
    """With what would do."""
    with pytest.raises(InvalidOption, match=told):
        plan(**said)


def test_efforts_are_compared_alone_unless_strategies_are_named() -> None:
    """And where neither is, the usual strategies are, with sixteen candidates."""
    keys = [one.key for one in plan(efforts="none,max").variants]
    assert keys == ["effort=none", "effort=max"]
    both = plan(efforts="low", strategies="majority", budgets="4", tokens=100.0)
    assert [one.key for one in both.variants] == ["majority ~4", "effort=low"]
    assert [one.key for one in plan().variants] == ["single x1", "majority x16", "best_of_n x16"]
    timed = plan(strategies="majority,single", deadlines="1,2")
    assert [one.key for one in timed.variants] == [
        "majority <1s",
        "majority <2s",
        "single x1 <1s",
        "single x1 <2s",
    ]


def test_a_mix_has_of_each_split_in_turn() -> None:
    """So that a run that is cut short has as many of each; a split named twice is one."""
    drawn = mixed("easy, hard,dev/compound,easy", 3, 7)
    assert [one.split for one in drawn] == ["easy", "hard", "dev/compound"] * 3
    assert drawn[::3] == synthetic("easy", 3, 7)
    assert drawn[1::3] == synthetic("hard", 3, 7)
    assert len({one.id for one in drawn}) == 9
    assert mixed("hard", 3, 7) == synthetic("hard", 3, 7)


def test_a_row_has_each_split_of_a_mix_by_itself() -> None:
    """With what it took there; questions of one split, or of none, have no parts."""
    (variant,) = variants(["majority"], [4])
    records = [
        record(variant, f"{split}{n}", right=n < right, split=split, completion_tokens=tokens)
        for split, right, tokens in (("easy", 9, 100), ("hard", 4, 300))
        for n in range(10)
    ]
    made = row(variant, records)
    assert made.accuracy == 0.65
    assert [(part.split, part.queries, part.accuracy) for part in made.parts] == [
        ("easy", 10, 0.9),
        ("hard", 10, 0.4),
    ]
    assert [part.mean_completion_tokens for part in made.parts] == [100, 300]
    assert row(variant, records[:10]).parts == ()
    assert row(variant, records[::-1]).parts == made.parts
    text = "\n".join(sections.splits([made]))
    assert "| strategy | n | easy | tokens | hard | tokens | all |" in text
    assert "| `majority` | 4 | 90.0% (59.6–98.2) | 100 | 40.0% (16.8–68.7) | 300 |" in text
    assert list(sections.splits([row(variant, records[:10])])) == []


def test_in_time_is_by_the_deadline_and_a_quarter_of_a_second() -> None:
    """Of all requests: an error is no reply. An empty reply is in time, but has no answer."""
    (variant,) = variants(["majority"], [], deadlines=[2])
    records = [
        record(variant, "a", seconds=2.25, right=True),
        record(variant, "b", seconds=2.26),
        record(variant, "c", seconds=2.0, answer=None),
        record(variant, "d", seconds=0.1, error="gone"),
    ]
    made = row(variant, records)
    assert (made.queries, made.in_time, made.answered) == (3, 0.5, 0.5)
    nothing = row(variant, records[3:])
    assert (nothing.queries, nothing.in_time, nothing.deadline) == (0, 0.0, 2.0)
    text = "\n".join(sections.deadlines([made], "deadlines.svg"))
    assert "| `majority` | 2 s | 3 | 33.3% (6.2–79.2) | 50.0% (15.0–85.0) |" in text
    assert "](deadlines.svg)" in text
    assert "250 ms" in text


def test_what_has_no_deadline_has_no_share_in_time() -> None:
    """Nor a section, nor a picture."""
    made = row(SINGLE, [record(SINGLE, "a")])
    assert (made.deadline, made.in_time) == (None, None)
    assert list(sections.deadlines([made], None)) == []


def test_deadlines_have_a_picture_of_their_own(tmp_path: Path) -> None:
    """A line a strategy and an effort; they stay out of the picture of tokens."""
    made = variants(["single", "majority"], [], deadlines=[0.5, 1, 10], efforts=["max"])
    rng = random.Random(1)
    table = [
        row(
            one,
            [
                record(
                    one, str(n), right=rng.random() < 0.5, seconds=rng.random(), completion_tokens=9
                )
                for n in range(20)
            ],
        )
        for one in made
    ]
    assert draw_deadlines(table, tmp_path, title="t") == "deadlines.svg"
    first = (tmp_path / "deadlines.svg").read_bytes()
    assert (tmp_path / "deadlines.png").stat().st_size > 10_000
    draw_deadlines(table, tmp_path, title="t")
    assert (tmp_path / "deadlines.svg").read_bytes() == first
    assert spots(table) == ()
    assert draw_deadlines([Row("single", 1, 0)], tmp_path / "no", title="t") is None


def test_efforts_are_points_of_one_line() -> None:
    """Each with its word beside it."""
    table = [
        Row(
            f"effort={word}",
            None,
            10,
            accuracy=0.5,
            ci95=(0.4, 0.6),
            mean_completion_tokens=tokens,
            effort=word,
        )
        for word, tokens in (("none", 100.0), ("max", 9000.0))
    ]
    assert [(one.strategy, one.label) for one in spots(table)] == [
        ("reasoning_effort", "none"),
        ("reasoning_effort", "max"),
    ]


def test_like_is_compared_with_like(tmp_path: Path) -> None:
    """Efforts with efforts, a deadline with the same; one sample without a deadline with all."""
    compared = (
        SINGLE,
        *variants(["single", "majority", "beam"], [], deadlines=[1, 2]),
        *variants([], [], efforts=["none", "low"]),
    )
    with opened(tmp_path, {}) as results:
        for one in compared:
            results.add(record(one, "q", right=True))
        found = rounds(results, compared)
    assert [(one.title, [among.key for among in one.variants]) for one in found] == [
        ("1 s", ["single x1", "single x1 <1s", "majority <1s", "beam <1s"]),
        ("2 s", ["single x1", "single x1 <2s", "majority <2s", "beam <2s"]),
        ("whatever an effort means", ["single x1", "effort=none", "effort=low"]),
    ]


def spent(results: Results, word: str, tokens: Sequence[int], correct: Sequence[int]) -> Variant:
    (variant,) = variants([], [], efforts=[word])
    for place, (each, right) in enumerate(zip(tokens, correct, strict=True)):
        results.add(
            record(
                variant,
                f"q{place}",
                completion_tokens=each,
                correct=right,
                finished=10,
                split="easy" if place % 2 else "hard",
            )
        )
    return variant


def test_the_spread_is_of_the_least_and_the_most_effort(tmp_path: Path) -> None:
    """By split, and by how often a candidate is right; whatever the order they were measured in."""
    with opened(tmp_path, {}) as results:
        correct = [1, 9, 0, 10, 2, 8, 1, 9]
        most = spent(results, "max", [8000, 400, 9000, 100, 7000, 300, 8000, 400], correct)
        between = spent(results, "low", [500] * 8, correct)
        least = spent(results, "none", [100] * 8, correct)
        found = {one.group: one for one in spreads(results, (most, between, least))}
        assert spreads(results, (most, SINGLE)) == ()
    assert (found["all"].least, found["all"].most, found["all"].queries) == ("none", "max", 8)
    assert (found["hard"].most_tokens, found["easy"].most_tokens) == (8000, 300)
    assert found["hard"].ratio == 80
    assert found["hardest quarter"].most_tokens == 8500
    assert found["easiest quarter"].most_tokens == 250
    text = "\n".join(sections.efforts(tuple(found.values())))
    assert "| questions | queries | `none` | `max` | times as many |" in text
    assert "| hard | 4 | 100 | 8,000 | 80.0 |" in text


def test_what_is_easy_is_told_by_independent_samples_where_there_are_any(tmp_path: Path) -> None:
    """An effort has the candidates on record that it ended with, which are right more often."""
    (samples,) = variants(["majority@none"], [16])
    with opened(tmp_path, {}) as results:
        most = spent(results, "max", [8000, 200, 9000, 200], [10, 9, 10, 9])
        least = spent(results, "none", [100] * 4, [1, 1, 1, 1])
        for place, right in enumerate([2, 16, 3, 15]):
            results.add(record(samples, f"q{place}", correct=right, finished=16))
        found = {one.group: one for one in spreads(results, (most, least, samples))}
    assert found["easiest quarter"].ratio == 2
    assert found["hardest quarter"].ratio == 80


def test_every_effort_can_be_measured(tmp_path: Path) -> None:
    """All words that a request may have, in their order."""
    made = variants([], [], efforts=EFFORTS)
    with opened(tmp_path, {}) as results:
        for one in made:
            results.add(record(one, "q", right=True, completion_tokens=0))
        found = rows(results, made)
        (all_of_them, *_) = spreads(results, made)
    assert [one.effort for one in found] == list(EFFORTS)
    assert all_of_them.ratio is None
