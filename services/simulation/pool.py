"""Simulated workers behind the port of the real ones.

`Workers` are engines that several orchestrators share; each of these has a `SimulatedPool` of its
own, as each process of the service has, with its own view of who is busy and where branches live.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from planner.domain import Writer as Who
from planner.errors import InvalidOption, PromptTooLong
from services.simulation.calls import Call, Reading, Writing
from services.simulation.cores import Cores
from services.simulation.engine import Engine
from services.simulation.model import EngineModel, Model
from services.simulation.orchestrator import Orchestrator
from services.simulation.watch import Watch
from services.simulation.writing import Writer
from workers.homes import Homes
from workers.messages import (
    Generate,
    GenerationEvent,
    Grade,
    Graded,
    Prompt,
    Tokens,
    Verified,
    Verify,
)

_COUNTERS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_ROLES = ("system", "user", "assistant")
_Event: TypeAlias = GenerationEvent | Graded


class Workers:
    """All engines, by name, and what they write."""

    def __init__(
        self,
        model: Model,
        writer: Writer,
        *,
        generators: int,
        rewards: int,
        cores: Cores | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Engines share `cores`, where they stand on one machine."""
        self.model = model
        self.writer = writer
        self.watch = watch or Watch()
        self.generators = self._engines("generator", model.generator, generators, cores)
        self.rewards = self._engines("reward", model.reward, rewards, cores)
        self.counted: dict[str, Counter[str]] = {
            name: Counter() for name in (*self.generators, *self.rewards)
        }

    def __getitem__(self, name: str) -> Engine:
        return self.generators.get(name) or self.rewards[name]

    def _engines(
        self, kind: str, model: EngineModel | None, count: int, cores: Cores | None
    ) -> dict[str, Engine]:
        if model is None:
            return {}
        return {f"{kind}-{place}": Engine(model, cores, self.watch) for place in range(count)}


