"""Only what could be equal is asked about, and formulas are equal where mathematics says so."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.answers import canonical
from planner.domain import Verify
from planner.equivalence import Comparisons, mathematical, may_be_same
from workers.verifying.formulas import equal


@pytest.mark.parametrize(
    "answer", [r"\sqrt{2}/2", "0.5", "x^2", r"\frac{\pi}{4}", "(1,2)", "2xy", r"\sin x", "x>3"]
)
def test_formulas_are_seen(answer: str) -> None:
    """Numbers, terms, tuples and relations are mathematics."""
    assert mathematical(answer)


@pytest.mark.parametrize(
    "answer",
    ["paris", "b", "3 m", "3 cm", "5g", '{"a":1}', "", "2 apples", "1" * 400, "f(1)\n2"],
)
def test_what_is_no_formula_is_left_alone(answer: str) -> None:
    """Words, quantities, choices and data aren't: math-verify would read products into them."""
    assert not mathematical(answer)


@pytest.mark.parametrize(
    ("one", "other", "possible"),
    [
        ("3", "4", False),
        ("0.5", "0.25", False),
        ("1/3", "2/3", False),
        ("0.33", "1/3", False),
        ("0.333333", "1/3", True),
        (r"\sqrt{4}", "2", True),
        ("paris", "pairs", False),
        ("x", "x", False),
    ],
)
def test_what_is_certain_is_not_asked(one: str, other: str, possible: bool) -> None:
    """Numbers that differ differ; with a formula there is something to ask."""
    assert may_be_same(one, other) is possible
    assert may_be_same(other, one) is possible


def test_only_doubtful_answers_are_asked_about() -> None:
    """Words are left out, and what is known to differ comes first and is counted."""
    assert not seen("paris", "3", "4").due
    known = seen("paris", "3", "x+1")
    known.answered(known.question(), str)
    assert not known.due
    known.saw("1+x")
    assert known.question() == Verify(("3", "x+1", "1+x"), apart=2)


def test_what_comes_while_others_are_compared_is_asked_about_next() -> None:
    """Answers go by the names of those that they turned out to equal."""
    known = seen("x+1", "1+x")
    first = known.question()
    known.saw("5")
    known.answered(first, {"x+1": "x+1", "1+x": "x+1"}.__getitem__)
    assert known.question() == Verify(("x+1", "5"), apart=1)


@given(st.lists(st.sampled_from(["3", "4", "0.333333", "1/3", "2/3", "x", "x+0", "paris"])))
def test_a_question_is_due_where_any_two_may_be_same(answers: list[str]) -> None:
    """As is found by trying every pair."""
    pairs = combinations(dict.fromkeys(answers), 2)
    assert seen(*answers).due is any(may_be_same(one, other) for one, other in pairs)


def test_many_plain_numbers_take_no_time() -> None:
    """None of them is looked at twice, and after a question about a formula none is doubtful."""
    many = seen(*map(str, range(20_000)))
    assert not many.due
    many.saw("x")
    assert many.question().apart == 20_000
    many.answered(many.question(), str)
    assert not many.due


def seen(*answers: str) -> Comparisons:
    known = Comparisons()
    for answer in answers:
        known.saw(answer)
    return known


def test_a_question_has_a_name_of_its_own() -> None:
    """The same question has the same id, another one another."""
    assert Verify(("a", "b")).id == Verify(("a", "b")).id
    assert len({Verify(("a", "b")).id, Verify(("b", "a")).id, Verify(("a", "b"), apart=1).id}) == 3


# Those of math-verify's own cases (its tests/test_all.py) whose two sides are answers by
# themselves, with its verdicts; finding an answer in prose is another matter.
PUBLISHED = [
    (r"[0,1)", r"[0,1)", True),
    (r"[0,9)", r"[0,1)", False),
    (r"(0,9)", r"[0,9)", False),
    (r"1", r"-[0,1)", False),
    (r"10", r"(9+1)", True),
    (r"1/3", r"\frac13 ", True),
    (r"1", r"\frac3{3} ", True),
    (r"\sqrt{3}", r"\sqrt3 ", True),
    (r"1/3", r"\cfrac{1}{3} ", True),
    (r"1/3", r"\dfrac{1}{3} ", True),
    (r"1/3", r"\tfrac{1}{3} ", True),
    (r"1/3", r"\left( \frac{1}{3} \right)", True),
    (r"1/3", r"\frac{1}{3} \text{meters}", True),
    (r"1/3", r"k = \frac{1}{3}", True),
    (r"0.28", r"28", False),
    (r"28/100", r"28", False),
    (r"28*\frac{1}{100}", r"28", False),
    (r"10/9", r"\frac{10}{9}", True),
    (r"-10/9", r"-\frac{10}{9}", True),
    (r"1000.0", r"1,000.0", True),
    (r"(3,1)", r"\{1,3\}", False),
    (r"(\tfrac{27}{8},\tfrac{15}{8})", r"(0, 0)", False),
    (r"2-2p", r"2-2p", True),
]
OWN = [
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
    (r"(x+1)^2", r"x^2+2x+1", True),
    (r"\frac{x+1}{2}", r"x+\frac{1}{2}", False),
    (r"\frac{n(n+1)}{2}", r"\frac{n^2+n}{2}", True),
    (r"\sin^2 x+\cos^2 x", r"1", True),
    (r"2\sqrt{3}", r"\sqrt{12}", True),
    (r"0.333333", r"1/3", True),
    (r"0.33", r"1/3", False),
    (r"x>3", r"(3,\infty)", False),
    (r"x^2", r"y^2", False),
    ("3 m", "3 cm", False),
    ("Paris", "Pairs", False),
]


@pytest.mark.parametrize(("one", "other", "same"), PUBLISHED + OWN)
def test_formulas_are_equal_where_mathematics_says_so(one: str, other: str, same: bool) -> None:
    """Two answers are one by their canonical form, or else by math-verify, in either order."""
    first, second = canonical(one), canonical(other)
    for left, right in ((first, second), (second, first)):
        assert (left == right or (may_be_same(left, right) and equal(left, right))) is same
