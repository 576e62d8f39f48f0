"""The pool of real workers: engines behind Ray Serve handles.

Owns how a batch is shared between replicas and how what comes back becomes one stream. What
always holds: each call ends in exactly one result, also when its replica dies, hangs in its start
or was never there; and when the stream is closed, nothing of it goes on in an engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar, cast
from weakref import WeakValueDictionary

import grpc  # type: ignore[import-untyped]
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from planner.errors import InvalidOption, WorkersUnavailable
from workers.messages import Generate, Generated, GenerationEvent, Grade, Graded, Prompt

Item = TypeVar("Item")
Handle: TypeAlias = DeploymentHandle[Any]

_TRANSPORT_ERRORS = (RayError, RayServeException, grpc.RpcError)
"""All that a call over Serve raises when the other side isn't there, or can't take it."""

_GRACE_SECONDS = 0.5
"""How long a batch whose calls were all cancelled before a replica took it is still waited for:
one that has just been taken should say by itself what it cost."""


class _LostError(Exception):
    """The replica that had a batch is gone, or none took it."""


class ServePool:
    """Generators, and reward models if there are any, as one.

    `generators` and `rewards` are how many replicas a batch is shared between. A batch that no
    replica takes within `patience_seconds` is lost.
    """

    def __init__(
        self,
        generator: Handle,
        reward: Handle | None = None,
        *,
        generators: int = 1,
        rewards: int = 1,
        patience_seconds: float = 30.0,
    ) -> None:
        self._generator = generator
        self._reward = reward
        self._generators = generators
        self._rewards = rewards
        self._patience = patience_seconds
        # A flight lives as long as the stream it belongs to, wherever that one is dropped.
        self._flights: WeakValueDictionary[str, _Flight] = WeakValueDictionary()

    @property
    def grades(self) -> bool:
        """Whether there is a reward model."""
        return self._reward is not None

    async def prepare(self, messages: tuple[tuple[str, str], ...]) -> Prompt:
        """See `workers.ports.Pool`."""
        try:
            async with asyncio.timeout(self._patience):
                prompt: Prompt = await self._generator.prepare.remote(messages)
        except InvalidOption as refused:
            # Ray hands on a wrapper, with a remote traceback for a message.
            raise getattr(refused, "cause", refused) from None
        except (TimeoutError, *_TRANSPORT_ERRORS) as lost:
            raise WorkersUnavailable(f"No generator answers: {_summary(lost)}") from lost
        return prompt

    def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[GenerationEvent]:
        """See `workers.ports.Pool`. A call can be cancelled from now on, read or not."""
        flights = [_Flight(chunk) for chunk in _shares(batch, self._generators)]
        for flight in flights:
            self._flights.update((call_id, flight) for call_id in flight.calls)
        return _merged([self._fly(flight) for flight in flights])

    async def _fly(self, flight: _Flight) -> AsyncIterator[GenerationEvent]:
        for call_id in flight.forget_cancelled():
            yield Generated(call_id, "cancelled")
        if not flight.calls:
            return
        batch = tuple(flight.calls.values())
        try:
            async with aclosing(_items(self._generator, "generate", batch)) as items:
                if not await flight.take_off(items, self._patience):
                    for call_id in flight.calls:
                        yield Generated(call_id, "cancelled")
                    return
                await self._cancel(flight)
                async for group in items:
                    for event in group:
                        if isinstance(event, Generated):
                            flight.calls.pop(event.id)
                        yield event
        except _LostError as lost:
            for call_id in flight.calls:
                yield Generated(
                    call_id, "failed", worker=flight.replica, error=str(lost), lost=True
                )

    async def cancel(self, ids: Collection[str]) -> None:
        """See `workers.ports.Pool`."""
        flights = {}
        for call_id in ids:
            flight = self._flights.get(call_id)
            if flight is not None and call_id in flight.calls:
                flight.cancel(call_id)
                flights[id(flight)] = flight
        await asyncio.gather(*map(self._cancel, flights.values()))

    async def _cancel(self, flight: _Flight) -> None:
        """Tell the replica; one that hasn't taken the flight yet is told when it has."""
        ids = flight.cancelled & flight.calls.keys()
        if not ids or not flight.replica:
            return
        try:
            async with asyncio.timeout(self._patience):
                await self._generator.cancel.remote(sorted(ids), replica=flight.replica)
        except (TimeoutError, *_TRANSPORT_ERRORS):
            # The replica is going. Its calls end with it, which is all that was wanted.
            return

    def grade(self, batch: tuple[Grade, ...]) -> AsyncIterator[Graded]:
        """See `workers.ports.Pool`."""
        return _merged([self._grade(chunk) for chunk in _shares(batch, self._rewards)])

    async def _grade(self, batch: Sequence[Grade]) -> AsyncIterator[Graded]:
        left = {call.id: call for call in batch}
        if self._reward is None:
            for call_id in left:
                yield Graded(call_id, "failed", error="There is no reward model.")
            return
        try:
            async with aclosing(_items(self._reward, "grade", tuple(batch))) as items:
                async with asyncio.timeout(self._patience):
                    await anext(items)
                async for group in items:
                    for graded in group:
                        del left[graded.id]
                        yield graded
        except (_LostError, TimeoutError) as lost:
            for call_id in left:
                yield Graded(call_id, "failed", error=_summary(lost), lost=True)

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
        wanted = self._generators + (self._rewards if self._reward else 0)
        try:
            return len(await self._ask_all("counters")) >= wanted
        except WorkersUnavailable:
            return False

    async def _ask_all(self, method: str) -> list[tuple[str, Any]]:
        handles = [handle for handle in (self._generator, self._reward) if handle is not None]
        try:
            async with asyncio.timeout(self._patience):
                answers = await asyncio.gather(
                    *(handle.broadcast(method).results_async() for handle in handles)
                )
        except (TimeoutError, *_TRANSPORT_ERRORS) as lost:
            raise WorkersUnavailable(f"An engine doesn't answer: {_summary(lost)}") from lost
        return [answer for of_handle in answers for answer in of_handle]


