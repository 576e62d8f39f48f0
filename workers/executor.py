"""Where the model runs: in the engine's own process, which ends with the replica it belongs to.

vLLM's engine process doesn't notice that the process which started it was killed. It would go on,
with all its memory, for nobody.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

from vllm.v1.executor.uniproc_executor import UniProcExecutor

from workers.environment import REPLICA_PID

_PERIOD_SECONDS = 0.5
_NICE = 5
_PR_SET_PDEATHSIG = 1


class ReplicaExecutor(UniProcExecutor):
    """One worker, without a process of its own.

    On the CPU vLLM would start a third process for it, which imports as long as the other two, and
    every step would cross one more border. Its reason, that threads can be pinned only in a new
    process, is none here: engines that share a machine must not be pinned.
    """

    def _init_executor(self) -> None:
        _end_with(int(os.environ[REPLICA_PID]) if REPLICA_PID in os.environ else os.getppid())
        if self.vllm_config.device_config.device_type == "cpu":
            # It computes all the time, and those who take requests and drive searches wake up for
            # a moment: on the same cores, they shouldn't wait for it.
            os.nice(_NICE)
        super()._init_executor()


def _end_with(parent: int) -> None:
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
