"""The Redis client that a ledger needs: bounded in connections, in waiting and in retries."""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool, Redis
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
    return Redis.from_pool(pool)
