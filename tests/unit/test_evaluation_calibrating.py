"""Fitting what confidence means on the outcomes of an evaluation."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from planner.calibration import ANY, Calibration
from services.evaluation import sections
from services.evaluation.calibrating import calibrate
from services.evaluation.pictures import draw_reliability
from services.evaluation.results import Record, Results, opened
from services.evaluation.variants import Variant, variants


def recorded(results: Results, variant: Variant, count: int, bend: float, **said: Any) -> None:
    """Outcomes that are right as often as the `bend`th power of their confidence."""
    rng = random.Random(f"{variant.key} {bend}")
    for place in range(count):
        raw = rng.random()
        told = {"confidence": raw, "completion_tokens": 100, "answer": "2", "finished": 4, **said}
        results.add(
            Record(
                variant.key,
                variant.written,
                variant.candidates,
                f"q{place}",
                "2",
                right=rng.random() < raw**bend,
                **told,
            )
        )


@pytest.fixture
def results(tmp_path: Path) -> Any:
    with opened(tmp_path, {}) as kept:
        yield kept


def test_each_strategy_has_a_curve_of_its_own(results: Results) -> None:
    """Overconfident and underconfident outcomes are both brought to how often they are right."""
    bold, shy, rare = variants(["majority@none", "best_of_n/best", "beam"], [4])
    recorded(results, bold, 800, 4.0)
    recorded(results, shy, 800, 0.25)
    recorded(results, rare, 20, 1.0)
    fitted = calibrate(results, "m", "here")
    assert fitted is not None
    known = fitted.calibration
    assert _families(known) == {ANY, "majority/majority", "best_of_n/best"}
    assert known.apply("majority", "majority", 0.7, 4) == pytest.approx(0.24, abs=0.12)
    assert known.apply("best_of_n", "best", 0.3, 4) == pytest.approx(0.74, abs=0.12)
    assert known.apply("beam", "weighted", 0.5, 4) == known.curves[f"{ANY}:7"].apply(0.5)
    assert (known.model, known.source) == ("m", "here")
    assert [one.name for one in fitted.families] == ["majority/majority", "best_of_n/best"]
    assert all(one.raw > 0.2 for one in fitted.families)
    assert all(one.fitted < 0.06 for one in fitted.families)
    assert fitted.together.outcomes == 1620
    assert fitted.together.fitted < 0.04


def test_what_is_said_was_told_by_other_questions(results: Results) -> None:
    """Outcomes that are noise can't be told, though a curve may follow each of them."""
    (noise,) = variants(["majority"], [4])
    recorded(results, noise, 300, 0.0)
    for record in results.of(noise.key):
        rng = random.Random(record.question)
        said = {**_said(record), "right": rng.random() < 0.5, "confidence": rng.random()}
        results.add(Record(**said))
    fitted = calibrate(results, "m", "")
    assert fitted is not None
    (checked,) = fitted.families
    assert checked.fitted > 0.3 * checked.chance


def test_few_candidates_have_a_curve_of_their_own(results: Results) -> None:
    """The same confidence is worth less where fewer have voted; too few outcomes share one."""
    few, many, rare = variants(["majority@none"], [4, 16, 64])
    recorded(results, few, 600, 4.0)
    recorded(results, many, 600, 0.5, finished=16)
    recorded(results, rare, 20, 1.0, finished=64)
    fitted = calibrate(results, "m", "")
    assert fitted is not None
    known = fitted.calibration
    assert {name for name in known.curves if name.startswith("majority")} == {
        "majority/majority",
        "majority/majority:7",
        "majority/majority:31",
    }
    assert known.apply("majority", "majority", 0.6, 4) == pytest.approx(0.13, abs=0.12)
    assert known.apply("majority", "majority", 0.6, 16) == pytest.approx(0.77, abs=0.12)
    assert known.apply("majority", "majority", 0.6, 64) == known.curves["majority/majority"].apply(
        0.6
    )
    assert fitted.families[0].fitted < 0.05


def test_the_service_says_what_it_used(results: Results) -> None:
    """An effort's outcomes are those of the strategy and the selector that it came to."""
    (effort,) = variants([], [], efforts=["high"])
    recorded(results, effort, 60, 1.0, used="auto/weighted")
    fitted = calibrate(results, "m", "")
    assert fitted is not None
    assert _families(fitted.calibration) == {ANY, "auto/weighted"}


def test_older_outcomes_are_of_what_the_service_has_for_them(results: Results) -> None:
    """Where a record doesn't say, its name does."""
    one, other = variants(["majority/weighted@none"], [4], efforts=["low"])
    recorded(results, one, 60, 1.0)
    recorded(results, other, 60, 1.0)
    fitted = calibrate(results, "m", "")
    assert fitted is not None
    assert _families(fitted.calibration) == {ANY, "auto/weighted", "majority/weighted"}
    outcomes = {one.name: one.outcomes for one in fitted.families}
    assert outcomes["auto/weighted"] == outcomes["majority/weighted"] == 60


