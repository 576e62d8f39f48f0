"""Answers are found where they are given and compared by what they mean."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.answers import answer_of, canonical, extract


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{1} or rather \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{f(\{1, 2\})}.", r"f(\{1, 2\})"),
        (r"\boxed{7} and then \boxed{8 with no end", "7"),
        ("12 * 8 = 96\n#### 96", "96"),
        ("#### 1\n#### 2\n", "2"),
        ("The answer is **42**.", "42"),
        ("Answer: 3/4", "3/4"),
        ("#### 3 4 \t\nso", "3 4"),
        ("The answer  is :  7  \n", "7"),
        ("Final answer: $1,250.", "$1,250"),
        ("We get 12 apples and so 30", "30"),
        ("That makes 1,234 in all.", "1,234"),
        ("So there are 1e5", "1e5"),
        ("which is 1.5e3.", "1.5e3"),
        ("which is 2E-3%", "2E-3%"),
        ("It took 3 e5", "5"),
        ("That is 10-5", "5"),
        ("from f(x)-5", "5"),
        ("on 2024-05-17", "17"),
        ("so it is -5", "-5"),
        ("so x=−5", "−5"),
        ("so it is $-5$", "-5"),
        ("so it is -$5", "-$5"),
        ("I don't know", None),
        ("", None),
    ],
)
def test_answer_is_found_where_it_is_marked(text: str, answer: str | None) -> None:
    """Of several marked answers the last counts, boxed before hashes before words."""
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12 * 8 = 96\n#### 9", None),
        ("12 * 8 = 96\n#### 96\n", "96"),
        ("12 * 8 = 9", None),
        (r"\boxed{96} and", "96"),
        ("the answer is 1", None),
    ],
)
def test_cut_text_gives_only_what_is_complete(text: str, answer: str | None) -> None:
    """An answer that runs up to the cut may be half of one, and doesn't count."""
    assert extract(text, ended=False) == answer


@pytest.mark.parametrize(
    ("forms", "written"),
    [
        (
            ("0.5", "1/2", r"\frac{1}{2}", r"\dfrac12", "50%", ".5", "0.50", r"$\frac12$", "50\\%"),
            "0.5",
        ),
        (("1234", "1,234", "$1,234", "1234.0", "1.234e3", r"1.234 \times 10^{3}", "+1234"), "1234"),
        (("1{,}000", "1,000", r"1,\!000", "$1{,}000$", r"\$1{,}000"), "1000"),
        (("$42$ dollars", "42 dollars", r"\(42\) dollars"), "42 dollars"),
        (("$x$ and $y$", "x and y"), "x and y"),
        (("$\\$5$", r"\$5", "$5", "$5$"), "5"),
        (("-3", "−3", "-3.0", "-6/2", "-$3"), "-3"),
        (("- 3", "− 3", "-3"), "-3"),
        (("-1/2", r"-\frac{1}{2}", r"- \frac12", r"−\dfrac{1}{2}", r"$-\frac12$"), "-0.5"),
        (("+0.5", r"+\frac12", "+ 1/2", r"x = +\frac{1}{2}"), "0.5"),
        (("-x/2", r"-\frac{x}{2}"), "-x/2"),
        (("(-1/2,3)", r"(-\frac12, 3)"), "(-1/2,3)"),
        (("-1 1/2", r"-1\frac12", "-1.5"), "-1.5"),
        (("1 1/2", r"1\frac{1}{2}", "1.5", "3/2"), "1.5"),
        (("1/3", "2/6", r"\frac{1}{3}"), "1/3"),
        (("0.3333333333333333", "0.33333333333333330"), "0.3333333333333333"),
        (("32,349", r"32,\! 349"), "32349"),
        ((r"[1 \\ 2]", r"[1 \\  2]"), r"[1 \\ 2]"),
        (("x = 5", "5", "5.", r"5\text{ cm}", r"5^\circ"), "5"),
        (("(1, 2)", "( 1,2 )", r"\left(1, 2\right)"), "(1,2)"),
        (("Paris", "paris", r"\text{Paris}", "**Paris**."), "paris"),
    ],
)
def test_forms_of_one_answer_are_one(forms: tuple[str, ...], written: str) -> None:
    """However it is written, the same value is the same answer."""
    assert {canonical(form) for form in forms} == {written}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.333", "1/3"),
        ("1", "-1"),
        ("3 m", "3 cm"),
        ("1,2", "12"),
        ("32, 349", "32,349"),
        ("2", "2/0"),
        ("A", "B"),
    ],
)
def test_different_answers_stay_apart(one: str, other: str) -> None:
    """What isn't the same isn't made the same."""
    assert canonical(one) != canonical(other)


@given(st.text())
def test_canonical_is_stable(text: str) -> None:
    """Any text has a canonical form, which is its own canonical form where it is a number."""
    once = canonical(text)
    if once.lstrip("-").replace(".", "", 1).isdigit():
        assert canonical(once) == once


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**4))
def test_fractions_agree_with_their_latex(top: int, bottom: int) -> None:
    """a/b and its LaTeX form are one answer, wherever the sign stands."""
    plain = canonical(f"{top}/{bottom}")
    sign = "-" if top < 0 else ""
    assert plain == canonical(rf"\frac{{{top}}}{{{bottom}}}")
    assert plain == canonical(rf"{sign}\frac{{{abs(top)}}}{{{bottom}}}")


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 20_000,
        "#" * 200_000,
        "1e999999999",
        "answer is " * 20_000,
        "9" * 100_000,
        "1," * 50_000,
        "{" * 100_000,
        f"answer: x{' ' * 50_000}y",
        f"answer is{' ' * 50_000}\n",
        f"answer{' ' * 50_000}",
        f"#### x{' ' * 50_000}y",
        f"####{' ' * 50_000}\n",
        f"x{'$' * 50_000}x",
        f"${'x' * 50_000}",
        "$x\\" * 20_000,
    ],
)
def test_hostile_text_is_read_quickly(text: str) -> None:
    """No text takes long to read."""
    began = time.perf_counter()
    answer_of(text)
    canonical(text)
    assert time.perf_counter() - began < 2.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 42. I hope this helps!", "42"),
        ("**The answer is 42.** Hope that helps you!", "42"),
        ("Final Answer: The final answer is $5$. I hope it is correct.", "5"),
        ("The answer is\n$$\n42\n$$", "42"),
        ("The answer is \\[\n42\n\\]", "42"),
        ("final answer is:\n```\n42\n```", "42"),
        ("The answer is 3.5. We see that 7 is no answer", "3.5"),
        ("Answer: Dr. Smith", "dr. smith"),
        ("Answer: 3 p.m. Monday", "3 p.m. monday"),
        ("Answer: 1. Paris", "1. paris"),
        ("Answer: 221 B. Baker Street", "221 b. baker street"),
        ("so\nThe correct choice is (D).", "d"),
        ("so it must be\nOption B", "b"),
        ("I choose option B.", "b"),
        ("She pays $45 under Option B.", "45"),
        ("There are 12 apples, option B", "12"),
        ("It is not option A.", None),
        ("I go with choice (B), not option A.", None),
        ("We have no option", None),
    ],
)
def test_prose_around_an_answer_is_none_of_it(text: str, answer: str | None) -> None:
    """What is said after the answer, or before it, doesn't make it another one."""
    assert answer_of(text) == answer
