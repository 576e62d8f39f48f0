"""The pool of real workers: engines behind Ray Serve handles, and a verifier beside them.

Owns how a batch is shared between replicas, which is one Ray call for each, and how what comes back
becomes one stream. What always holds: each call ends in exactly one result, also when its replica
dies, hangs in its start or was never there; and when the stream is closed, nothing of it goes on in
an engine.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Sequence,
)
from contextlib import aclosing
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, cast
from weakref import WeakSet, WeakValueDictionary

import grpc  # type: ignore[import-untyped]
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from planner.domain import Writer
from planner.errors import InvalidOption, WorkersUnavailable
from workers.homes import Homes, Place, by_home
from workers.messages import (
    Generate,
    Generated,
    GenerationEvent,
    Grade,
    Graded,
    Prompt,
    Verified,
    Verify,
)
from workers.verifier import Verifier

Item = TypeVar("Item")
Handle: TypeAlias = DeploymentHandle[Any]
AnyCall: TypeAlias = Generate | Grade

_TRANSPORT_ERRORS = (RayError, RayServeException, grpc.RpcError)
"""All that a call over Serve raises when the other side isn't there, or can't take it."""

_GRACE_SECONDS = 0.1
"""How long a batch whose calls were all cancelled before a replica took it is still waited for:
one that has just been taken should say by itself what it cost."""

_READY_SECONDS = 5.0
"""An engine that takes longer to say that it is there isn't ready."""


class _LostError(Exception):
    """The replica that had a batch is gone, or none took it."""


class ServePool:
    """Generators, and planners, reward models and a verifier if there are any, as one.

    `generators`, `planners` and `rewards` are how many replicas a batch is shared between, and
    `place` says which of its calls goes to which (see `workers.homes`). A batch that no replica
    takes within `patience_seconds` is lost.
    """

    def __init__(
        self,
        generator: Handle,
        reward: Handle | None = None,
        *,
        planner: Handle | None = None,
        generators: int = 1,
        planners: int = 1,
        rewards: int = 1,
        patience_seconds: float = 30.0,
        verifier: Verifier | None = None,
        place: Place = by_home,
    ) -> None:
        homes = Homes(generators, place)
        self._reasoners = _Crew("generator", generator, "generate", Generated, homes)
        self._planners = (
            None
            if planner is None
            else _Crew("planner", planner, "generate", Generated, Homes(planners, place))
        )
        self._graders = (
            None
            if reward is None
            else _Crew("reward model", reward, "grade", Graded, Homes(rewards, place))
        )
        self._patience = patience_seconds
        self._verifier = verifier
        # A flight lives as long as the stream it belongs to, wherever that one is dropped.
        self._flights: WeakValueDictionary[str, _Flight] = WeakValueDictionary()

    @property
    def plans(self) -> bool:
        """Whether there is a planner beside the generators."""
        return self._planners is not None

    @property
    def grades(self) -> bool:
        """Whether there is a reward model."""
        return self._graders is not None

    @property
    def verifies(self) -> bool:
        """Whether there is a verifier."""
        return self._verifier is not None

    async def prepare(
        self, messages: tuple[tuple[str, str], ...], writer: Writer = "reasoner"
    ) -> Prompt:
        """See `workers.ports.Pool`."""
        crew = self._crew_of(writer)
        call = partial(crew.handle.prepare.remote, messages)
        prompt: Prompt = await self._patiently(crew, _detached(call))
        return prompt

    async def encode(self, text: str, writer: Writer = "reasoner") -> tuple[int, ...]:
        """See `workers.ports.Pool`."""
        crew = self._crew_of(writer)
        call = partial(crew.handle.encode.remote, text)
        token_ids: tuple[int, ...] = await self._patiently(crew, _detached(call))
        return token_ids

    def _crew_of(self, writer: Writer) -> _Crew:
        if writer == "planner" and self._planners is not None:
            return self._planners
        return self._reasoners

    async def _patiently(self, crew: _Crew, reply: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._patience):
                return await reply
        except InvalidOption as refused:
            # Ray hands on a wrapper, with a remote traceback for a message.
            raise getattr(refused, "cause", refused) from None
        except (TimeoutError, *_TRANSPORT_ERRORS) as lost:
            raise WorkersUnavailable(f"No {crew.name} answers: {_summary(lost)}") from lost

    def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[GenerationEvent]:
        """See `workers.ports.Pool`. A call can be cancelled from now on, read or not."""
        if self._planners is None:
            return self._send((self._reasoners, batch))
        plans = [call for call in batch if call.writer == "planner"]
        others = [call for call in batch if call.writer == "reasoner"]
        return self._send((self._planners, plans), (self._reasoners, others))

    def grade(self, batch: tuple[Grade, ...]) -> AsyncIterator[Graded]:
        """See `workers.ports.Pool`. A call can be cancelled from now on, read or not."""
        if self._graders is None:
            return _refused(batch)
        return self._send((self._graders, batch))

    def verify(self, batch: tuple[Verify, ...]) -> AsyncIterator[Verified]:
        """See `workers.ports.Pool`. A call can be cancelled from now on, read or not."""
        return _unverified(batch) if self._verifier is None else self._verifier.verify(batch)

    async def cancel(self, ids: Collection[str]) -> None:
        """See `workers.ports.Pool`."""
        if self._verifier is not None:
            await self._verifier.cancel(ids)
        flights = {}
        for call_id in ids:
            flight = self._flights.get(call_id)
            if flight is not None and call_id in flight.calls:
                flight.drop(call_id)
                flights[id(flight)] = flight
        await asyncio.gather(*(flight.cancel(self._patience) for flight in flights.values()))

    def _send(self, *orders: tuple[_Crew, Sequence[AnyCall]]) -> AsyncIterator[Any]:
        flights = [flight for crew, calls in orders for flight in crew.share(calls)]
        for flight in flights:
            self._flights.update((call_id, flight) for call_id in flight.calls)
        return _merged([flight.events(self._patience) for flight in flights])

    async def counters(self) -> dict[str, dict[str, int]]:
        """The engines' own counters, by the name of the replica.

        Raises WorkersUnavailable when one doesn't answer.
        """
        return dict(await self._ask_all("counters"))

    async def metrics(self) -> dict[str, str]:
        """All that the engines measure in Prometheus' text format, by the name of the replica.

        Raises WorkersUnavailable when one doesn't answer.
        """
        return dict(await self._ask_all("metrics"))

    async def ready(self) -> bool:
        """Whether as many engines answer as there should be."""
        wanted = sum(crew.homes.replicas for crew in self._crews())
        try:
            return len(await self._ask_all("counters", _READY_SECONDS)) >= wanted
        except WorkersUnavailable:
            return False

    def _crews(self) -> list[_Crew]:
        crews = (self._reasoners, self._planners, self._graders)
        return [crew for crew in crews if crew is not None]

    async def _ask_all(self, method: str, seconds: float | None = None) -> list[tuple[str, Any]]:
        try:
            async with asyncio.timeout(seconds or self._patience):
                answers = await asyncio.gather(
                    *(crew.handle.broadcast(method).results_async() for crew in self._crews())
                )
        except (TimeoutError, *_TRANSPORT_ERRORS) as lost:
            raise WorkersUnavailable(f"An engine doesn't answer: {_summary(lost)}") from lost
        return [answer for of_handle in answers for answer in of_handle]


