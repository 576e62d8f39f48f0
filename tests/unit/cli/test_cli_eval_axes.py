"""`longthink eval` over efforts, deadlines and splits, and what it teaches of confidence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from planner.calibration import ANY
from services.calibration import load
from services.redis_server import RedisServer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A hundred questions, of which every other has the answer that the scripted service gives."""
    path = tmp_path / "questions.jsonl"
    lines = [{"question": f"q{n}", "answer": 2 if n % 2 else "three"} for n in range(100)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(autouse=True)
def nobodys_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Redis but one that a test names."""
    monkeypatch.delenv("REDIS_URL", raising=False)


def test_efforts_are_measured_as_strategies_are(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """The word goes into the request, and rows, report and picture have it; with strategies too."""
    out = tmp_path / "out"
    command = ("eval", "--file", str(questions), "--limit", "8", "--url", fake_service.url)
    code, said, _ = longthink(
        *(*command, "--efforts", "none,high", "--out", str(out), "--format", "json")
    )
    assert code == 0
    assert [(row["strategy"], row["effort"], row["candidates"]) for row in json.loads(said)] == [
        ("effort=none", "none", None),
        ("effort=high", "high", None),
    ]
    assert {body["reasoning_effort"] for body in fake_service.asked} == {"none", "high"}
    assert all("strategy" not in body["longthink"] for body in fake_service.asked)
    _, table, _ = longthink(*command, "--efforts", "none,high", "--out", str(out))
    assert "high takes 1.0 times none's tokens: hardest quarter" in table
    code, printed, _ = longthink(
        *(*command, "--efforts", "low", "--strategies", "majority", "--candidates", "4"),
        *("--out", str(out), "--format", "markdown"),
    )
    assert code == 0
    assert "## Completion tokens from `none` to `high`" in printed
    for name in ("`effort=none`", "`effort=low`", "`effort=high`", "`majority`"):
        assert name in printed
    assert "<!-- reasoning_effort -->" in (out / "accuracy.svg").read_text()


def test_deadlines_are_a_budget_of_seconds(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """How many were answered in time stands beside the accuracy, as a table and as a picture."""
    out = tmp_path / "out"
    command = (
        *("eval", "--file", str(questions), "--limit", "4", "--strategies", "majority"),
        *("--deadlines", "0.5,30", "--out", str(out), "--url", fake_service.url),
    )
    code, said, _ = longthink(*command, "--format", "json")
    rows = json.loads(said)
    assert code == 0
    assert [(row["deadline"], row["in_time"]) for row in rows][1] == (30, 1)
    budgets = [body["longthink"]["budget"] for body in fake_service.asked]
    assert {"deadline_seconds": 0.5} in budgets
    _, table, _ = longthink(*command)
    assert "in time" in table
    assert "30 s" in table
    report = (out / "report.md").read_text()
    assert "## By deadline" in report
    assert "![Accuracy against the deadline](deadlines.svg)" in report
    assert (out / "deadlines.svg").exists()
    assert not (out / "accuracy.svg").exists()


def test_several_splits_are_told_apart(fake_service: Any, longthink: Run, tmp_path: Path) -> None:
    """The same questions for every strategy; figures by split and together."""
    out = tmp_path / "out"
    code, said, _ = longthink(
        *("eval", "--split", "easy,compound", "--limit", "3", "--strategies", "single,majority"),
        *("--out", str(out), "--url", fake_service.url, "--format", "json"),
    )
    rows = json.loads(said)
    assert code == 0
    assert [row["queries"] for row in rows] == [6, 6]
    assert [[part["split"] for part in row["parts"]] for row in rows] == [["easy", "compound"]] * 2
    assert (
        "| strategy | n | easy | tokens | compound | tokens | all |"
        in (out / "report.md").read_text()
    )
    assert json.loads((out / "run.json").read_text())["limit"] == 6


def test_calibrating_writes_what_it_found(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """A file that a profile can name, the errors before and after, a table and a picture."""
    out = tmp_path / "out"
    command = (
        *("eval", "--file", str(questions), "--strategies", "majority", "--candidates", "4"),
        *("--out", str(out), "--url", fake_service.url),
    )
    longthink(*command)
    assert not (out / "calibration.json").exists()
    fake_service.asked.clear()
    code, table, _ = longthink(*command, "--calibrate")
    assert (code, fake_service.asked) == (0, [])
    assert "Calibration error 0.375 raw" in table
    known = load(out / "calibration.json")
    assert known.model == "scripted"
    assert {ANY, "majority/majority", "majority/majority:7"} <= set(known.curves)
    assert known.apply("majority", "majority", 0.875, 4) == pytest.approx(0.5, abs=0.01)
    assert (known.gains[0].strategy, known.gains[0].candidates) == ("majority", 4)
    report = (out / "report.md").read_text()
    assert "## Calibration" in report
    assert "](reliability.svg)" in report
    written = json.loads((out / "report.json").read_text())
    assert [one["name"] for one in written["calibration"]][1] == "majority/majority"
    assert written["rows"][0]["accuracy"] == 0.5


def test_calibrating_tells_the_redis_that_the_settings_name(
    fake_service: Any,
    longthink: Run,
    questions: Path,
    tmp_path: Path,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever service was asked."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    code, _, _ = longthink(
        *("eval", "--file", str(questions), "--strategies", "majority", "--calibrate"),
        *("--out", str(tmp_path / "out"), "--url", fake_service.url),
    )
    assert code == 0
    with Redis.from_url(redis_url) as redis:
        assert redis.hexists("longthink:{scripted}:calibration", "curve:majority/majority")


def test_a_redis_that_is_gone_costs_nothing_but_its_copy(
    fake_service: Any,
    longthink: Run,
    questions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told, and the file is there."""
    with RedisServer() as server:
        url = server.url
    monkeypatch.setenv("REDIS_URL", url)
    code, _, err = longthink(
        *("eval", "--file", str(questions), "--strategies", "majority", "--calibrate"),
        *("--out", str(tmp_path / "out"), "--url", fake_service.url),
    )
    assert code == 1
    assert "can't be kept in Redis" in err
    assert (tmp_path / "out" / "calibration.json").exists()


def test_without_an_answer_there_is_nothing_to_calibrate(
    fake_service: Any, longthink: Run, questions: Path, tmp_path: Path
) -> None:
    """It is told."""
    fake_service.script = lambda body: "No idea."
    code, _, err = longthink(
        *("eval", "--file", str(questions), "--limit", "3", "--strategies", "majority"),
        *("--calibrate", "--out", str(tmp_path / "out"), "--url", fake_service.url),
    )
    assert code == 0
    assert "No reply has an answer" in err
    assert not (tmp_path / "out" / "calibration.json").exists()
