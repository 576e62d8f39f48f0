"""The pool of real workers: engines behind Ray Serve handles, and a verifier beside them.

Owns how a batch is shared between replicas, which is one Ray call for each, and how what comes back
becomes one stream. What always holds: each call ends in exactly one result, also when its replica
dies, hangs or was never there; and when the stream is closed, nothing of it goes on in an engine. A
replica that says nothing for too long has lost what it was given, and gets nothing more while there
is another, until it is found to be well again (see `workers.breaker`).
"""

from __future__ import annotations

import asyncio
import random
import time
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
from workers.breaker import Breaker, Breakers
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

_BACKUP_SECONDS = 2.0
"""What any replica can do, and costs nothing, is asked of a second one after so long, then of a
third: the first may hang."""

_ASKED = 3
"""How many are asked side by side at most."""

_FIRST_PAUSE_SECONDS = 0.1
"""How long after one was lost another is asked; twice as long each time."""

_PROBE_SECONDS = 3.0
"""How long a probe for a reward model waits to be taken."""

_READY_SECONDS = 5.0
"""An engine that takes longer to say that it is there isn't ready."""


class _LostError(Exception):
    """The replica that had a batch is gone, or none took it."""


class _SilentError(_LostError):
    """The replica that has a batch says nothing any more."""


class _AbsentError(_LostError):
    """No replica took a batch."""


class ServePool:
    """Generators, and planners, reward models and a verifier if there are any, as one.

    `generators`, `planners` and `rewards` are how many replicas a batch is shared between, and
    `place` says which of its calls goes to which (see `workers.homes`). A batch that no replica
    takes within `patience_seconds` is lost, and so is what a replica has that says nothing for
    `silence_seconds`. A search does without its grades rather than wait for a reward model: only
    the first batch waits for `grading_patience_seconds`, and while none is there all others fail at
    once.
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
        grading_patience_seconds: float = 10.0,
        silence_seconds: float = 35.0,
        verifier: Verifier | None = None,
        place: Place = by_home,
    ) -> None:
        patience = _Patience(patience_seconds, silence_seconds)
        homes = Homes(generators, place)
        self._reasoners = _Crew("generator", generator, "generate", Generated, homes, patience)
        self._planners = (
            None
            if planner is None
            else _Crew("planner", planner, "generate", Generated, Homes(planners, place), patience)
        )
        grading = _Patience(grading_patience_seconds, silence_seconds, dispensable=True)
        self._graders = (
            None
            if reward is None
            else _Crew("reward model", reward, "grade", Graded, Homes(rewards, place), grading)
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

    def present(self) -> float:
        """The part of the generators that takes calls, as far as is known: one that was lost is
        missing until it, or another in its place, takes some. Never less than one of them.
        """
        homes = self._reasoners.homes
        return max(1, homes.replicas - homes.missing) / homes.replicas

    async def prepare(
        self, messages: tuple[tuple[str, str], ...], writer: Writer = "reasoner"
    ) -> Prompt:
        """See `workers.ports.Pool`."""
        crew = self._crew_of(writer)
        prompt: Prompt = await self._patiently(
            crew, lambda: crew.handle.prepare.remote(messages, avoid=crew.avoided())
        )
        return prompt

    async def encode(self, text: str, writer: Writer = "reasoner") -> tuple[int, ...]:
        """See `workers.ports.Pool`."""
        crew = self._crew_of(writer)
        token_ids: tuple[int, ...] = await self._patiently(
            crew, lambda: crew.handle.encode.remote(text, avoid=crew.avoided())
        )
        return token_ids

    def _crew_of(self, writer: Writer) -> _Crew:
        if writer == "planner" and self._planners is not None:
            return self._planners
        return self._reasoners

    async def _patiently(self, crew: _Crew, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await _first(call, self._patience)
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

    def elsewhere(self, call_id: str) -> bool:
        """See `workers.ports.Pool`."""
        flight = self._flights.get(call_id)
        if flight is None or call_id not in flight.calls or not flight.replica:
            return False
        return flight.crew.others(flight.replica) > 0

    def _send(self, *orders: tuple[_Crew, Sequence[AnyCall]]) -> AsyncIterator[Any]:
        flights = [
            flight
            for crew, calls in orders
            for rival, alike in _by_rival(calls)
            for flight in crew.share(alike, self._replica_of(rival))
        ]
        for flight in flights:
            self._flights.update((call_id, flight) for call_id in flight.calls)
        return _merged([flight.events() for flight in flights])

    def _replica_of(self, call_id: str) -> str:
        """The replica that has this call; "" where that isn't known."""
        flight = self._flights.get(call_id)
        return "" if flight is None else flight.replica

    def breakers(self) -> dict[str, str]:
        """The replicas that are left alone now ("open"), or being tried again ("half-open")."""
        now = time.monotonic()
        return {
            name: state
            for crew in self._crews()
            for name, state in crew.breakers.states(now).items()
        }

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
        try:
            answers = await self._ask_crews("counters", _READY_SECONDS)
        except WorkersUnavailable:
            return False
        for crew, answered in answers:
            if answered:
                crew.presence.well()  # what is found ready isn't left alone any longer
        return all(len(answered) >= crew.homes.replicas for crew, answered in answers)

    def _crews(self) -> list[_Crew]:
        crews = (self._reasoners, self._planners, self._graders)
        return [crew for crew in crews if crew is not None]

    async def _ask_all(self, method: str) -> list[tuple[str, Any]]:
        answers = await self._ask_crews(method, self._patience)
        return [answer for _, answered in answers for answer in answered]

    async def _ask_crews(
        self, method: str, seconds: float
    ) -> list[tuple[_Crew, list[tuple[str, Any]]]]:
        """What the replicas of each kind answer. Raises WorkersUnavailable unless all do."""
        crews = self._crews()
        try:
            async with asyncio.timeout(seconds):
                answers = await asyncio.gather(
                    *(crew.handle.broadcast(method).results_async() for crew in crews)
                )
        except (TimeoutError, *_TRANSPORT_ERRORS) as lost:
            raise WorkersUnavailable(f"An engine doesn't answer: {_summary(lost)}") from lost
        return list(zip(crews, answers, strict=True))


