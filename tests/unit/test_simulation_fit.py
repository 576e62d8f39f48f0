"""A model is found again in the times that it makes, and what was written in its traces."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from planner.domain import Candidate, Cost, Finish
from services.simulation.explaining import Engines, FitError, Observed, fitted, misfit
from services.simulation.fit import kv_cache
from services.simulation.model import EngineModel, Question, Sample
from services.simulation.observed import Batch, Series, asked_for, batches, samples

TRUE = EngineModel(
    step_seconds=0.004,
    sequence_seconds=0.0001,
    prompt_token_seconds=0.00008,
    kv_token_seconds=7e-7,
    call_seconds=0.0003,
    batch_seconds=0.01,
)
QUESTION = Question("hard", 100, "7", (Sample((5, 6), "7", (0.9, 0.8)),))


def took(batch: Batch) -> float:
    """What a batch takes by the true model, the ledger's half millisecond included."""
    return (
        TRUE.batch_seconds
        + 0.0005
        + batch.calls * TRUE.call_seconds
        + batch.steps * TRUE.step_seconds
        + batch.tokens * TRUE.sequence_seconds
        + batch.kv * TRUE.kv_token_seconds
        + batch.prompt_tokens * TRUE.prompt_token_seconds
    )


def measured(noise: float) -> Iterator[Batch]:
    """Batches of many shapes, with times off by as much as `noise`."""
    dice = random.Random(1)
    for calls in (1, 2, 8, 32, 64):
        for steps in (2, 8, 24):
            for prompt in (100, 400, 900):
                read = prompt + (calls - 1) * 30
                kv = calls * (prompt * steps + steps * steps // 2)
                batch = Batch("generator", calls, read, calls * steps, steps, kv, 1.0)
                seconds = took(batch) * dice.uniform(1 - noise, 1 + noise)
                yield Batch("generator", calls, read, calls * steps, steps, kv, seconds)


def observed(noise: float = 0.0) -> Observed:
    return Observed(
        tuple(measured(noise)),
        (QUESTION,),
        cpu={},
        series=(),
        way_seconds=0.02,
        context=1024,
        block_size=32,
        kv_tokens=3200,
    )


@pytest.mark.parametrize(("noise", "off"), [(0.0, 1e-6), (0.05, 0.2)])
def test_what_was_true_is_found(noise: float, off: float) -> None:
    """From times alone comes what each part takes, nearly so where they are noisy."""
    seen = observed(noise)
    model = fitted(seen, Engines(max_num_seqs=48), "made up")
    for name in ("step_seconds", "sequence_seconds", "prompt_token_seconds", "kv_token_seconds"):
        assert asdict(model.generator)[name] == pytest.approx(asdict(TRUE)[name], rel=off)
    assert misfit(seen, model)["generator"] <= noise + 1e-6
    assert (model.generator.max_num_seqs, model.generator.kv_tokens) == (48, 3200)
    assert model.reward is None
    assert model.orchestrator.way_seconds == 0.02


def test_cpu_time_is_shared_out_between_requests_batches_and_calls() -> None:
    """What a request takes by itself, and for each batch and call that it makes."""
    seen = observed()

    def series(batches: float, calls: float, others: float) -> Series:
        edge = 0.010 + batches * 0.003 + calls * 0.002
        return Series(batches, calls, {"edge": edge, "others": others, "generator": 1.0})

    every = (series(2, 2, 0.01), series(2.5, 64, 0.05), series(24, 60, 0.059))
    busy = sum(batch.seconds for batch in seen.batches)
    seen = Observed(
        **{
            **{name: getattr(seen, name) for name in seen.__dataclass_fields__},
            "series": every,
            "cpu": {"generator": 1.5 * busy, "edge": 0.0, "others": 0.0},
        }
    )
    model = fitted(seen, Engines(), "made up")
    assert model.orchestrator.call_seconds == pytest.approx(0.002)
    assert model.orchestrator.batch_seconds == pytest.approx(0.003)
    assert model.orchestrator.request_seconds == pytest.approx(0.010)
    assert model.orchestrator.way_seconds == pytest.approx(0.010)
    edges = sum(one.cpu["edge"] for one in every)
    assert model.orchestrator.cores == pytest.approx(1 + 0.119 / edges, rel=0.01)
    assert model.generator.cores == pytest.approx(1.5, rel=0.01)


def test_an_edge_that_took_nothing_is_an_error() -> None:
    """What it takes of the machine can't be told where it isn't on it."""
    seen = observed()
    series = (Series(2, 2, {"edge": 0.0, "others": 0.02, "generator": 1.0}),)
    fields = {name: getattr(seen, name) for name in seen.__dataclass_fields__}
    with pytest.raises(FitError, match="edge"):
        fitted(Observed(**{**fields, "series": series}), Engines(), "nowhere")


def test_nothing_measured_is_an_error() -> None:
    """Without a single batch there is nothing to simulate by."""
    seen = observed()
    fields = {name: getattr(seen, name) for name in seen.__dataclass_fields__}
    with pytest.raises(FitError, match="undisturbed"):
        fitted(Observed(**{**fields, "batches": ()}), Engines(), "nothing")


def told(seconds: float, task: str, candidate: Candidate, cost: Cost) -> dict[str, Any]:
    data = {"id": task, "status": "done", "candidate": asdict(candidate), "cost": asdict(cost)}
    return {"seconds": seconds, "kind": "told", "data": data}


def events() -> list[dict[str, Any]]:
    """A request of two candidates, of which each is graded."""
    texts = ("1 + 1 = 2\n#### 2", "1 + 1 = 3\n2 + 2 = 4\n#### 3")
    made = [
        Candidate((n,), text, tuple(range(10 + n)), Finish.STOP) for n, text in enumerate(texts)
    ]
    cost = Cost(prompt_tokens=50, cached_tokens=0, completion_tokens=10)
    cached = Cost(prompt_tokens=50, cached_tokens=32, completion_tokens=11)
    read = Cost(reward_tokens=70)
    return [
        {"seconds": 1.0, "kind": "asked", "data": {"tasks": ["expand:0", "expand:1"]}},
        told(1.2, "expand:0", made[0], cost),
        told(1.3, "expand:1", made[1], cached),
        {"seconds": 1.3, "kind": "asked", "data": {"tasks": ["grade:0", "grade:1"]}},
        told(1.35, "grade:0", made[0].graded((0.9, 0.8), 0.8), read),
        told(1.4, "grade:1", made[1].graded((0.1, 0.2, 0.3), 0.3), read),
    ]


def test_batches_are_read_from_a_trace() -> None:
    """The first batch of each kind, from when it was asked to when its last call was told."""
    generated, graded = batches(events())
    assert (generated.calls, generated.prompt_tokens, generated.tokens) == (2, 50 + 18, 21)
    assert (generated.steps, generated.kv) == (11, 500 + 50 + 550 + 60)
    assert generated.seconds == pytest.approx(0.3)
    assert (graded.calls, graded.prompt_tokens) == (2, 140)
    assert graded.seconds == pytest.approx(0.1)


def test_what_was_asked_of_workers_is_counted() -> None:
    """Calls to write and calls to grade are batches of their own, asked in one breath or not."""
    assert asked_for(events()) == (2, 4)
    both = {"seconds": 2.0, "kind": "asked", "data": {"tasks": ["expand:2", "grade:2", "expand:3"]}}
    assert asked_for([*events(), both]) == (4, 7)
    by = [("expand:2", "a"), ("expand:3", "b"), ("grade:2", "")]
    ends = [{"seconds": 3.0, "kind": "told", "data": {"id": it, "worker": who}} for it, who in by]
    assert asked_for([both, *ends]) == (3, 3)


def test_a_batch_that_was_cut_is_none() -> None:
    """Where not every call came to its end, its time says nothing."""
    broken = events()
    broken[1]["data"]["status"] = "cancelled"
    assert [one.kind for one in batches(broken)] == ["reward"]


def test_samples_are_read_from_a_trace() -> None:
    """Each candidate with its answer, the scores of its steps, and all its tokens in steps."""
    first, second = samples(events(), "\n")
    assert (first.answer, first.scores, first.tokens) == ("2", (0.9, 0.8), 10)
    assert (second.answer, second.scores, second.tokens) == ("3", (0.1, 0.2, 0.3), 11)
    assert [len(one.steps) for one in (first, second)] == [2, 3]


def test_the_kv_cache_is_read_from_the_metrics() -> None:
    """As vLLM says it, in the labels of one of its figures."""
    text = 'vllm:cache_config_info{block_size="32",engine="0",num_gpu_blocks="100"} 1.0\n'
    assert kv_cache("# HELP x\n" + text) == (32, 100)
    with pytest.raises(FitError, match="metrics"):
        kv_cache("nothing of it")
