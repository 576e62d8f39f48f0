"""A process that ends with the one that started it, also where that is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

_PERIOD_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Have this process end when `parent` isn't its parent any more, also if that is so already.

    The kernel does that at once, even while this process is stopped and can do nothing itself; the
    watch is for where it can't be asked to.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _end_unless_under(parent)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while True:
        time.sleep(_PERIOD_SECONDS)
        _end_unless_under(parent)


def _end_unless_under(parent: int) -> None:
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