@dataclass(frozen=True, slots=True)
class _Patience:
    """How long a batch waits to be taken, and a replica that has it may be silent, in seconds.

    What is `dispensable` isn't waited for any more once it was found to be gone.
    """

    taken: float
    silence: float
    dispensable: bool = False


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
    patience: _Patience
    breakers: Breakers = field(default_factory=Breakers)
    presence: Breaker = field(default_factory=Breaker)
    """Of all of them: open while no replica is there."""
    flights: WeakSet[_Flight] = field(default_factory=WeakSet)

    def share(self, calls: Sequence[AnyCall], rival: str = "") -> list[_Flight]:
        """The calls split between the replicas, on their way from now on; none to `rival`."""
        for name in self.avoided():
            self.homes.leave(name)
        flights = []
        now = time.monotonic()
        if calls and not rival and (probe := self.breakers.probe(now)):
            flights.append(_Flight(self, probe, calls[:1], probed=now))
            calls = calls[1:]
        shares = self.homes.share([call.branch for call in calls], self._loads(), rival)
        flights += [
            _Flight(self, name, [calls[at] for at in share], rival) for name, share in shares
        ]
        self.flights.update(flights)
        return flights

    def avoided(self) -> tuple[str, ...]:
        """The replicas to which nothing goes that another can take."""
        return self.breakers.shut(time.monotonic())

    def others(self, replica: str) -> int:
        """How many replicas there should be beside this one and those that are avoided."""
        return self.homes.replicas - len({replica, *self.avoided()})

    def wait(self, now: float) -> float:
        """How long a batch may wait now until it is taken; 0 where none is there to take it."""
        if not self.patience.dispensable:
            return self.patience.taken
        if not self.presence.allows(now):
            return 0.0
        if self.presence.state(now) == "closed":
            return self.patience.taken
        self.presence.sent(now)
        return min(_PROBE_SECONDS, self.patience.taken)

    def took(self, replica: str, home: str) -> None:
        """A replica has taken a batch that was meant for `home`."""
        self.presence.well()
        if home != replica:
            self.breakers.well(home)  # it is gone

    def ended(self, replica: str, *, lost: bool) -> None:
        """A replica has ended a call."""
        if lost:
            self.breakers.of(replica).lost(time.monotonic())
        else:
            self.breakers.well(replica)

    def lost(self, replica: str, how: _LostError) -> None:
        """A batch was lost, by this replica if that is known."""
        if isinstance(how, _AbsentError):
            self.presence.lost(time.monotonic(), hung=True)
        self.homes.leave(replica)
        if replica:
            hung = isinstance(how, _SilentError | _AbsentError)
            self.breakers.of(replica).lost(time.monotonic(), hung=hung)

    def withdrawn(self, home: str, probed: float, waited: float) -> None:
        """A flight is over. If it was a probe and nothing was heard of it, another may follow."""
        self.breakers.withdrawn(home, probed)
        self.presence.withdrawn(waited)

    def _loads(self) -> Counter[str]:
        """The calls in flight by replica; "" has those for which none is known yet."""
        loads: Counter[str] = Counter()
        for flight in self.flights:
            loads[flight.replica] += len(flight.calls)
        return loads


