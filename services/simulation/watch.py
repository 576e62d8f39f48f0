"""Tells what a simulation spends on itself from what the code that it runs takes."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import process_time
from typing import Any, Self

_COLLECTED_AFTER = (200_000, 10, 10)
"""The collector's thresholds in a simulation: with Python's own it would run for as long as all
else, as it goes through what a thousand orchestrators keep."""


class Watch:
    """CPU seconds that were spent on simulating, nested uses counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._deep = 0
        self._began = 0.0
        self._collecting = 0
        self._usual = gc.get_threshold()

    def simulating(self) -> Self:
        """What runs inside is the simulation, not what is simulated."""
        return self

    def __enter__(self) -> None:
        if not self._deep:
            self._began = process_time()
        self._deep += 1

    def __exit__(self, *_: object) -> None:
        self._deep -= 1
        if not self._deep:
            self.seconds += process_time() - self._began

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """While inside, Python's collector of garbage runs seldom, leaves alone what is there
        already, and counts as the simulation: what it takes hangs on what all orchestrators keep,
        which have a process each where they are real. Several may be inside at once.
        """
        self._collecting += 1
        if self._collecting == 1:
            self._usual = gc.get_threshold()
            with self.simulating():
                gc.collect()
                gc.freeze()
            gc.set_threshold(*_COLLECTED_AFTER)
            gc.callbacks.append(self._collects)
        try:
            yield
        finally:
            self._collecting -= 1
            if not self._collecting:
                gc.callbacks.remove(self._collects)
                gc.set_threshold(*self._usual)
                gc.unfreeze()

    def _collects(self, phase: str, _: Mapping[str, Any]) -> None:
        if phase == "start":
            self.__enter__()
        else:
            self.__exit__()
