"""Whether two formulas are equal, by math-verify in processes that are killed when they hang.

sympy can take for ever, and math-verify's own time limit needs the main thread and doesn't hold
while sympy is inside one long operation. So each comparison runs in a process of a pool, which is
replaced when it takes too long. The processes are warm: they have imported all this before they
are given anything. They end with the pool, and with the process that it belongs to.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify  # type: ignore[import-untyped]
from pebble import ProcessPool

from workers.verifying.confinement import die_with_parent, limit_memory

_MEMORY_BYTES = 2 << 30
"""Of address space: sympy itself takes a quarter of it."""
_FRESH_AFTER = 2_000
"""Comparisons after which a process is replaced, since sympy's caches only grow."""


class FormulaPool:
    """Compares formulas in `processes` processes, each comparison in `seconds` at most.

    Cancelling a comparison kills its process; another one takes its place.
    Nothing is started before the first comparison. `close` it, whether anything was or not.
    """

    def __init__(self, processes: int = 2, seconds: float = 5.0) -> None:
        self._processes = processes
        self._seconds = seconds
        self._turns = asyncio.Semaphore(processes)
        self._pool: ProcessPool | None = None
        self._closed = False

    async def equal(self, one: str, other: str) -> bool:
        """Whether two formulas, in LaTeX or plain, are mathematically equal.

        Raises TimeoutError where that can't be said in time, pebble.ProcessExpired where the
        attempt took its process down (by its memory, say).
        """
        async with self._turns:
            future = self._started().schedule(equal, (one, other), timeout=self._seconds)
            same: bool = await asyncio.wrap_future(future)
            return same

    def warm(self) -> None:
        """Start the processes now, rather than at the first comparison."""
        for _ in range(self._processes):
            self._started().schedule(equal, ("1", "1"))

    def close(self) -> None:
        """End all processes, whatever they are doing, and start no more. Idempotent."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            pool.join()

    def _started(self) -> ProcessPool:
        if self._closed:
            raise RuntimeError("This pool is closed.")
        if self._pool is None:
            self._pool = ProcessPool(
                self._processes,
                max_tasks=_FRESH_AFTER,
                initializer=_begin,
                # A fork would take along whatever locks other threads hold at that moment.
                context=multiprocessing.get_context("spawn"),
            )
        return self._pool


def equal(one: str, other: str) -> bool:
    """Whether two formulas are equal. Runs in a process of the pool, and may take for ever.

    math-verify treats what is expected and what is given differently (it takes an inequality for
    an interval, but no interval for an inequality); answers are one where each does for the other.
    """
    first, second = _parsed(one), _parsed(other)
    if not first or not second:
        return False
    return _same(first, second) and _same(second, first)


def _same(expected: list[Any], given: list[Any]) -> bool:
    return bool(verify(expected, given, timeout_seconds=None))


@lru_cache(maxsize=1024)
def _parsed(formula: str) -> list[Any]:
    """What math-verify reads in it; empty where that is no formula, never a mere text."""
    found: list[Any] = parse(
        f"${formula}$",
        extraction_config=[LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,  # the pool has a harder one
    )
    return found


def _begin() -> None:
    """Make a new process of the pool ready."""
    die_with_parent()
    limit_memory(_MEMORY_BYTES)
    # It says at each start that somebody else has to keep the time; the pool does.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    equal(r"\frac{x}{2}+1", r"1+x/2")
