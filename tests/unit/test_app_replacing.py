"""SIGHUP replaces all replicas, and the service goes on; SIGTERM ends it."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from typing import Any, cast

import pytest

from planner.calibration import Calibration
from services import app
from services.settings import (
    GeneratorSettings,
    RaySettings,
    RedisSettings,
    ServiceSettings,
    Settings,
)


class Application:
    """Notes by which settings it was deployed anew."""

    def __init__(self) -> None:
        self.deployed: list[Settings] = []

    def deploy(self, settings: Settings, calibration: Calibration | None) -> None:
        """Nothing is started."""
        self.deployed.append(settings)


def service(settings: Settings) -> tuple[app.Service, Application]:
    application = Application()
    running = app.Service(settings, "http://a", ExitStack(), cast("Any", application))
    return running, application


def send(*signals: signal.Signals) -> None:
    """Send these to this process, as an operator does while it waits."""
    for place, one in enumerate(signals):
        threading.Timer(0.2 + 0.2 * place, os.kill, (os.getpid(), one)).start()


def test_sighup_replaces_and_sigterm_ends() -> None:
    """As often as it comes; what was in place before is in place afterwards."""
    running, application = service(Settings())
    before = signal.getsignal(signal.SIGHUP)
    send(signal.SIGHUP, signal.SIGHUP, signal.SIGTERM)
    running.wait()
    assert application.deployed == [Settings(), Settings()]
    assert signal.getsignal(signal.SIGHUP) is before


def test_whoever_waits_may_say_what_it_is_replaced_by() -> None:
    """`longthink serve` reads its profile again."""
    running, application = service(Settings())
    called: list[bool] = []
    send(signal.SIGHUP, signal.SIGINT)
    running.wait(lambda: called.append(True))
    assert (called, application.deployed) == ([True], [])


def test_a_closed_terminal_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wants it to go on behind a terminal that is gone."""
    there = iter([True, False])
    monkeypatch.setattr(app, "_at_terminal", lambda: next(there))
    running, application = service(Settings())
    send(signal.SIGHUP)
    running.wait()
    assert application.deployed == []


def test_what_a_running_service_cannot_change_stays() -> None:
    """Where it listens, and its Ray and Redis: all else is as the new settings say."""
    running, application = service(
        Settings(
            service=ServiceSettings(port=8001, replicas=2),
            redis=RedisSettings(url="redis://a"),
            ray=RaySettings(address="a:1"),
        )
    )
    running.replace(
        Settings(
            service=ServiceSettings(port=9000, replicas=3, default_effort="low"),
            redis=RedisSettings(url="redis://b"),
            generator=GeneratorSettings(replicas=5),
        )
    )
    (now,) = application.deployed
    assert (now.service.port, now.service.replicas, now.service.default_effort) == (8001, 3, "low")
    assert (now.redis.url, now.ray.address, now.generator.replicas) == ("redis://a", "a:1", 5)
    assert running.settings == now
