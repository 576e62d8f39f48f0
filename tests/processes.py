"""Which of the processes below this one are replicas of Ray Serve, and which are their engines."""

from __future__ import annotations

import psutil

_ENGINE = ("EngineCore", "--multiprocessing-fork")
"""An engine's command line has its title, or else the one it was started with.

To give itself a title a process writes over its own command line. It finds that beside the first
variable of its environment, so it keeps the one it had where that variable was set anew, and Ray
hands variables on in any order.
"""


def replicas(deployment: str = "") -> list[psutil.Process]:
    """The replicas of a deployment, or of any, by the beginning of its full name, up or not."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if f"ServeReplica:{deployment}" in _command(process)
    ]


def engines(replica: psutil.Process) -> list[psutil.Process]:
    """The engine that a replica has, if it has one: of those on their way out it has none."""
    try:
        children = replica.children()
    except psutil.Error:
        return []
    return [child for child in children if any(name in _command(child) for name in _ENGINE)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
