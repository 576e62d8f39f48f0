"""What a load came to, figure by figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.loading.figures import Spread, figures, percentile, report
from services.loading.picture import binned, draw
from services.loading.sent import End, Sent, overspent


def sent(place: int, due: float, took: float, **said: Any) -> Sent:
    """A request that was answered after so many seconds, and what else is said of it."""
    usual: dict[str, Any] = {
        "split": "hard",
        "effort": "low",
        "tenant": "local",
        "streamed": False,
        "began": due,
        "end": End.ANSWERED,
        "gold": "1",
        "status": 200,
    }
    return Sent(place=place, due=due, ended=due + took, **{**usual, **said})


def test_what_is_never_answered_is_the_slowest_of_all() -> None:
    """A service that hangs is neither sound nor fast; Ctrl-C is nothing it could help."""
    hung = [sent(place, 0, 30, end=End.UNFINISHED, status=None) for place in range(6)]
    records = [sent(9, 0, 1), *hung]
    told = report(records, 10, None)
    assert told.together.latency is not None
    assert (told.together.latency.count, told.together.latency.p50) == (7, 30)
    assert (told.sound, told.unanswered) == (False, 6)
    cut = report(records, 10, None, interrupted=True)
    assert cut.together.latency is not None
    assert cut.together.latency.max == 1
    assert (cut.sound, cut.unanswered) == (True, 0)


def test_percentiles_are_nearest_ranks() -> None:
    """The smallest value that so many percent are no greater than."""
    ranked = [float(one) for one in range(1, 101)]
    assert [percentile(ranked, one) for one in (1, 50, 90, 95, 99, 100)] == [1, 50, 90, 95, 99, 100]
    assert percentile([7.0], 50) == 7
    assert percentile([1.0, 2.0], 50) == 1
    assert percentile([1.0, 2.0], 51) == 2


def test_a_spread_of_nothing_is_none() -> None:
    """There is no percentile then; else it is of the numbers in any order."""
    assert Spread.of([]) is None
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(3, p50=2, p90=3, p95=3, p99=3, max=3)


def test_latency_counts_from_when_it_was_meant_to_be_sent() -> None:
    """A request that could only be sent late has waited all the same."""
    late = sent(0, due=1.0, took=4.0, began=3.5, first=4.0)
    told = figures("all", [late], 10, None)
    assert told.latency is not None
    assert told.first_progress is not None
    assert told.seconds_late is not None
    assert (told.latency.max, told.first_progress.max, told.seconds_late.max) == (4.0, 3.0, 2.5)


def test_goodput_is_what_was_right_and_in_time_in_the_window() -> None:
    """Wrong answers, late ones and those that came after the window are none of it."""
    records = [
        sent(0, 0, 1, right=True, completion_tokens=100),
        sent(1, 1, 1, right=False, completion_tokens=60),
        sent(2, 2, 3, right=True, completion_tokens=40),
        sent(3, 9, 1.5, right=True, completion_tokens=10),
    ]
    told = figures("all", records, 10, 2.0)
    assert (told.answered, told.right, told.in_time, told.good) == (4, 3, 3, 2)
    assert told.throughput == pytest.approx(0.3)
    assert told.goodput == pytest.approx(0.1)
    assert told.accuracy == pytest.approx(0.75)
    assert told.tokens_per_right == pytest.approx(70)
    assert figures("all", records, 10, None).good == 3


def test_every_end_is_counted() -> None:
    """What failed or hung up has no latency; refusals have one of their own."""
    records = [
        sent(0, 0, 1, right=True),
        sent(1, 0, 0.02, end=End.REFUSED, status=429, code="queue_full", retry_after=True),
        sent(2, 0, 0.03, end=End.REFUSED, status=429, code="queue_full"),
        sent(3, 0, 0.01, end=End.REFUSED, status=503, code="draining", retry_after=True),
        sent(4, 0, 9, end=End.FAILED, status=500, message="It broke."),
        sent(5, 0, 9, end=End.HUNG_UP, status=None),
        sent(6, 0, 9, end=End.UNFINISHED, status=None),
    ]
    told = report(records, 10, None)
    all_ = told.together
    assert (all_.sent, all_.answered, all_.refused, all_.failed) == (7, 1, 3, 1)
    assert (all_.hung_up, all_.unfinished) == (1, 1)
    assert all_.latency == Spread(2, p50=1, p90=9, p95=9, p99=9, max=9)
    kinds = [(one.status, one.code, one.count, one.without_retry_after) for one in told.refusals]
    assert kinds == [(429, "queue_full", 2, 1), (503, "draining", 1, 0)]
    assert told.refusals[0].latency.max == pytest.approx(0.03)
    assert told.failures == (("500: It broke.", 1),)
    assert not told.sound


def test_refusals_and_hang_ups_are_sound() -> None:
    """A service under load may refuse; it may not fail or overspend."""
    fine = [sent(0, 0, 1), sent(1, 0, 1, end=End.REFUSED, status=503), sent(2, 0, 1)]
    assert report(fine, 1, None).sound
    spent = sent(3, 0, 1, overspent=("candidates",), trace_id="abc")
    told = report([*fine, spent], 1, None)
    assert not told.sound
    assert told.overspent == ("abc: candidates",)


def test_groups_are_told_where_there_are_several() -> None:
    """A split that is the only one would only repeat what stands above it."""
    records = [sent(0, 0, 1, effort="none", tenant="a"), sent(1, 0, 3, effort="low", tenant="a")]
    told = report(records, 1, None)
    assert {kind: [row.name for row in rows] for kind, rows in told.groups.items()} == {
        "effort": ["low", "none"]
    }
    low, none = told.groups["effort"]
    assert low.latency is not None
    assert none.latency is not None
    assert (low.latency.max, none.latency.max) == (3, 1)


def test_an_empty_load_has_figures() -> None:
    """It was interrupted before anything was sent."""
    told = report([], 0, None)
    assert (told.together.sent, told.together.throughput, told.together.accuracy) == (0, 0, None)


@pytest.mark.parametrize(
    ("spent", "budget", "over"),
    [
        ({"completion_tokens": 10}, {"completion_tokens": 10}, ()),
        ({"completion_tokens": 11}, {"completion_tokens": 10}, ("completion_tokens",)),
        ({"candidates": 5, "usd": 0.2}, {"candidates": 4, "usd": 0.1}, ("candidates", "usd")),
        ({"reward_tokens": 5}, {"reward_tokens": 0}, ("reward_tokens",)),
        ({"completion_tokens": 99, "seconds": 9}, {"deadline_seconds": 2}, ()),
        ({"completion_tokens": 99}, {"completion_tokens": None}, ()),
    ],
)
def test_overspending_is_found_in_each_dimension(
    spent: dict[str, float], budget: dict[str, float | None], over: tuple[str, ...]
) -> None:
    """A deadline isn't spent, and what has no limit can't be overspent."""
    assert overspent({"spent": spent, "budget": budget}) == over


def test_a_record_crosses_as_json() -> None:
    """With all that is in it."""
    one = sent(3, 1, 2, overspent=("usd",), right=True, code="x")
    assert Sent.from_json(json.loads(json.dumps(one.in_json()))) == one


def test_bins_count_a_second() -> None:
    """What comes at the very end is in the last of them."""
    assert binned([0, 1, 1.5, 4.0], 4, 2) == ([0, 2, 4], [1.5, 0.5])


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    """From any records, twice the same; from none, none."""
    records = [
        sent(0, 0, 1, right=True, first=0.5, streamed=True),
        sent(1, 2, 1, right=False),
        sent(2, 2, 0.1, end=End.REFUSED, status=429),
    ]
    assert draw([], 4, None, tmp_path, title="none") is None
    assert draw(records, 4, 2.0, tmp_path, title="some") == "load.svg"
    first = (tmp_path / "load.svg").read_bytes()
    draw(records, 4, 2.0, tmp_path, title="some")
    assert (tmp_path / "load.svg").read_bytes() == first
    for name in ("meant to be sent", "right and in time", "refused", "in time"):
        assert f"<!-- {name} -->".encode() in first
    assert (tmp_path / "load.png").stat().st_size > 10_000
    draw([records[2]], 4, None, tmp_path, title="nothing but refusals")
