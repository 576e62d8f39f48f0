"""What the processes of a service that runs on this machine have taken of its cores."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import psutil

_KINDS = ("generator", "reward", "planner", "edge")
OTHERS = "others"


def cpu_seconds() -> Mapping[str, float]:
    """CPU seconds until now, by kind of worker, of all processes under this one.

    What belongs to no worker is under "others", this process itself excepted.
    """
    taken = dict.fromkeys((*_KINDS, OTHERS), 0.0)
    kinds: dict[int, str] = {}
    for process in psutil.Process().children(recursive=True):
        # One that has just ended has nothing more to say.
        with suppress(psutil.Error):
            named = _kind(process)
            kind = named or kinds.get(process.ppid(), OTHERS)
            kinds[process.pid] = kind
            times = process.cpu_times()
            taken[kind] += times.user + times.system
    return taken


def _kind(process: psutil.Process) -> str | None:
    title = " ".join(process.cmdline()[:1])
    if "ServeReplica" not in title:
        return None
    return next((kind for kind in _KINDS if f":{kind}" in title), None)
