"""Where the model runs: in the engine's own process, which ends with the replica it belongs to.

vLLM's engine process doesn't notice that the process which started it was killed. It would go on,
with all its memory, for nobody.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from vllm.v1.executor.uniproc_executor import UniProcExecutor

_PERIOD_SECONDS = 0.5


class ReplicaExecutor(UniProcExecutor):
    """One worker, without a process of its own.

    On the CPU vLLM would start a third process for it, which imports as long as the other two, and
    every step would cross one more border. Its reason, that threads can be pinned only in a new
    process, is none here: engines that share a machine must not be pinned.
    """

    def _init_executor(self) -> None:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        super()._init_executor()


def _end_with(parent: int) -> None:
    """End this process when `parent` isn't its parent any more."""
    while os.getppid() == parent:
        time.sleep(_PERIOD_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
