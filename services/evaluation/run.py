"""Asks every question with every variant, so many at a time, and keeps what comes.

All variants of a question are asked with the same seed, before the next question, so that they
differ in nothing else and an interrupted run has compared like with like.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from planner.calibration import family
from planner.domain import derive_seed
from planner.errors import LongthinkError
from services.client import ServiceError
from services.evaluation.judging import Referee
from services.evaluation.questions import Question
from services.evaluation.results import Record, Results
from services.evaluation.variants import Variant, Worth

HOPELESS = 20
"""So many errors in a row, and the run ends: the service is gone, or refuses them all."""


class Asker(Protocol):
    """Whoever answers."""

    async def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to one request. Raises ServiceError."""


class Hopeless(LongthinkError):
    """Nothing but errors came."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What every request says alike. Questions are asked with seeds that derive from `seed`.

    `worth` is needed by variants whose budget counts candidates' worth.
    """

    model: str
    seed: int
    temperature: float
    max_tokens: int | None = None
    worth: Worth | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One question to ask with one variant."""

    question: Question
    variant: Variant
    seed: int

    def body(self, sampling: Sampling) -> dict[str, Any]:
        """The request."""
        length = {} if sampling.max_tokens is None else {"max_tokens": sampling.max_tokens}
        effort = self.variant.effort
        word = {} if effort is None else {"reasoning_effort": effort}
        return {
            "model": sampling.model,
            "messages": [{"role": "user", "content": self.question.text}],
            "temperature": sampling.temperature,
            "seed": self.seed,
            "longthink": self.variant.options(sampling.worth),
            **word,
            **length,
        }


def jobs(
    questions: Sequence[Question], variants: Sequence[Variant], results: Results, seed: int
) -> Iterator[Job]:
    """What is still to be asked, question by question."""
    for place, question in enumerate(questions):
        for variant in variants:
            if not results.has(variant.key, question.id):
                yield Job(question, variant, derive_seed(seed, (place,)))


async def evaluate(
    todo: Iterator[Job],
    asker: Asker,
    results: Results,
    sampling: Sampling,
    *,
    concurrency: int,
    heard: Callable[[Record], None],
) -> None:
    """Ask all of `todo`, `concurrency` at a time; `heard` is told of each as it is recorded.

    A question that fails is recorded with its error. Raises Hopeless after too many in a row.
    """
    failures = 0

    async def work(referee: Referee) -> None:
        nonlocal failures
        for job in todo:
            record = await ask(job, asker, sampling, referee)
            results.add(record)
            heard(record)
            failures = 0 if record.error is None else failures + 1
            if failures >= HOPELESS:
                raise Hopeless(f"{failures} errors in a row, the last: {record.error}")

    try:
        async with Referee() as referee, asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work(referee))
    except* Hopeless as stopped:
        raise stopped.exceptions[0] from None


async def ask(job: Job, asker: Asker, sampling: Sampling, referee: Referee) -> Record:
    """Ask one question and judge the reply."""
    began = time.perf_counter()
    try:
        reply = await asker.chat(job.body(sampling))
        return await judged(job, reply, time.perf_counter() - began, referee)
    except ServiceError as error:
        return _record(job, seconds=time.perf_counter() - began, error=str(error))


async def judged(job: Job, reply: Mapping[str, Any], seconds: float, referee: Referee) -> Record:
    """The record of a reply. Raises ServiceError where it isn't longthink's."""
    try:
        ours = reply["longthink"]
        spent = ours["spent"]
        gold, answer = job.question.answer, ours["answer"]
        correct = 0
        for vote in ours["votes"]:
            if await referee.same(vote["answer"], gold):
                correct += vote["count"]
        return _record(
            job,
            answer=answer,
            right=answer is not None and await referee.same(answer, gold),
            passed=correct > 0,
            correct=correct,
            finished=sum(vote["count"] for vote in ours["votes"]) + ours["silent"],
            confidence=ours["confidence"],
            raw_confidence=ours.get("raw_confidence"),
            calibrated=ours.get("calibrated", False),
            used=_used(ours),
            stopped=ours["stopped"],
            completion_tokens=spent["completion_tokens"],
            reward_tokens=spent["reward_tokens"],
            sampled=spent["candidates"],
            seconds=seconds,
            trace_id=ours["trace_id"],
        )
    except (KeyError, TypeError) as error:
        raise ServiceError(f"The reply isn't one of longthink's: {error!r} is amiss.") from error


def _used(ours: Mapping[str, Any]) -> str | None:
    """Strategy and selector as the reply has them, where it does."""
    strategy, selector = ours.get("strategy"), ours.get("selector")
    return None if strategy is None or selector is None else family(strategy, selector)


def _record(job: Job, **known: Any) -> Record:
    return Record(
        variant=job.variant.key,
        strategy=job.variant.written,
        candidates=job.variant.candidates,
        question=job.question.id,
        gold=job.question.answer,
        split=job.question.split,
        **known,
    )
