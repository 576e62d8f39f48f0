"""Who beats whom, in Markdown and as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.chart import draw, spots, spread
from services.evaluation.comparison import pair, pareto, rounds
from services.evaluation.estimates import difference
from services.evaluation.report import markdown, on_front
from services.evaluation.results import Record, Results, opened
from services.evaluation.summary import PassAt, Row, rows
from services.evaluation.variants import Variant, Worth, variants

points = st.tuples(st.integers(0, 5), st.integers(0, 5))
ONE, OTHER = variants(["majority", "best_of_n"], [4])
CONFIGURATION: Mapping[str, Any] = {
    "questions": "hard",
    "limit": 40,
    "seed": 0,
    "temperature": 0.8,
    "max_tokens": None,
    "model": "m",
}


def row(strategy: str, n: int, accuracy: float, tokens: float, **more: Any) -> Row:
    return Row(
        strategy=strategy,
        candidates=n,
        queries=100,
        accuracy=accuracy,
        ci95=(accuracy - 0.05, accuracy + 0.05),
        mean_completion_tokens=tokens,
        **more,
    )


def recorded(results: Results, variant: Variant, right: Sequence[bool], tokens: int) -> None:
    for place, one in enumerate(right):
        results.add(
            Record(
                variant.key,
                variant.written,
                variant.candidates,
                f"q{place}",
                "2",
                right=one,
                passed=one,
                completion_tokens=tokens,
            )
        )


def test_the_front_is_what_nothing_beats() -> None:
    """Dearer must be better; of two at a price only the better; equals stand side by side."""
    assert pareto([(1, 0.4), (2, 0.4), (3, 0.6), (3, 0.5), (4, 0.55), (8, 0.7)]) == (0, 2, 5)
    assert pareto([(2, 0.5), (1, 0.5)]) == (1,)
    assert pareto([(1, 0.5), (1, 0.5)]) == (0, 1)
    assert pareto([]) == ()


@given(st.lists(points, max_size=12))
def test_the_front_is_the_front(drawn: list[tuple[int, int]]) -> None:
    """A point is on it if and only if no other costs no more, gives no less and differs."""
    beaten = {
        place
        for place, (cost, gain) in enumerate(drawn)
        for other in drawn
        if other != (cost, gain) and other[0] <= cost and other[1] >= gain
    }
    assert sorted(pareto(drawn)) == [place for place in range(len(drawn)) if place not in beaten]


def test_rows_without_figures_are_on_no_front() -> None:
    """A variant without a reply is passed over, and the places stay those of the rows."""
    assert on_front([Row("a", 1, 0), row("b", 1, 0.5, 10), row("c", 1, 0.4, 20)]) == {1}


def test_a_pair_is_compared_on_what_both_answered(tmp_path: Path) -> None:
    """Question by question, over those that have two replies."""
    with opened(tmp_path, {}) as results:
        recorded(results, ONE, [True] * 30 + [False] * 10, 10)
        recorded(results, OTHER, [True] * 18 + [False] * 20, 10)
        compared, turned = pair(ONE, OTHER, results), pair(OTHER, ONE, results)
    assert compared is not None
    assert turned is not None
    assert (compared.queries, compared.gap) == (38, 12 / 38)
    assert compared.ci95[0] > 0
    assert compared.telling
    assert turned.gap == -compared.gap
    assert turned.chance == compared.chance == pytest.approx(2 / 2**12)


def test_nothing_in_common_is_no_pair(tmp_path: Path) -> None:
    """Errors are no replies."""
    with opened(tmp_path, {}) as results:
        recorded(results, ONE, [True], 10)
        results.add(Record(OTHER.key, OTHER.written, 4, "q0", "2", error="gone"))
        assert pair(ONE, OTHER, results) is None
        assert rounds(results, (ONE, OTHER)) == ()


def test_equals_compare_at_equal_numbers(tmp_path: Path) -> None:
    """A round for each number of candidates and of their worth, `single` in all of them."""
    compared = variants(["single", "majority", "best_of_n"], [4], [1, 4])
    with opened(tmp_path, {}) as results:
        for variant in compared:
            recorded(results, variant, [True, False], 10)
        found = rounds(results, compared)
    assert [one.title for one in found] == [
        "4 candidates",
        "1 candidate’s worth of tokens",
        "4 candidates’ worth of tokens",
    ]
    assert [variant.key for variant in found[2].variants] == [
        "single x1",
        "majority ~4",
        "best_of_n ~4",
    ]
    assert all(len(one.pairs) == 6 for one in found)


def test_the_report_has_rows_and_pairs(tmp_path: Path) -> None:
    """A row a variant, those on the front in bold; a matrix of differences with intervals."""
    with opened(tmp_path, {}) as results:
        recorded(results, ONE, [True] * 30 + [False] * 10, 100)
        recorded(results, OTHER, [True] * 18 + [False] * 22, 200)
        made, found = rows(results, (ONE, OTHER)), rounds(results, (ONE, OTHER))
    text = markdown(made, found, CONFIGURATION, None, "accuracy.svg")
    lines = text.splitlines()
    assert lines[0] == "# hard, answered by m"
    first = "| **`majority`** | 4 | 40 | 75.0% (59.8–85.8) | 75.0% (59.8–85.8) | 100 (100–100) |"
    assert any(line.startswith(first) for line in lines)
    assert any(line.startswith("| `best_of_n` | 4 | 40 | 45.0% (30.7–60.2) |") for line in lines)
    assert "## At 4 candidates: row less column, in points of accuracy" in lines
    low, high = (100 * end for end in difference(12, 0, 18, 10))
    assert f"| `majority` |  | **+30.0** ({low:+.1f} to {high:+.1f}) |" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in tables} == {10, 4}
    assert "](accuracy.svg)" in text
    assert "pass@1" not in text


def test_the_report_says_what_a_candidate_is_worth() -> None:
    """With budgets in tokens, the tokens that no request could exceed."""
    one = row("beam", 16, 0.5, 900, worth=True, budget_tokens=1824)
    text = markdown([one], (), {**CONFIGURATION, "max_tokens": 99}, Worth(114.04, 0.75), None)
    assert "A candidate's worth is 114.0 completion tokens." in text
    assert "| 16 (≤ 1,824) |" in text
    assert "max_tokens 99" in text
    assert "![" not in text


def test_pass_at_k_stands_in_columns() -> None:
    """As far as each row goes; a bar in a name doesn't end its cell."""
    passes = tuple(PassAt(k, k / 10, (k / 20, k / 5)) for k in (1, 2, 4))
    table = [row("a|b", 4, 0.5, 9, pass_at=passes), row("c", 2, 0.5, 9, pass_at=passes[:2])]
    text = markdown(table, (), CONFIGURATION, None, None)
    assert "| strategy | n | pass@1 | pass@2 | pass@4 |" in text
    assert "| `a\\|b` | 4 | 10.0% (5.0–20.0) | 20.0% (10.0–40.0) | 40.0% (20.0–80.0) |" in text
    assert "| `c` | 2 | 10.0% (5.0–20.0) | 20.0% (10.0–40.0) |  |" in text


