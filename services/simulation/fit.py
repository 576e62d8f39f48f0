"""Fits a model to simulate by on a service that runs, over its HTTP API.

It asks synthetic questions, first alone, in batches of many sizes and lengths, so that the time of
a batch can be taken apart; then it keeps what was written for some of each split, to draw from.
Everything is read from the traces: times are the orchestrator's own.
"""

from __future__ import annotations

import asyncio
import random
import re
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from services.client import Client, ServiceError
from services.evaluation.questions import Question as Asked
from services.evaluation.questions import synthetic
from services.simulation.explaining import Engines, FitError, Observed
from services.simulation.model import Question
from services.simulation.observed import Batch, Series, asked_for, batches, samples

SPLITS = ("easy", "hard", "compound")
SIZES = (1, 2, 4, 8, 16, 32, 64)
LENGTHS = (2, 8, 24, 96)
LONG_PROMPTS = (60, 150, 300, 500)
"""Words that stand before a question, to be read."""
_SERIES = 12
_WIDE = 32
_TREES: Mapping[str, Any] = {"strategy": "beam", "stop": "none", "budget": {"candidates": 8}}
"""They make many batches, one for each step of an answer."""
_AGAIN_SECONDS = 1.0
SEED = 20_011
"""Of the questions: those of an evaluation have others."""

CpuSeconds = Callable[[], Mapping[str, float]]


