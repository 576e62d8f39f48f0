"""The dashboard, the alerts and their runbooks go by metrics and labels that there are."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.unit.test_metrics import registered

FOLDER = Path(__file__).parents[2] / "deploy" / "observability"

_STRING = re.compile(r'"[^"]*"')
_SELECTOR = re.compile(r"(?<![\w.])([a-zA-Z_:][\w:]*)\s*(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]")
_WORDS = {
    *("sum", "min", "max", "rate", "increase", "histogram_quantile", "topk", "and", "or", "unless"),
    *("by", "on", "without", "ignoring"),
}
_OURS_ALWAYS = {"job", "instance", "replica", "edge"}
_NOT_LONGTHINKS = {"up": set[str](), "process_resident_memory_bytes": set[str]()}


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    return read


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression, with the panel, variable or alert that it is of."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            inside = re.fullmatch(r"label_values\((.*), \w+\)", variable["definition"])
            assert inside is not None
            yield variable["name"], inside[1]
    for rule in alerts():
        yield rule["alert"], rule["expr"]


def metrics() -> dict[str, set[str]]:
    """Every series that is scraped, with its labels."""
    found = dict(_NOT_LONGTHINKS)
    for name, (labels, kind) in registered().items():
        names = set(filter(None, labels.split(", ")))
        if kind == "histogram":
            found |= {
                f"{name}_bucket": names | {"le"},
                f"{name}_sum": names,
                f"{name}_count": names,
            }
        else:
            found[name] = names
    return found


def engine_metrics() -> set[str]:
    """The names of what vLLM measures, as its source has them."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0], "v1", "metrics", "loggers.py").read_text()
    return set(re.findall(r'name="(vllm:\w+)"', source))


def selected(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric that an expression names, with the labels that it is selected by."""
    plain = _GROUPING.sub("", _RANGE.sub("", _STRING.sub('""', expression)))
    for name, matchers in _SELECTOR.findall(plain):
        if name not in _WORDS:
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


@pytest.mark.parametrize(("of", "expression"), list(expressions()))
def test_every_expression_goes_by_what_there_is(of: str, expression: str) -> None:
    """It names metrics and labels that are scraped, and its brackets match."""
    known, engines = metrics(), engine_metrics()
    grouped = {it.strip() for found in _GROUPING.findall(expression) for it in found.split(",")}
    having: set[str] = set(_OURS_ALWAYS)
    for name, labels in selected(expression):
        if name.startswith("vllm:"):
            assert {name, re.sub("_(total|bucket|sum|count)$", "", name)} & engines, name
            having |= {"le", "model_name", "engine"}
        else:
            assert name in known, name
            assert labels <= known[name] | _OURS_ALWAYS, (name, labels)
            having |= known[name]
    assert grouped <= having
    for opened, closed in ("()", "[]", "{}"):
        assert expression.count(opened) == expression.count(closed)


def test_every_metric_of_the_service_is_on_the_dashboard() -> None:
    """What nobody can see nobody will miss."""
    shown = {name for _, expr in expressions() for name, _ in selected(expr)}
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    assert registered().keys() <= families | shown


def test_the_dashboard_is_one_that_grafana_loads() -> None:
    """The fields that Grafana goes by are there, ids are unlike, and nothing lies upon another."""
    board = dashboard()
    assert board["uid"] == "longthink"
    assert board["schemaVersion"] >= 39
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"]
            assert panel["datasource"]["uid"] == "${datasource}"
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs) > 0
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = {it for _, expr in expressions() for it in re.findall(r"\$(\w+)", expr)}
    assert used - {"__rate_interval", "__range"} <= variables


def test_every_alert_has_its_runbook_and_no_other_is_there() -> None:
    """The page that an alert names is there."""
    pages = re.findall(r"^## (\w+)$", (FOLDER / "runbooks.md").read_text(), re.MULTILINE)
    assert sorted(pages) == sorted(rule["alert"] for rule in alerts())
    for rule in alerts():
        anchor = rule["annotations"]["runbook_url"]
        assert anchor == f"deploy/observability/runbooks.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket", "info")


def test_runbooks_name_metrics_that_there_are() -> None:
    """Of the service and of the engines, and link to pages that are there."""
    text = (FOLDER / "runbooks.md").read_text()
    for name in re.findall(r"\blongthink_\w+", text):
        assert name in registered() or name in metrics(), name
    for name in re.findall(r"vllm:\w+", text):
        assert name.removesuffix("_total") in engine_metrics(), name
    pages = {page.lower() for page in re.findall(r"^## (\w+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= pages


def test_the_cases_for_alerts_are_of_alerts_and_metrics_that_there_are() -> None:
    """`promtool test rules` itself isn't at hand here."""
    cases = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())
    names = {rule["alert"] for rule in alerts()}
    for case in cases["tests"]:
        for series in case["input_series"]:
            for name, labels in selected(series["series"]):
                assert labels <= metrics()[name] | _OURS_ALWAYS
        for expected in case["alert_rule_test"]:
            assert expected["alertname"] in names


def test_the_scrape_goes_by_the_job_that_the_alerts_name() -> None:
    """And reads them."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert [job["job_name"] for job in config["scrape_configs"]] == ["longthink"]
    assert config["rule_files"] == ["alerts.yml"]