@dataclass(frozen=True, slots=True)
class _Crew:
    """The replicas of one kind, what they are asked for, and what is on its way to them.

    A flight lives as long as the stream it belongs to, wherever that one is dropped.
    """

    name: str
    handle: Handle
    method: str
    ending: type[Generated] | type[Graded]
    homes: Homes
    flights: WeakSet[_Flight] = field(default_factory=WeakSet)

    def share(self, calls: Sequence[AnyCall]) -> list[_Flight]:
        """The calls split between the replicas, on their way from now on."""
        shares = self.homes.share([call.branch for call in calls], self._loads())
        flights = [_Flight(self, name, [calls[at] for at in share]) for name, share in shares]
        self.flights.update(flights)
        return flights

    def _loads(self) -> Counter[str]:
        """The calls in flight by replica; "" has those for which none is known yet."""
        loads: Counter[str] = Counter()
        for flight in self.flights:
            loads[flight.replica] += len(flight.calls)
        return loads


class _Flight:
    """A share of a batch on its way to one replica, and its calls that haven't ended.

    `home` is the replica that should take it, "" for any.
    """

    def __init__(self, crew: _Crew, home: str, share: Sequence[AnyCall]) -> None:
        self.calls: dict[str, AnyCall] = {call.id: call for call in share}
        self._crew = crew
        self._home = home
        self._replica = ""
        self._dropped: set[str] = set()
        self._unwanted = asyncio.Event()

    @property
    def replica(self) -> str:
        """The replica that has it or is to have it; "" if that isn't known yet."""
        return self._replica or self._home

    def drop(self, call_id: str) -> None:
        """Note that nobody wants this call any more."""
        self._dropped.add(call_id)
        if self._dropped >= self.calls.keys():
            self._unwanted.set()

    async def cancel(self, patience: float) -> None:
        """Tell the replica what was dropped; one that hasn't taken the flight is told later."""
        ids = self._dropped & self.calls.keys()
        if not ids or not self._replica:
            return
        try:
            async with asyncio.timeout(patience):
                call = partial(self._crew.handle.cancel.remote, sorted(ids), replica=self._replica)
                await _detached(call)
        except (TimeoutError, *_TRANSPORT_ERRORS):
            # The replica is going, and its calls with it, which is all that was wanted.
            return

    async def events(self, patience: float) -> AsyncIterator[Any]:
        """All that comes of it. Whatever happens, each call comes to its end."""
        why = "The replica ended the batch before its time."
        try:
            async with aclosing(self._carried(patience)) as carried:
                async for event in carried:
                    yield event
        except _LostError as lost:
            self._crew.homes.leave(self.replica)
            why = str(lost)
        finally:
            # What its reader left in it is no load any more, however long something refers to it.
            self._crew.flights.discard(self)
        for ended in self._end(self.calls, "failed", error=why, lost=True):
            yield ended

    async def _carried(self, patience: float) -> AsyncGenerator[Any, None]:
        """What a replica makes of it, and of what was dropped before one could."""
        for ended in self._end(self._dropped, "cancelled"):
            yield ended
        batch = tuple(self.calls.values())
        if not batch:
            return
        async with aclosing(_items(self._crew, batch, self._home)) as items:
            if not await self._taken(items, patience):
                for ended in self._end(self._dropped, "cancelled"):
                    yield ended
                return
            self._crew.homes.settle(self._replica, (call.branch for call in batch), self._home)
            await self.cancel(patience)
            async for group in items:
                for event in group:
                    if isinstance(event, self._crew.ending):
                        call = self.calls.pop(event.id)
                        if event.lost:
                            self._crew.homes.evict(call.branch)
                    yield event

    def _end(
        self, ids: Collection[str], finish: Literal["cancelled", "failed"], **more: Any
    ) -> list[Generated | Graded]:
        """End these of the calls from here, as no replica does."""
        ended = [call_id for call_id in self.calls if call_id in ids]
        for call_id in ended:
            del self.calls[call_id]
        return [self._crew.ending(it, finish, worker=self._replica, **more) for it in ended]

    async def _taken(self, items: AsyncIterator[Any], patience: float) -> bool:
        """Wait until a replica takes it; False when nobody wants it any more before.

        Raises _LostError when none takes it in time.
        """
        taken = asyncio.ensure_future(anext(items, ""))
        unwanted = asyncio.ensure_future(self._unwanted.wait())
        try:
            await asyncio.wait({taken, unwanted}, timeout=patience, return_when="FIRST_COMPLETED")
            if not taken.done() and unwanted.done():
                await asyncio.wait({taken}, timeout=_GRACE_SECONDS)
            if taken.done():
                self._replica = taken.result()
                return True
            if unwanted.done():
                return False
            raise _LostError(f"No replica took it within {patience:g} seconds.")
        finally:
            taken.cancel()
            unwanted.cancel()
            await asyncio.wait({taken, unwanted})