class SimulatedPool:
    """`workers.ports.Pool` of one orchestrator."""

    def __init__(
        self, workers: Workers, orchestrator: Orchestrator, dice: random.Random | None = None
    ) -> None:
        """`dice` draws the order in which it meets the engines: not all begin with the same."""
        self._workers = workers
        self._orchestrator = orchestrator
        self._watch = workers.watch
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, Call] = {}
        model = workers.model
        self._crews = {
            Generate: _Crew.of(workers.generators, model.generator, dice),
            Grade: _Crew.of(workers.rewards, model.reward, dice),
        }

    @property
    def plans(self) -> bool:
        """Whether there is a planner."""
        return False

    @property
    def grades(self) -> bool:
        """Whether there is a reward model."""
        return bool(self._workers.rewards)

    @property
    def verifies(self) -> bool:
        """Whether answers can be compared."""
        return True

    async def prepare(
        self, messages: tuple[tuple[str, str], ...], writer: Who = "reasoner"
    ) -> Prompt:
        """See `workers.ports.Pool`."""
        for role, _ in messages:
            if role not in _ROLES:
                raise InvalidOption(f"The chat template knows no role {role!r}.", "messages")
        token_ids = self._workers.writer.prompt(messages)
        left = self._workers.model.context - len(token_ids)
        if left < 1:
            raise PromptTooLong(f"The prompt is too long: {len(token_ids)} tokens.", "messages")
        await asyncio.sleep(self._workers.model.generator.batch_seconds)
        return Prompt(token_ids, left)

    async def encode(self, text: str, writer: Who = "reasoner") -> tuple[int, ...]:
        """See `workers.ports.Pool`."""
        return self._workers.writer.encode(text)

    def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[GenerationEvent]:
        """See `workers.ports.Pool`."""
        return self._send(batch, Generate)

    def grade(self, batch: tuple[Grade, ...]) -> AsyncIterator[Graded]:
        """See `workers.ports.Pool`."""
        if not self.grades:
            return _refused(batch)
        return self._send(batch, Grade)

    async def verify(self, batch: tuple[Verify, ...]) -> AsyncIterator[Verified]:
        """See `workers.ports.Pool`. None are found to be the same that aren't written the same."""
        for call in batch:
            await self._orchestrator.spend(self._workers.model.orchestrator.call_seconds)
            yield Verified(call.id, "done", worker="verifier")

    def elsewhere(self, call_id: str) -> bool:
        """See `workers.ports.Pool`."""
        return call_id in self._running and len(self._workers.generators) > 1

    async def cancel(self, ids: Collection[str]) -> None:
        """See `workers.ports.Pool`."""
        calls = [self._running[call_id] for call_id in ids if call_id in self._running]
        for call in calls:
            call.drop()

    async def counters(self) -> dict[str, dict[str, int]]:
        """What each engine has counted and what it runs, as the pool of real workers says it."""
        workers = self._workers
        return {
            name: {
                **{counter: counted[counter] for counter in _COUNTERS},
                "running": workers[name].running,
                "waiting": workers[name].waiting,
            }
            for name, counted in workers.counted.items()
        }

    def _send(self, batch: Sequence[Any], kind: type[Generate] | type[Grade]) -> AsyncIterator[Any]:
        events: asyncio.Queue[_Event] = asyncio.Queue()
        crew = self._crews[kind]
        # Which replica gets a call is the service's own doing; a second try comes by itself.
        shares = crew.homes.share(
            [call.branch for call in batch], crew.loads, self._rival_of(batch)
        )
        calls: list[Call] = []
        with self._watch.simulating():
            for name, share in shares:
                crew.loads[name] += len(share)
                crew.homes.settle(name, (batch[at].branch for at in share), name)
                sent = [self._call(batch[at], name, crew, events) for at in share]
                self._running.update((call.id, call) for call in sent)
                self._orchestrator.do(
                    self._workers.model.orchestrator.batch_seconds,
                    partial(self._loop.call_later, crew.way, _submit, sent),
                )
                calls += sent
        return self._events(calls, events)

    def _rival_of(self, batch: Sequence[Any]) -> str:
        """The engine that has the call of which these are second tries; "" where they are none."""
        rival = getattr(batch[0], "rival", "") if batch else ""
        return self._running[rival].worker if rival in self._running else ""

    def _call(
        self, request: Generate | Grade, name: str, crew: _Crew, events: asyncio.Queue[_Event]
    ) -> Call:
        """A call whose end is told by the orchestrator, once that is back from its engine."""
        seconds = self._workers.model.orchestrator.call_seconds

        def tell(event: _Event) -> None:
            self._loop.call_later(crew.way, arrive, event)

        def arrive(event: _Event) -> None:
            if isinstance(event, Tokens):
                events.put_nowait(event)
                return
            crew.loads[name] -= 1
            del self._running[event.id]
            self._orchestrator.do(seconds, lambda: events.put_nowait(event))

        workers = self._workers
        place = (name, workers[name], workers.counted[name], workers.writer)
        if isinstance(request, Generate):
            return Writing(request, *place, tell, self._watch)
        return Reading(request, *place, tell, self._watch)

    async def _events(
        self, calls: Sequence[Call], events: asyncio.Queue[Any]
    ) -> AsyncIterator[Any]:
        unfinished = len(calls)
        try:
            while unfinished:
                event = await events.get()
                unfinished -= not isinstance(event, Tokens)
                yield event
        finally:
            for call in calls:
                call.drop()


@dataclass(frozen=True, slots=True)
class _Crew:
    """The engines of one kind as one orchestrator sees them, and how long the way to them takes."""

    homes: Homes
    loads: Counter[str]
    way: float

    @classmethod
    def of(
        cls, engines: Collection[str], model: EngineModel | None, dice: random.Random | None
    ) -> _Crew:
        homes = Homes(max(1, len(engines)))
        for name in engines if dice is None else dice.sample(list(engines), len(engines)):
            homes.settle(name, (), name)
        return cls(homes, Counter(), 0.0 if model is None else model.batch_seconds / 2)


async def _refused(batch: Sequence[Grade]) -> AsyncIterator[Graded]:
    for call in batch:
        yield Graded(call.id, "failed", error="There is no reward model in this profile.")


def _submit(calls: Sequence[Call]) -> None:
    for call in calls:
        call.submit()