class _Flight:
    """A share of a batch on its way to one replica, and its calls that haven't ended.

    `home` is the replica that should take it, "" for any; `rival` one that shouldn't; `probed` when
    it was made a probe of its home.
    """

    def __init__(
        self,
        crew: _Crew,
        home: str,
        share: Sequence[AnyCall],
        rival: str = "",
        probed: float = 0.0,
    ) -> None:
        self.calls: dict[str, AnyCall] = {call.id: call for call in share}
        self.crew = crew
        self._home = home
        self._rival = rival
        self._probed = probed
        self._waited = 0.0
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
                call = partial(self.crew.handle.cancel.remote, sorted(ids), replica=self._replica)
                await _detached(call)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
        except (TimeoutError, *_TRANSPORT_ERRORS):
            # The replica is going, and its calls with it, which is all that was wanted.
            return

    async def events(self) -> AsyncIterator[Any]:
        """All that comes of it. Whatever happens, each call comes to its end."""
        why = "The replica ended the batch before its time."
        try:
            async with aclosing(self._carried()) as carried:
                async for event in carried:
                    yield event
        except _LostError as lost:
            self.crew.lost(self.replica, lost)
            why = str(lost)
        finally:
            # What its reader left in it is no load any more, however long something refers to it.
            self.crew.flights.discard(self)
            self.crew.withdrawn(self._home, self._probed, self._waited)
        for ended in self._end(self.calls, "failed", error=why, lost=True):
            yield ended

    async def _carried(self) -> AsyncGenerator[Any, None]:
        """What a replica makes of it, and of what was dropped before one could."""
        for ended in self._end(self._dropped, "cancelled"):
            yield ended
        batch = tuple(self.calls.values())
        if not batch:
            return
        self._waited = time.monotonic()
        if not (patience := self.crew.wait(self._waited)):
            # Nothing was sent: it cost nothing, and another try would find as little.
            error = f"No {self.crew.name} is there."
            for ended in self._end(self.calls, "failed", error=error):
                yield ended
            return
        async with aclosing(_items(self.crew, batch, self._home, self._rival)) as items:
            if not await self._taken(items, patience):
                for ended in self._end(self._dropped, "cancelled"):
                    yield ended
                return
            self.crew.took(self._replica, self._home)
            self.crew.homes.settle(self._replica, (call.branch for call in batch), self._home)
            await self.cancel(patience)
            async for group in _heard(items, self.crew.patience.silence):
                for event in group:
                    self._note(event)
                    yield event

    def _note(self, event: Any) -> None:
        """Take in what an event says of its call, and of the replica."""
        if isinstance(event, self.crew.ending):
            call = self.calls.pop(event.id)
            self.crew.ended(self._replica, lost=event.lost)
            if event.lost:
                self.crew.homes.evict(call.branch)

    def _end(
        self, ids: Collection[str], finish: Literal["cancelled", "failed"], **more: Any
    ) -> list[Generated | Graded]:
        """End these of the calls from here, as no replica does."""
        ended = [call_id for call_id in self.calls if call_id in ids]
        for call_id in ended:
            del self.calls[call_id]
        return [self.crew.ending(it, finish, worker=self._replica, **more) for it in ended]

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
            raise _AbsentError(f"No {self.crew.name} took it within {patience:g} seconds.")
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


