"""What killed processes leave behind is removed, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.leftovers import Scratch, SharedMemory
from workers.environment import SCRATCH, set_environment
from workers.options import GeneratorOptions

HOLD = """
import multiprocessing, time
lock = multiprocessing.get_context("spawn").Lock()
print(lock._semlock.name, flush=True)
time.sleep(60)
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment is put back as it was."""
    before = dict(os.environ)
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_semaphores_of_the_killed_are_removed() -> None:
    """Those that processes started from here had open; the semaphores of others stay."""
    # With a process between the two: what children have started counts as well.
    shell = ["/bin/sh", "-c", '"$@" & wait', "sh", sys.executable, "-c", HOLD]
    with subprocess.Popen(shell, stdout=subprocess.PIPE, text=True, start_new_session=True) as one:
        assert one.stdout is not None
        file = Path("/dev/shm") / ("sem." + one.stdout.readline().strip().removeprefix("/"))
        assert file.exists()
        other = Path("/dev/shm") / f"longthink-test-{os.getpid()}"
        other.touch()
        shared = SharedMemory()
        os.killpg(one.pid, signal.SIGKILL)
    assert file.exists(), "nobody was left to remove it"
    shared.remove()
    assert not file.exists()
    assert other.exists()
    other.unlink()


def test_what_engines_put_down_goes_with_the_service(environment: None) -> None:
    """Their temporary files lie in one folder, while it is there."""
    options = GeneratorOptions(model="nowhere")
    with Scratch() as folder:
        assert os.environ[SCRATCH] == str(folder)
        set_environment(options)
        assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(folder)
        (folder / "socket").touch()
    assert not folder.exists()
    assert SCRATCH not in os.environ
