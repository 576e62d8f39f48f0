"""A service that does not start leaves nothing behind on the cluster it found."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve
from ray.serve.config import HTTPOptions

from planner.calibration import Calibration
from services import app
from services.calibration import CalibrationError, save
from services.settings import (
    GeneratorSettings,
    PlannerSettings,
    RaySettings,
    RedisSettings,
    RewardSettings,
    ServiceSettings,
    Settings,
)

ELSEWHERE = Settings(
    redis=RedisSettings(url="redis://a"), ray=RaySettings(address="ray.example.org:6379")
)


@pytest.fixture
def deleted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The applications that were deleted. Ray is neither started nor called."""
    names: list[str] = []
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(serve, "start", lambda **_: None)
    clients = itertools.chain([None], itertools.repeat(SimpleNamespace()))
    monkeypatch.setattr(app, "_get_global_client", lambda **_: next(clients))
    monkeypatch.setattr(serve, "delete", names.append)
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={"another": None}))
    monkeypatch.setattr(app, "_ENVIRONMENT", {})
    return names


@pytest.mark.parametrize("error", [RuntimeError("no GPU"), KeyboardInterrupt()], ids=repr)
def test_a_failed_start_takes_its_engines_off_the_cluster(
    deleted: list[str], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Whether the engines fail or the operator loses patience, none of them stays."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(serve, "run", fail)
    with pytest.raises((app.ServiceError, KeyboardInterrupt)):
        app.Service.start(ELSEWHERE)
    assert deleted == ["longthink"]


def test_a_service_that_stops_takes_its_engines_off_the_cluster(
    deleted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay as long as the service does, and go once."""

    class Handle:
        """Nothing is under way there."""

        def broadcast(self, method: str, seconds: float) -> Any:
            assert method == "drain"
            return self

        async def results_async(self, *, return_exceptions: bool) -> list[None]:
            return [None]

    monkeypatch.setattr(serve, "run", lambda *_, **__: None)
    monkeypatch.setattr(app, "DeploymentHandle", lambda *_: Handle())
    service = app.Service.start(ELSEWHERE)
    assert deleted == []
    service.stop()
    service.stop()
    assert deleted == ["longthink"]


@pytest.mark.parametrize(
    ("found", "others", "goes"),
    [(False, (), True), (False, ("another",), False), (True, (), False)],
)
def test_serve_goes_with_whom_it_came_and_if_nobody_else_needs_it(
    deleted: list[str],
    monkeypatch: pytest.MonkeyPatch,
    found: bool,
    others: tuple[str, ...],
    goes: bool,
) -> None:
    """Serve that was found stays, and so does Serve that somebody else uses by now."""
    port = ELSEWHERE.service.port
    client = SimpleNamespace(http_config=HTTPOptions(host=ELSEWHERE.service.host, port=port))
    clients = itertools.chain([client if found else None], itertools.repeat(client))
    monkeypatch.setattr(app, "_get_global_client", lambda **_: next(clients))
    monkeypatch.setattr(
        serve, "status", lambda: SimpleNamespace(applications=dict.fromkeys(others))
    )
    shut: list[bool] = []
    monkeypatch.setattr(serve, "shutdown", lambda: shut.append(True))

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no GPU")

    monkeypatch.setattr(serve, "run", fail)
    with pytest.raises(app.ServiceError, match="no GPU"):
        app.Service.start(ELSEWHERE)
    assert deleted == ["longthink"]
    assert shut == [True] * goes


def test_a_second_signal_means_at_once(deleted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The edge is told to hurry, once, and what was started is stopped all the same."""
    asked: list[str] = []

    class Handle:
        """An edge that has requests under way until it is told to hurry."""

        def broadcast(self, method: str, *_: float) -> Any:
            asked.append(method)
            return self

        async def results_async(self, *, return_exceptions: bool) -> list[None]:
            while "hurry" not in asked:
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(0.1)
            return [None]

    monkeypatch.setattr(serve, "run", lambda *_, **__: None)
    monkeypatch.setattr(app, "DeploymentHandle", lambda *_: Handle())
    service = app.Service.start(ELSEWHERE)
    before = signal.getsignal(signal.SIGTERM)
    began = time.monotonic()
    service.stop()
    assert asked == ["drain", "hurry"]
    assert time.monotonic() - began < 10, "far less than the grace period"
    assert deleted == ["longthink"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_models_calibration_is_refused_before_anything_starts(
    deleted: list[str], tmp_path: Path
) -> None:
    """Whoever names a file wants it used; the one that ships is only of the model that ships."""
    path = tmp_path / "calibration.json"
    save(Calibration("another"), path)
    service = ServiceSettings(calibration=str(path))
    with pytest.raises(app.ServiceError, match="is the calibration of another"):
        app.Service.start(ELSEWHERE.model_copy(update={"service": service}))
    with pytest.raises(CalibrationError, match="can't be read"):
        app.Service.start(
            ELSEWHERE.model_copy(update={"service": ServiceSettings(calibration="/nowhere")})
        )
    assert deleted == []


@pytest.mark.parametrize(
    ("planner", "reward", "handed", "said"),
    [
        (False, True, {"reward"}, "2 x longthink-reference and 1 x reward model"),
        (True, False, {"planner"}, "2 x longthink-reference and 3 x planner"),
        (False, False, set(), "2 x longthink-reference"),
        (True, True, {"planner", "reward"}, "2 x longthink-reference and 3 x planner and 1 x"),
    ],
)
def test_the_profiles_engines_are_started(
    deleted: list[str],
    monkeypatch: pytest.MonkeyPatch,
    planner: bool,
    reward: bool,
    handed: set[str],
    said: str,
) -> None:
    """Each kind is a deployment of its own, which the edge gets a handle of."""
    bound: dict[str, Any] = {}

    def stop(deployment: Any, *_: Any, **__: Any) -> None:
        bound.update(deployment._bound_deployment.init_kwargs)
        raise RuntimeError("far enough")

    monkeypatch.setattr(serve, "run", stop)
    settings = ELSEWHERE.model_copy(
        update={
            "generator": GeneratorSettings(replicas=2),
            "planner": PlannerSettings(enabled=planner, replicas=3),
            "reward": RewardSettings(enabled=reward),
        }
    )
    told: list[str] = []
    with pytest.raises(app.ServiceError, match="far enough"):
        app.Service.start(settings, tell=told.append)
    assert bound.keys() - {"calibration"} == handed
    assert {bound[kind]._bound_deployment.name for kind in handed} == handed
    assert told[-1].startswith(f"Engines: starting {said}")


@pytest.mark.parametrize(
    ("calibration", "served", "known"),
    [("reference", None, True), ("reference", "other", False), (None, None, False)],
)
def test_the_profiles_calibration_reaches_the_edge(
    deleted: list[str],
    monkeypatch: pytest.MonkeyPatch,
    calibration: str | None,
    served: str | None,
    known: bool,
) -> None:
    """Read where the service is started, as the edge may run on another machine."""
    handed: list[Calibration | None] = []

    def stop(deployment: Any, *_: Any, **__: Any) -> None:
        handed.append(deployment._bound_deployment.init_kwargs["calibration"])
        raise RuntimeError("far enough")

    monkeypatch.setattr(serve, "run", stop)
    settings = ELSEWHERE.model_copy(
        update={
            "service": ServiceSettings(calibration=calibration),
            "generator": GeneratorSettings(served_name=served),
        }
    )
    with pytest.raises(app.ServiceError, match="far enough"):
        app.Service.start(settings)
    assert [one is not None for one in handed] == [known]
