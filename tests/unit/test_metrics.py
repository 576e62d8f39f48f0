"""The metrics of the service are those that are documented, and their labels stay few."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from planner.domain import Cost
from services.meters import MOST_TENANTS, OTHER, Meters
from services.telemetry import Telemetry
from services.watch import strategy_name

DOCUMENTED = Path(__file__).parents[2] / "deploy" / "observability" / "README.md"
_ROW = re.compile(r"^\| `(longthink_[a-z_]+)(?:\{([a-z, ]+)\})?` \| (\w+) \|", re.MULTILINE)


def registered() -> dict[str, tuple[str, str]]:
    """Of every metric, by its name as it is scraped: its labels and its type."""
    telemetry = Telemetry()
    telemetry.describe("1.0", "a-model", {"generator": 1})
    found = {}
    for metric in telemetry.registry._collector_to_names:
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = "version, model" if family.type == "info" else ", ".join(metric._labelnames)
            found[family.name + suffix] = (labels, family.type)
    return found


def test_every_metric_is_documented_and_no_other() -> None:
    """The table has each with its labels and its type."""
    rows = _ROW.findall(DOCUMENTED.read_text(encoding="utf-8"))
    documented = {name: (labels, kind) for name, labels, kind in rows}
    assert documented == registered()
    assert len(documented) == len(rows)


def test_names_keep_to_the_conventions_of_prometheus() -> None:
    """Base units at the end, `_total` for counters only, one prefix for all."""
    for name, (_, kind) in registered().items():
        assert name.startswith("longthink_")
        assert name.endswith("_total") == (kind == "counter")
        assert not re.search(r"_(ms|milliseconds|minutes|percent)(_|$)", name)


def test_what_seldom_happens_is_there_before_it_does() -> None:
    """A rate of what isn't there is nothing, and an alert that adds to it would never come."""
    telemetry = Telemetry()
    value = telemetry.registry.get_sample_value
    assert value("longthink_ledger_errors_total", {"operation": "hold"}) == 0
    assert value("longthink_wasted_tokens_total", {"kind": "completion", "why": "lost"}) == 0
    assert value("longthink_calls_total", {"kind": "grade", "finish": "lost"}) == 0
    assert value("longthink_retries_total", {"kind": "generate"}) == 0


def test_tenants_beyond_the_most_are_counted_together() -> None:
    """However many there are, the number of series is bounded, and nobody's spending is lost."""
    registry = CollectorRegistry()
    meters = Meters(registry)
    for number in range(MOST_TENANTS + 50):
        meters.booked(f"tenant-{number}", 200, Cost(micro_usd=2))
    meters.booked("tenant-0", 200, Cost(micro_usd=3))
    spent = {
        sample.labels["tenant"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "longthink_tenant_micro_usd_total"
    }
    assert len(spent) == MOST_TENANTS + 1
    assert spent["tenant-0"] == 5
    assert spent[OTHER] == 50 * 2


def test_a_strategy_is_told_by_its_outermost_name() -> None:
    """What a client combines inside makes no series of its own."""
    assert strategy_name("plan(particles/weighted@beta:0.95)") == "plan"
    assert strategy_name("majority") == "majority"


async def _scraped(telemetry: Telemetry, parts: dict[str, bool], engines: list[str]) -> str:
    return telemetry.scraped(parts, engines)


def test_engines_that_do_not_answer_show() -> None:
    """There are as many as there should be, those that answer, and parts that stopped answering."""
    telemetry = Telemetry()
    telemetry.describe("1.0", "a-model", {"generator": 2, "reward": 1})
    telemetry.stands({"engines": True, "redis": True}, ["generator-a", "generator-b", "reward-c"])
    text = asyncio.run(_scraped(telemetry, {"redis": False}, ["generator-b"]))
    value = telemetry.registry.get_sample_value
    assert value("longthink_engines", {"kind": "generator", "state": "wanted"}) == 2
    assert value("longthink_engines", {"kind": "generator", "state": "answering"}) == 1
    assert value("longthink_engines", {"kind": "reward", "state": "answering"}) == 0
    assert value("longthink_ready", {"part": "engines"}) == 0
    assert value("longthink_ready", {"part": "redis"}) == 0
    assert value("longthink_build_info", {"version": "1.0", "model": "a-model"}) == 1
    assert value("longthink_asyncio_tasks", {}) == 1
    assert 'longthink_ready{part="redis"} 0.0' in text
