"""An evaluation's judge: an answer is right in whatever form it is written."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.judging import Referee, by_form
from services.evaluation.questions import Question
from services.evaluation.replaying import effort_of, replay
from services.evaluation.run import Job, judged
from services.evaluation.samples import read_samples
from services.evaluation.variants import Variant
from workers.verifying.formulas import FormulaPool

GOLD = r"\frac{\sqrt{3}}{3}"
EQUAL = r"1/\sqrt{3}"
OTHER = r"1/\sqrt{5}"


class Counting(FormulaPool):
    """Takes a moment for each comparison, and for one of them for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []

    async def equal(self, one: str, other: str) -> bool:
        self.asked.append((one, other))
        await asyncio.sleep(0.01)
        if "5" in one:
            raise TimeoutError
        return True


def reply(*answers: str) -> dict[str, Any]:
    """A reply with a vote for each of these, the first of which is its answer."""
    ours = {
        "answer": answers[0],
        "confidence": 0.9,
        "votes": [{"answer": answer, "count": 2} for answer in answers],
        "silent": 0,
        "stopped": "complete",
        "spent": {"completion_tokens": 12, "reward_tokens": 3, "candidates": 2 * len(answers)},
        "trace_id": "t",
    }
    return {"longthink": ours}


async def test_an_equal_formula_is_the_right_answer() -> None:
    """What the vote named otherwise than the question's author is right, and counted as such."""
    job = Job(Question("q", "?", GOLD), Variant("majority", "majority", None, None, 4), 1)
    async with Referee() as referee:
        record = await judged(job, reply(EQUAL, OTHER), 1.5, referee)
        wrong = await judged(job, reply(OTHER, EQUAL), 1.5, referee)
    assert (record.right, record.passed, record.correct) == (True, True, 2)
    assert (wrong.right, wrong.passed, wrong.correct) == (False, True, 2)


async def test_a_pair_is_compared_once() -> None:
    """However many wait for it at the same time, or ask again later."""
    pool = Counting()
    async with Referee(pool) as referee:
        assert all(await asyncio.gather(*(referee.same(EQUAL, GOLD) for _ in range(20))))
        assert await referee.same(f" {EQUAL} ", GOLD)
    assert len(pool.asked) == 1


async def test_what_cannot_be_compared_in_time_is_different() -> None:
    """A comparison that is ended by its time limit is a no, once and for all."""
    pool = Counting()
    async with Referee(pool) as referee:
        assert not await referee.same(OTHER, GOLD)
        assert not await referee.same(OTHER, GOLD)
    assert len(pool.asked) == 1


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [("0.5", r"\frac12", True), ("41", "42", False), ("paris", "pairs", False)],
)
async def test_forms_that_tell_need_no_comparison(answer: str, gold: str, right: bool) -> None:
    """Numbers and words are decided by their canonical forms."""
    pool = Counting()
    async with Referee(pool) as referee:
        assert await referee.same(answer, gold) is right
    assert pool.asked == []


def test_numbers_start_nothing() -> None:
    """Where every answer is a number, nothing that compares formulas is even imported."""
    script = (
        "import sys\n"
        "from services.evaluation.judging import refereed\n"
        "with refereed() as (same, _):\n"
        "    assert same('0.50', '1/2') and not same('41', '42')\n"
        "assert {'math_verify', 'sympy', 'pebble'}.isdisjoint(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_recorded_samples_are_judged_alike(tmp_path: Path) -> None:
    """In a replay, too, an equal formula is right, and counts for pass@k."""
    path = tmp_path / "samples.jsonl"
    answers = (EQUAL, EQUAL, OTHER)
    samples = [{"text": "…", "answer": answer, "tokens": 1} for answer in answers]
    path.write_text(json.dumps({"id": 1, "question": "?", "answer": GOLD, "samples": samples}))
    recorded = read_samples(path)
    effort = effort_of(recorded, strategy="majority", selector=None, stop="none", candidates=1)
    (ended,) = replay(recorded, effort)
    assert ended.right
    assert ended.passes == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("42 apples", "42", True),
        ("$42", "42", True),
        ("42 dollars", "42", True),
        (r"12 \text{ cm}^2", "12", True),
        (r"42\,\text{cm}", "42", True),
        (r"42~\text{cm}", "42", True),
        ("42 m", "42", True),
        ("1,200 km/h", "1200", True),
        ("42 square miles", "42", True),
        ("42 apples", "41", False),
        ("42 apples", "42 pears", False),
        *((f"5 {more}", "5", False) for more in ("million", "pi", "dozen", "plus i", "log x")),
        *((f"2 {more}", "2", False) for more in ("thirds", "abc", "x", "squared", "or 3")),
        ("3x", "3", False),
        ("12 and 5", "12", False),
    ],
)
def test_a_unit_more_is_no_mistake(answer: str, gold: str, right: bool) -> None:
    """A bare number is meant by the number with its unit, and by no other formula."""
    assert bool(by_form(answer, gold)) == right


def test_recorded_answers_may_carry_their_marks(tmp_path: Path) -> None:
    """A published solution is its answer, and so is what a sample was boxed with."""
    path = tmp_path / "samples.jsonl"
    answers = ("#### 1,253", "The answer is 1253.", r"\boxed{1253}", "1253", "7", "7")
    samples = [{"text": "…", "answer": answer} for answer in answers]
    gold = "Together they cost 1250 + 3 = 1253.\n#### 1,253"
    path.write_text(json.dumps({"id": 1, "question": "?", "answer": gold, "samples": samples}))
    recorded = read_samples(path)
    effort = effort_of(recorded, strategy="majority", selector=None, stop="none", candidates=6)
    (ended,) = replay(recorded, effort)
    assert ended.right
    assert ended.answer == "1253"
