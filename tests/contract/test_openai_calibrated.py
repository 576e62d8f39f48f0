"""A reply's confidence is calibrated at the edge; the trace, and all that decides, has it raw."""

from __future__ import annotations

import json

import pytest
from redis.asyncio import Redis

from planner.calibration import ANY, Calibration
from planner.curves import Isotonic
from services.budget import RedisLedger
from services.calibration import Calibrations, CalibrationStore, Past
from services.driver import Manner
from services.evaluation.retrace import retrace
from services.reasoning import Reasoner
from services.trace import TraceStore
from tests.contract.scripted_service import BODY, CHAT, MODEL, Stage, serving
from workers.fake import FakePool, Script

SHIPPED = Calibration(MODEL, {ANY: Isotonic(((0.0, 0.25), (1.0, 0.25)), 100)})


def stage(redis: Redis, calibrations: Calibrations) -> Stage:
    """The real path, before workers that always write the same."""
    traces = TraceStore(redis)
    pool = FakePool(lambda _: Script("6 x 7 = 42\n#### 42", 0.0), judge=None)
    reasoner = Reasoner(
        pool,
        RedisLedger(redis),
        traces,
        Manner(step_delimiter="\n"),
        calibrations=calibrations,
    )
    return Stage(real=reasoner, traces=traces)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_is_as_sure_as_it_is_right(redis_client: Redis, stream: bool) -> None:
    """Streamed or not; the raw confidence stands beside it, and in the trace."""
    calibrations = Calibrations(MODEL, CalibrationStore(redis_client), SHIPPED)
    body = {**BODY, "stream": stream, "longthink": {"strategy": "majority", "stop": "none"}}
    async with serving(stage=stage(redis_client, calibrations)) as service:
        reply = await service.http.post(CHAT, json=body)
        ours = _ours(reply.text, stream=stream)
        trace = (await service.http.get(f"/v1/traces/{ours['trace_id']}")).json()
    closed = next(one for one in trace["events"] if one["kind"] == "closed")
    assert (ours["confidence"], ours["calibrated"]) == (0.25, True)
    assert ours["raw_confidence"] == closed["data"]["outcome"]["confidence"] == 17 / 18
    assert retrace(trace).same
    await calibrations.aclose()
    passed = await CalibrationStore(redis_client).past(MODEL)
    assert list(passed) == ["majority/majority"]
    assert passed["majority/majority"].requests == 1
    assert passed["majority/majority"].completion_tokens > Past().completion_tokens


async def test_without_a_curve_a_reply_says_that_it_is_raw(redis_client: Redis) -> None:
    """Nothing is claimed that nobody measured."""
    calibrations = Calibrations(MODEL, CalibrationStore(redis_client))
    async with serving(stage=stage(redis_client, calibrations)) as service:
        ours = (await service.http.post(CHAT, json=BODY)).json()["longthink"]
    assert ours["calibrated"] is False
    assert ours["confidence"] == ours["raw_confidence"]
    await calibrations.aclose()


def _ours(text: str, *, stream: bool) -> dict[str, object]:
    if not stream:
        return dict(json.loads(text)["longthink"])
    chunks = [line.removeprefix("data: ") for line in text.splitlines() if line[:6] == "data: "]
    said = [json.loads(chunk) for chunk in chunks if chunk != "[DONE]"]
    return next(dict(chunk["longthink"]) for chunk in said if "longthink" in chunk)
