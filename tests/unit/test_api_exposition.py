"""Many Prometheus texts become one that Prometheus takes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.api.exposition import merge

# A busy machine is no fault of what is tested.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def engine(value: str) -> str:
    """The text of an engine's registry with one metric of each kind, `value` as a label's."""
    registry = CollectorRegistry()
    Gauge("running", "R", ["model"], registry=registry).labels(value).set(2)
    Counter("tokens", "T", registry=registry).inc(3)
    Histogram("seconds", "S", ["model"], buckets=(1,), registry=registry).labels(value).observe(0.5)
    return generate_latest(registry).decode()


def values(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by sample name and sorted labels; fails where a family stands twice."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in families:
        for sample in family.samples:
            labels = tuple(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {})
            found[sample.name][labels] = sample.value
    return found


def test_samples_of_a_metric_stand_together_and_apart() -> None:
    """Each family has one header and the samples of every replica, histograms included."""
    merged = values(merge([("", "own 1\n")], [("a", engine("m")), ("b", engine("m"))]))
    assert merged["own"] == {(): 1}
    assert merged["running"] == {("model=m", "replica=a"): 2, ("model=m", "replica=b"): 2}
    assert merged["tokens_total"] == {("replica=a",): 3, ("replica=b",): 3}
    assert merged["seconds_count"] == {("model=m", "replica=a"): 1, ("model=m", "replica=b"): 1}
    assert merged["seconds_bucket"]["le=+Inf", "model=m", "replica=a"] == 1


def test_a_family_that_both_have_is_one() -> None:
    """The service's own samples of a metric stay without the label."""
    own = "# HELP up Own.\n# TYPE up gauge\nup 1\n"
    merged = merge([("", own)], [("a", "# HELP up Theirs.\n# TYPE up counter\nup 2\n")])
    assert merged == '# HELP up Own.\n# TYPE up gauge\nup 1\nup{replica="a"} 2\n'


def test_edges_are_told_apart_where_there_are_several() -> None:
    """One alone has no name, and no label."""
    own = "# HELP up Own.\n# TYPE up gauge\nup "
    merged = values(merge([("x", f"{own}1\n"), ("y", f"{own}2\n")], [("a", f"{own}3\n")]))
    assert merged == {"up": {("edge=x",): 1, ("edge=y",): 2, ("replica=a",): 3}}


@pytest.mark.parametrize("line", ["garbage", "{", "# EOF", "1name 2", "x{ 5", "<html>"])
def test_a_line_that_is_no_sample_costs_no_scrape(line: str) -> None:
    """It is left out, and the rest stands."""
    assert values(merge([("", "own 1\n")], [("a", f"{line}\nup 2\n")])) == {
        "own": {(): 1},
        "up": {("replica=a",): 2},
    }


@UNHURRIED
@given(st.text(st.characters(blacklist_characters="\r", blacklist_categories=["Cs"]), min_size=1))
def test_any_label_survives(value: str) -> None:
    """Quotes, braces, line ends and the rest: of the engine's labels and of replicas' names."""
    merged = values(merge([], [(value, engine(value))]))
    assert merged["running"] == {(f"model={value}", f"replica={value}"): 2}
