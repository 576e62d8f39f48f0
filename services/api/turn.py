"""A run that a client is waiting for.

A client that hangs up ends its run at once, and every run is booked exactly once, when it really
ends: also when nobody is left to hear of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

from starlette.types import Receive

from services.api.errors import in_vain
from services.api.schema import Ask
from services.run import Reply, Run


class Turn:
    """One request under way: what was asked, its run, and the reply to come."""

    def __init__(self, ask: Ask, run: Run, *, began: float, book: Callable[[Turn], None]) -> None:
        """`began` is when the request came, on the monotonic clock."""
        self.ask = ask
        self.run = run
        self.hung_up = False
        self._began = began
        self.reply: asyncio.Task[Reply] = asyncio.create_task(run.reply())
        self.reply.add_done_callback(lambda _: book(self))

    @property
    def seconds(self) -> float:
        """How long ago the request came."""
        return monotonic() - self._began

    def result(self) -> Reply:
        """The reply, once it is there.

        Raises what kept the run from one; ApiError, 503, if it was cut off with the service.
        """
        if self.reply.cancelled():
            raise in_vain("The service was stopped before there was an answer.", "stopped")
        return self.reply.result()

    @asynccontextmanager
    async def attended(self, receive: Receive) -> AsyncIterator[None]:
        """While inside, the run ends with the client's connection.

        Some servers say so by a message and some by cancelling the task; either way nobody is left
        to answer. So it is, too, when what the server says can't be heard any more.
        """
        left = asyncio.create_task(disconnected(receive))
        left.add_done_callback(self._left)
        try:
            yield
        except BaseException:
            self._hang_up()
            raise
        finally:
            left.cancel()

    def _left(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # marked as seen: the connection is gone, whatever it was
            self._hang_up()

    def _hang_up(self) -> None:
        if not self.reply.done():
            self.hung_up = True
            self.run.cancel()


async def disconnected(receive: Receive) -> None:
    """Return once the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
