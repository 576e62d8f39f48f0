"""Who is being answered, and whether the service takes nothing new any more.

Owns the count of open responses. When the service is stopped, connections are closed after the
response that is under way, and streams that follow a trace end; `emptied` returns once all that was
answered has been sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Lobby:
    """The open responses of one replica of the edge."""

    def __init__(self) -> None:
        self.closing = False
        """Whether connections are to be closed after their response."""
        self.over = asyncio.Event()
        """Set when whoever only looks on is to go."""
        self._open = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def visit(self) -> Iterator[None]:
        """While inside, somebody is being answered."""
        self._open += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._empty.set()

    async def emptied(self, seconds: float) -> None:
        """Return when nobody is being answered any more, or so many seconds have passed.

        Those who only look on are let go after half of that.
        """
        for over in (False, True):
            if over:
                self.over.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds / 2):
                    await self._empty.wait()
