r"""Which answers are one, beside math-verify's own cases.

What is taken from its tests are the pairs and verdicts on single answers, in the forms that
`extract` would hand on; how an answer is found in prose, ours decides in its own way. A pair goes
the whole way of ours: canonical forms, whether those are worth comparing, and then math-verify.
Where ours decides otherwise on purpose, the reason stands beside the pair.
"""

from __future__ import annotations

import pytest

from planner.answers import canonical
from planner.equivalence import may_be_same
from workers.verifying.formulas import equal

SAME = [
    # Numbers
    ("7425000", "7,425,000"),
    ("1000.0", "1,000.0"),
    ("0.4", ".4"),
    ("1000.99", "$1,000.99"),
    ("1000.99", "1,000.99$"),
    ("14916", r"14{,}916"),
    ("14916", r"14 {, }916"),
    ("16386.20", r"\$16,\!386.20"),
    ("32349", r"32,\! 349"),
    ("11111111100", r"11,\! 111,\! 111,\! 100"),
    (r"28\%", "28 %"),
    ("7/25", "28%"),
    ("-10/9", r"-\frac{10}{9}"),
    ("1/3", r"\frac13"),
    ("1", r"\frac3{3}"),
    ("1/3", r"\cfrac{1}{3}"),
    ("1/3", r"\tfrac{1}{3}"),
    ("1/3", r"\left( \frac{1}{3} \right)"),
    ("1/3", r"\frac{1}{3} \text{meters}"),
    ("5", r"5 \text{ cm}."),
    ("1/3", r"k = \frac{1}{3}"),
    ("11", "x=11"),
    ("10", "(9+1)"),
    ("40/9", "4 4/9"),
    ("-40/9", "-4 4/9"),
    ("71/6", "+11 5/6"),
    ("4/9", "0 4/9"),
    ("4", "4 0/9"),
    ("40/900", "4 4/9%"),
    ("103/9", "11 + 4/9"),
    (r"\frac{1}{12}", "0.0833333333333333"),
    ("4.123105625617661", r"\sqrt{17}"),
    # Expressions
    (r"\sqrt{3}", r"\sqrt3"),
    (r"\sqrt{2}+\sqrt{5}", r"\sqrt 2+\sqrt 5"),
    (r"\sqrt{2}", r"\sqrt{2}."),
    (r"\frac{9}{4}\pi", r"\frac94\pi"),
    (r"\frac{5\sqrt{42}}{27}", r"\frac{10\sqrt{10.5}}{27}"),
    (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}"),
    (r"\tan^2(y)+1", r"\sec^2(y)"),
    # Relations
    ("x >= 5", r"x \geq 5"),
    ("x < 3", r"x \lt 3"),
    ("x != 3", r"x \neq 3"),
    (r"x \leq 5", r"5 \geq x"),
    ("x < 1", "-x > -1"),
    ("x <= 1", "-x >= -1"),
    ("34x+45y-20z+100=0", "-34x-45y+20z-100=0"),
    ("x^2/4 + y^2/3 = 1", "x^2/16 + y^2/12 = 1/4"),
    # Tuples, sets and intervals
    ("(7,6)", "(7, 6)"),
    (r"(3, \frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)"),
    (r"(1,\frac{9}{2})", "(1,4.5)"),
    ("(1,3)", "{1,3}"),
    ("1,-2", "-2,1"),
    ("[-2, 7]", r"x \in [-2,7]"),
    (r"(2, 12) \cup (12, 102)", r"x \in (2,12) \cup (12,102)"),
    # Matrices
    (r"\begin{bmatrix}0 & 0 \\0 & 0\end{bmatrix}", r"\begin{pmatrix}0 & 0 \\0 & 0\end{pmatrix}"),
    (
        r"\begin{pmatrix}1 & 2 \\3 & 4\end{pmatrix}",
        r"\left[\begin{array}{cc}1 & 2 \\3 & 4\end{array}\right]",
    ),
    (
        r"\begin{pmatrix}6 & 8 \\ 10 & 12\end{pmatrix}",
        r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix} + \begin{pmatrix}5 & 6 \\ 7 & 8\end{pmatrix}",
    ),
    # Words
    (r"\text{C}", r"\text{(C)}"),
    (r"\text{E}", "E"),
]

