"""The Redis client that a ledger needs: bounded in connections, in waiting and in retries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff


def connect(
    url: str,
    *,
    socket_timeout: float = 1.0,
    retries: int = 2,
    max_connections: int = 32,
    queue_timeout: float = 10.0,
) -> Redis:
    """A client for `url` (redis://, rediss:// or unix://). Nothing is sent until it is used.

    `socket_timeout` bounds connecting and the wait for each reply, in seconds. Callers beyond
    `max_connections` queue, for `queue_timeout` seconds at most. Retrying after a lost reply is
    safe for the ledger's scripts, whose operations are idempotent; other commands sent through
    this client may land more than once.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=queue_timeout,
        socket_timeout=socket_timeout,
        socket_connect_timeout=socket_timeout,
        retry=Retry(ExponentialWithJitterBackoff(base=0.01, cap=0.1), retries),
    )
    # Which class connects is decided by the URL.
    pool.connection_class = type("Connection", (_Heeding, pool.connection_class), {})
    return Redis.from_pool(pool)


class _Heeding(AbstractConnection):
    """A connection whose user can be cancelled at any moment.

    It sends within asyncio.wait_for, which before Python 3.12 loses a cancellation that comes just
    when what it waits for is done (CPython issue 86296): the user would go on, for ever if it was
    to be ended by that.
    """

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        await super().send_packed_command(command, check_health)
        if task and task.cancelling() > before:
            # The reply is nobody's any more, and must not be taken for that of another command.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError
