"""Allowances: what each tenant's requests may spend within its window, and do at a time, in Redis.

What always holds, whoever asks and however many at once: in every dimension, what is spent within
any window and what is held now come to no more than the limit. A request sets aside what it may
spend before it starts, and its own budget is cut to that; at its end, what it didn't spend goes
back. Each call is one Lua script, so atomic, on the server's clock and in integers.

A reservation carries a lease. If its holder dies, whoever looks next settles it, once nothing is
held in the request's own budget any more: the ledger knows what the request had spent, and that
stays charged; where the ledger may have forgotten, all that was held does. Without Redis nobody
gets anything (LedgerUnavailable).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args

from redis.exceptions import RedisError

from planner.domain import Budget, Cost
from planner.errors import LedgerUnavailable, LongthinkError, UnknownBudget
from planner.ports import Ledger
from services.allowance.need import DIMENSIONS, Need
from services.tenants import Tenant, TenantLimits

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

Answer = TypeVar("Answer")

_Name: TypeAlias = Literal["reserve", "renew", "settle", "look"]

_OK, _LAPSED, _REFUSED = range(3)
_AGAIN_SECONDS = 0.5
"""When one is looked at again that seems to be dead and isn't known to be."""
_SETTLINGS = 8
"""So often what dead holders left is settled before one more is tried."""


class OverLimit(LongthinkError):
    """A tenant has no more for now. `limit` names what of, `retry_seconds` says when it may have.

    None says that it never will: the request needs more than the whole limit.
    """

    def __init__(self, message: str, limit: str, retry_seconds: float | None) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_seconds = retry_seconds

    @property
    def of_quota(self) -> bool:
        """Whether the window is used up, rather than too much wanted at a time."""
        return self.limit in DIMENSIONS


@dataclass(frozen=True, slots=True)
class Used:
    """One limit: None for no limit; `frees_in` and `free_in` are seconds, None where nothing was
    spent: until some, and until all of what was spent counts no more.
    """

    limit: int | None
    spent: int
    held: int
    frees_in: float | None = None
    free_in: float | None = None

    @property
    def left(self) -> int | None:
        """What can still be had now."""
        return None if self.limit is None else max(0, self.limit - self.spent - self.held)


@dataclass(frozen=True, slots=True)
class Usage:
    """How a tenant stands: by dimension in its window, and what it has under way."""

    window: dict[str, Used]
    requests: Used
    candidates_at_once: Used


