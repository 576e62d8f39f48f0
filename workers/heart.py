"""Whether an engine gets on with what it has: a hung one is told from one that has nothing to do.

An engine that hangs raises nothing and ends nothing; all that shows is that its steps stop coming
while it has work. What always holds: an idle engine is never taken for a hung one, however long it
is idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Heart:
    """Beats at every step of an engine. `busy` says whether the engine has anything to do."""

    def __init__(
        self, busy: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._busy = busy
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """The engine has finished a step."""
        self._last = self._clock()

    def still(self) -> float:
        """Seconds for which the engine has had work and finished no step.

        To be asked when work is given to it as well: what was idle until then starts at 0.
        """
        now = self._clock()
        if not self._busy():
            self._last = now
        return now - self._last
