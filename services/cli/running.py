"""The service that a command talks to: one that runs already, or one of its own.

A service started here is stopped again however the command ends, short of SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from services.profiles import load

if TYPE_CHECKING:
    from services.app import Service
    from services.settings import Settings


@contextmanager
def service(
    url: str | None, profile: Path | None, assignments: Sequence[str], told: Console
) -> Iterator[str]:
    """The URL of a service that answers. One started for this takes any free port."""
    if url is not None:
        yield url
        return
    settings = load(profile, ["service.port=0", *assignments])
    with started(settings, told) as running:
        yield running.url


@contextmanager
def started(settings: Settings, told: Console, *, logs: bool = False) -> Iterator[Service]:
    """A service that was started here; `told` shows how far the start has come.

    `logs` has the output of its processes on standard error.

    SIGTERM ends what is inside as Ctrl-C does.
    """
    from services.app import Service  # noqa: PLC0415 - brings Ray with it

    with _terminable() as terminable:
        running = _start(Service, settings, told, logs)
        try:
            terminable()  # Ray has put a handler of its own in place while it started
            yield running
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with told.status("Stopping"):
                running.stop()


def _start(kind: type[Service], settings: Settings, told: Console, logs: bool) -> Service:
    began = time.monotonic()

    def tell(line: str) -> None:
        told.print(f"[dim]{time.monotonic() - began:5.1f} s[/]  {line}", highlight=False)

    with told.status("Starting"):
        running = kind.start(settings, tell=tell, logs=logs)
    tell("ready")
    return running


@contextmanager
def _terminable() -> Iterator[Callable[[], None]]:
    """While inside, SIGTERM raises KeyboardInterrupt; calling what it gives makes that so again."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def install() -> None:
        signal.signal(signal.SIGTERM, interrupt)

    before = signal.getsignal(signal.SIGTERM)
    install()
    try:
        yield install
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def own_output() -> Iterator[TextIO]:
    """Standard output for the result alone.

    Whatever else writes there while inside, of this process or of its children, goes to standard
    error instead.
    """
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as ours:
        os.dup2(2, 1)
        try:
            yield ours
        finally:
            sys.stdout.flush()
            ours.flush()
            os.dup2(ours.fileno(), 1)