def _by_rival(calls: Sequence[AnyCall]) -> list[tuple[str, list[AnyCall]]]:
    """The calls, apart by the call that they are a second try of; "" has all others."""
    alike: dict[str, list[AnyCall]] = {}
    for call in calls:
        alike.setdefault(call.rival if isinstance(call, Generate) else "", []).append(call)
    return list(alike.items())


async def _first(call: Callable[[], Awaitable[Item]], seconds: float) -> Item:
    """What whichever replica answers first says. Another is asked where one is slow, or lost.

    Raises what the last one raised, or TimeoutError, when none has answered after so many seconds,
    and at once what isn't the replica's doing.
    """
    clock = asyncio.get_running_loop().time
    until, pause = clock() + seconds, _FIRST_PAUSE_SECONDS
    asked: set[asyncio.Future[Item]] = set()
    lost: BaseException | None = None
    try:
        while (left := until - clock()) > 0:
            if len(asked) < _ASKED:
                asked.add(asyncio.ensure_future(_detached(call)))
            done, asked = await asyncio.wait(
                asked, timeout=min(left, _BACKUP_SECONDS), return_when="FIRST_COMPLETED"
            )
            for reply in done:
                if not _is_lost(reply):
                    return reply.result()
                lost = None if reply.cancelled() else reply.exception()
            if done:
                # Those that are being replaced are known as gone a moment later. Not all who ask
                # come again in the same one.
                jittered = pause * random.uniform(0.5, 1.5)
                await asyncio.sleep(min(jittered, max(0.0, until - clock())))
                pause = min(2 * pause, _BACKUP_SECONDS)
    finally:
        for reply in asked:
            reply.cancel()
    raise lost or TimeoutError("None of them answered.")


def _is_lost(reply: asyncio.Future[Any]) -> bool:
    """Whether it is the replica that went wrong, and another may do better."""
    if reply.cancelled():  # which Serve also says of a replica that was told to stop
        return True
    error = reply.exception()
    return isinstance(error, _TRANSPORT_ERRORS) and not isinstance(error, InvalidOption)


async def _heard(
    items: AsyncGenerator[Any, None], silence: float
) -> AsyncGenerator[tuple[Any, ...], None]:
    """The groups of events as they come. Raises _SilentError when none does for too long."""
    while True:
        try:
            async with asyncio.timeout(silence):
                group = await anext(items, None)
        except TimeoutError:
            raise _SilentError(f"The replica said nothing for {silence:g} seconds.") from None
        if group is None:
            return
        yield group


async def _items(
    crew: _Crew, batch: tuple[AnyCall, ...], home: str, rival: str
) -> AsyncGenerator[Any, None]:
    """What the replica that takes the batch streams. Closed early, it cancels the batch there.

    Raises _LostError when the replica is lost.
    """
    handle = crew.handle.options(method_name=crew.method, stream=True)
    avoid = tuple(name for name in (*crew.avoided(), rival) if name not in ("", home))
    call = partial(handle.remote, batch, home=home, avoid=avoid)
    response = cast("DeploymentResponseGenerator[Any]", _detached(call))
    try:
        async for item in response:
            yield item
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
        raise _LostError("The replica was stopped.") from None
    except _TRANSPORT_ERRORS as lost:
        raise _LostError(_summary(lost)) from lost
    finally:
        response.cancel()


def _is_cancelled() -> bool:
    """Whether a CancelledError is for this task. Serve raises it, too, where it is the replica that
    was told to stop.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


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
