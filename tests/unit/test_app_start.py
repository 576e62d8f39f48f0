"""A service that does not start leaves nothing behind on the cluster it found."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray import serve

from services import app
from services.settings import RaySettings, RedisSettings, Settings

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
    monkeypatch.setattr(serve, "delete", names.append)
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

        def __getattr__(self, name: str) -> Any:
            return self

        def result(self, timeout_s: float) -> None:
            return None

        def remote(self, seconds: float) -> Any:
            return self

    monkeypatch.setattr(serve, "run", lambda *_, **__: Handle())
    service = app.Service.start(ELSEWHERE)
    assert deleted == []
    service.stop()
    service.stop()
    assert deleted == ["longthink"]
