"""Cores of a machine that several workers share: each is slower where all want more than there is.

Where every worker has hardware of its own, nobody shares anything, and all run at full speed.
"""

from __future__ import annotations

from typing import Protocol


class Runner(Protocol):
    """What runs on cores: told anew at which speed, 1.0 at most, as long as it is busy."""

    def respeed(self, speed: float) -> None: ...


class Cores:
    """So many cores, shared between those that are busy in proportion to what each wants."""

    def __init__(self, count: float | None) -> None:
        """Without a `count` there are enough for all."""
        self._count = count
        self._wanted: dict[Runner, float] = {}
        self._total = 0.0
        self.speed = 1.0

    def take(self, runner: Runner, cores: float) -> None:
        """A runner is busy from now on, and wants so many cores."""
        if self._count is not None and runner not in self._wanted:
            self._wanted[runner] = cores
            self._change(cores)

    def leave(self, runner: Runner) -> None:
        """A runner is busy no more."""
        if self._count is not None and runner in self._wanted:
            self._change(-self._wanted.pop(runner))

    def _change(self, cores: float) -> None:
        # Sums of floats that come and go drift: nobody wants anything where nobody is busy.
        self._total = self._total + cores if self._wanted else 0.0
        speed = 1.0
        if self._count is not None and self._total > self._count:
            speed = self._count / self._total
        if speed != self.speed:
            self.speed = speed
            for runner in list(self._wanted):
                runner.respeed(speed)
