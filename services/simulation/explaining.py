"""Explains the times that were measured on a service by a model to simulate by.

Times of batches are sums: so much a batch, a call, a step, a token of each kind. What each of these
takes is what explains all of them together with the least error, in proportion.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.errors import LongthinkError
from services.simulation.model import EngineModel, Model, OrchestratorModel, Question
from services.simulation.observed import Batch, Series

BATCHED_TOKENS = 8192
"""Of prompts that vLLM reads in a step, where a profile doesn't say."""
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


@dataclass(frozen=True, slots=True)
class Observed:
    """All that was measured."""

    batches: tuple[Batch, ...]
    questions: tuple[Question, ...]
    cpu: Mapping[str, float]
    """CPU seconds by kind of process, while the batches ran."""
    series: tuple[Series, ...]
    """Requests that make few and many batches, of few and of many calls."""
    way_seconds: float
    """What a reply takes beyond the time from the beginning to the end of its trace."""
    context: int
    block_size: int
    kv_tokens: int


def fitted(observed: Observed, engines: Engines, described: str) -> Model:
    """The model that explains what was measured best. Raises FitError."""
    orchestrator = _orchestrator(observed)
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
    shape: list[tuple[float, ...]]
    seconds = [one.seconds for one in found]
    if kind == "generator":
        shape = [
            (1.0, one.calls, one.steps, one.tokens, one.kv, one.prompt_tokens) for one in found
        ]
        batch, calls, step, sequence, kv, prompt = _explained(shape, seconds)
    else:
        shape = [(1.0, one.calls, one.prompt_tokens) for one in found]
        batch, calls, prompt = _explained(shape, seconds)
        # A step of a batch that is read at once can't be told from the way there and back.
        step = max(0.0, batch - _LEDGER_SECONDS - orchestrator.batch_seconds) / 2
        batch, sequence, kv = batch - step, 0.0, 0.0
    busy = sum(seconds)
    cores = observed.cpu.get(kind, 0.0) / busy if observed.cpu else 1.0
    return EngineModel(
        step_seconds=max(step, 1e-6),
        sequence_seconds=sequence,
        prompt_token_seconds=prompt,
        kv_token_seconds=kv,
        call_seconds=max(0.0, calls - orchestrator.call_seconds),
        batch_seconds=max(0.0, batch - _LEDGER_SECONDS - orchestrator.batch_seconds),
        max_num_seqs=engines.max_num_seqs,
        kv_tokens=observed.kv_tokens,
        block_size=observed.block_size,
        batched_tokens=engines.batched_tokens,
        cores=max(0.1, round(cores, 3)),
    )


def _explained(shape: Sequence[Sequence[float]], took: Sequence[float]) -> list[float]:
    """What each column of `shape` takes a unit, so that together they explain the times best.

    None is negative: a column that would be is left out. Errors count in proportion.
    """
    import numpy as np  # noqa: PLC0415 - a tenth of a second

    seconds = np.array(took)
    matrix = np.array(shape, dtype=float) / seconds[:, None]
    kept = list(range(matrix.shape[1]))
    while kept:
        weights, *_ = np.linalg.lstsq(matrix[:, kept], np.ones(len(took)), rcond=None)
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
                + model.orchestrator.batch_seconds
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


def _orchestrator(observed: Observed) -> OrchestratorModel:
    """What requests, batches and calls take of an orchestrator, and other processes beside it."""
    series = [one for one in observed.series if one.cpu]
    if not series:
        return OrchestratorModel(way_seconds=observed.way_seconds)
    edges = [one.cpu["edge"] for one in series]
    if min(edges) <= 0:
        raise FitError("The edge took no CPU time of this machine that could be measured.")
    others = [one.cpu["others"] for one in series]
    shape = [(1.0, one.batches, one.calls) for one in series]
    request, batch, call = _explained(shape, edges)
    return OrchestratorModel(
        request_seconds=request,
        call_seconds=call,
        way_seconds=max(0.0, observed.way_seconds - request),
        cores=round((sum(edges) + sum(others)) / sum(edges), 3),
        batch_seconds=batch,
    )
