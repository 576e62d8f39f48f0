"""Tells what a simulation spends on itself from what the code that it runs takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import process_time


class Watch:
    """CPU seconds that were spent on simulating, nested uses counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._deep = 0

    @contextmanager
    def simulating(self) -> Iterator[None]:
        """What runs inside is the simulation, not what is simulated."""
        self._deep += 1
        began = process_time()
        try:
            yield
        finally:
            self._deep -= 1
            if not self._deep:
                self.seconds += process_time() - began
