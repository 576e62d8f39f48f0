"""What processes take of the machine's cores."""

from __future__ import annotations

import subprocess
import sys

from services.simulation.processes import OTHERS, cpu_seconds


def test_a_child_that_works_is_counted() -> None:
    """CPU time of a child that is no worker is others', and of no kind of worker."""
    before = cpu_seconds()
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint('', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        after = cpu_seconds()
        child.communicate(b"\n")
    assert after[OTHERS] - before[OTHERS] >= 0.2
    assert after["generator"] == before["generator"] == 0.0
