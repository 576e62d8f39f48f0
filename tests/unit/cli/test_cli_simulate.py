"""`longthink simulate`, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from services.simulation.model import EngineModel, Model, OrchestratorModel, Question, Sample

Longthink: TypeAlias = Callable[..., tuple[int, str, str]]

ENGINE = EngineModel(step_seconds=0.01, sequence_seconds=0.001, prompt_token_seconds=0.0001)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The file of a model of one easy question."""
    samples = tuple(Sample((6, 7 + n), "7", (0.9, 0.9)) for n in range(4))
    questions = (Question("easy", 30, "7", samples),)
    path = tmp_path / "model.json"
    Model("a test", ENGINE, ENGINE, OrchestratorModel(0.002, 0.0005), questions).save(path)
    return path


def test_it_prints_a_row_a_point_and_draws_them(
    longthink: Longthink, model: Path, tmp_path: Path
) -> None:
    """Each number of workers under each load, with the picture and the figures in a folder."""
    out = tmp_path / "out"
    code, printed, _ = longthink(
        *("simulate", "--model", str(model), "--split", "easy", "--processes", "1"),
        *("--workers", "1,2", "--loads", "0.3", "--requests", "20", "--out", str(out)),
    )
    assert code == 0
    head, *rows = printed.splitlines()
    assert head.split()[:2] == ["workers", "edges"]
    assert [row.split()[0] for row in rows] == ["1+1", "2+2"]
    assert len(json.loads((out / "figures.json").read_text())) == 2
    assert (out / "simulation.svg").is_file()
    assert (out / "simulation.png").is_file()


def test_it_prints_json(longthink: Longthink, model: Path) -> None:
    """For programs: an array of points, at the rate that was asked for."""
    code, printed, _ = longthink(
        *("simulate", "--model", str(model), "--split", "easy", "--processes", "1"),
        *("--workers", "3", "--rate", "4", "--seconds", "5", "--format", "json"),
    )
    (point,) = json.loads(printed)
    assert code == 0
    assert (point["workers"], point["in_time"]) == (3, 1.0)
    assert 1 < point["offered"] < 10


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--workers", "1,x"), "--workers"),
        (("--loads", "0"), "--loads"),
        (("--efforts", "enormous"), "--efforts"),
        (("--split", "trivia"), "easy"),
        (("--model", "nowhere.json"), "--fit"),
    ],
)
def test_what_makes_no_sense_is_told(
    longthink: Longthink, model: Path, asked: tuple[str, ...], told: str
) -> None:
    """An option that can't be followed ends the command with what to do."""
    code, printed, error = longthink("simulate", "--model", str(model), *asked)
    assert (code, printed) == (1, "")
    assert told in error
