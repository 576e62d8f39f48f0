"""A service is measured over HTTP, and what comes of it can be simulated by."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from services.budget import RedisLedger
from services.client import Client
from services.driver import Manner
from services.reasoning import Reasoner
from services.simulation.explaining import Engines, fitted, misfit
from services.simulation.fit import LENGTHS, LONG_PROMPTS, SIZES, SPLITS, Fitter
from services.simulation.model import EngineModel, Model, OrchestratorModel, Question, Sample
from services.simulation.orchestrator import Orchestrator
from services.simulation.pool import SimulatedPool, Workers
from services.simulation.writing import Writer
from services.trace import TraceStore
from tests.contract.scripted_service import Stage, serving

ENGINE = EngineModel(step_seconds=0.002, sequence_seconds=1e-5, prompt_token_seconds=1e-6)
SAMPLES = tuple(Sample((20, 20 + n), str(n), (0.5, n / 4)) for n in range(4))
WRITTEN = Model("known", ENGINE, ENGINE, OrchestratorModel(), (Question("hard", 40, "1", SAMPLES),))


async def _metrics() -> list[tuple[str, str]]:
    labels = 'block_size="32",num_gpu_blocks="77"'
    name = "vllm:cache_config_info"
    return [("generator", f"# TYPE {name} gauge\n{name}{{{labels}}} 1.0\n")]


async def test_a_service_is_measured_over_http(redis_client: Redis) -> None:
    """Its batches are timed, its candidates recorded step by step, its KV cache read off.

    Its workers are simulated in real time, so that what they write is known.
    """
    workers = Workers(WRITTEN, Writer(WRITTEN.questions, "\n"), generators=1, rewards=1)
    traces = TraceStore(redis_client)
    reasoner = Reasoner(
        SimulatedPool(workers, Orchestrator()),
        RedisLedger(redis_client),
        traces,
        Manner(step_delimiter="\n"),
    )
    stage = Stage(real=reasoner, traces=traces, engine_metrics=_metrics)
    engines = Engines(delimiter="\n", max_num_seqs=32)
    told: list[str] = []

    def cpu_seconds() -> dict[str, float]:
        """As if each call took a millisecond of everything."""
        calls = sum(counted["calls"] for counted in workers.counted.values())
        return dict.fromkeys(("generator", "reward", "planner", "edge", "others"), calls / 1000)

    async with serving(stage=stage) as service, Client(service.url) as client:
        observed = await Fitter(
            client,
            engines,
            cpu_seconds=cpu_seconds,
            told=told.append,
            rounds=1,
            questions=2,
            candidates=3,
            idle_seconds=0.05,
        ).observe()
    await reasoner.drain(5)

    assert len(told) == 3
    shapes = len(SIZES) * len(LENGTHS) + 2 * len(LONG_PROMPTS)
    assert sum(one.kind == "generator" for one in observed.batches) == shapes
    assert {one.calls for one in observed.batches if one.kind == "generator"} == set(SIZES)
    assert all(one.seconds > 0 for one in observed.batches)
    assert (observed.context, observed.block_size, observed.kv_tokens) == (1024, 32, 32 * 77)

    narrow, wide, trees = observed.series
    assert (narrow.batches, narrow.calls) == (2, 2)
    assert wide.calls == 64
    assert trees.batches > wide.batches
    assert trees.calls > trees.batches

    model = fitted(observed, engines, "a service of known workers")
    assert [one.split for one in model.questions] == [name for name in SPLITS for _ in range(2)]
    known = {(sample.tokens, sample.answer, sample.scores) for sample in SAMPLES}
    for question in model.questions:
        assert len(question.samples) == 3
        assert {(it.tokens, it.answer, it.scores) for it in question.samples} <= known
    assert model.orchestrator.call_seconds == pytest.approx(0.001, rel=0.05)
    assert model.orchestrator.cores == pytest.approx(2.0)
    assert model.generator.max_num_seqs == 32
    assert model.reward is not None
    assert misfit(observed, model).keys() == {"generator", "reward"}
