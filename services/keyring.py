"""The keyring: API keys and the tenants they belong to, in Redis.

What always holds: a key itself is kept nowhere. Redis has its SHA-256, which is enough for a key of
256 random bits: nothing shorter than trying them all leads back. Two hashes and a secret share a
slot, and, unlike everything else that longthink keeps, have no time to live: a key is good until it
is revoked.

    longthink:{tenants}:keys     digest -> {"id", "tenant", "operator", "made"}
    longthink:{tenants}:tenants  tenant -> {"weight", "priority", "limits": {...}}
    longthink:{tenants}:secret   what cache salts are made from
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable
from dataclasses import dataclass
from hashlib import sha256
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from planner.errors import LedgerUnavailable, LongthinkError
from services.tenants import LOCAL, Tenant, TenantLimits

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "longthink:{tenants}:"
"""What the names of these keys begin with, which live for ever."""

_KEYS, _TENANTS, _SECRET = f"{PREFIX}keys", f"{PREFIX}tenants", f"{PREFIX}secret"
_KEY = re.compile(r"lt-[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FRESH_SECONDS = 0.5
"""How long a key that was found may be used without asking Redis again."""
_MOST = 4096
"""So many keys are remembered."""

# In one step, so that no key is found without its tenant. The secret is made by the first to ask.
_FIND = """
local key = redis.call('HGET', KEYS[1], ARGV[1])
if not key then return false end
if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('SET', KEYS[3], ARGV[2]) end
local name = cjson.decode(key).tenant
return { key, redis.call('HGET', KEYS[2], name), redis.call('GET', KEYS[3]) }
"""


class KeyringError(LongthinkError):
    """What was asked of the keyring can't be done."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A key as an operator sees it: `id` is the beginning of its digest, `made` in seconds."""

    id: str
    tenant: Tenant
    made: int


class Keyring:
    """The keys in one Redis. All methods raise LedgerUnavailable when it can't be reached."""

    def __init__(self, redis: Redis, *, patience_seconds: float = 0.4) -> None:
        """`patience_seconds` is how long Redis has to answer."""
        self._redis = redis
        self._patience_seconds = patience_seconds
        self._find = redis.register_script(_FIND)
        self._found: OrderedDict[str, tuple[float, Tenant]] = OrderedDict()

    async def find(self, key: str) -> Tenant | None:
        """Whose key it is; None for one that never was or is no more, half a second later at most.

        What can't be a key never reaches Redis.
        """
        if not _KEY.fullmatch(key):
            return None
        digest = _digest(key)
        until, tenant = self._found.get(digest, (0.0, None))
        if tenant is not None and monotonic() < until:
            return tenant
        asked = monotonic()
        said = await self._answer(
            self._find(keys=[_KEYS, _TENANTS, _SECRET], args=[digest, secrets.token_hex(32)])
        )
        if said is None:
            self._found.pop(digest, None)
            return None
        kept, limits, secret = said
        tenant = _tenant(json.loads(kept), limits, secret)
        self._found[digest] = asked + _FRESH_SECONDS, tenant
        self._found.move_to_end(digest)
        while len(self._found) > _MOST:
            self._found.popitem(last=False)
        return tenant

    async def make(self, tenant: Tenant | str, *, operator: bool = False) -> str:
        """A new key of a tenant, which nobody can be told again.

        A `tenant` with its limits is one as from now, for all its keys; by its name alone it stays
        as it is, and one that is new has no limits. Raises KeyringError for what is no name.
        """
        name = tenant if isinstance(tenant, str) else tenant.id
        if not _NAME.fullmatch(name) or name == LOCAL.id:
            raise KeyringError(
                f"{name!r} can't be a tenant: its name is 1 to 64 letters, digits, dots, dashes "
                f"and underscores, the first a letter or a digit, and not {LOCAL.id!r}."
            )
        key = f"lt-{secrets.token_urlsafe(32)}"
        digest = _digest(key)
        record = {"id": _id(digest), "tenant": name, "operator": operator, "made": int(time())}
        async with self._redis.pipeline(transaction=True) as pipe:
            if isinstance(tenant, str):
                _ = pipe.hsetnx(_TENANTS, name, json.dumps(_data(Tenant(name))))
            else:
                _ = pipe.hset(_TENANTS, name, json.dumps(_data(tenant)))
            _ = pipe.hset(_KEYS, digest, json.dumps(record))
            await self._answer(pipe.execute())
        return key

    async def list(self) -> list[Listed]:
        """All keys, by tenant and age."""
        async with self._redis.pipeline(transaction=True) as pipe:
            _ = pipe.hgetall(_KEYS)
            _ = pipe.hgetall(_TENANTS)
            keys, tenants = await self._answer(pipe.execute())
        rows = []
        for record in map(json.loads, keys.values()):
            limits = tenants.get(record["tenant"].encode()) or tenants.get(record["tenant"])
            rows.append(Listed(record["id"], _tenant(record, limits, b""), record["made"]))
        return sorted(rows, key=lambda row: (row.tenant.id, row.made, row.id))

    async def revoke(self, which: str) -> int:
        """Revoke a key by its id or itself, or all of a tenant by its name; says how many.

        Raises KeyringError where there is none.
        """
        keys = await self._answer(self._redis.hgetall(_KEYS))
        digest = _digest(which)
        gone = [
            name
            for name, record in keys.items()
            if _text(name) == digest or which in _names(json.loads(record))
        ]
        if not gone:
            raise KeyringError(
                f"There is no key or tenant {which!r}: `longthink keys list` shows all there are."
            )
        await self._answer(self._redis.hdel(_KEYS, *gone))
        return len(gone)

    async def _answer(self, command: Awaitable[Any] | Any) -> Any:
        try:
            async with asyncio.timeout(self._patience_seconds):
                return await command
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            raise LedgerUnavailable(
                f"API keys can't be looked up ({type(error).__name__}: {error}). Check that Redis "
                "runs and that REDIS_URL points to it, then try again."
            ) from error


def _names(record: dict[str, Any]) -> tuple[str, str]:
    return record["id"], record["tenant"]


def _data(tenant: Tenant) -> dict[str, Any]:
    limits = tenant.limits or TenantLimits()
    return {"weight": tenant.weight, "priority": tenant.priority, "limits": limits.data()}


def _tenant(record: dict[str, Any], said: bytes | str | None, secret: bytes | str) -> Tenant:
    """The tenant of a key, as this key lets it in."""
    kept = json.loads(said) if said else _data(Tenant(record["tenant"]))
    salt = hmac.new(_text(secret).encode(), record["tenant"].encode(), sha256).hexdigest()
    return Tenant(
        record["tenant"],
        weight=kept["weight"],
        priority=kept["priority"],
        operator=record["operator"],
        cache_salt=salt,
        limits=TenantLimits(**kept["limits"]),
    )


def _digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def _id(digest: str) -> str:
    return digest[:12]


def _text(word: bytes | str) -> str:
    return word.decode() if isinstance(word, bytes) else word
