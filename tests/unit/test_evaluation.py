"""An evaluation's parts: what is compared, on which questions, how it is kept and summed up."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InvalidOption
from services.evaluation.estimates import percentile, wilson
from services.evaluation.judging import Referee
from services.evaluation.questions import Question, fingerprint, from_files, synthetic
from services.evaluation.results import Record, ResultsError, opened
from services.evaluation.run import Job, Sampling, evaluate, judged
from services.evaluation.summary import row
from services.evaluation.variants import Variant, Worth, variants

RECORD = Record("majority x4", "majority", 4, "q", "2", answer="2", right=True, passed=True)
VARIANT = Variant("majority", "majority", None, None, 4)


def test_a_strategy_is_written_with_selector_and_stop() -> None:
    """strategy[/selector][@stop], each part but the first left out at will."""
    written = ["majority", "majority/weighted", "best_of_n@beta:0.9", "majority/best@none"]
    assert [
        (one.strategy, one.selector, one.stop, one.candidates) for one in variants(written, [8])
    ] == [
        ("majority", None, None, 8),
        ("majority", "weighted", None, 8),
        ("best_of_n", None, "beta:0.9", 8),
        ("majority", "best", "none", 8),
    ]


def test_every_strategy_at_every_width_and_single_once() -> None:
    """Each strategy is measured at each width, but `single` has one; doubles are one."""
    compared = variants(["single", "majority", "majority"], [1, 16, 1])
    assert [one.key for one in compared] == ["single x1", "majority x1", "majority x16"]


def test_candidates_worth_are_told_from_candidates() -> None:
    """Both kinds of numbers may be asked for at once; `single` is still one."""
    compared = variants(["single", "majority"], [4], [1, 4])
    assert [one.key for one in compared] == [
        "single x1",
        "majority x4",
        "majority ~1",
        "majority ~4",
    ]
    assert [one.worth for one in compared] == [False, False, True, True]


@pytest.mark.parametrize(
    ("candidates", "budgets"),
    [([0], []), ([], [0]), ([4], [-1]), ([], []), ([4097], []), ([], [4097])],
)
def test_a_budget_is_one_that_a_request_may_have(candidates: list[int], budgets: list[int]) -> None:
    """A number of candidates, or of their worth, is 1 to 4096, and there is at least one."""
    with pytest.raises(InvalidOption, match="number of candidates"):
        variants(["majority"], candidates, budgets)


@pytest.mark.parametrize(
    ("strategy", "n", "limits"),
    [
        ("majority", 16, {"candidates": 64, "completion_tokens": 1602}),
        ("best_of_n", 4, {"candidates": 16, "completion_tokens": 400}),
        ("ab_mcts", 16, {"candidates": 64, "completion_tokens": 1602}),
        ("beam", 16, {"candidates": 16, "completion_tokens": 1602}),
        ("recursive", 16, {"candidates": 12, "completion_tokens": 1602}),
        ("rebase", 2, {"candidates": 2, "completion_tokens": 200}),
        ("majority", 4000, {"candidates": 4096, "completion_tokens": 400400}),
        ("majority", 1, {"candidates": 1}),
        ("beam", 1, {"candidates": 1}),
    ],
)
def test_candidates_worth_are_tokens(strategy: str, n: int, limits: dict[str, int]) -> None:
    """As many tokens as n samples take, and candidates to make the most of them; one is uncut."""
    variant = Variant(strategy, strategy, None, None, n, worth=True)
    assert variant.options(Worth(100.1, 0.75)) == {"strategy": strategy, "budget": limits}


def test_a_plan_never_has_no_candidate() -> None:
    """However narrow, it is one."""
    assert Worth(100.0, 0.01).limits("recursive", 4)["candidates"] == 1


@pytest.mark.parametrize("text", ["", "majority/", "majority@", "single/none", "x", "@beta"])
def test_an_unknown_name_is_refused(text: str) -> None:
    """What no registry knows is refused with what was written."""
    with pytest.raises(InvalidOption, match="must be"):
        variants([text], [1])


def test_synthetic_questions_are_of_the_test_split_unless_it_says_otherwise() -> None:
    """`hard` is test/hard; `dev/hard` shares no question with it."""
    test = synthetic("hard", 20, 0)
    assert test == synthetic("test/hard", 20, 0)
    dev = synthetic("dev/hard", 20, 0)
    assert {one.text for one in test}.isdisjoint(one.text for one in dev)


def test_the_seed_draws_the_questions() -> None:
    """The same seed draws the same questions, another one others; more begin with fewer."""
    assert synthetic("easy", 10, 4) == synthetic("easy", 20, 4)[:10]
    assert synthetic("easy", 10, 4) != synthetic("easy", 10, 5)


def test_the_seed_draws_from_a_file(tmp_path: Path) -> None:
    """Of a file with more questions than asked for, the seed chooses which."""
    path = tmp_path / "f.jsonl"
    path.write_text("".join(f'{{"question": "q{n}", "answer": {n}}}\n' for n in range(50)))
    drawn = from_files((path,), 10, 1)
    assert len(set(drawn)) == 10
    assert drawn == from_files((path,), 10, 1)
    assert drawn != from_files((path,), 10, 2)
    assert len(from_files((path,), None, 1)) == 50
    assert from_files((path,), None, 1) == from_files((path,), 60, 2)


def test_other_line_ends_within_a_text_end_no_line(tmp_path: Path) -> None:
    """A line separator in a question, which JSON allows, doesn't cut it in two."""
    path = tmp_path / "f.jsonl"
    path.write_text('{"question": "a\u2028b", "answer": "x"}\r\n', encoding="utf-8")
    assert from_files((path,), None, 0) == (Question("line-1", "a\u2028b", "x"),)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        '{"question": "a"}',
        '{"question": 1, "answer": 2}',
        "{",
        '{"answer": "a"}',
        '{"question": "a", "answer": true}',
        '{"question": "a", "answer": ' + "9" * 5_000 + "}",
        "[" * 100_000,
    ],
    ids=lambda line: line[:40],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str) -> None:
    """A file that can't be read as questions says in which line."""
    path = tmp_path / "f.jsonl"
    path.write_text(f'{{"question": "a", "answer": "b"}}\n{line}\n')
    with pytest.raises(InvalidOption, match=r"f\.jsonl, line 2: "):
        from_files((path,), None, 0)


