"""Which canonical answers are worth asking about: those that differ as text and may yet be equal.

Whoever decides it (math-verify, a sandbox) is asked about these alone, since it takes longer than
everything here. And math-verify reads too much into what is no formula: to it `paris` is a product
of letters, and so is `pairs`; `3 cm` and `3 km` are both 3. Of programs any two may be the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from enum import Enum, auto
from functools import lru_cache

from planner.domain import Code, Verify

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


class _Kind(Enum):
    """What an answer is, as far as that tells what else it could be equal to."""

    WORDS = auto()  # and quantities, choices, data: no mathematics
    NUMBER = auto()
    DECIMAL = auto()  # a number with so many places that it may stand for a fraction
    FRACTION = auto()
    FORMULA = auto()
    PROGRAM = auto()


_MAY_EQUAL = {
    _Kind.WORDS: (),
    _Kind.NUMBER: (_Kind.FORMULA,),
    _Kind.DECIMAL: (_Kind.FRACTION, _Kind.FORMULA),
    _Kind.FRACTION: (_Kind.DECIMAL, _Kind.FORMULA),
    _Kind.FORMULA: (_Kind.NUMBER, _Kind.DECIMAL, _Kind.FRACTION, _Kind.FORMULA),
    _Kind.PROGRAM: (_Kind.PROGRAM,),
}
"""Numbers are canonical, and so are fractions: two that are written differently differ."""


class Comparisons:
    """The distinct answers of a search: which are known to differ, and which to ask about.

    An answer that comes takes constant time, however many there are; a question takes time in
    proportion to the answers. With `code` all of them are programs.
    """

    def __init__(self, code: Code | None = None) -> None:
        self._code = code
        self._apart: dict[str, None] = {}
        """Those that are known to differ from one another, in the order in which they came."""
        self._doubtful: dict[str, None] = {}
        """Those that may equal another one."""
        self._kinds: Counter[_Kind] = Counter()

    def saw(self, answer: str) -> None:
        """Take in a canonical answer; nothing happens where it is known."""
        kind = self._kind(answer)
        if kind is _Kind.WORDS or answer in self._apart or answer in self._doubtful:
            return
        doubtful = any(self._kinds[other] for other in _MAY_EQUAL[kind])
        (self._doubtful if doubtful else self._apart)[answer] = None
        self._kinds[kind] += 1

    @property
    def due(self) -> bool:
        """Whether there is something to ask about."""
        return bool(self._doubtful)

    def question(self) -> Verify:
        """What to ask about the answers there are."""
        return Verify((*self._apart, *self._doubtful), len(self._apart), self._code)

    def answered(self, question: Verify, name: Callable[[str], str]) -> None:
        """Take it that what was asked about is apart now, by the names that `name` gives.

        That includes what could not be compared, so that it is not asked about again.
        """
        asked = dict.fromkeys(question.answers)
        later = [answer for answer in self._doubtful if answer not in asked]
        self._apart = dict.fromkeys(name(answer) for answer in (*asked, *self._apart))
        self._doubtful = dict.fromkeys(later)
        self._kinds = Counter(map(self._kind, (*self._apart, *later)))

    def _kind(self, answer: str) -> _Kind:
        return _Kind.PROGRAM if self._code is not None else _kind(answer)


def mathematical(answer: str) -> bool:
    """Whether a canonical answer is a formula, rather than words, a quantity, a choice or data."""
    return _kind(answer) is not _Kind.WORDS


def may_be_same(one: str, other: str) -> bool:
    """Whether two canonical answers that differ could be equal formulas."""
    return one != other and _kind(other) in _MAY_EQUAL[_kind(one)]


def _kind(answer: str) -> _Kind:
    return _Kind.WORDS if len(answer) > _LONGEST else _kind_of_short(answer)


@lru_cache(maxsize=8192)
def _kind_of_short(answer: str) -> _Kind:
    if number := _NUMBER.fullmatch(answer):
        return _Kind.DECIMAL if len(number[1] or "") >= _DIGITS_COMPARED else _Kind.NUMBER
    if _FRACTION.fullmatch(answer):
        return _Kind.FRACTION
    return _Kind.FORMULA if _is_formula(answer) else _Kind.WORDS


def _is_formula(answer: str) -> bool:
    if not _FORMULA.search(answer) or re.search(r"[$\"'\n]", answer):
        return False
    if _QUANTITY.fullmatch(answer):
        return False
    letters = _FUNCTION.sub(" ", _COMMAND.sub(" ", _environments(answer)))
    return all(_PRODUCTS.fullmatch(word) for word in _WORD.findall(letters))


def _environments(answer: str) -> str:
    r"""The answer without the names of its LaTeX environments, as in `\begin{pmatrix}`."""
    return re.sub(r"\\(?:begin|end)\{[a-z*]+\}", " ", answer)
