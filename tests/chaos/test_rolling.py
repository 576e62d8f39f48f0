"""Replicas are replaced one by one while requests go on: what `make test` holds of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.app import Service
from services.settings import RewardSettings
from tests.chaos.asking import replicas
from tests.chaos.real_service import CHAT, body
from tests.chaos.rolling import replace_under_load, two_edges


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Two edges and one engine."""
    with Service.start(two_edges(1, reward=RewardSettings(enabled=False))) as running:
        yield running


def pids() -> set[int]:
    """The processes of all replicas."""
    return {one.pid for kind in ("generator", "edge") for one in replicas(kind)}


@pytest.mark.timeout(420)
def test_nothing_fails_while_everything_is_replaced(service: Service) -> None:
    """No request is cut or ends with a 5xx, and of those that took them none is left."""
    before = pids()
    assert len(before) == 3
    record, _ = asyncio.run(replace_under_load(service, 2))
    after = pids()
    assert len(after) == 3
    assert not before & after
    assert record.answered > 0
    assert not record.failures, record
    assert all(what.startswith("4") for what in record.refusals), record


@pytest.mark.timeout(420)
def test_a_scrape_of_one_edge_tells_of_all(service: Service) -> None:
    """Whichever of them is asked: each request is counted by the one that took it, and once."""
    with httpx.Client(base_url=service.url, timeout=100) as http:
        while len(answered(http)) < 2:
            time.sleep(0.5)  # an edge that is new hasn't heard of the other
        before = [answered(http) for _ in range(4)]
        assert all(one == before[0] for one in before)
        for _ in range(6):
            http.post(CHAT, json=body("What is 2 + 2?", 1)).raise_for_status()
        after = answered(http)
    assert after.keys() == before[0].keys()
    assert sum(after.values()) - sum(before[0].values()) == 6


def answered(http: httpx.Client) -> dict[str, float]:
    """How many requests each edge has answered."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(http.get("/metrics").raise_for_status().text):
        for sample in family.samples:
            if sample.name == "longthink_build_info":
                found.setdefault(sample.labels["edge"], 0.0)
            if sample.name == "longthink_requests_total":
                found[sample.labels["edge"]] = found.get(sample.labels["edge"], 0.0) + sample.value
    return found