def test_an_empty_or_binary_file_is_refused(tmp_path: Path) -> None:
    """No questions is an error, and so is what isn't UTF-8."""
    path = tmp_path / "f.jsonl"
    path.write_text("\n")
    with pytest.raises(InvalidOption, match="no questions"):
        from_files((path,), None, 0)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InvalidOption, match="isn't UTF-8"):
        from_files((path,), None, 0)


def test_other_questions_have_another_fingerprint() -> None:
    """The fingerprint changes with a text, an answer or the order."""
    one, other = Question("1", "a", "b"), Question("2", "c", "d")
    prints = {
        fingerprint(them)
        for them in ((one, other), (other, one), (one,), (replace(one, answer="x"), other))
    }
    assert len(prints) == 4


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    """What is written is read back, in any script, and an error gives way to a reply."""
    failed = replace(RECORD, question="p", answer=None, right=False, error="ärger \u2028 42")
    with opened(tmp_path, {"seed": 1}) as results:
        results.add(RECORD)
        results.add(failed)
    with opened(tmp_path, {"seed": 1}) as results:
        assert results.of("majority x4") == (RECORD, failed)
        assert list(results.errors) == [failed]
        assert results.has("majority x4", "q")
        assert not results.has("majority x4", "p")
        results.add(replace(RECORD, question="p"))
        assert list(results.errors) == []
    with opened(tmp_path, {"seed": 1}) as results:
        assert results.has("majority x4", "p")


def test_a_figure_is_settled_once(tmp_path: Path) -> None:
    """What was found out by a run stays as it is for those that go on with it."""
    with opened(tmp_path, {}) as results:
        assert results.settled("tokens", lambda: 1.5) == 1.5
        assert results.settled("other", lambda: 7.0) == 7.0
    with opened(tmp_path, {}) as results:
        assert results.settled("tokens", lambda: 2.5) == 1.5


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A folder that is being written to is refused, and free again afterwards."""
    refused = pytest.raises(ResultsError, match="another evaluation")
    with opened(tmp_path, {}), refused, opened(tmp_path, {}):
        pass
    with opened(tmp_path, {}):
        pass


def test_results_of_nobody_knows_what_are_left_alone(tmp_path: Path) -> None:
    """Results without a run.json aren't added to."""
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(ResultsError, match=r"no run\.json"), opened(tmp_path, {}):
        pass


