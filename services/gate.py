"""The gate that requests pass before any work begins for them: `services.admission` in real time.

Owns one future for each request that waits. With several replicas of the edge each has a gate of
its own, for its part of the engines.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Protocol, TypeAlias

from planner.domain import Stopped
from planner.effort import Effort
from planner.errors import LongthinkError
from planner.search import STRATEGIES
from services.admission import Admission, Place, Refused
from services.expectations import Kind
from services.run import Admitted, Reply, Run
from services.tenants import Tenant

Begin: TypeAlias = Callable[[Admitted], Awaitable[Run]]
Left: TypeAlias = Callable[[], Awaitable[object]]
"""Returns once the client is gone."""

_CLASS = 10**13
"""What one class of priority is worth, in milliseconds of age: three hundred years."""
_CLASSES = 100
"""Classes beyond it count as this one, so that a priority fits into what vLLM takes."""
_LOOK_SECONDS = 1.0
"""How often it is looked, for those that wait, whether engines that are missing have come back."""


class ClientLeft(LongthinkError):
    """Whoever asked hung up while the request waited."""


class Watcher(Protocol):
    """What hears of all that passes: `services.telemetry.Telemetry`."""

    def admitted(self, waited: float) -> None:
        """A request has begun, after so many seconds in the queue."""

    def turned_away(self, reason: str, times: int = 1) -> None:
        """A request was refused, or so many were."""

    def load(self, waiting: int, running: float, limit: float) -> None:
        """How many requests wait, how many candidates run and may run."""


class Gate:
    """Lets requests begin, one after another or at once, as `admission` has it."""

    def __init__(
        self,
        admission: Admission,
        *,
        watcher: Watcher | None = None,
        one_pass: Callable[[], float | None] = lambda: None,
        present: Callable[[], float] = lambda: 1.0,
        retry_seconds: float = 1.0,
        hold_seconds: float = 0.0,
        random: Random | None = None,
    ) -> None:
        """`one_pass` says how long one candidate takes, `present` which part of the engines is
        there; clients are sent away for at least `retry_seconds`, and half as long again at most,
        so that they don't all come back at once. What is refused at once is said to hold for
        `hold_seconds` at most.
        """
        self.admission = admission
        self._watcher = watcher
        self._one_pass = one_pass
        self._present = present
        self._retry_seconds = retry_seconds
        self._hold_seconds = hold_seconds
        self._random = random or Random()
        self._waiting: dict[Place, asyncio.Future[None]] = {}
        self._looking: asyncio.TimerHandle | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing new is taken any more."""
        return self.admission.closed

    def door(self, tenant: Tenant, left: Left | None = None) -> Door:
        """How a tenant's request gets in."""
        return Door(self, tenant, left)

    def check(self, tenant: Tenant) -> None:
        """Raise Refused where nothing that the tenant could ask would be let in, as is known
        before anything of it is read.
        """
        self._look()
        try:
            self.admission.check(tenant, self._now())
        except Refused as refused:
            raise self._told(refused, at_once=True) from None

    def close(self) -> None:
        """Take nothing new, and refuse all that wait."""
        self.admission.close()
        self._tell()

    async def through(
        self, tenant: Tenant, effort: Effort, begin: Begin, left: Left | None = None
    ) -> Run:
        """The run that `begin` makes, once it may begin.

        Raises Refused, ClientLeft when `left` returns while it waits, and what `begin` raises.
        """
        place = self._ask(tenant, effort)
        try:
            await self._until_begun(place, left)
            waited = self._now() - place.arrived
            run = await begin(Admitted(waited=waited, priority=_priority(tenant, waited)))
        except BaseException:
            self.admission.leave(place, self._now())
            self._tell()
            raise
        run.heed(partial(self._ended, place))
        return run

    def _ask(self, tenant: Tenant, effort: Effort) -> Place:
        self._look()
        try:
            return self.admission.ask(
                self._now(), tenant, _kind(effort), effort.budget.deadline_seconds, self._one_pass()
            )
        except Refused as refused:
            raise self._told(refused, at_once=True) from None
        finally:
            self._tell()

    async def _until_begun(self, place: Place, left: Left | None) -> None:
        if place.began is None:
            await self._wait(place, left)
        if place.refused is not None:
            raise self._told(place.refused)
        if self._watcher is not None:
            self._watcher.admitted(self._now() - place.arrived)

    async def _wait(self, place: Place, left: Left | None) -> None:
        """Wait until it is begun or refused, no longer than that has sense."""
        told = self._waiting[place] = asyncio.get_running_loop().create_future()
        leaving = asyncio.ensure_future(left()) if left is not None else None
        if leaving is not None:
            leaving.add_done_callback(_seen)
        try:
            self._look_later()
            await asyncio.wait(
                {told} if leaving is None else {told, leaving},
                timeout=max(0.0, place.until - self._now()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if told.done():
                return
            if leaving is not None and leaving.done():
                raise ClientLeft("The client is gone.")
            self._look()
            if not told.done():
                self.admission.expire(place, self._now())
                self._tell()
        finally:
            self._waiting.pop(place, None)
            if leaving is not None:
                leaving.cancel()
                await asyncio.wait((leaving,))

    def _look(self) -> None:
        """See which part of the engines is there."""
        self.admission.adjust(self._present(), self._now())
        self._tell()
        self._look_later()

    def _look_later(self) -> None:
        """Look again in a while, where somebody waits for engines that are missing."""
        if self._looking is None and self._waiting and self.admission.present < 1.0:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(_LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._looking = None
        self._look()

    def _ended(self, place: Place, reply: Reply | None) -> None:
        """Give the place back as the run has come to its reply, and learn from it."""
        self._look()
        if reply is None or reply.outcome.stopped is Stopped.CANCELLED:
            self.admission.leave(place, self._now())
        else:
            outcome = reply.outcome
            self.admission.end(
                place,
                self._now(),
                drawn=reply.spent.candidates - reply.paid_before.candidates,
                in_vain=outcome.stopped is Stopped.DEADLINE and not outcome.finished,
            )
        self._tell()

    def _tell(self) -> None:
        """Wake those of whom something was decided."""
        for place in self.admission.news():
            told = self._waiting.get(place)
            if told is not None and not told.done():
                told.set_result(None)
        if self._watcher is not None:
            admission = self.admission
            self._watcher.load(admission.waiting, admission.running, admission.limit)

    def _told(self, refused: Refused, *, at_once: bool = False) -> Refused:
        """A refusal as it is told: with the time until there may be room, jittered."""
        if self._watcher is not None:
            self._watcher.turned_away(refused.reason)
        seconds = max(self._retry_seconds, refused.retry_seconds) * self._random.uniform(1.0, 1.5)
        # Of one that has waited nothing follows for those that come now.
        holds = min(self._hold_seconds, refused.holds_seconds) if at_once else 0.0
        return Refused(refused.reason, seconds, holds)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class Door:
    """A request's way through a gate. While it waits, `left` is listened to."""

    gate: Gate
    tenant: Tenant
    left: Left | None = None

    async def __call__(self, effort: Effort, begin: Begin) -> Run:
        """See `Gate.through`."""
        return await self.gate.through(self.tenant, effort, begin, self.left)

    def unattended(self) -> Door:
        """The same for whoever hears elsewhere that the client is gone."""
        return replace(self, left=None)


def _seen(leaving: asyncio.Future[object]) -> None:
    """However it ended, whoever was listened to is gone, or isn't waited for any more."""
    if not leaving.cancelled():
        leaving.exception()


def _kind(effort: Effort) -> Kind:
    """What a request counts as. A strategy by a name that none has is refused later on."""
    strategy = effort.strategy.partition("(")[0]
    if strategy not in STRATEGIES:
        strategy = ""
    return Kind(strategy, 1 if strategy == "single" else effort.candidates)


def _priority(tenant: Tenant, waited: float) -> int:
    """The place of its calls in the engines: by the tenant's class, then by when it was asked.

    Milliseconds of the wall clock, as several edges share the engines; lower goes first.
    """
    standing = max(-_CLASSES, min(_CLASSES, tenant.priority))
    return standing * _CLASS + round((time.time() - waited) * 1000)
