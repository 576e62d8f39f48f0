"""What a load asks, and when: options, moments and the mix, all from one seed."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean, stdev

import pytest

from planner.errors import InvalidOption
from services.loading.arrivals import arrivals, rate_at
from services.loading.jobs import Jobs
from services.loading.plan import Burst, Key, Plan, Share, bursts, read_keys, shares


def test_arrivals_are_poisson() -> None:
    """At a steady rate the gaps have the mean and the spread of an exponential distribution."""
    times = list(arrivals(50, 400, seed=1))
    gaps = [after - before for before, after in pairwise(times)]
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert fmean(gaps) == pytest.approx(1 / 50, rel=0.03)
    assert stdev(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] < 400


def test_arrivals_are_the_seeds() -> None:
    """The same seed draws the same moments, another one others."""
    assert list(arrivals(5, 20, seed=3)) == list(arrivals(5, 20, seed=3))
    assert list(arrivals(5, 20, seed=3)) != list(arrivals(5, 20, seed=4))


def test_bursts_have_their_factor() -> None:
    """In a burst there are so many times as many requests, and as many as ever outside of it."""
    burst = Burst(4, 5, every=20)
    times = list(arrivals(20, 400, [burst], seed=2))
    inside = sum(at % 20 >= 15 for at in times)
    assert inside / 100 == pytest.approx(80, rel=0.05)
    assert (len(times) - inside) / 300 == pytest.approx(20, rel=0.05)


def test_a_burst_without_a_period_comes_once_in_the_middle() -> None:
    """And one that is cut short by the end, or a lull, is what it says."""
    assert [rate_at(at, 10, 30, [Burst(3, 10)]) for at in (9, 10, 19, 20)] == [10, 30, 30, 10]
    assert rate_at(29, 10, 30, [Burst(3, 10, every=35)]) == 30
    assert rate_at(15, 10, 30, [Burst(0, 10)]) == 0


def test_options_are_read() -> None:
    """Bursts, and names with weights."""
    assert bursts("3x10/60, 0.5x2.5") == (Burst(3, 10, 60), Burst(0.5, 2.5))
    assert shares("easy:3,dev/hard", "--split") == (Share("easy", 3), Share("dev/hard"))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"rate": 1.0, "users": 2}, "not both"),
        ({"users": 2, "burst": "3x10"}, "--burst needs --rate"),
        ({"rate": 1.0, "burst": "3 times"}, "FACTORxSECONDS"),
        ({"rate": 1.0, "burst": "3x10/5"}, "doesn't fit"),
        ({"rate": 1.0, "burst": "3x10/6o"}, "FACTORxSECONDS"),
        ({"split": "easy:0"}, "--split"),
        ({"split": "easy:nan"}, "--split"),
        ({"efforts": "huge"}, "none, minimal, low"),
        ({"stream": 1.5}, "--stream"),
    ],
)
def test_options_that_mean_nothing_are_refused(said: dict[str, object], told: str) -> None:
    """With a sentence that says how they are written."""
    options: dict[str, object] = {
        "seconds": 10.0,
        "rate": None,
        "users": None,
        "burst": None,
        "split": "hard",
        "efforts": "low",
        "keys": None,
    }
    with pytest.raises(InvalidOption, match=told):
        Plan.of(**{**options, **said})  # type: ignore[arg-type]


def test_without_a_rate_there_are_four_users() -> None:
    """A load may be asked for without any option."""
    plan = Plan.of(
        seconds=10, rate=None, users=None, burst=None, split="hard", efforts="low", keys=None
    )
    assert (plan.users, plan.rate) == (4, None)


def test_keys_are_read_and_stay_out_of_the_report(tmp_path: Path) -> None:
    """What is kept names tenants and their weights."""
    path = tmp_path / "keys.toml"
    path.write_text('[modest]\nkey = "lt-secret-1"\n[greedy]\nkey = "lt-secret-2"\nweight = 9\n')
    keys = read_keys(path)
    assert keys == (Key("modest", "lt-secret-1"), Key("greedy", "lt-secret-2", 9))
    described = Plan(seconds=1, users=1, keys=keys).described()
    assert described["tenants"] == [
        {"name": "modest", "weight": 1.0},
        {"name": "greedy", "weight": 9.0},
    ]
    assert "secret" not in json.dumps(described)


@pytest.mark.parametrize(
    "text", ["", "modest = 1", "[modest]\n", '[a]\nkey = ""\n', '[a]\nkey = "x"\nweight = 0\n', "["]
)
def test_a_file_of_keys_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    """It may be empty, no TOML, without a key or of no weight."""
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(InvalidOption, match=r"--keys"):
        read_keys(path)


def test_a_plan_crosses_as_json() -> None:
    """With all that is in it."""
    plan = Plan(
        seconds=3,
        rate=2,
        bursts=(Burst(2, 1),),
        splits=(Share("easy", 2),),
        keys=(Key("a", "s"),),
        deadline=2,
    )
    assert Plan.from_json(json.loads(json.dumps(plan.in_json()))) == plan


def test_jobs_mix_as_they_are_weighted() -> None:
    """Splits, efforts, tenants, streams and clients that go away, each in its share."""
    plan = Plan(
        seconds=1,
        users=1,
        splits=(Share("easy", 3), Share("hard", 1)),
        efforts=(Share("none"), Share("low")),
        keys=(Key("modest", "m"), Key("greedy", "g", 9)),
        stream=0.25,
        hangups=0.1,
        hangup_seconds=0.5,
        questions=20,
    )
    drawn = Jobs(plan)
    jobs = [drawn.job(place) for place in range(4_000)]
    shares_of = {
        "easy": sum(job.split == "easy" for job in jobs),
        "none": sum(job.effort == "none" for job in jobs),
        "greedy": sum((job.tenant, job.secret) == ("greedy", "g") for job in jobs),
        "streamed": sum(job.streamed for job in jobs),
        "leaves": sum(job.hangup is not None for job in jobs),
    }
    wanted = {"easy": 0.75, "none": 0.5, "greedy": 0.9, "streamed": 0.25, "leaves": 0.1}
    assert {name: count / 4_000 for name, count in shares_of.items()} == pytest.approx(
        wanted, abs=0.03
    )
    assert all(0 <= job.hangup <= 0.5 for job in jobs if job.hangup is not None)
    assert len({job.seed for job in jobs}) == 4_000


def test_a_job_is_its_places() -> None:
    """Whoever draws it, and whatever was drawn before."""
    plan = Plan(seconds=1, users=1, splits=(Share("easy"), Share("hard")), questions=5)
    assert list(islice(map(Jobs(plan).job, range(9)), 8, 9)) == [Jobs(plan).job(8)]


def test_a_request_says_what_the_plan_limits() -> None:
    """And nothing of a budget where it limits nothing."""
    free = Jobs(Plan(seconds=1, users=1, questions=3))
    assert "longthink" not in free.body(free.job(0), "m")
    bound = Jobs(Plan(seconds=1, users=1, questions=3, deadline=2.0, tokens=400))
    body = bound.body(bound.job(0), "m")
    assert body["longthink"] == {"budget": {"deadline_seconds": 2.0, "completion_tokens": 400}}
    assert Counter(body["messages"][0]) == Counter(
        {"role": "user", "content": bound.job(0).question.text}
    )


def test_an_unknown_split_is_refused() -> None:
    """Before anything is asked."""
    with pytest.raises(InvalidOption, match="easy, hard"):
        Jobs(Plan(seconds=1, users=1, splits=(Share("harder"),)))
