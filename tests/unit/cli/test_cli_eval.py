"""`longthink eval` against a real HTTP server with scripted replies."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[int, str, str]]

KEYS = [
    "strategy",
    "candidates",
    "queries",
    "accuracy",
    "ci95",
    "pass_at_k",
    "mean_completion_tokens",
    "mean_reward_tokens",
    "p50_seconds",
    "p95_seconds",
]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Ten questions, of which those below 6 have the answer that the scripted service gives."""
    path = tmp_path / "questions.jsonl"
    lines = [{"question": f"q{n}", "answer": 2 if n < 6 else "three"} for n in range(10)]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return path


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_row_for_each_strategy_and_width(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """JSON is an array of rows that begin with these keys; `single` has one width."""
    compared = "single,majority/weighted@beta:0.9"
    code, out, _ = longthink(
        *("eval", "--file", str(questions), "--strategies", compared, "--candidates", "1,16"),
        *("--out", str(tmp_path / "out"), "--format", "json", "--url", fake_service.url),
    )
    rows = json.loads(out)
    assert code == 0
    assert [(row["strategy"], row["candidates"]) for row in rows] == [
        ("single", 1),
        ("majority/weighted@beta:0.9", 1),
        ("majority/weighted@beta:0.9", 16),
    ]
    assert all(list(row)[: len(KEYS)] == KEYS for row in rows)
    assert rows[0]["queries"] == 10
    assert rows[0]["accuracy"] == 0.6
    assert rows[0]["ci95"] == [0.3127, 0.8318]
    assert rows[0]["pass_at_k"] == 0.6
    assert [row["mean_completion_tokens"] for row in rows] == [10, 10, 160]
    assert [row["mean_reward_tokens"] for row in rows] == [7, 7, 112]
    assert 0 < rows[0]["p50_seconds"] <= rows[0]["p95_seconds"]
    assert len(records(tmp_path / "out")) == 30


def test_the_strategy_becomes_the_request(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """What is written as strategy/selector@stop is asked for by name; what isn't, is left open."""
    longthink(
        *("eval", "--file", str(questions), "--limit", "1", "--candidates", "4", "--seed", "5"),
        *("--strategies", "majority/weighted@beta:0.9,majority", "--max-tokens", "99"),
        *("--out", str(tmp_path / "out"), "--temperature", "0.5", "--url", fake_service.url),
    )
    one, other = sorted(fake_service.asked, key=lambda body: len(body["longthink"]))
    assert one["longthink"] == {"strategy": "majority", "budget": {"candidates": 4}}
    assert other["longthink"] == {
        "strategy": "majority",
        "selector": "weighted",
        "stop": "beta:0.9",
        "budget": {"candidates": 4},
    }
    assert (one["temperature"], one["max_tokens"]) == (0.5, 99)
    assert one["messages"] == other["messages"]


def test_strategies_are_compared_on_the_same_questions_and_seeds(
    fake_service: Any, longthink: Run, tmp_path: Path
) -> None:
    """Each question has a seed of its own, the same for every strategy."""
    arguments = ("eval", "--split", "easy", "--limit", "5", "--candidates", "2", "--seed", "11")
    strategies = ("--strategies", "single,majority,best_of_n", "--url", fake_service.url)
    longthink(*arguments, *strategies, "--out", str(tmp_path / "a"))
    seeds: dict[str, set[int]] = {}
    for body in fake_service.asked:
        seeds.setdefault(body["messages"][0]["content"], set()).add(body["seed"])
    assert len(seeds) == 5
    assert all(len(one) == 1 for one in seeds.values())
    assert len(set.union(*seeds.values())) == 5


def test_the_same_command_goes_on_where_it_stopped(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """Replies on record aren't asked for again, and half a line is no record."""
    out = tmp_path / "out"
    command = (
        *("eval", "--file", str(questions), "--strategies", "single,majority", "--format", "json"),
        *("--out", str(out), "--concurrency", "1", "--url", fake_service.url),
    )
    _, whole, _ = longthink(*command)
    lines = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    (out / "results.jsonl").write_bytes(b"".join(lines[:13]) + lines[13][:40])
    fake_service.asked.clear()
    code, again, _ = longthink(*command)
    assert code == 0
    assert len(fake_service.asked) == 7
    assert [row["accuracy"] for row in json.loads(again)] == [
        row["accuracy"] for row in json.loads(whole)
    ]
    fake_service.asked.clear()
    longthink(*command)
    assert fake_service.asked == []
    assert len(records(out)) == 20


def test_budgets_are_measured_in_single_samples(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """Single samples come first; then every request may spend so many times their mean."""
    code, out, _ = longthink(
        *("eval", "--file", str(questions), "--strategies", "majority", "--budgets", "1,16"),
        *("--out", str(tmp_path / "out"), "--format", "json", "--url", fake_service.url),
    )
    rows = json.loads(out)
    assert code == 0
    assert [(row["strategy"], row["candidates"], row["budget_tokens"]) for row in rows] == [
        ("single", 1, None),
        ("majority", 1, None),
        ("majority", 16, 160),
    ]
    assert [row["mean_completion_tokens"] for row in rows] == [10, 10, 160]
    asked = [body["longthink"] for body in fake_service.asked]
    assert [one["strategy"] for one in asked] == ["single"] * 10 + ["majority"] * 20
    assert {"candidates": 64, "completion_tokens": 160} in [one["budget"] for one in asked]


def test_help_says_what_a_budget_is(longthink: Run) -> None:
    """How a strategy is written, and which fields of a request a budget becomes."""
    code, out, _ = longthink("eval", "--help")
    told = " ".join(out.replace("│", " ").split())
    assert code == 0
    for shown in ("strategy[/selector][@stop]", "budget.completion_tokens", "openai/gsm8k"):
        assert shown in told


def test_a_budget_may_be_named_in_tokens(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """With the tokens of a candidate named, nothing is measured first."""
    longthink(
        *("eval", "--file", str(questions), "--strategies", "majority", "--budgets", "4"),
        *("--tokens-per-candidate", "12.5", "--limit", "1", "--out", str(tmp_path / "out")),
        *("--url", fake_service.url),
    )
    assert [body["longthink"]["budget"] for body in fake_service.asked] == [
        {"candidates": 16, "completion_tokens": 50}
    ]


def test_a_candidates_worth_stays_what_it_was(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """A run that goes on has the budgets that it began with, whatever single samples take now."""
    out = tmp_path / "out"
    command = (
        *("eval", "--file", str(questions), "--strategies", "majority", "--budgets", "4"),
        *("--out", str(out), "--concurrency", "1", "--url", fake_service.url),
    )
    longthink(*command)
    lines = (out / "results.jsonl").read_text().splitlines(keepends=True)
    longer = lines[0].replace('"completion_tokens": 10,', '"completion_tokens": 1000,')
    assert longer != lines[0]
    (out / "results.jsonl").write_text("".join([longer, *lines[1:15]]))
    fake_service.asked.clear()
    assert longthink(*command)[0] == 0
    assert [body["longthink"]["budget"] for body in fake_service.asked] == [
        {"candidates": 16, "completion_tokens": 40}
    ] * 5


def test_a_report_and_a_picture_stand_beside_the_replies(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """report.md is what Markdown prints; the picture it shows is there, in both forms."""
    out = tmp_path / "out"
    code, printed, _ = longthink(
        *("eval", "--file", str(questions), "--strategies", "single,majority,best_of_n"),
        *("--out", str(out), "--format", "markdown", "--url", fake_service.url),
    )
    assert code == 0
    assert printed == (out / "report.md").read_text()
    assert "| **`single`** | 1 | 10 | 60.0% (31.3–83.2) |" in printed
    assert "![Accuracy against completion tokens](accuracy.svg)" in printed
    assert (out / "accuracy.svg").read_text().startswith("<?xml")
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_reply_there_is_no_picture(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """Where every request failed, the report says so little as there is to say."""
    fake_service.script = lambda body: (500, {}, {"error": {"message": "It fell over."}})
    out = tmp_path / "out"
    code, _, err = longthink(
        *("eval", "--file", str(questions), "--strategies", "single", "--out", str(out)),
        *("--url", fake_service.url),
    )
    assert code == 1
    assert "10 requests failed" in err
    assert "| `single` | 1 | 0 |" in (out / "report.md").read_text()
    assert not (out / "accuracy.svg").exists()


def test_without_a_sample_there_is_no_budget(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """Where no single sample has a reply, nobody knows what a candidate is worth."""
    fake_service.script = lambda body: (500, {}, {"error": {"message": "It fell over."}})
    code, out, err = longthink(
        *("eval", "--file", str(questions), "--strategies", "majority", "--budgets", "4"),
        *("--out", str(tmp_path / "out"), "--url", fake_service.url),
    )
    assert (code, out) == (1, "")
    assert "--tokens-per-candidate" in err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("--seed", "1"), "seed was 0, now 1"),
        (("--temperature", "0.1"), "temperature was 0.8, now 0.1"),
        (("--limit", "5"), "limit was 10, now 5"),
        (("--width", "0.5"), "width was 0.75, now 0.5"),
    ],
)
def test_another_measurement_is_kept_apart(
    fake_service: Any,
    longthink: Run,
    questions: Path,
    tmp_path: Path,
    changed: tuple[str, ...],
    told: str,
) -> None:
    """A folder that holds the results of another configuration is refused, with what differs."""
    command = (
        *("eval", "--file", str(questions), "--strategies", "single"),
        *("--out", str(tmp_path / "out"), "--url", fake_service.url),
    )
    longthink(*command)
    before = records(tmp_path / "out")
    code, out, err = longthink(*command, *changed)
    assert (code, out) == (1, "")
    assert told in err
    assert "--out" in err
    assert records(tmp_path / "out") == before


def test_other_strategies_join_those_that_are_there(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """They are asked alone and printed alone; the report and the picture have all of them."""
    command = (
        *("eval", "--file", str(questions), "--format", "json"),
        *("--out", str(tmp_path / "out"), "--url", fake_service.url),
    )
    longthink(*command, "--strategies", "single")
    fake_service.asked.clear()
    code, out, _ = longthink(*command, "--strategies", "majority", "--budgets", "4")
    assert code == 0
    assert [row["strategy"] for row in json.loads(out)] == ["single", "majority"]
    assert len(fake_service.asked) == 10
    longthink(*command, "--strategies", "best_of_n", "--candidates", "2")
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(name in report for name in ("single", "majority", "best_of_n"))
    assert len(records(tmp_path / "out")) == 30


def test_errors_are_shown_and_asked_again(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """A question that fails is counted apart, told, and asked by the next run; exit code 1."""

    def failing(body: dict[str, Any]) -> str | tuple[int, dict[str, str], Any]:
        if body["messages"][0]["content"] in ("q1", "q8"):
            return 500, {}, {"error": {"message": "It fell over."}}
        return "#### 2"

    command = (
        *("eval", "--file", str(questions), "--strategies", "single", "--format", "json"),
        *("--out", str(tmp_path / "out"), "--url", fake_service.url),
    )
    fake_service.script = failing
    code, out, err = longthink(*command)
    assert code == 1
    assert json.loads(out)[0]["queries"] == 8
    assert json.loads(out)[0]["accuracy"] == 0.625
    assert "2 requests failed" in err
    assert "2 x It fell over." in err
    fake_service.script = lambda body: "#### 2"
    fake_service.asked.clear()
    code, out, _ = longthink(*command)
    assert code == 0
    assert json.loads(out)[0]["queries"] == 10
    assert {body["messages"][0]["content"] for body in fake_service.asked} == {"q1", "q8"}


def test_a_service_that_fails_throughout_ends_the_run(
    fake_service: Any, longthink: Run, tmp_path: Path
) -> None:
    """After twenty errors in a row there is no point in going on."""
    fake_service.script = lambda body: (500, {}, {"error": {"message": "It fell over."}})
    command = ("eval", "--split", "easy", "--limit", "200", "--out", str(tmp_path / "out"))
    code, out, err = longthink(*command, "--url", fake_service.url, "--concurrency", "4")
    assert (code, out) == (1, "")
    assert "20 errors in a row, the last: It fell over." in err
    assert 20 <= len(fake_service.asked) < 30


def test_no_more_at_a_time_than_asked_for(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """With --concurrency 3 three questions are under way, never four."""
    under_way, most, lock = 0, 0, threading.Lock()

    def slow(url_body: dict[str, Any]) -> str:
        nonlocal under_way, most
        fake_service.lock.release()
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.1)
        with lock:
            under_way -= 1
        fake_service.lock.acquire()
        return "#### 2"

    fake_service.script = slow
    arguments = ("--strategies", "single", "--concurrency", "3", "--out", str(tmp_path / "out"))
    longthink("eval", "--file", str(questions), *arguments, "--url", fake_service.url)
    assert most == 3


def test_the_table_is_for_people(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """The table has the figures of the rows, and says where every reply is."""
    command = ("eval", "--file", str(questions), "--strategies", "single,majority/weighted")
    _, out, err = longthink(*command, "--out", str(tmp_path / "out"), "--url", fake_service.url)
    for shown in ("majority/weighted", "16", "60.0%", "31.3% – 83.2%", "results.jsonl"):
        assert shown in out
    assert "20/20" in err


def test_a_right_answer_in_another_form_is_right(
    fake_service: Any, longthink: Run, tmp_path: Path
) -> None:
    """Answers are compared by what they mean; any candidate that had it counts for pass@k."""
    path = tmp_path / "halves.jsonl"
    path.write_text('{"question": "half?", "answer": "1/2"}\n{"question": "99?", "answer": 99}\n')
    fake_service.script = lambda body: "#### 0.5"
    _, out, _ = longthink(
        *("eval", "--file", str(path), "--strategies", "majority", "--candidates", "4"),
        *("--out", str(tmp_path / "out"), "--format", "json", "--url", fake_service.url),
    )
    assert json.loads(out)[0]["accuracy"] == 0.5
    assert json.loads(out)[0]["pass_at_k"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "either --split or --file"),
        (("--split", "hard", "--file", "x"), "either --split or --file"),
        (("--split", "heavy"), "--split must be one of easy, hard, compound"),
        (("--split", "hard", "--strategies", "guess"), "must be one of single"),
        (("--split", "hard", "--strategies", "majority/x"), "selector must be one of"),
        (("--split", "hard", "--strategies", "majority@x"), "stop must be made of"),
        (("--split", "hard", "--strategies", ""), "at least one strategy"),
        (("--split", "hard", "--candidates", "many"), "--candidates takes whole numbers"),
        (("--split", "hard", "--candidates", "0"), "1 or more, not 0"),
        (("--split", "hard", "--budgets", "some"), "--budgets takes whole numbers"),
        (("--split", "hard", "--budgets", "4,0"), "1 or more, not 0"),
        (("--split", "hard", "--dataset", "x/y"), "either --split or --file or --dataset"),
        (("--file", "/nowhere.jsonl"), "/nowhere.jsonl: can't be read"),
    ],
)
def test_nonsense_is_refused_before_anything_starts(
    longthink: Run, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    """What can't be measured is told at once, without a service."""
    code, out, err = longthink("eval", *arguments, "--out", str(tmp_path / "out"))
    assert (code, out) == (1, "")
    assert told in err
    assert not (tmp_path / "out").exists()