@pytest.mark.parametrize(
    "line", [b'{"variant": "x"}', b'"\xff"', b"[" * 100_000, b"7"], ids=lambda line: line[:20]
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    """A whole line that is no record is an error, not something to skip."""
    with opened(tmp_path, {}) as results:
        results.add(RECORD)
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ResultsError, match="line 2: isn't a record"), opened(tmp_path, {}):
        pass


DAMAGED = [b"", b'{"seed": ', b"[]", b"\xff", b"[" * 100_000]
"""What may be left of a file that says an object."""


@pytest.mark.parametrize("left", DAMAGED, ids=lambda left: left[:10])
def test_a_damaged_configuration_is_named(tmp_path: Path, left: bytes) -> None:
    """Where nobody can tell what a folder measures, it is refused with the file's name."""
    with opened(tmp_path, {"seed": 1}) as results:
        results.add(RECORD)
    (tmp_path / "run.json").write_bytes(left)
    refused = pytest.raises(ResultsError, match=r"run\.json: isn't .* another folder")
    with refused, opened(tmp_path, {"seed": 1}):
        pass


@pytest.mark.parametrize("left", [*DAMAGED, b'{"tokens": []}'], ids=lambda left: left[:10])
def test_a_damaged_figure_is_named(tmp_path: Path, left: bytes) -> None:
    """A figure that can't be read isn't found anew: other replies were asked for by the old one."""
    with opened(tmp_path, {}) as results:
        (tmp_path / "settled.json").write_bytes(left)
        with pytest.raises(ResultsError, match=r"settled\.json: .*isn't "):
            results.settled("tokens", lambda: 1.5)


def test_a_configuration_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash while it is written leaves a folder that the same command can use."""

    def full(path: Path, text: str, encoding: str) -> int:
        path.write_bytes(text.encode(encoding)[:5])
        raise OSError("no space left")

    with monkeypatch.context() as crash:
        crash.setattr(Path, "write_text", full)
        with pytest.raises(ResultsError, match="no space left"), opened(tmp_path, {"seed": 1}):
            pass
    with opened(tmp_path, {"seed": 1}) as results:
        assert results.variants == ()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file where the folder should be is an error with its name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="can't keep results"), opened(tmp_path / "file", {}):
        pass


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_wilsons(right: int, total: int, low: float, high: float) -> None:
    """The published examples (Newcombe 1998, method 3)."""
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share(counts: tuple[int, int]) -> None:
    """Whatever the counts, the interval lies in [0, 1] around the share."""
    right, total = counts
    low, high = wilson(right, total)
    assert 0 <= low <= right / total + 1e-12
    assert right / total - 1e-12 <= high <= 1


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 1))
def test_a_percentile_lies_among_the_values(values: list[float], share: float) -> None:
    """The ends are the least and the greatest, and all else lies between."""
    ordered = sorted(values)
    assert percentile(ordered, 0) == ordered[0]
    assert percentile(ordered, 1) == ordered[-1]
    assert ordered[0] - 1e-9 <= percentile(ordered, share) <= ordered[-1] + 1e-9


def test_the_median_of_two_lies_between() -> None:
    """Between two values it is interpolated."""
    assert percentile([1.0, 2.0], 0.5) == 1.5
    assert percentile([1.0, 2.0, 4.0], 0.5) == 2.0


def test_a_row_without_a_reply_claims_nothing() -> None:
    """Where everything failed, accuracy is unknown rather than zero."""
    nothing = row(VARIANT, [replace(RECORD, error="gone")])
    assert (nothing.queries, nothing.accuracy, nothing.ci95, nothing.p50_seconds) == (
        0,
        None,
        None,
        None,
    )


def reply(**changed: Any) -> dict[str, Any]:
    ours = {
        "answer": "0.5",
        "confidence": 0.9,
        "votes": [{"answer": "0.5", "count": 3}, {"answer": "7", "count": 1}],
        "silent": 0,
        "stopped": "complete",
        "spent": {"completion_tokens": 12, "reward_tokens": 3, "candidates": 4},
        "trace_id": "t",
    }
    return {"longthink": ours | changed}


@pytest.mark.parametrize(
    ("gold", "answer", "right", "passed"),
    [
        ("1/2", "0.5", True, True),
        ("7", "0.5", False, True),
        ("8", "0.5", False, False),
        ("1/2", None, False, True),
    ],
)
async def test_a_reply_is_judged_by_its_answer(
    gold: str, answer: str | None, right: bool, passed: bool
) -> None:
    """Right is the answer given, passed any candidate's; no answer is wrong, not an error."""
    job = Job(Question("q", "?", gold), VARIANT, 1)
    record = await judged(job, reply(answer=answer), 1.5, Referee())
    assert (record.right, record.passed, record.error) == (right, passed, None)
    assert (record.completion_tokens, record.reward_tokens, record.sampled) == (12, 3, 4)


