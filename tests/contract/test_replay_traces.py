"""Traces of the service itself, replayed to the outcome that its client was told.

Its edge, driver, ledger and traces are real; the workers write, grade and fail as scripted.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from planner.domain import Prices
from planner.search import STRATEGIES
from services.budget import RedisLedger
from services.driver import Manner
from services.evaluation.retrace import Retraced, retrace
from services.reasoning import Reasoner
from services.trace import TraceStore
from tests.contract.scripted_service import BODY, CHAT, Service, Stage, serving
from workers.fake import FakePool, Fault, Script, Verdict
from workers.messages import Generate, Grade


@dataclass(frozen=True)
class Case:
    """A request, and what may go wrong with it."""

    ours: dict[str, Any]
    stopped: str
    graded: bool = True
    failing: float = 0.0
    slow: float = 0.0
    wrong: float = 0.3


CASES = {
    "single": Case({"strategy": "single"}, "complete"),
    "vote": Case({"strategy": "majority", "stop": "none"}, "complete"),
    "weighted": Case({"strategy": "majority", "selector": "weighted", "stop": "none"}, "complete"),
    "certain": Case({"strategy": "majority"}, "certain", wrong=0.0),
    "confident": Case({"strategy": "majority", "stop": "beta:0.8"}, "confident", wrong=0.0),
    "preset": Case({}, "confident", wrong=0.0),
    "best": Case({"strategy": "best_of_n", "stop": "none"}, "complete"),
    "ungraded": Case({"strategy": "best_of_n", "stop": "none"}, "complete", graded=False),
    "failing": Case({"strategy": "best_of_n", "stop": "none"}, "complete", failing=0.3),
    "budget": Case(
        {"strategy": "majority", "stop": "none", "budget": {"completion_tokens": 150}}, "budget"
    ),
    "deadline": Case(
        {"strategy": "majority", "stop": "none", "budget": {"deadline_seconds": 0.3}},
        "deadline",
        slow=0.8,
    ),
}


def stage_of(redis: Redis, case: Case) -> tuple[Stage, Reasoner]:
    """The real path below the edge, down to the workers."""

    def write(call: Generate) -> Script:
        """Some say 42, others 43, after a while of their own."""
        chance = random.Random(call.seed)
        answer = 42 + (chance.random() < case.wrong)
        seconds = case.slow * chance.random() * 2 or chance.random() * 0.05
        fault: Fault | None = "failed" if chance.random() < case.failing else None
        first = "" if b"=" in bytes(call.prompt_ids) else f"6 x 7 = {answer}\n"
        return Script(f"{first}#### {answer}", seconds, fault)

    def judge(call: Grade) -> Verdict:
        chance = random.Random(call.id.partition("/")[2])
        fault: Fault | None = "failed" if chance.random() < case.failing else None
        return Verdict(tuple(chance.random() for _ in call.steps), chance.random() * 0.02, fault)

    pool = FakePool(write, judge if case.graded else None)
    traces = TraceStore(redis)
    manner = Manner(prices=Prices(completion=1), step_delimiter="\n", late_seconds=1.0)
    reasoner = Reasoner(pool, RedisLedger(redis), traces, manner)
    return Stage(real=reasoner, traces=traces), reasoner


async def asked(service: Service, case: Case) -> dict[str, Any]:
    """The `longthink` object of the reply, whose request had 12 candidates unless it said."""
    budget = {"candidates": 12, **case.ours.get("budget", {})}
    body = {**BODY, "seed": 3, "max_tokens": 200, "longthink": {**case.ours, "budget": budget}}
    response = await service.http.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    return dict(response.json()["longthink"])


@pytest.mark.parametrize("name", CASES)
async def test_a_trace_replays_to_the_same_outcome(redis_client: Redis, name: str) -> None:
    """However it ended and whatever failed, replay and reply agree in every part."""
    case = CASES[name]
    stage, reasoner = stage_of(redis_client, case)
    async with serving(stage=stage) as service:
        told = await asked(service, case)
        trace = (await service.http.get(f"/v1/traces/{told['trace_id']}")).json()
    await reasoner.drain(5)
    retraced: Retraced = retrace(trace)
    assert retraced.same, retraced
    assert retraced.replayed is not None
    assert retraced.replayed["stopped"] == told["stopped"] == case.stopped
    for part in ("answer", "confidence", "votes", "notes"):
        assert retraced.replayed[part] == told[part]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_every_strategy_replays(redis_client: Redis, strategy: str) -> None:
    """Whatever a strategy grows out of what it is told, it grows again, failures and all."""
    failing = 0.0 if strategy == "single" else 0.1  # with its one sample it would lose everything
    case = Case({"strategy": strategy, "stop": "beta:0.95"}, "", failing=failing)
    stage, reasoner = stage_of(redis_client, case)
    async with serving(stage=stage) as service:
        told = await asked(service, case)
        trace = (await service.http.get(f"/v1/traces/{told['trace_id']}")).json()
    await reasoner.drain(5)
    retraced = retrace(trace)
    assert retraced.same, retraced
    assert retraced.replayed is not None
    assert retraced.replayed["votes"] == told["votes"]


async def test_a_result_that_is_changed_is_noticed(redis_client: Redis) -> None:
    """The replay is a real one: with other candidates on record it comes to something else."""
    case = CASES["vote"]
    stage, reasoner = stage_of(redis_client, case)
    async with serving(stage=stage) as service:
        told = await asked(service, case)
        trace = (await service.http.get(f"/v1/traces/{told['trace_id']}")).json()
    await reasoner.drain(5)
    for event in trace["events"]:
        if event["kind"] == "told":
            event["data"]["candidate"]["text"] = "#### 43"
    retraced = retrace(trace)
    assert not retraced.same
    assert retraced.replayed is not None
    assert retraced.replayed["answer"] == "43"


async def test_the_command_replays_a_trace_by_its_id(redis_client: Redis) -> None:
    """`longthink replay --trace ID` asks the service for it; the id of the reply is as good."""
    case = CASES["weighted"]
    stage, reasoner = stage_of(redis_client, case)
    async with serving(stage=stage) as service:
        told = await asked(service, case)
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.cli", "replay", "--format", "json"),
            *("--trace", f"chatcmpl-{told['trace_id']}", "--url", service.url),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await command.communicate()
    await reasoner.drain(5)
    assert command.returncode == 0
    said = json.loads(out)
    assert said["same"] is True
    assert said["trace_id"] == told["trace_id"]
    assert said["replayed"]["votes"] == told["votes"]
