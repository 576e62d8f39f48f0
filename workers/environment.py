"""The environment variables that an engine's replica runs under.

Set inside the replica, before vLLM is imported: a replica is a process of its own, so its
environment is its own too, and the engine's process inherits it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from workers.options import EngineOptions

REPLICA_PID = "_LONGTHINK_REPLICA_PID"
"""The variable that says whose child the engine's process is, from before that one is there."""
SCRATCH = "LONGTHINK_SCRATCH"
"""Names the folder for sockets and files of the engines, where whoever starts them removes it."""


def set_environment(options: EngineOptions) -> None:
    """Tell vLLM and its libraries what the engine's options can't."""
    os.environ[REPLICA_PID] = str(os.getpid())
    scratch = os.environ.get(SCRATCH)
    if scratch is not None and Path(scratch).is_dir():
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if Path(options.model).is_dir():
        # Nothing to ask the hub about a model that is here.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.on_cpu:
        os.environ.update(_on_cpu(options))


def _on_cpu(options: EngineOptions) -> dict[str, str]:
    return {
        # vLLM compiles its ranking of log-probabilities however eager the model: the first request
        # that asks for them would stop every other one for as long as a C++ compiler takes.
        "TORCHDYNAMO_DISABLE": "1" if options.enforce_eager else "0",
        # Engines share the machine's cores: pinned, all would sit on the same ones.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(options.threads),
    }
