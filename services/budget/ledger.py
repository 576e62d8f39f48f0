"""The ledger: budgets in Redis, each call one Lua script, so atomic, and in one round trip.

What always holds, at every moment and in every dimension, whoever holds and however many at once:
spent + held <= limit. There is one way past it, taken because what was spent is spent: a commit
that costs more than its operation still held (its lease had run out, or it was held too small).
Such a budget grants nothing more, not even a hold of nothing.

Holds carry a lease on the server's clock, and every script first takes back those that ran out.
A budget's keys live for `ttl_seconds` after its last use, and share the hash tag of their request.

Sending a script twice changes nothing, so a client may retry when a reply was lost:
- a hold by the same operation gets the verdict that it first got, for as long as it stands; once
  committed it is not granted again, and once its lease ran out it is judged as new;
- a commit counts once; a commit that comes after its budget was closed still counts;
- a renewal that is retried repeats its answer.

Budgets are named "<request>" or "<request>/<child>", where a child may have children. A child's
limits are one hold in its parent. Until it is closed its spending shows in its own account only,
within what the parent shows as held; then it is spent in the parent. A child whose lease ran out
is ended so too, grants nothing more, and what it still commits is charged to its parent; opening
it again sets aside what it had not spent. Deadlines are kept with the limits, for the holder to
act on: the ledger measures no time but leases.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from planner.domain import Budget
from planner.errors import LedgerUnavailable, LongthinkError, UnknownBudget
from planner.ports import Account, Commit, Hold
from services.budget import scripts
from services.budget.errors import BudgetConflict, BudgetRefused
from services.budget.pulse import MOMENT, RedisAway
from services.budget.scripts import Reply, ScriptName, Word, text

_NAME = re.compile(r"([^{}/]+)(?:/([^{}/]+(?:/[^{}/]+)*))?")
_AWAY_SECONDS, _PAUSE_SECONDS = 1.5, 0.05
"""How long work that is under way waits for a Redis that is away, and how often it looks: on a busy
machine it may only have been slow."""
_CHILD = "child:"  # the operations of a budget's children, as in common.lua


class RedisLedger:
    """`planner.ports.Ledger` on a Redis client that the caller owns (see `connect`).

    `lease_seconds` is how long a hold stands without `renew`, `patience_seconds` how long a call
    may take, waiting its turn and retries included, before it raises LedgerUnavailable. At most
    `calls_at_once` are sent, first come, first served; keep them within the client's connections.
    """

    def __init__(
        self,
        client: Redis,
        *,
        ttl_seconds: float = 3600,
        lease_seconds: float = 10,
        patience_seconds: float = 4,
        calls_at_once: int = 16,
    ) -> None:
        if not 0 < lease_seconds < ttl_seconds:
            raise ValueError("A lease must be longer than nothing and shorter than the keys live.")
        self._times = (round(ttl_seconds * 1000), round(lease_seconds * 1000))
        self._patience_seconds = patience_seconds
        # A redis-py pool has no order among its waiters: in a crowd some would wait for seconds.
        self._turns = asyncio.Semaphore(calls_at_once)
        self._scripts: dict[ScriptName, AsyncScript] = {
            name: client.register_script(scripts.source(name)) for name in scripts.NAMES
        }

    async def open(self, budget: str, limits: Budget, *, parent: str | None = None) -> Account:
        """Open a budget; `parent` must be open already, and of the same request.

        A child's limits are set aside in its parent, all of them or none. Where only the parent
        is limited, the child is limited to what the parent has left, and takes all of it.
        Opening again with the same limits changes nothing, except that a child whose lease ran
        out has what it did not spend set aside again.
        Raises BudgetConflict where it is open with other limits or another parent, BudgetRefused
        where the parent lacks what the child asks for or has ended, UnknownBudget where the
        parent was never opened.
        """
        deadline = "" if limits.deadline_seconds is None else repr(float(limits.deadline_seconds))
        above = ("0", "") if parent is None else ("1", _split(parent)[1])
        if parent is not None and _split(parent)[0] != _split(budget)[0]:
            raise ValueError(f"Budget {budget!r} and its parent {parent!r} differ in the request.")
        reply = await self._run("open", budget, scripts.limits_vector(limits), deadline, *above)
        return reply.account

    async def hold(self, budget: str, holds: tuple[Hold, ...]) -> tuple[tuple[bool, ...], Account]:
        """Set each aside in order, each wholly or not at all; says which are set aside now.

        An operation names one hold: held again, whatever the cost, it keeps what it first got.
        """
        words = _words((hold.op, scripts.cost_vector(hold.cost)) for hold in holds)
        reply = await self._run("hold", budget, *words)
        return tuple(verdict == "1" for verdict in reply.answer), reply.account

    async def commit(self, budget: str, commits: tuple[Commit, ...]) -> Account:
        """Settle each: give back what it held and count what it cost, once for each operation."""
        words = _words((commit.op, scripts.cost_vector(commit.cost)) for commit in commits)
        return (await self._run("commit", budget, *words)).account

    async def renew(self, budget: str) -> bool:
        """Renew the lease of every hold; False if any had run out since the last renewal.

        A child renews its own set-aside in its parents with it, and a parent those of its
        children, though not what these hold themselves. A child that was ended because its lease
        ran out is told False every time.
        """
        # The name makes a retry of this renewal known from the next renewal.
        return (await self._run("renew", budget, secrets.token_hex(8))).answer == "1"

    async def resize(self, budget: str, limits: Budget) -> Account:
        """Set anew what a child may spend in all, in the dimensions it is limited in.

        It never gets more than its parent has left, and never has less than it spent and holds; its
        account says what it came to. Raises BudgetConflict where it is no child.
        """
        return (await self._run("resize", budget, scripts.limits_vector(limits))).account

    async def close(self, budget: str) -> Account:
        """Give back what is held, end all children, and charge a parent for what was spent."""
        return (await self._run("close", budget)).account

    async def account(self, budget: str) -> Account:
        """The budget as it stands."""
        return (await self._run("account", budget)).account

    async def _run(self, name: ScriptName, budget: str, *words: str) -> Reply:
        """Run a script on the budget and read its reply, or raise what it says went wrong."""
        request, path = _split(budget)
        prefix = f"longthink:{{{request}}}"
        try:
            async with asyncio.timeout(self._patience_seconds):
                reply = await self._sent(
                    name, [f"{prefix}:budget:{path}"], [prefix, path, *self._times, *words]
                )
        except (RedisError, OSError) as error:  # TimeoutError, of our patience, is an OSError
            raise LedgerUnavailable(
                f"The budget ledger can't use its Redis ({type(error).__name__}: {error}). "
                "Check that it runs and that REDIS_URL points to it, then try again."
            ) from error
        code, *said = reply
        if code != scripts.OK:
            raise _refusal(code, budget, said)
        return Reply.read(said)

    async def _sent(self, name: ScriptName, keys: list[str], args: list[Any]) -> list[Any]:
        """What a script replies. Where work is under way, a Redis that is away is waited for."""
        loop = asyncio.get_running_loop()
        until = loop.time() + (MOMENT if name == "open" else _AWAY_SECONDS)
        while True:
            try:
                async with self._turns:
                    reply: list[Any] = await self._scripts[name](keys=keys, args=args)
                    return reply
            except RedisAway:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)


def _refusal(code: int, budget: str, said: list[Word]) -> LongthinkError:
    """What a script that changed nothing says is wrong."""
    if code == scripts.UNKNOWN:
        request, path = _split(budget)[0], text(said[0])
        name = f"{request}/{path}" if path else request
        return UnknownBudget(
            f"Budget {name!r} was never opened, or was idle for longer than its keys live: "
            "open it first."
        )
    if code == scripts.CONFLICT:
        return BudgetConflict(
            f"Budget {budget!r} is open already, with {scripts.read_limits(said[0], said[1])}: "
            "open it with the same limits and parent, or open another."
        )
    parent = Reply.read(said)
    return BudgetRefused(
        f"Budget {budget!r} would set {scripts.read_cost(parent.answer)} aside in its parent, "
        f"which has {parent.account.left()} left or was closed: ask for less, or close a sibling."
    )


def _split(budget: str) -> tuple[str, str]:
    """The request and the path within it, empty for the request's own budget."""
    match = _NAME.fullmatch(budget)
    if match is None:
        raise ValueError(
            f"A budget is named '<request>' or '<request>/<child>', without braces: {budget!r}."
        )
    return match[1], match[2] or ""


def _words(pairs: Iterable[tuple[str, str]]) -> list[str]:
    words: list[str] = []
    for op, vector in pairs:
        if op.startswith(_CHILD):
            raise ValueError(f"Operations named {_CHILD}... belong to the ledger: {op!r}.")
        words += (op, vector)
    return words