def test_a_strategy_with_others_inside_counts_for_all_with_others_inside(results: Results) -> None:
    """Each has its own curve, and what is like them the one of both."""
    (variant,) = variants(["majority"], [4])
    recorded(results, variant, 60, 1.0, used="plan(beam)/weighted")
    (variant,) = variants(["majority"], [8])
    recorded(results, variant, 70, 1.0, used="plan(dvts)/weighted")
    fitted = calibrate(results, "m", "")
    assert fitted is not None
    assert {one.name: one.outcomes for one in fitted.families} == {
        "plan/weighted": 130,
        "plan(beam)/weighted": 60,
        "plan(dvts)/weighted": 70,
    }


def test_raw_confidence_is_what_is_fitted(results: Results) -> None:
    """What an earlier calibration made of it is judged, not built upon."""
    (variant,) = variants(["majority"], [4])
    recorded(results, variant, 400, 1.0)
    for record in results.of(variant.key):
        said = {**_said(record), "raw_confidence": record.confidence, "confidence": 0.99}
        results.add(Record(**{**said, "calibrated": True}))
    fitted = calibrate(results, "m", "")
    assert fitted is not None
    assert fitted.together.replied == pytest.approx(0.49, abs=0.05)
    assert fitted.together.raw < 0.1
    assert "as replied" in "\n".join(sections.calibration(fitted, None))


def test_what_was_never_answered_teaches_nothing(results: Results) -> None:
    """Neither an error nor a reply without an answer; without any other there is nothing to fit."""
    (variant,) = variants(["majority"], [4])
    recorded(results, variant, 30, 1.0, error="gone")
    (variant,) = variants(["majority"], [8])
    recorded(results, variant, 30, 1.0, answer=None)
    assert calibrate(results, "m", "") is None
    assert list(sections.calibration(None, None)) == []


def test_gains_are_what_tokens_brought(results: Results) -> None:
    """On all questions, and by how sure a vote of four was on each; deadlines are left out."""
    probe, wide = variants(["majority@none"], [4, 16])
    recorded(results, probe, 300, 1.0, completion_tokens=400)
    recorded(results, wide, 300, 0.5, completion_tokens=1600)
    (timed,) = variants(["majority"], [], deadlines=[1])
    recorded(results, timed, 300, 1.0)
    fitted = calibrate(results, "m", "")
    assert fitted is not None
    gains = fitted.calibration.gains
    assert {(gain.strategy, gain.candidates, gain.tokens) for gain in gains} == {
        ("majority@none", 4, 400),
        ("majority@none", 16, 1600),
    }
    thirds = [gain for gain in gains if gain.candidates == 4 and gain.probe is not None]
    assert [gain.queries for gain in thirds] == [100, 100, 100]
    assert [gain.accuracy for gain in thirds] == sorted(gain.accuracy for gain in thirds)
    bounds = [gain.probe for gain in thirds if gain.probe]
    assert (bounds[0][0], bounds[-1][1]) == (0.0, 1.0)
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    assert sum(gain.probe is None for gain in gains) == 2


def test_votes_that_are_all_alike_are_one_group(results: Results) -> None:
    """Equals aren't parted."""
    (probe,) = variants(["majority"], [4])
    recorded(results, probe, 60, 1.0)
    for record in results.of(probe.key):
        results.add(Record(**{**_said(record), "confidence": 0.5}))
    fitted = calibrate(results, "m", "")
    assert fitted is not None
    assert [gain.probe for gain in fitted.calibration.gains] == [None, (0.0, 0.5)]


def test_the_report_says_how_far_confidence_can_be_trusted(
    results: Results, tmp_path: Path
) -> None:
    """The errors before and after, bin by bin, and as a picture."""
    (variant,) = variants(["majority"], [4])
    recorded(results, variant, 400, 4.0)
    fitted = calibrate(results, "m", "")
    assert fitted is not None
    picture = draw_reliability(fitted, tmp_path, title="t")
    assert picture == "reliability.svg"
    assert (tmp_path / "reliability.png").stat().st_size > 10_000
    text = "\n".join(sections.calibration(fitted, picture))
    (checked,) = fitted.families
    assert (
        f"| `majority/majority` | {checked.kind} | 400 | {checked.raw:.3f} | "
        f"{checked.fitted:.3f} | {checked.chance:.3f} |" in text
    )
    assert "](reliability.svg)" in text
    assert text.count("| 40 |") == 10
    assert draw_reliability(None, tmp_path / "no", title="t") is None


def _said(record: Record) -> dict[str, Any]:
    return dict(
        json.loads(
            json.dumps({name: getattr(record, name) for name in Record.__dataclass_fields__})
        )
    )


def _families(known: Calibration) -> set[str]:
    """What there are curves of, whatever the number of candidates."""
    return {name.partition(":")[0] for name in known.curves}
