"""An event loop whose time is virtual: where nothing is ready, it jumps to the next timer.

Everything that runs on it may wait for timers and futures only, so that nothing waits in earnest,
and the same program does the same in the same order every time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from planner.errors import LongthinkError

T = TypeVar("T")


class Stuck(LongthinkError):
    """Everything waits for something that can't come by itself."""


class _Jumps(selectors.SelectSelector):
    """Waits for nothing: what it is told to wait for is over at once, and the clock that far on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck(
                f"At {self.now:g} s all tasks wait, and no timer would wake any: what runs on a "
                "virtual clock must wait for timers and futures only."
            )
        if timeout > 0:
            self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop of its own time, in seconds from 0."""

    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        """The virtual time."""
        return self._jumps.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """What `main` comes to on a virtual clock that starts at 0. Raises Stuck."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
