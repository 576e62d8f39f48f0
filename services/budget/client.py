"""The Redis client that a ledger needs: bounded in connections, in waiting and in retries.

While its Redis can't be used, everything that is asked of it fails at once (see `pulse`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import RedisError

from services.budget.pulse import Pulse, RedisAway, broken, takes_no_writes

_PROBE = ("SET", "longthink:pulse", "1", "PX", "60000")


class Client(Redis):
    """A client whose `pulse` says whether its Redis can be used."""

    pulse: Pulse

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections, and look after Redis no more."""
        await self.pulse.aclose()
        await super().aclose(close_connection_pool)


def connect(
    url: str,
    *,
    answer_seconds: float = 0.3,
    socket_timeout: float = 1.0,
    retries: int = 2,
    max_connections: int = 32,
    queue_timeout: float = 10.0,
) -> Client:
    """A client for `url` (redis://, rediss:// or unix://). Nothing is sent until it is used.

    A Redis that leaves a command unanswered for `answer_seconds`, and can't be written to over
    another connection either, is away: then all calls raise RedisAway at once until it is back. One
    reply alone that doesn't come is waited for `socket_timeout` seconds. Callers beyond
    `max_connections` queue, for `queue_timeout` seconds at most. Retrying after a lost reply is
    safe for the ledger's scripts, whose operations are idempotent; other commands sent through
    this client may land more than once.
    """
    pool = _Pool.from_url(
        url,
        max_connections=max_connections,
        timeout=queue_timeout,
        socket_timeout=socket_timeout,
        socket_connect_timeout=socket_timeout,
        retry=Retry(ExponentialWithJitterBackoff(base=0.01, cap=0.1), retries),
    )
    # Which class connects is decided by the URL.
    plain = pool.connection_class
    pool.pulse = Pulse(partial(_write, plain, pool.connection_kwargs), answer_seconds)
    pool.connection_class = type("Connection", (_Heeding, plain), {"pulse": pool.pulse})
    client = cast("Client", Client.from_pool(pool))
    client.pulse = pool.pulse
    return client


async def _write(kind: type[AbstractConnection], options: dict[str, Any]) -> None:
    """Write something over a connection of its own, once. Raises RedisError or OSError."""
    connection = kind(**{**options, "retry": Retry(NoBackoff(), 0)})
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_command(*_PROBE)
        await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


class _Pool(BlockingConnectionPool):
    """A pool that hands out no connection while Redis is away."""

    pulse: Pulse

    async def get_connection(self, *args: Any, **options: Any) -> AbstractConnection:
        """A connection that can be used. Raises RedisAway."""
        if self.pulse.away is not None:
            await asyncio.sleep(0)  # who tries again and again lets others have their turn
            self.pulse.check()
        got = super().get_connection(*args, **options)  # type: ignore[no-untyped-call]
        connection: AbstractConnection = await got
        return connection


class _Heeding(AbstractConnection):
    """A connection that tells the pulse what it hears, and whose user can be cancelled any time.

    redis-py sends within asyncio.wait_for, which before Python 3.12 loses a cancellation that comes
    just when what it waits for is done (CPython issue 86296): the user would go on, for ever if it
    was to be ended by that.
    """

    pulse: Pulse
    _era = -1
    _connecting: asyncio.Future[None] | None = None

    async def give_up(self) -> None:
        """See `Waiting`."""
        if self._connecting is not None:
            self._connecting.cancel()
        await self.disconnect(nowait=True)

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        self.pulse.check()
        try:
            await super().connect_check_health(*args, **options)
        except RedisError as error:
            if self.pulse.away is not None:
                raise RedisAway(self.pulse.away) from error
            raise

    async def _connect(self) -> None:
        self._era = self.pulse.era
        self.pulse.sent(self)
        made = super()._connect()  # type: ignore[no-untyped-call, safe-super]
        self._connecting = asyncio.ensure_future(made)
        try:
            await self._connecting
        except OSError:
            self.pulse.suspect()
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                self.pulse.check()
            raise
        finally:
            self._connecting = None
            self.pulse.dropped(self)

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        self.pulse.check()
        if self._era != self.pulse.era and self.is_connected:
            await self.disconnect(nowait=True)
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        self.pulse.sent(self)
        try:
            await super().send_packed_command(command, check_health)
        except BaseException as error:
            self._failed(error)
            raise
        if task and task.cancelling() > before:
            # The reply is nobody's any more, and must not be taken for that of another command.
            self.pulse.dropped(self)
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """The next reply. Raises RedisAway where none can come any more."""
        try:
            reply = await super().read_response(*args, **options)
        except BaseException as error:
            self._failed(error)
            if self.pulse.away is not None and isinstance(error, Exception):
                raise RedisAway(self.pulse.away) from error
            raise
        self.pulse.heard(self)
        return reply

    def _failed(self, error: BaseException) -> None:
        self.pulse.dropped(self)
        if not isinstance(error, Exception) or not broken(error):
            return
        if takes_no_writes(error):
            self.pulse.renew()
        self.pulse.suspect()
