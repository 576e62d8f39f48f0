"""Who answers a request that is sent more than once under one `Idempotency-Key`.

A key names one request, with one body, and its trace; a lease says which runner drives it now. What
always holds: one runner at a time may write to the trace (`services.trace` asks Redis with every
write), so one that was thought dead, and wakes up, stops at its next step. Redis keeps both, on its
own clock, for as long as it keeps traces.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import RedisError

from planner.errors import LedgerUnavailable, LongthinkError
from services.tenants import LOCAL, Tenant
from services.trace import Superseded, runner_key

if TYPE_CHECKING:
    from redis.asyncio import Redis

Answer = TypeVar("Answer")

_NOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""
_TAKE = (
    _NOW
    + """
local until_ = redis.call('HGET', KEYS[1], 'until')
if until_ and now < tonumber(until_) and redis.call('HGET', KEYS[1], 'runner') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'runner', ARGV[1], 'until', now + ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
)
_RENEW = (
    _NOW
    + """
local runner = redis.call('HGET', KEYS[1], 'runner')
if runner and runner ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'runner', ARGV[1], 'until', now + ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
)
_RELEASE = """
if redis.call('HGET', KEYS[1], 'runner') == ARGV[1] then redis.call('HSET', KEYS[1], 'until', 0) end
return 1
"""


class KeyReused(LongthinkError):
    """The key stands for another request."""


class KeyOutdated(LongthinkError):
    """What came of the request that the key stands for can't be read by this service any more."""


class KeyCrowded(LongthinkError):
    """Too many requests wait for the one that the key stands for."""


@dataclass(frozen=True, slots=True)
class Key:
    """A client's key, a digest of the body that came with it, and whose it is.

    The same name is another key with another tenant.
    """

    name: str
    digest: str
    tenant: Tenant = LOCAL

    @property
    def record(self) -> str:
        """Where Redis keeps what the key stands for."""
        whole = f"{self.tenant.id}:{self.name}"  # no tenant's name has a colon
        return f"longthink:idempotency:{sha256(whole.encode()).hexdigest()}"


class Keys:
    """The keys and leases of all requests, in Redis. All methods raise LedgerUnavailable.

    `lease_seconds` is how long a runner that says nothing counts as alive.
    """

    def __init__(
        self, redis: Redis, *, ttl_seconds: float = 3600, lease_seconds: float = 5.0
    ) -> None:
        self._redis = redis
        self.ttl_ms = round(ttl_seconds * 1000)
        self.lease_seconds = lease_seconds

    async def claim(self, key: Key, trace_id: str) -> str:
        """The trace of the request that the key stands for: `trace_id`, if it is new.

        Raises KeyReused if it stands for one with another body.
        """
        value = f"{key.digest} {trace_id}"
        while True:
            fresh = self._redis.set(key.record, value, nx=True, px=self.ttl_ms)
            if await _answer(fresh):
                return trace_id
            stored: bytes | str | None = await _answer(self._redis.get(key.record))
            if stored is None:
                continue  # it has just run out
            text = stored.decode() if isinstance(stored, bytes) else stored
            digest, _, claimed = text.partition(" ")
            if digest != key.digest:
                raise KeyReused(
                    "This Idempotency-Key was sent with another body before. Repeat a request "
                    "exactly as it was, or send a new key."
                )
            return claimed

    async def forget(self, key: Key) -> None:
        """Let the key stand for nothing: its request was refused."""
        await _answer(self._redis.delete(key.record))

    async def take(self, key: Key, trace_id: str) -> Lease | None:
        """Become the one runner of a request; None while there is another one."""
        lease = Lease(self, key, trace_id, token_hex(8))
        return lease if await lease.take() else None

    async def script(self, text: str, trace_id: str, *words: str | int) -> bool:
        """Run a script on who runs a request."""
        return bool(await _answer(self._redis.eval(text, 1, runner_key(trace_id), *words)))

    async def keep(self, key: Key, trace_id: str) -> None:
        """Have the record of the key live on, also in a Redis that has lost its data."""
        if not await _answer(self._redis.pexpire(key.record, self.ttl_ms)):
            value = f"{key.digest} {trace_id}"
            await _answer(self._redis.set(key.record, value, nx=True, px=self.ttl_ms))


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a request, under the name of `runner`."""

    keys: Keys
    key: Key
    trace_id: str
    runner: str

    async def take(self) -> bool:
        """Whether it is ours now."""
        return await self.keys.script(_TAKE, self.trace_id, self.runner, *self._times)

    async def release(self) -> None:
        """Let others take it at once. Writing under it is allowed until one does."""
        await self.keys.script(_RELEASE, self.trace_id, self.runner)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """While inside, the lease is renewed. Raises (in a group) Superseded when it is lost."""
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(self._renew())
            yield
            renewing.cancel()

    async def while_kept(self, work: Awaitable[Answer]) -> Answer:
        """What `work` comes to, with the lease renewed until then.

        Raises what it raises, and Superseded when the lease is lost.
        """
        try:
            async with self.kept():
                return await work
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.keys.lease_seconds / 3)
            # While Redis is away nobody else can take it either.
            with suppress(LedgerUnavailable):
                if not await self.keys.script(_RENEW, self.trace_id, self.runner, *self._times):
                    raise Superseded("Another runner took it over.")
                await self.keys.keep(self.key, self.trace_id)

    @property
    def _times(self) -> tuple[int, int]:
        return round(self.keys.lease_seconds * 1000), self.keys.ttl_ms


async def _answer(command: Awaitable[Answer] | Any) -> Any:
    try:
        return await command
    except (RedisError, OSError) as error:
        raise LedgerUnavailable(f"Redis keeps no keys: {type(error).__name__}: {error}") from error