async def _refused(batch: Sequence[Grade]) -> AsyncIterator[Graded]:
    for call in batch:
        yield Graded(call.id, "failed", error="There is no reward model in this profile.")


async def _unverified(batch: Sequence[Verify]) -> AsyncIterator[Verified]:
    for call in batch:
        yield Verified(call.id, "failed", error="There is no verifier in this profile.")


async def _items(crew: _Crew, batch: tuple[AnyCall, ...], home: str) -> AsyncGenerator[Any, None]:
    """What the replica that takes the batch streams. Closed early, it cancels the batch there.

    Raises _LostError when the replica is lost.
    """
    handle = crew.handle.options(method_name=crew.method, stream=True)
    call = partial(handle.remote, batch, home=home)
    response = cast("DeploymentResponseGenerator[Any]", _detached(call))
    try:
        async for item in response:
            yield item
    except asyncio.CancelledError:
        # Serve says this too when it is the replica that was told to stop.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _LostError("The replica was stopped.") from None
    except _TRANSPORT_ERRORS as lost:
        raise _LostError(_summary(lost)) from lost
    finally:
        response.cancel()


def _detached(call: Callable[[], Item]) -> Item:
    """Make a call that isn't part of the HTTP request that it is made for.

    Serve drops all that an HTTP request has called for when its client hangs up. Then nobody would
    hear what the calls had cost; whoever reads them cancels them by himself. And Serve gives all
    that an HTTP request calls for one id, by which its router takes two calls at a time for one,
    and forgets the other.
    """
    return Context().run(call)


def _summary(error: BaseException) -> str:
    """The first line of what happened: Ray's messages carry whole tracebacks."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


async def _merged(streams: Sequence[AsyncIterator[Item]]) -> AsyncIterator[Item]:
    """The streams as one, in the order in which things come. Closing it closes them all."""
    queue: asyncio.Queue[Item | asyncio.Task[None]] = asyncio.Queue()

    async def pump(stream: AsyncIterator[Item]) -> None:
        async for item in stream:
            queue.put_nowait(item)

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, asyncio.Task):
                item.result()
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