DIFFERENT = [
    ("0.28", "28"),
    ("28/100", "28"),
    (r"28*\frac{1}{100}", "28"),
    ("32349", "32, 349"),
    ("1112112_3", "1112122_3"),
    ("4", "4 4/9"),
    ("4", "4 4/0"),
    ("0", "4 4/0"),
    ("40/9", "4 4/9%"),
    ("139/90", "11/10 4/9"),
    ("103/9", "11.0 4/9"),
    ("11 + 4/9", "11 - 4/9"),
    ("1", "1/3."),
    ("2", "2^{10}."),
    ("2", r"\frac{1+\sqrt{5}}{2}"),
    ("4", r"\frac{34}{16}+\frac{\sqrt{1358}}{16}"),
    ("4", r"4\sqrt{2}"),
    (r"1\sqrt{19}", "1"),
    ("x+2n+1", "x+1"),
    ("(a+5)(b+2)", "(+5)(b+2)"),
    ("x > 5", "x < 5"),
    (r"x \geq 5", r"x \leq 5"),
    ("x < 1", "x > -1"),
    ("7 = 11a+c", "11a+c"),
    ("a^2 + b = 0", "0"),
    ("2x + z = 1", "1"),
    ("(0,9)", "[0,9)"),
    ("[0,1)", "(0, 1)"),
    ("1", "-[0,1)"),
    ("[-3,2]", r"(-\infty, -3] \cup [2, \infty)"),
    (r"(\tfrac{27}{8},\tfrac{15}{8})", "(0, 0)"),
    ("(3,1)", "{1,3}"),
    ("1, 2, 3", "1, 2, 3, ..."),
    (r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}", r"\begin{pmatrix}1 & 2 \\ 3 & 5\end{pmatrix}"),
]

_A_COMMA = "A comma groups thousands or separates; it's never a decimal point."
_A_SPACE = "A space separates numbers; it doesn't group thousands."
_A_UNIT = "A unit that isn't marked as text stays: 3 m is neither 3 nor 3 km."
_A_SHARE = "28% is 0.28, so it can't be 28 as well."
_A_CHAIN = "A chain of equations names several values; which one is meant is a guess."
_A_NAME = "Before the first equals sign a letter names the answer, which is what follows."
_BOTH_WAYS = "math-verify says so in one direction only, and voters have no direction."
_A_SUM = "A whole number beside any fraction is their sum, also beside one of 1 or more."

OTHERWISE = [
    ("1000.99", "1000,99", True, _A_COMMA),
    ("1,22", "1.22", True, _A_COMMA),
    ("0,111", "0.111", True, _A_COMMA),
    ("1000", "1 000", True, _A_SPACE),
    ("9004/9", "1 000 4/9", True, _A_SPACE),
    ("1000.99", "1,000.99m²", True, _A_UNIT),
    ("28%", "28 percent", True, _A_UNIT),
    ("28%", "28 pct", True, _A_UNIT),
    (r"28\%", "28", True, _A_SHARE),
    ("20", r"20 \%", True, _A_SHARE),
    ("x = 11", "x = 5+5+1 = 7 =11", True, _A_CHAIN),
    ("x = 1/3", r"x = 5+5+1 = 1/3 \approx 11", True, _A_CHAIN),
    ("2x+4y-3=0", r"y=-\frac{1}{2}x+\frac{3}{4}", True, _A_NAME),
    (r"-2 \le x \le 7", r"x \in [-2,7]", True, _BOTH_WAYS),
    ("12", "11 6/6", False, _A_SUM),
    ("73/6", "11 7/6", False, _A_SUM),
]


def same(one: str, other: str) -> bool:
    """Whether the two vote together."""
    first, second = canonical(one), canonical(other)
    return first == second or (may_be_same(first, second) and equal(first, second))


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_is_one_to_math_verify_votes_together(one: str, other: str) -> None:
    assert same(one, other)
    assert same(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_is_two_to_math_verify_votes_apart(one: str, other: str) -> None:
    assert not same(one, other)
    assert not same(other, one)


@pytest.mark.parametrize(("one", "other", "one_to_them", "why"), OTHERWISE)
def test_ours_decides_otherwise_for_a_reason(
    one: str, other: str, one_to_them: bool, why: str
) -> None:
    assert same(one, other) is not one_to_them, why
    assert same(other, one) is not one_to_them, why
