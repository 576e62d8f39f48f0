"""Judges answers: whether one is the right one, however it is written.

Canonical forms decide almost everything. Two formulas that differ in form and may be equal all the
same are compared by math-verify, as they are within a search, in processes with a time limit. What
always holds: a pair is compared once; what can't be compared in time counts as different; nothing
is imported or started before the first pair that needs it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TypeAlias

from planner.answers import canonical
from planner.equivalence import mathematical, may_be_same

if TYPE_CHECKING:
    from workers.verifying.formulas import FormulaPool


class Referee:
    """Says of answers whether they are right. Owns the processes that compare: close it."""

    def __init__(self, formulas: FormulaPool | None = None) -> None:
        self._formulas = formulas
        self._asked: dict[tuple[str, str], asyncio.Task[bool]] = {}

    async def same(self, answer: str, gold: str) -> bool:
        """Whether `answer` is `gold`, each as anybody wrote it."""
        if (known := by_form(answer, gold)) is not None:
            return known
        return await self._compared(canonical(answer), canonical(gold))

    async def equal(self, one: str, other: str) -> bool:
        """Whether two canonical answers are one, as a search has it."""
        return one == other or (may_be_same(one, other) and await self._compared(one, other))

    async def close(self) -> None:
        """End every comparison and every process. Idempotent."""
        asked = list(self._asked.values())
        for comparison in asked:
            comparison.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        if self._formulas is not None:
            await asyncio.to_thread(self._formulas.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _compared(self, one: str, other: str) -> bool:
        if (one, other) not in self._asked:
            self._asked[one, other] = asyncio.create_task(self._equal(one, other))
        # Others may wait for the same pair.
        return await asyncio.shield(self._asked[one, other])

    async def _equal(self, one: str, other: str) -> bool:
        from pebble import ProcessExpired  # noqa: PLC0415 - most sets of questions need none of it

        from workers.verifying.formulas import FormulaPool  # noqa: PLC0415 - brings sympy with it

        if self._formulas is None:
            self._formulas = FormulaPool()
        try:
            return await self._formulas.equal(one, other)
        except (TimeoutError, ProcessExpired):
            return False


Compare: TypeAlias = Callable[[str, str], bool]


@contextmanager
def refereed() -> Iterator[tuple[Compare, Compare]]:
    """`Referee.same` and `Referee.equal` for code that isn't asynchronous, while inside."""
    with asyncio.Runner() as runner:
        referee = Referee()

        def same(answer: str, gold: str) -> bool:
            known = by_form(answer, gold)
            return runner.run(referee.same(answer, gold)) if known is None else known

        def equal(one: str, other: str) -> bool:
            return runner.run(referee.equal(one, other))

        try:
            yield same, equal
        finally:
            runner.run(referee.close())


def by_form(answer: str, gold: str) -> bool | None:
    """Whether an answer is the right one, as far as their canonical forms tell.

    Where that is a bare number, a unit more is no mistake.
    """
    one, other = canonical(answer), canonical(gold)
    if one == other:
        return True
    if _BARE.fullmatch(other) and not mathematical(one) and (measured := _MEASURED.fullmatch(one)):
        return canonical(measured[1]) == other
    return None if may_be_same(one, other) else False


_BARE = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+)?")
_NO_UNIT = (
    "hundred thousand million billion trillion dozen half halves third thirds quarter quarters "
    "fourth fourths fifth fifths sixth sixths eighth eighths tenth tenths plus minus times over "
    "squared cubed less more than choose or and to mod not of per by pi"
)
"""Words after a number that make another one of it."""
_UNIT = rf"(?!(?:{'|'.join(_NO_UNIT.split())})\b)(?:[^\W\d_]{{2,}}|[^\W\d_abcnxyz])"
_MEASURED = re.compile(
    rf"[$€£]?(-?\d[\d,]*(?:\.\d+)?(?:/\d+)?)(?:\s+{_UNIT})+(?:/[^\W\d_]+)?(?:\s*\^\{{?\d\}}?)?"
)