@given(st.lists(st.floats(0, 1), max_size=15))
def test_names_keep_apart(heights: list[float]) -> None:
    """No two overlap, none leaves the picture, and their order is that of what they name."""
    found = spread(heights, 0.06, 0.0, 1.0)
    ordered = sorted(found)
    assert all(b - a >= 0.06 - 1e-9 for a, b in pairwise(ordered))
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in found)
    assert [found[place] for place in sorted(range(len(found)), key=heights.__getitem__)] == ordered


def test_names_that_have_room_stay_where_they_are() -> None:
    """Only those that would overlap move, and no further than they must."""
    assert spread([0.9, 0.1, 0.5], 0.1, 0.0, 1.0) == [0.9, 0.1, 0.5]
    assert spread([0.5, 0.52, 0.1], 0.1, 0.0, 1.0) == pytest.approx([0.46, 0.56, 0.1])
    assert spread([1.0, 1.0], 0.1, 0.0, 1.0) == pytest.approx([0.9, 1.0])


def test_the_picture_names_every_line(tmp_path: Path) -> None:
    """Both files are there; the SVG is one, and the same results give the same file."""
    table = [row("single", 1, 0.4, 100), *(row(f"s{n}", 4, 0.5 + n / 40, 400) for n in range(10))]
    assert draw(table, tmp_path, title="t", worth=Worth(100.0, 0.75)) == "accuracy.svg"
    first = (tmp_path / "accuracy.svg").read_bytes()
    assert ET.fromstring(first).tag.endswith("svg")  # noqa: S314 - our own file
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000
    draw(table, tmp_path, title="t", worth=Worth(100.0, 0.75))
    assert (tmp_path / "accuracy.svg").read_bytes() == first


def test_any_figures_can_be_drawn(tmp_path: Path) -> None:
    """A single point, nothing right, everything right; with no sample to measure in."""
    for accuracy in (0.0, 1.0):
        assert draw([row("beam", 4, accuracy, 3)], tmp_path, title="t", worth=None)


def test_what_has_no_figures_is_not_drawn(tmp_path: Path) -> None:
    """Neither rows without a reply nor those that took no tokens have a place."""
    nothing = [Row("single", 1, 0), row("majority", 4, 0.5, 0.0)]
    assert spots(nothing) == ()
    assert draw(nothing, tmp_path, title="t", worth=None) is None
    assert list(tmp_path.iterdir()) == []