class Fitter:
    """Asks a service all that a model needs."""

    def __init__(
        self,
        client: Client,
        engines: Engines,
        *,
        cpu_seconds: CpuSeconds | None = None,
        told: Callable[[str], None] = lambda _: None,
        questions: int = 24,
        candidates: int = 12,
        rounds: int = 3,
        idle_seconds: float = 3.0,
        seed: int = SEED,
    ) -> None:
        """`cpu_seconds` says what the processes took until now, where they are on this machine."""
        self._client = client
        self._engines = engines
        self._cpu_seconds = cpu_seconds or dict
        self._told = told
        self._questions = questions
        self._candidates = candidates
        self._rounds = rounds
        self._idle_seconds = idle_seconds
        self._seed = seed
        self._dice = random.Random(seed)
        self._model = ""
        self._context = 0

    async def observe(self) -> Observed:
        """Ask it all."""
        self._model = await self._client.model()
        await self._warm_up()
        self._told(f"Requests of 1 and of {_WIDE} candidates, and trees, one after another")
        idle = await self._idle()
        narrow, ways = await self._series(_independent(1), 24, idle)
        wide, _ = await self._series(_independent(_WIDE), 24, idle)
        trees, _ = await self._series(_TREES, None, idle)
        self._told("Batches of 1 to 64 calls, of several lengths")
        before = self._cpu_seconds()
        measured = [batch async for batch in self._measure()]
        cpu = _less(self._cpu_seconds(), before)
        self._told("What is written, question by question")
        recorded = [one async for one in self._record()]
        block_size, blocks = kv_cache(await self._client.metrics())
        return Observed(
            tuple(measured),
            tuple(recorded),
            cpu,
            (narrow, wide, trees),
            statistics.median(ways),
            context=self._context,
            block_size=block_size,
            kv_tokens=block_size * blocks,
        )

    async def _warm_up(self) -> None:
        for asked in synthetic("hard", 4, self._seed + 2):
            await self._ask(asked.text, 16, 16)

    async def _idle(self) -> Mapping[str, float]:
        """The CPU seconds a second that processes take which have nothing to do."""
        if not self._cpu_seconds():
            return {}
        await asyncio.sleep(self._idle_seconds)  # what it still did for others has come to its end
        before = self._cpu_seconds()
        await asyncio.sleep(self._idle_seconds)
        taken = _less(self._cpu_seconds(), before, self._idle_seconds)
        return {kind: max(0.0, seconds) for kind, seconds in taken.items()}

    async def _series(
        self, ours: Mapping[str, Any], length: int | None, idle: Mapping[str, float]
    ) -> tuple[Series, list[float]]:
        """Requests one after another, beyond what is taken while nothing is done; and what each
        took beside its trace.
        """
        before, replied = self._cpu_seconds(), []
        first = time.perf_counter()
        for asked in synthetic("hard", _SERIES, self._dice.randrange(1 << 30)):
            began = time.perf_counter()
            trace_id = await self._reply(asked.text, ours, length)
            replied.append((trace_id, time.perf_counter() - began))
        passed = time.perf_counter() - first
        cpu = {
            kind: max(0.0, taken - passed * idle[kind]) / _SERIES
            for kind, taken in _less(self._cpu_seconds(), before).items()
        }
        traces = [await self._events(trace_id) for trace_id, _ in replied]
        ways = [
            max(0.0, whole - events[-1]["seconds"])
            for events, (_, whole) in zip(traces, replied, strict=True)
        ]
        made = [asked_for(events) for events in traces]
        several, calls = map(statistics.fmean, zip(*made, strict=True))
        return Series(several, calls, cpu), ways

    async def _measure(self) -> AsyncIterator[Batch]:
        count = self._rounds * (len(SIZES) * len(LENGTHS) + 2 * len(LONG_PROMPTS))
        questions = iter(synthetic("hard", count, self._seed + 3))
        for _ in range(self._rounds):
            for size, length, words in self._shapes():
                text = " ".join((*self._words(words), next(questions).text))
                for batch in batches(await self._ask(text, size, length)):
                    yield batch

    def _shapes(self) -> Iterator[tuple[int, int, int]]:
        """Calls, tokens of each and words before the question, in a drawn order."""
        shapes = [(size, length, 0) for size in SIZES for length in LENGTHS]
        shapes += [(size, 8, words) for size in (1, 16) for words in LONG_PROMPTS]
        self._dice.shuffle(shapes)
        return iter(shapes)

    def _words(self, count: int) -> list[str]:
        return [f"{self._dice.choice('bdfgklmnprst')}a{n % 7}" for n in range(count)]

    async def _record(self) -> AsyncIterator[Question]:
        turns = asyncio.Semaphore(4)

        async def one(split: str, asked: Asked) -> Question | None:
            async with turns:
                events = await self._ask(asked.text, self._candidates, None)
            written = samples(events, self._engines.delimiter)
            opened = next(event["data"] for event in events if event["kind"] == "opened")
            prompt = opened["prompt_tokens"]
            self._context = prompt + opened["context"]
            return Question(split, prompt, asked.answer, written) if written else None

        for split in SPLITS:
            asked = synthetic(split, self._questions, self._seed)
            for found in await asyncio.gather(*(one(split, it) for it in asked)):
                if found is not None:
                    yield found

    async def _ask(self, text: str, size: int, length: int | None) -> list[dict[str, Any]]:
        """The events of a request of so many candidates, with nothing that stops it early."""
        return await self._events(await self._reply(text, _independent(size), length))

    async def _events(self, trace_id: str) -> list[dict[str, Any]]:
        """A trace. Where Redis was busy for a moment, it is read once more."""
        for last in (False, False, False, True):
            try:
                events: list[dict[str, Any]] = (await self._client.trace(trace_id))["events"]
            except ServiceError as error:
                if last or error.status != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return events
        raise AssertionError("never here")

    async def _reply(self, text: str, ours: Mapping[str, Any], length: int | None) -> str:
        """The trace of a request that was replied to."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": text}],
            "seed": self._dice.randrange(1 << 40),
            "longthink": ours,
        }
        if length is not None:
            body["max_tokens"] = length
        reply = await self._client.chat(body)
        return str(reply["longthink"]["trace_id"])


def _independent(size: int) -> Mapping[str, Any]:
    """So many candidates, with nothing that stops them early."""
    return {"strategy": "best_of_n", "stop": "none", "budget": {"candidates": size}}


def _less(
    after: Mapping[str, float], before: Mapping[str, float], seconds: float = 1.0
) -> Mapping[str, float]:
    """What was taken between two moments, a second of so many."""
    return {kind: (taken - before[kind]) / seconds for kind, taken in after.items()}


def kv_cache(metrics: str) -> tuple[int, int]:
    """The size and the number of blocks of the generators' KV cache, as vLLM says them."""
    found = re.search(r"^vllm:cache_config_info\{(.*)\}", metrics, re.MULTILINE)
    said = dict(re.findall(r'(\w+)="([^"]*)"', found[1])) if found else {}
    try:
        return int(said["block_size"]), int(said["num_gpu_blocks"])
    except (KeyError, ValueError):
        raise FitError(
            "The service's /metrics doesn't say how large the KV cache of its engines is."
        ) from None
