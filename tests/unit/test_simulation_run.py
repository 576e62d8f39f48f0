"""The service's planner and driver on simulated workers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from services.settings import AdmissionSettings
from services.simulation.capacity import Need, need
from services.simulation.figures import Figures
from services.simulation.model import (
    REFERENCE,
    EngineModel,
    Model,
    ModelError,
    OrchestratorModel,
    Question,
    Sample,
)
from services.simulation.picture import draw
from services.simulation.run import Load, Site, Ways, simulate
from services.simulation.sweep import Sweep, swept

ENGINE = EngineModel(step_seconds=0.01, sequence_seconds=0.001, prompt_token_seconds=0.0001)
QUESTIONS = tuple(
    Question(
        "easy",
        30 + n,
        "7",
        tuple(
            Sample((6, 7 + n), "7" if one % 3 else str(one), (0.9, 0.9 if one % 3 else 0.2))
            for one in range(8)
        ),
    )
    for n in range(5)
)
MODEL = Model("a test", ENGINE, ENGINE, OrchestratorModel(0.002, 0.0005), QUESTIONS)


def load(**more: object) -> Load:
    asked = Load(questions=QUESTIONS, efforts=("low",), seconds=5.0, warm=1.0, deadline=5.0)
    return replace(asked, **more)  # type: ignore[arg-type]


def simulated(figures: Figures) -> dict[str, object]:
    """All that hangs on the arguments alone."""
    measured = ("own_ms", "real_seconds")
    return {name: value for name, value in asdict(figures).items() if name not in measured}


def test_a_light_load_is_answered_in_time() -> None:
    """Workers that have little to do answer everything, mostly right, as fast as they are."""
    figures = simulate(MODEL, Site(workers=4, rewards=2), load(rate=4.0))
    assert figures.in_time == 1.0
    assert figures.right > 0.7
    assert 4 * 0.6 < figures.throughput < 4 * 1.5
    # Two samples, their grades, and seldom more: some ten steps of ten milliseconds each.
    assert 0.1 < figures.p50 < 1.0
    assert 2 <= figures.candidates <= 8
    assert figures.own_ms > 0


def test_the_same_seed_comes_to_the_same() -> None:
    """The same arguments give the same figures, and another seed gives others."""
    site, asked = Site(workers=3, rewards=1), load(rate=6.0)
    first = simulated(simulate(MODEL, site, asked))
    assert simulated(simulate(MODEL, site, asked)) == first
    assert simulated(simulate(MODEL, site, replace(asked, seed=1))) != first


def test_too_much_is_answered_late_or_not_at_all() -> None:
    """Far beyond what a worker can take, it replies to less than came, and less of it in time."""
    site = Site(workers=1, rewards=1)
    asked = load(deadline=1.0)
    most = need(MODEL, asked).capacity(1, 1)
    light = simulate(MODEL, site, replace(asked, rate=0.2 * most))
    heavy = simulate(MODEL, site, replace(asked, rate=5 * most))
    assert light.busy < heavy.busy
    assert heavy.in_time < 0.9 < light.in_time
    assert heavy.p50 > 1.5 * light.p50


def test_users_ask_again_when_they_were_answered() -> None:
    """In a closed loop there are never more requests than users, so more users take more time."""
    site = Site(workers=1, rewards=1)
    one = simulate(MODEL, site, load(users=1, deadline=None))
    many = simulate(MODEL, site, load(users=10, deadline=None))
    assert one.throughput == pytest.approx(1 / one.p50, rel=0.5)
    assert many.throughput > 2 * one.throughput
    assert many.p50 > one.p50


def test_admission_turns_away_what_is_too_much() -> None:
    """With the service's rules some are refused of what is far too much, and the others are served
    sooner than where all are let in.
    """
    site, asked = Site(workers=1, rewards=1), load(rate=60.0, deadline=2.0)
    site_model = replace(MODEL, generator=replace(ENGINE, max_num_seqs=8))
    all_in = simulate(site_model, site, asked)
    some = simulate(site_model, site, asked, Ways(rules=AdmissionSettings().rules))
    assert all_in.refused == 0
    assert some.refused > 0.2 * some.requests
    assert some.p50 < all_in.p50


def test_a_shared_machine_is_slower() -> None:
    """Two engines on one core do less than on a core each."""
    asked = load(users=4, deadline=None, seconds=3.0)
    apart = simulate(MODEL, Site(workers=2, rewards=1), asked)
    shared = simulate(MODEL, Site(workers=2, rewards=1, cores=1.0), asked)
    assert shared.throughput < 0.8 * apart.throughput


def test_a_busy_orchestrator_holds_up_its_workers() -> None:
    """One orchestrator drives only so many calls a second, however many workers there are."""
    slow = replace(MODEL, orchestrator=OrchestratorModel(0.02, 0.02))
    asked = load(rate=12.0)
    one = simulate(slow, Site(workers=50, rewards=10, orchestrators=1), asked)
    several = simulate(slow, Site(workers=50, rewards=10, orchestrators=8), asked)
    assert one.orchestrators_busy > 0.8
    assert several.orchestrators_busy < 0.5
    assert several.p50 < 0.8 * one.p50


def test_a_thousand_workers_are_simulated() -> None:
    """A thousand workers hardly notice what would be too much for a few."""
    asked = load(seconds=4.0, warm=1.0, rate=25.0)
    figures = simulate(MODEL, Site(workers=1000, rewards=500, orchestrators=4), asked)
    assert figures.requests > 40
    assert figures.in_time == 1.0
    assert figures.busy < 0.2


def test_a_sweep_has_a_row_a_point_and_a_picture(tmp_path: Path) -> None:
    """Points come in their order, loads as parts of what can be taken, and are drawn."""
    sweep = Sweep(
        workers=(1, 3), loads=(0.2, 0.5), rate=None, rewards=0.5, orchestrators=None, requests=15
    )
    found = swept(MODEL, sweep, load(), processes=1)
    assert [(one.workers, one.rewards) for one in found] == [(1, 1), (1, 1), (3, 2), (3, 2)]
    assert found[0].offered < found[3].offered
    path = draw(found, tmp_path, title="a test")
    assert path.read_text(encoding="utf-8").startswith("<?xml")
    assert path.with_suffix(".png").stat().st_size > 1000


def test_few_workers_are_asked_for_longer_and_many_for_less() -> None:
    """So that a point of one worker says as much as one of many, and costs no less than it must."""
    sweep = Sweep(
        workers=(1, 10, 100),
        loads=(1.0,),
        rate=None,
        rewards=1.0,
        orchestrators=None,
        requests=500,
        least=100,
    )
    points = list(sweep.points(load(seconds=10.0), Need(0.5, 0.01, 0.001)))
    assert [asked.rate for _, asked in points] == [2.0, 20.0, 200.0]
    assert [asked.seconds for _, asked in points] == [50.0, 10.0, 2.5]
    assert points[0][1].warm == 12.5


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A file says all of a model, and what is no model says so."""
    path = tmp_path / "model.json"
    MODEL.save(path)
    assert Model.load(path) == MODEL
    path.write_text(json.dumps({"generator": 1}))
    with pytest.raises(ModelError, match="--fit"):
        Model.load(path)


def test_the_reference_model_is_there() -> None:
    """What ships can be simulated by, and has questions of each kind."""
    model = Model.load(REFERENCE)
    assert model.reward is not None
    assert {one.split for one in model.questions} == {"easy", "hard", "compound"}
    assert {one.split for one in model.of("easy, hard")} == {"easy", "hard"}
    with pytest.raises(ModelError, match="compound, easy, hard"):
        model.of("trivia")
