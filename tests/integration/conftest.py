"""Real engines on real Ray Serve, started once for all tests that ask for them.

Two generators, a process reward model and an outcome reward model, all at the same time, on
checkpoints too small to be of use. When the tests are over nothing of them may be left running.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
import pytest_asyncio

# Read by Ray and Ray Serve when they are imported: as the service has it.
os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"
# But here the event loop stands still between a fixture and its test, and a handle to which
# something was to be told in that moment never hears of a replica again.
os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"
os.environ["RAY_SERVE_ENABLE_DIRECT_INGRESS"] = "0"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 Ray spells its settings so

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from services.redis_server import RedisServer
from tests.integration import checkpoints
from workers.deployments import generators, rewards
from workers.options import GeneratorOptions, RewardOptions
from workers.pool import ServePool

SILENCE_SECONDS = 12.0
"""How long an engine may finish no step until it is taken for hung."""

QUEUE = 300
"""How many requests a generator takes in before it refuses more."""


@dataclass(frozen=True)
class Engines:
    """The running engines, and the folders of their checkpoints."""

    folder: Path

    def handle(self, name: Literal["generator", "process", "outcome"]) -> DeploymentHandle[Any]:
        """A new way to the engines of this name."""
        return serve.get_app_handle(name)


@pytest.fixture(scope="session")
def engines(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[Engines]:
    """All engines, up. The redis-server of other tests is there before and after them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    # In 32 bits what stands beside a sequence in its batch makes no difference to its tokens.
    small: dict[str, Any] = {"kv_space_gib": 0.25, "max_num_seqs": 32, "dtype": "float32"}
    generator = GeneratorOptions(
        model=str(checkpoints.generator(folder / "generator")),
        replicas=2,
        max_queued_requests=QUEUE,
        silence_seconds=SILENCE_SECONDS,
        **small,
    )
    process = RewardOptions(model=str(checkpoints.process_reward(folder / "process")), **small)
    outcome = RewardOptions(
        model=str(checkpoints.outcome_reward(folder / "outcome")), kind="outcome", **small
    )
    # Python's own tracker stays as long as this process, whichever test would have started it.
    resource_tracker.ensure_running()
    others = _started()
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    serve.start(proxy_location="Disabled", logging_config=quiet)
    applications = {
        "generator": generators(generator),
        "process": rewards(process),
        "outcome": rewards(outcome),
    }
    serve.run_many(
        [
            serve.RunTarget(application, name=name, route_prefix=None, logging_config=quiet)
            for name, application in applications.items()
        ]
    )
    yield Engines(folder)
    started = [process for process in _started() if process not in others]
    ray.shutdown()
    # On a machine that is starved, an agent of Ray's own may take the minute that its HTTP server
    # waits for connections to close.
    _, left = psutil.wait_procs(started, timeout=90)
    assert not left, f"left running: {[process.cmdline() for process in left]}"


@pytest_asyncio.fixture(loop_scope="session")
async def pool(engines: Engines) -> AsyncIterator[ServePool]:
    """Both generators and the process reward model, as one."""
    yield ServePool(engines.handle("generator"), engines.handle("process"), generators=2, rewards=1)


def _started() -> list[psutil.Process]:
    """All that was started from here, and by that in turn, Ray's daemons included."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.is_running() and "redis-server" not in child.name()
    ]
