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
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planner.errors import LongthinkError
from services.client import Client
from services.evaluation.questions import Question as Asked
from services.evaluation.questions import synthetic
from services.simulation.model import EngineModel, Model, OrchestratorModel, Question
from services.simulation.observed import Batch, batches, samples

SPLITS = ("easy", "hard", "compound")
SIZES = (1, 2, 4, 8, 16, 32, 64)
LENGTHS = (2, 8, 24)
LONG_PROMPTS = (60, 150, 300, 500)
"""Words that stand before a question, to be read."""
BATCHED_TOKENS = 8192
"""Of prompts that vLLM reads in a step, where a profile doesn't say."""
_SINGLES = 12
_SEED = 20_011
"""Of the questions: those of an evaluation have others."""
_LEDGER_SECONDS = 0.0005
"""One round trip to Redis and its script, in which the times of batches are not counted twice."""


class FitError(LongthinkError):
    """The service's times say nothing that could be simulated."""


@dataclass(frozen=True, slots=True)
class Engines:
    """What is set for the engines in the service's profile, and can't be seen from outside."""

    delimiter: str = "\n\n"
    max_num_seqs: int = 64
    batched_tokens: int = BATCHED_TOKENS


CpuSeconds = Callable[[], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Observed:
    """All that was measured."""

    batches: tuple[Batch, ...]
    questions: tuple[Question, ...]
    cpu: Mapping[str, float]
    """CPU seconds by kind of process, while the batches ran."""
    alone_cpu: Mapping[str, float]
    """The same while requests of one candidate ran, one after another, a request."""
    context: int
    block_size: int
    kv_tokens: int


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
        seed: int = _SEED,
    ) -> None:
        """`cpu_seconds` says what the processes took until now, where they are on this machine."""
        self._client = client
        self._engines = engines
        self._cpu_seconds = cpu_seconds or dict
        self._told = told
        self._questions = questions
        self._candidates = candidates
        self._rounds = rounds
        self._seed = seed
        self._dice = random.Random(seed)
        self._model = ""
        self._context = 0

    async def observe(self) -> Observed:
        """Ask it all."""
        self._model = await self._client.model()
        await self._warm_up()
        self._told("Requests of one candidate, one after another")
        before = self._cpu_seconds()
        for asked in synthetic("hard", _SINGLES, self._seed + 1):
            await self._ask(asked.text, 1, None)
        alone = {
            kind: (taken - before[kind]) / _SINGLES for kind, taken in self._cpu_seconds().items()
        }
        self._told("Batches of 1 to 64 calls, of several lengths")
        before = self._cpu_seconds()
        measured = [batch async for batch in self._measure()]
        cpu = {kind: taken - before[kind] for kind, taken in self._cpu_seconds().items()}
        self._told("What is written, question by question")
        recorded = [one async for one in self._record()]
        block_size, blocks = _blocks(await self._client.metrics())
        return Observed(
            tuple(measured),
            tuple(recorded),
            cpu,
            alone,
            context=self._context,
            block_size=block_size,
            kv_tokens=block_size * blocks,
        )

    async def _warm_up(self) -> None:
        for asked in synthetic("hard", 4, self._seed + 2):
            await self._ask(asked.text, 16, 16)

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
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": text}],
            "seed": self._dice.randrange(1 << 40),
            "longthink": {
                "strategy": "best_of_n",
                "stop": "none",
                "budget": {"candidates": size},
            },
        }
        if length is not None:
            body["max_tokens"] = length
        reply = await self._client.chat(body)
        trace = await self._client.trace(reply["longthink"]["trace_id"])
        events: list[dict[str, Any]] = trace["events"]
        return events


def fitted(observed: Observed, engines: Engines, described: str) -> Model:
    """The model that explains what was measured best. Raises FitError."""
    request, call, cores = _orchestrator(observed)
    orchestrator = OrchestratorModel(request, call, cores)
    generator = _engine(observed, "generator", engines, orchestrator)
    if generator is None:
        raise FitError("No batch of calls ran undisturbed: is anything else using the service?")
    return Model(
        described,
        generator,
        _engine(observed, "reward", engines, orchestrator),
        orchestrator,
        observed.questions,
        observed.context,
        _LEDGER_SECONDS,
    )


