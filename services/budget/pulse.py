"""Whether Redis can be used: one answer for all who share a client, so that nobody waits in vain.

A pulse owns what is known of that, and the one task that finds it out. It hears of every command
that is sent and every reply that comes. A command without a reply, or a connection that breaks, is
a suspicion; then Redis is asked, over a connection of its own, to write something. While it can't,
it counts as away. What always holds then: every command fails at once, those that were waiting
included; nothing is sent but the question whether it is back, again and again with growing pauses;
and once it is, everybody goes on over fresh connections, as another server may answer there now.

A Redis that is slower than `answer_seconds`, loads its data, takes no writes (a replica, after a
failover; one that is full) or knows another password is away as much as one that is gone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Protocol

import structlog
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as Broken

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two questions whether it is back: they grow from the one to the other."""


MOMENT = 0.15
"""Seconds for which what is new waits for a Redis that is away."""

_TURNS = 40
"""Turns of the event loop that an answer has to come in, at least: connecting alone takes ten."""


class RedisAway(RedisError):
    """Redis can't be used at present; nothing was sent, or nobody knows what came of it.

    It is no ConnectionError, which redis-py would retry.
    """


class Waiting(Protocol):
    """A connection, as far as a pulse needs it."""

    async def give_up(self) -> None:
        """Close it: whoever waits for it, or for a reply on it, hears of that at once."""


class Pulse:
    """What is known of one Redis. `away` says why it can't be used; None while it can.

    `ask` asks it to write something, and raises RedisError or OSError where it doesn't; anything
    else that it raises is logged, and counts as no answer. `era` is that of the connections that
    may be used: those of an earlier one are to be made anew.
    """

    def __init__(self, ask: Callable[[], Awaitable[None]], answer_seconds: float) -> None:
        self.away: str | None = None
        self._back = asyncio.Event()
        self.era = 0
        self._ask = ask
        # Half of the time for a reply that doesn't come, half for the answer whether one can.
        self._half = answer_seconds / 2
        self._waiting: dict[Waiting, float] = {}
        self._heard = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._failing = False

    def check(self) -> None:
        """Raise RedisAway while it can't be used."""
        if self.away is not None:
            raise RedisAway(self.away)

    async def present(self) -> None:
        """Raise RedisAway if it is away, and isn't back in a moment: it may only be slow."""
        if self.away is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(MOMENT):
                    await self._back.wait()
        self.check()

    def sent(self, connection: Waiting) -> None:
        """Something was sent, and a reply is to come."""
        loop = asyncio.get_running_loop()
        self._waiting[connection] = loop.time()
        if self._watch is None:
            self._watch = loop.call_later(self._half, self._overdue)

    def heard(self, connection: Waiting) -> None:
        """A reply has come."""
        self._waiting.pop(connection, None)
        self._heard = asyncio.get_running_loop().time()

    def dropped(self, connection: Waiting) -> None:
        """Nobody waits for the reply any more."""
        self._waiting.pop(connection, None)

    def suspect(self) -> None:
        """Something is wrong: find out whether Redis can still be used."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())

    def renew(self) -> None:
        """Have all connections made anew before they are next used."""
        self.era += 1

    async def aclose(self) -> None:
        """Look no more."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking

    def _overdue(self) -> None:
        """Suspect it if a reply has been awaited for too long; look again when the next one is."""
        self._watch = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        waited = loop.time() - min(self._waiting.values())
        if waited >= self._half:
            self.suspect()
        # Of a reply that was lost on the wire its connection knows when to give up.
        pause = self._half - waited if waited < self._half else self._half
        self._watch = loop.call_later(pause, self._overdue)

    async def _look(self) -> None:
        suspected, self._failing = asyncio.get_running_loop().time(), False
        error = await self._asked()
        if error is None or (error.silent and self._heard > suspected):
            return
        self._leave(str(error))
        gone = time.monotonic()
        for pause in _pauses():
            await asyncio.sleep(pause)
            error = await self._asked()
            if error is None:
                break
            self.away = str(error)
        self.renew()
        self.away = None
        self._back.set()
        _log.warning("redis is back", seconds=round(time.monotonic() - gone, 3))

    def _leave(self, why: str) -> None:
        """From now on it is away."""
        self.away = why
        self._back.clear()
        _log.warning("redis is away", why=why)
        waiting, self._waiting = list(self._waiting), {}
        for connection in waiting:
            task = asyncio.get_running_loop().create_task(connection.give_up())
            task.add_done_callback(_seen)

    def _failed(self, error: Exception) -> None:
        """The question itself failed: whatever it is, it may pass, so go on, and say so once."""
        if not self._failing:
            self._failing = True
            _log.error("asking redis failed", exc_info=error)

    async def _asked(self) -> _Unanswered | None:
        """Why it can't be used, as it says itself or by its silence; None where it can.

        One that breaks the connection is asked once more: it may have broken just this one.
        """
        loop = asyncio.get_running_loop()
        until, error = loop.time() + self._half, _Unanswered("")
        for _ in range(2):
            asking = asyncio.ensure_future(self._ask())
            try:
                if not await _done(asking, until - loop.time()):
                    return _Unanswered(f"Redis doesn't answer within {2 * self._half:g} s.", True)
            finally:
                asking.add_done_callback(_seen)
                asking.cancel()
                await asyncio.wait((asking,))
            found = asking.exception()
            if found is None:
                return None
            if not isinstance(found, Exception):
                raise found
            if not isinstance(found, (RedisError, OSError)):
                self._failed(found)
            said = isinstance(found, (ResponseError, BusyLoadingError, AuthenticationError))
            error = _Unanswered(f"{type(found).__name__}: {found}", silent=not said)
            if said or loop.time() >= until:
                break
        return error


class _Unanswered(Exception):
    """Why Redis can't be used; `silent` if it didn't say so itself: others may have heard of it."""

    def __init__(self, why: str, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


def takes_no_writes(error: Exception) -> bool:
    """Whether this is a server that was the primary, and isn't any more."""
    # Before Redis 7, what a script ran into stands in the middle of the message.
    return isinstance(error, ResponseError) and "READONLY" in str(error)


def broken(error: Exception) -> bool:
    """Whether an error says that something is wrong with Redis, or the way to it."""
    return isinstance(error, (Broken, OSError)) or takes_no_writes(error)


def _pauses() -> Iterator[float]:
    """Growing, and never the same for all who wait for one Redis."""
    longest = _FIRST_PAUSE
    while True:
        yield longest * random.uniform(0.5, 1.0)
        longest = min(_LONGEST_PAUSE, longest * 1.6)


async def _done(asking: asyncio.Future[None], seconds: float) -> bool:
    """Whether it is done in that time, by a clock that stands still while this process is held up.

    Then an answer may have come long ago, and takes some turns of the event loop to be read.
    """
    for _ in range(_TURNS):
        if not asking.done():
            await asyncio.wait((asking,), timeout=max(0.0, seconds) / _TURNS)
    return asking.done()


def _seen(task: asyncio.Future[None]) -> None:
    """Nobody needs to hear that a connection broke while it was closed."""
    if not task.cancelled():
        task.exception()