@pytest.mark.parametrize("stopped", ["complete", "certain", "budget"])
async def test_a_candidate_without_an_answer_is_wrong(stopped: str) -> None:
    """Right ones are counted by their votes; of those that ended, the silent ones are none."""
    votes = [{"answer": "0.5", "count": 3}, {"answer": "7", "count": 2}]
    job = Job(Question("q", "?", "1/2"), VARIANT, 1)
    record = await judged(job, reply(votes=votes, silent=4, stopped=stopped), 1.5, Referee())
    assert (record.correct, record.finished) == (3, 9)


def test_pass_at_k_is_told_of_independent_samples_alone() -> None:
    """Four answers written from each other are no four draws."""
    records = [replace(RECORD, question=str(n), correct=2, finished=4) for n in range(9)]
    told = {
        name: row(Variant(name, name, None, None, 4), records).pass_at
        for name in ("majority", "best_of_n", "recursive", "particles")
    }
    assert [one.k for one in told["majority"]] == [1, 2, 4]
    assert told["best_of_n"] == told["majority"]
    assert told["recursive"] == told["particles"] == ()


def test_a_row_has_every_figure_with_its_interval() -> None:
    """Shares by Wilson, means by Student, percentiles by ranks; pass@k as far as all can tell."""
    records = [
        replace(
            RECORD,
            question=str(n),
            right=n % 2 == 0,
            passed=n % 4 != 1,
            correct=2 * (n % 2 == 0),
            finished=4 + n % 2,
            completion_tokens=100 + n,
            seconds=n / 10,
        )
        for n in range(100)
    ]
    made = row(replace(VARIANT, worth=True), records, Worth(100.0, 0.75))
    assert (made.accuracy, made.pass_at_k, made.budget_tokens) == (0.5, 0.75, 400)
    assert made.ci95 == (0.4038, 0.5962)
    assert made.pass_at_k_ci95 == pytest.approx((0.657, 0.8245), abs=1e-4)
    assert made.mean_completion_tokens == 149.5
    assert made.mean_completion_tokens_ci95 == pytest.approx((143.74, 155.26), abs=0.02)
    assert made.p50_seconds_ci95 == (3.9, 6.0)
    assert [(one.k, one.share) for one in made.pass_at] == [(1, 0.25), (2, 0.4167), (4, 0.5)]
    assert all(one.ci95[0] < one.share < one.ci95[1] for one in made.pass_at)


class Recorder:
    """Answers at once, and remembers what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Mapping[str, Any]] = []

    async def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        return self.answer  # type: ignore[no-any-return]


async def test_a_reply_of_something_else_is_an_error_of_that_question(tmp_path: Path) -> None:
    """A reply without the longthink object is recorded as an error, and the run goes on."""
    jobs = [Job(Question(str(n), "?", "2"), VARIANT, n) for n in range(3)]
    heard: list[Record] = []
    with opened(tmp_path, {}) as results:
        await evaluate(
            iter(jobs),
            Recorder({"choices": []}),
            results,
            Sampling("m", 0, 0.8),
            concurrency=2,
            heard=heard.append,
        )
    assert len(heard) == 3
    assert all("isn't one of longthink's" in str(record.error) for record in heard)


async def test_what_is_heard_is_on_disk_already(tmp_path: Path) -> None:
    """A record is written before anybody is told, so that a crash loses nothing that was seen."""
    lengths = []
    with opened(tmp_path, {}) as results:
        await evaluate(
            iter([Job(Question(str(n), "?", "2"), VARIANT, n) for n in range(4)]),
            Recorder(reply()),
            results,
            Sampling("m", 0, 0.8),
            concurrency=1,
            heard=lambda _: lengths.append(len(results.path.read_text().splitlines())),
        )
    assert lengths == [1, 2, 3, 4]
    assert all(
        math.isfinite(json.loads(line)["seconds"]) for line in results.path.read_text().splitlines()
    )