def _engine(
    observed: Observed, kind: str, engines: Engines, orchestrator: OrchestratorModel
) -> EngineModel | None:
    found = [one for one in observed.batches if one.kind == kind]
    if not found:
        return None
    if kind == "generator":
        shape = [
            (1.0, one.calls, one.steps, one.tokens, one.kv, one.prompt_tokens) for one in found
        ]
        batch, calls, step, sequence, kv, prompt = _explained(shape, found)
    else:
        shape = [(1.0, one.calls, one.prompt_tokens) for one in found]
        batch, calls, prompt = _explained(shape, found)
        # A step of a batch that is read at once can't be told from the way there and back.
        step, sequence, kv = batch / 2, 0.0, 0.0
        batch = batch / 2
    busy = sum(one.seconds for one in found)
    cores = observed.cpu.get(kind, 0.0) / busy if observed.cpu else 1.0
    return EngineModel(
        step_seconds=max(step, 1e-6),
        sequence_seconds=sequence,
        prompt_token_seconds=prompt,
        kv_token_seconds=kv,
        call_seconds=max(0.0, calls - orchestrator.call_seconds),
        batch_seconds=max(0.0, batch - _LEDGER_SECONDS),
        max_num_seqs=engines.max_num_seqs,
        kv_tokens=observed.kv_tokens,
        block_size=observed.block_size,
        batched_tokens=engines.batched_tokens,
        cores=max(0.1, round(cores, 3)),
    )


def _explained(shape: Sequence[Sequence[float]], found: Sequence[Batch]) -> list[float]:
    """What each column of `shape` takes a unit, so that together they explain the times best.

    None is negative: a column that would be is left out. Errors count in proportion.
    """
    import numpy as np  # noqa: PLC0415 - a tenth of a second

    seconds = np.array([one.seconds for one in found])
    matrix = np.array(shape, dtype=float) / seconds[:, None]
    kept = list(range(matrix.shape[1]))
    while kept:
        weights, *_ = np.linalg.lstsq(matrix[:, kept], np.ones(len(found)), rcond=None)
        if weights.min() >= 0:
            every = [0.0] * matrix.shape[1]
            for column, weight in zip(kept, weights, strict=True):
                every[column] = float(weight)
            return every
        kept.pop(int(weights.argmin()))
    raise FitError("The times of the batches make no sense: measure again on a quieter machine.")


def misfit(observed: Observed, model: Model) -> Mapping[str, float]:
    """By kind of engine, the median error of the model's times, as a part of the measured ones."""
    said = {}
    for kind, engine in (("generator", model.generator), ("reward", model.reward)):
        if engine is None:
            continue
        calls = engine.call_seconds + model.orchestrator.call_seconds
        errors = [
            abs(
                engine.batch_seconds
                + model.ledger_seconds
                + one.calls * calls
                + one.steps * engine.step_seconds
                + one.tokens * engine.sequence_seconds
                + (one.kv * engine.kv_token_seconds if kind == "generator" else 0.0)
                + one.prompt_tokens * engine.prompt_token_seconds
                - one.seconds
            )
            / one.seconds
            for one in observed.batches
            if one.kind == kind
        ]
        said[kind] = statistics.median(errors)
    return said


def _blocks(metrics: str) -> tuple[int, int]:
    """The size and the number of blocks of the generators' KV cache, as vLLM says them."""
    found = re.search(r"^vllm:cache_config_info\{(.*)\}", metrics, re.MULTILINE)
    said = dict(re.findall(r'(\w+)="([^"]*)"', found[1])) if found else {}
    try:
        return int(said["block_size"]), int(said["num_gpu_blocks"])
    except (KeyError, ValueError):
        raise FitError(
            "The service's /metrics doesn't say how large the KV cache of its engines is."
        ) from None


def _orchestrator(observed: Observed) -> tuple[float, float, float]:
    """Seconds of an orchestrator's core a request and a call, and what others take beside it."""
    edge = observed.cpu.get("edge", 0.0)
    if not edge:
        return 0.0, 0.0, 1.0
    made = [one for one in observed.batches if one.kind == "generator"]
    calls = sum(one.calls for one in observed.batches)
    alone = observed.alone_cpu["edge"]
    # A request of one candidate makes two calls, one to write it and one to grade it.
    call = max(0.0, (edge - len(made) * alone) / max(1, calls - 2 * len(made)))
    request = max(0.0, alone - 2 * call)
    cores = (edge + observed.cpu["others"]) / edge
    return request, call, round(cores, 3)
