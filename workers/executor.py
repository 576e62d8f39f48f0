"""Where the model runs: in the engine's own process, which ends with the replica it belongs to.

vLLM's engine process doesn't notice that the process which started it was killed. It would go on,
with all its memory, for nobody.
"""

from __future__ import annotations

import os

from vllm.v1.executor.uniproc_executor import UniProcExecutor

from workers.ending import end_with
from workers.environment import REPLICA_PID

_NICE = 5


class ReplicaExecutor(UniProcExecutor):
    """One worker, without a process of its own.

    On the CPU vLLM would start a third process for it, which imports as long as the other two, and
    every step would cross one more border. Its reason, that threads can be pinned only in a new
    process, is none here: engines that share a machine must not be pinned.
    """

    def _init_executor(self) -> None:
        end_with(int(os.environ[REPLICA_PID]) if REPLICA_PID in os.environ else os.getppid())
        if self.vllm_config.device_config.device_type == "cpu":
            # It computes all the time, and those who take requests and drive searches wake up for
            # a moment: on the same cores, they shouldn't wait for it.
            os.nice(_NICE)
        super()._init_executor()
