"""A sweep uses several processes, and leaves none."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

COMMAND = (sys.executable, "-m", "services.cli", "simulate", "--workers", "100", "--processes", "2")


@pytest.mark.parametrize("stop", ["terminate", "kill"])
def test_no_process_outlives_a_sweep_that_is_ended(stop: str) -> None:
    """Whoever ends the command has ended all of it."""
    with subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sweep:
        started = psutil.Process(sweep.pid)
        until = time.monotonic() + 60
        while len(working := _working(started)) < 2:
            assert time.monotonic() < until
            assert sweep.poll() is None
            time.sleep(0.1)
        getattr(sweep, stop)()
    _, left = psutil.wait_procs(working, timeout=30)
    assert not left


def _working(sweep: psutil.Process) -> list[psutil.Process]:
    """Its processes that have begun to simulate."""
    children = sweep.children()
    return [child for child in children if child.cpu_times().user > 2.0 and child.is_running()]
