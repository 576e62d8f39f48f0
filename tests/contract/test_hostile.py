"""What is hostile does no harm: a few hundred bodies, and requests made from the API's own schema.

The full form, before a real service and its engines, is tests/chaos/hostile.py.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from redis.asyncio import Redis
from schemathesis.core.result import Ok
from starlette.testclient import TestClient

from tests.contract.hostile_bodies import HEADERS, PATHS, monstrous, mutated, request
from tests.contract.scripted_service import CHAT, MODEL, Stage, serving
from tests.contract.test_keys import find, keyed
from tests.contract.test_tenants import Bench

JSON = {"content-type": "application/json"}


@pytest.mark.timeout(180)
async def test_hostile_requests_are_refused_and_do_no_harm(redis_client: Redis) -> None:
    """Each is answered with a completion or a 4xx; then all works as before, and holds nothing."""
    bench, dice = Bench(redis_client, requests=8), random.Random(11)
    statuses: Counter[int] = Counter()
    async with serving(stage=bench.stage) as service:

        async def send(method: str, path: str, content: bytes, headers: dict[str, str]) -> None:
            response = await service.http.request(
                method, path, content=content, headers={**JSON, **headers, **keyed("a")}
            )
            statuses[response.status_code] += 1
            assert response.status_code < 500, (path, headers, content[:300])
            if response.status_code >= 400 and method != "HEAD":
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}

        bodies = [*monstrous(MODEL), *(mutated(dice, MODEL) for _ in range(300))]
        for body in bodies:
            await send("POST", CHAT, body, {})
        for headers in HEADERS:
            await send("POST", CHAT, mutated(dice, MODEL), headers)
        for path in PATHS:
            for method in ("GET", "DELETE", "POST"):
                await send(method, path, b"{}", {})
        good = await service.http.post(CHAT, json=request(MODEL), headers=keyed("a"))
        told = await service.http.get("/v1/budget", headers=keyed("a"))
    await bench.reasoner.drain(5)
    assert good.status_code == 200
    assert told.json()["at_once"]["requests"]["under_way"] == 0
    assert (await bench.pool.counters())["fake"]["running"] == 0
    assert statuses[200] > 5
    assert statuses[400] > 200
    assert set(statuses) <= {200, 202, 204, 304, 400, 403, 404, 405, 413, 415, 422}


def test_requests_from_the_schema_are_answered_or_refused() -> None:
    """Whatever fits the API's description, or doesn't, gets no 5xx and no answer without a key."""
    stage = Stage(find=find)
    app = stage.app()
    schema = schemathesis.openapi.from_dict(app.openapi())
    seen: set[str] = set()
    with TestClient(app, raise_server_exceptions=False) as client:
        for found in schema.get_all_operations():
            assert isinstance(found, Ok)
            operation = found.ok()

            @given(case=operation.as_strategy())
            @settings(
                max_examples=6,
                database=None,
                suppress_health_check=list(HealthCheck),
                derandomize=True,
            )
            def answered(case: Any) -> None:
                seen.add(case.path)
                sent = case.as_transport_kwargs(base_url="http://testserver")
                sent = {
                    name: it for name, it in sent.items() if it is not None and name != "cookies"
                }
                without = client.request(**sent).status_code
                # Where a method isn't allowed, liveness says so to everybody.
                assert without == 401 or (case.path == "/health/live" and without < 500)
                sent["headers"] = {**(sent.get("headers") or {}), **keyed("o")}
                assert client.request(**sent).status_code < 500

            answered()
    assert {CHAT, "/metrics", "/v1/traces/{trace_id}"} <= seen