class Allowances:
    """All tenants' allowances. `ledger` says what requests had spent whose holder died.

    Raises LedgerUnavailable after `patience_seconds` without an answer.
    """

    def __init__(
        self,
        redis: Redis,
        ledger: Ledger,
        *,
        ttl_seconds: float = 3600,
        lease_seconds: float = 30,
        patience_seconds: float = 0.4,
    ) -> None:
        self._ledger = ledger
        self._ttl_ms = round(ttl_seconds * 1000)
        self.lease_seconds = lease_seconds
        self._patience_seconds = patience_seconds
        self._scripts: dict[_Name, AsyncScript] = {
            name: redis.register_script(_source(name)) for name in get_args(_Name)
        }

    async def reserve(self, tenant: Tenant, op: str, needed: Need) -> Allowance | None:
        """Set aside what a request may spend; `op` is the id of its budget in the ledger.

        None for a tenant without limits. Reserving again under the same name changes nothing, and
        takes up what a dead holder left. Raises OverLimit.
        """
        limits = tenant.limits
        if limits is None:
            return None
        most, least = _vector(needed.most), _vector(needed.least)
        soft = ",".join("0" if it in needed.said else "1" for it in DIMENSIONS)
        interval = None if limits.per_second is None else math.ceil(1e6 / limits.per_second)
        caps = (limits.requests, limits.candidates_at_once, interval, limits.burst)
        said = await self._answer(
            "reserve",
            tenant,
            op,
            most,
            least,
            soft,
            needed.candidates_at_once,
            _limits(limits),
            *("-" if cap is None else cap for cap in caps),
        )
        if said[0] == _REFUSED:
            raise _over(limits, said[1], said[2])
        granted, left = _read(said[1]), _read(said[3])
        cut = {it: much for it, much in granted.items() if getattr(limits, it) is not None}
        return Allowance(
            self, tenant, op, replace(needed.most, **cut), frozenset(cut), int(said[2]), left
        )

    async def renew(self, tenant: Tenant, op: str) -> bool:
        """Renew the lease; False where nothing is held any more."""
        return bool(await self._run("renew", tenant, op))

    async def settle(self, tenant: Tenant, op: str, cost: Cost | None) -> None:
        """Charge all that a request has cost, None for all that it held, and give back the rest.

        Idempotent; said again with another cost, the difference is made good.
        """
        words = "" if cost is None else ",".join(str(getattr(cost, it)) for it in DIMENSIONS)
        await self._run("settle", tenant, op, words)

    async def usage(self, tenant: Tenant) -> Usage:
        """How a tenant stands. Where it has no limits, nothing was counted."""
        limits = tenant.limits
        if limits is None:
            nothing = Used(None, 0, 0)
            return Usage(dict.fromkeys(DIMENSIONS, nothing), nothing, nothing)
        said = await self._answer("look", tenant)
        spent, held, first, last = (_read(said[it]) for it in (1, 2, 5, 6))
        window = {
            it: Used(
                getattr(limits, it),
                spent[it] or 0,
                held[it] or 0,
                _seconds(first[it]),
                _seconds(last[it]),
            )
            for it in DIMENSIONS
        }
        return Usage(
            window,
            Used(limits.requests, 0, int(said[3])),
            Used(limits.candidates_at_once, 0, int(said[4])),
        )

    async def _answer(self, name: _Name, tenant: Tenant, *words: str | int) -> Sequence[Any]:
        """What a script says once those are settled whose holders died."""
        for _ in range(_SETTLINGS):
            said: Sequence[Any] = await self._run(name, tenant, *words)
            if said[0] != _LAPSED:
                return said
            ago = map(int, said[2::2])
            await self._settle_all(tenant, dict(zip(map(_text, said[1::2]), ago, strict=True)))
        raise LedgerUnavailable("More requests of this tenant were lost than can be settled now.")

    async def _settle_all(self, tenant: Tenant, lapsed: Mapping[str, int]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for op, ago_ms in lapsed.items():
                    group.create_task(self._settle_lapsed(tenant, op, ago_ms))
        except* LedgerUnavailable as away:
            raise LedgerUnavailable(str(away.exceptions[0])) from away

    async def _settle_lapsed(self, tenant: Tenant, op: str, ago_ms: int) -> None:
        """Settle a request whose holder seems to have died, so many milliseconds ago.

        One that the ledger doesn't know hadn't opened its budget, so spent nothing; unless that is
        so long ago that the ledger has forgotten, when it may have spent all that it held.
        As long as it holds something of its own budget it may be alive, and spend that: it is
        looked at again soon. Those leases run out as well, if it isn't.
        """
        try:
            account = await self._ledger.account(op)
        except UnknownBudget:
            await self.settle(tenant, op, None if ago_ms > self._ttl_ms / 2 else Cost())
            return
        if account.held == Cost():
            await self.settle(tenant, op, account.spent)
        else:
            await self._run("renew", tenant, op, lease_seconds=_AGAIN_SECONDS)

    async def _run(
        self, name: _Name, tenant: Tenant, *words: str | int, lease_seconds: float | None = None
    ) -> Any:
        prefix = f"longthink:{{tenant:{tenant.id}}}:"
        limits = tenant.limits or TenantLimits()
        window = limits.window_seconds * 1000
        lease = self.lease_seconds if lease_seconds is None else lease_seconds
        times = (window, max(self._ttl_ms, 2 * window), round(lease * 1000))
        try:
            async with asyncio.timeout(self._patience_seconds):
                return await self._scripts[name](
                    keys=[f"{prefix}spent"], args=[prefix, *times, *words]
                )
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            raise LedgerUnavailable(
                f"Tenants' limits can't be kept ({type(error).__name__}: {error}). Check that "
                "Redis runs and that REDIS_URL points to it, then try again."
            ) from error


@dataclass(slots=True)
class Allowance:
    """What one request has set aside: its `budget`, cut in `limited` dimensions to what there is,
    and how many candidates it may have at a time. `left` is what its tenant has besides.
    """

    allowances: Allowances
    tenant: Tenant
    op: str
    budget: Budget
    limited: frozenset[str]
    candidates_at_once: int
    left: dict[str, int | None]
    settled: bool = False

    async def settle(self, cost: Cost) -> None:
        """See `Allowances.settle`."""
        self.settled = True
        await self.allowances.settle(self.tenant, self.op, cost)

    @asynccontextmanager
    async def kept(self, lost: Callable[[], object]) -> AsyncIterator[None]:
        """While inside, the lease is renewed; `lost` is called where it had run out."""
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(self._renew(lost))
            yield
            renewing.cancel()

    async def while_kept(self, work: Awaitable[Answer]) -> Answer:
        """What `work` comes to, with the lease renewed until then. Raises what it raises."""
        try:
            async with self.kept(lambda: None):
                return await work
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def check(self) -> None:
        """Raise LedgerUnavailable where the lease has run out, so that others may have it now."""
        if not await self.allowances.renew(self.tenant, self.op):
            raise LedgerUnavailable(
                "What was set aside for the request was given back before it began. Try again."
            )

    async def _renew(self, lost: Callable[[], object]) -> None:
        while True:
            await asyncio.sleep(self.allowances.lease_seconds / 3)
            # While Redis is away nobody can take it back either.
            with suppress(LedgerUnavailable):
                held = await self.allowances.renew(self.tenant, self.op)
                if not held and not self.settled:
                    lost()
                    return


_WHAT = {
    "rate": "requests a second",
    "requests": "requests at a time",
    "candidates_at_once": "candidates at a time",
    "completion_tokens": "completion tokens",
    "reward_tokens": "reward tokens",
    "candidates": "candidates",
    "micro_usd": "US dollars",
}


def _over(limits: TenantLimits, which: Any, wait: Any) -> OverLimit:
    name = DIMENSIONS[which - 1] if isinstance(which, int) else _text(which)
    seconds = None if wait in (b"", "") else int(wait) / 1000
    limit: Any = limits.per_second if name == "rate" else getattr(limits, name)
    if name == "micro_usd":
        limit /= 1_000_000
    when = f" within {limits.window_seconds:,} seconds" if name in DIMENSIONS else ""
    advice = (
        "The request needs more than that by itself: ask for less."
        if seconds is None
        else f"There may be more in {max(1, math.ceil(seconds)):,} seconds."
    )
    return OverLimit(
        f"The limit of {limit:,} {_WHAT[name]}{when} is reached. {advice}", name, seconds
    )


@cache
def _source(name: _Name) -> str:
    folder = files("services.allowance") / "lua"
    return (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()


def _vector(budget: Budget) -> str:
    return _written(getattr(budget, it) for it in DIMENSIONS)


def _limits(limits: TenantLimits) -> str:
    return _written(getattr(limits, it) for it in DIMENSIONS)


def _written(numbers: Any) -> str:
    return ",".join("-" if number is None else str(number) for number in numbers)


def _read(vector: Any) -> dict[str, int | None]:
    words = _text(vector).split(",")
    return {
        it: None if word == "-" else int(word) for it, word in zip(DIMENSIONS, words, strict=True)
    }


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def _text(word: bytes | str) -> str:
    return word.decode() if isinstance(word, bytes) else word
