"""Which of the processes below this one are replicas of Ray Serve, and which are their engines."""

from __future__ import annotations

import psutil


def replicas(deployment: str) -> list[psutil.Process]:
    """The replicas of a deployment, by the beginning of its full name, up or not."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if f"ServeReplica:{deployment}" in _command(process)
    ]


def engines(replica: psutil.Process) -> list[psutil.Process]:
    """The engine of a replica on the CPU, once it has begun to load: only it gives way to others.

    It can't be told by its title. To give itself one a process writes over its command line, which
    it finds beside the first variable of its environment; where that one was set anew, it has none.
    """
    try:
        return [child for child in replica.children() if child.nice() > replica.nice()]
    except psutil.Error:
        return []  # it is on its way out


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
