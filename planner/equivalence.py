"""Which canonical answers are worth asking about: those that differ as text and may yet be equal.

Whoever decides it (math-verify, a sandbox) is asked about these alone, since it takes longer than
everything here and reads too much into what is no formula: to it `paris` is a product of letters,
and so is `pairs`; `3 cm` and `3 km` are both 3.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from planner.domain import Verify

_LONGEST = 300
_DIGITS_COMPARED = 6
"""A decimal with as many places may stand for a fraction: 0.333333 for 1/3."""

_NUMBER = re.compile(r"-?\d+(?:\.(\d+))?")
_FRACTION = re.compile(r"-?\d+/\d+")
_COMMAND = re.compile(r"\\[a-z]+")
_FUNCTION = re.compile(r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|sqrt|log|ln|exp|pi|inf")
_WORD = re.compile(r"[^\W\d_]{2,}")
_PRODUCTS = re.compile(r"[abcxyz]{2}|abc|xyz")
_QUANTITY = re.compile(r"-?[\d./]+\s*[^\W\d_abcnxyz]")
_FORMULA = re.compile(r"[\d\\+*/^=<>(\[{|-]")


def mathematical(answer: str) -> bool:
    """Whether a canonical answer is a formula, rather than words, a quantity, a choice or data."""
    if len(answer) > _LONGEST or not _FORMULA.search(answer) or re.search(r"[$\"'\n]", answer):
        return False
    if _QUANTITY.fullmatch(answer):
        return False
    letters = _FUNCTION.sub(" ", _COMMAND.sub(" ", _environments(answer)))
    return all(_PRODUCTS.fullmatch(word) for word in _WORD.findall(letters))


def may_be_same(one: str, other: str) -> bool:
    """Whether two canonical answers that differ could be equal formulas."""
    if one == other or not (mathematical(one) and mathematical(other)):
        return False
    first, second = _NUMBER.fullmatch(one), _NUMBER.fullmatch(other)
    if first and second:
        return False
    if _FRACTION.fullmatch(one) and _FRACTION.fullmatch(other):
        return False
    if (first and _FRACTION.fullmatch(other)) or (second and _FRACTION.fullmatch(one)):
        decimal = first or second
        return decimal is not None and len(decimal[1] or "") >= _DIGITS_COMPARED
    return True


def formulas_to_compare(answers: Iterable[str], apart: Collection[str]) -> Verify | None:
    """What to ask about these distinct answers; None where nothing could come of it.

    `apart` are those that are known by now to differ from one another.
    """
    formulas = [answer for answer in answers if mathematical(answer)]
    old = [answer for answer in formulas if answer in apart]
    new = [answer for answer in formulas if answer not in apart]
    pairs = ((a, b) for place, a in enumerate(new) for b in (*old, *new[:place]))
    if not any(may_be_same(a, b) for a, b in pairs):
        return None
    return Verify((*old, *new), apart=len(old))


def _environments(answer: str) -> str:
    r"""The answer without the names of its LaTeX environments, as in `\begin{pmatrix}`."""
    return re.sub(r"\\(?:begin|end)\{[a-z*]+\}", " ", answer)