class _Flight:
    """A chunk of a batch on its way to one replica: the calls that haven't ended."""

    def __init__(self, chunk: Sequence[Generate]) -> None:
        self.calls = {call.id: call for call in chunk}
        self.cancelled: set[str] = set()
        self.replica = ""
        self._unwanted = asyncio.Event()

    def cancel(self, call_id: str) -> None:
        self.cancelled.add(call_id)
        if self.cancelled >= self.calls.keys():
            self._unwanted.set()

    def forget_cancelled(self) -> list[str]:
        """Take out what was cancelled before it was sent."""
        forgotten = [call_id for call_id in self.calls if call_id in self.cancelled]
        for call_id in forgotten:
            del self.calls[call_id]
        return forgotten

    async def take_off(self, items: AsyncIterator[Any], patience: float) -> bool:
        """Wait for a replica to take it; False when it was cancelled as a whole before.

        Raises _LostError when none takes it in time.
        """
        taken = asyncio.ensure_future(anext(items))
        unwanted = asyncio.ensure_future(self._unwanted.wait())
        try:
            await asyncio.wait({taken, unwanted}, timeout=patience, return_when="FIRST_COMPLETED")
            if not taken.done() and unwanted.done():
                await asyncio.wait({taken}, timeout=_GRACE_SECONDS)
            if taken.done():
                self.replica = taken.result()
                return True
            if unwanted.done():
                return False
            raise _LostError(f"No replica took it within {patience:g} seconds.")
        finally:
            taken.cancel()
            unwanted.cancel()
            await asyncio.wait({taken, unwanted})


async def _items(handle: Handle, method: str, batch: tuple[Any, ...]) -> AsyncGenerator[Any, None]:
    """What the replica that takes the batch streams. Closed early, it cancels the batch there.

    Raises _LostError when the replica is lost.
    """
    call = handle.options(method_name=method, stream=True).remote(batch)
    response = cast("DeploymentResponseGenerator[Any]", call)
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


def _summary(error: BaseException) -> str:
    """The first line of what happened: Ray's messages carry whole tracebacks."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _shares(batch: Sequence[Item], replicas: int) -> Iterable[Sequence[Item]]:
    """The batch in as many shares as there are replicas, or calls, none longer by two."""
    count = min(replicas, len(batch))
    for index in range(count):
        yield batch[index * len(batch) // count : (index + 1) * len(batch) // count]


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
