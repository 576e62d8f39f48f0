"""Ray's head dies and comes back, under load: what was accepted is answered, and Ray mends again.

    python -m tests.chaos.head_restarted [CLIENTS] [SECONDS]

makes a Ray cluster of two nodes on this machine whose head keeps its state in a Redis, connects the
service to it with two engines, has CLIENTS (4) ask all the time, and after SECONDS (15) kills the
head's GCS server; SECONDS later it is started anew, and an engine is killed. What must hold: every
accepted request is answered, those without a head as well, and there are two engines again.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from ray.cluster_utils import Cluster

from services.app import Service
from services.settings import (
    GeneratorSettings,
    RaySettings,
    RedisSettings,
    RewardSettings,
    ServiceSettings,
    Settings,
)
from tests.chaos.asking import Record, ask_until, kill, up
from tests.chaos.figures import Figure, tell
from tests.integration.redis_process import RedisProcess

CANDIDATES = 4
ENGINES = 2
AGAIN_SECONDS = 180.0
"""How long a new engine may take to be there; starting one takes half a minute on two cores."""


def main(clients: int = 4, seconds: int = 15) -> int:
    with RedisProcess() as redis, RedisProcess() as rays, _cluster(rays) as cluster:
        settings = Settings(
            redis=RedisSettings(url=redis.url),
            ray=RaySettings(address=cluster.address),
            service=ServiceSettings(port=0, log_level="warning"),
            generator=GeneratorSettings(replicas=ENGINES),
            reward=RewardSettings(enabled=False),
        )
        with Service.start(settings) as service:
            record, again = asyncio.run(restart(service.url, cluster, clients, seconds))
    counts = f"{record.answered} of {record.accepted}, {record.refused} refused"
    times = f"p50 {record.percentile(0.5):.1f} s, p99 {record.percentile(0.99):.1f} s"
    return tell(
        (
            Figure(
                f"answered while Ray's head was dead for {seconds} s and came back",
                "all that were accepted",
                f"{record.share:.2%} ({counts}; {times}) {dict(record.failures) or ''}",
                held=record.share == 1.0,
            ),
            Figure(
                "an engine killed after that is replaced",
                f"within {AGAIN_SECONDS:.0f} s",
                "never" if again is None else f"{again:.0f} s",
                held=again is not None,
            ),
        )
    )


@contextmanager
def _cluster(redis: RedisProcess) -> Iterator[Cluster]:
    """A cluster whose head can be started anew, as what it knows is in that Redis."""
    address = redis.url.removeprefix("redis://")
    with patch.dict(os.environ, {"RAY_REDIS_ADDRESS": address}):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        cluster.add_node(num_cpus=2)
    try:
        yield cluster
    finally:
        cluster.shutdown()


async def restart(
    url: str, cluster: Cluster, clients: int, seconds: float
) -> tuple[Record, float | None]:
    """What became of the requests, and after how many seconds the killed engine was replaced."""
    over = asyncio.Event()
    asking = asyncio.create_task(ask_until(url, over, clients=clients, candidates=CANDIDATES))
    head: Any = cluster.head_node
    try:
        await asyncio.sleep(seconds)
        head.kill_gcs_server()
        await asyncio.sleep(seconds)
        head.start_gcs_server()  # which would end with the thread that started it
        await asyncio.sleep(seconds)
        victim = random.Random(1).choice(await asyncio.to_thread(up, "generator"))
        kill(victim)
        again = await _replaced(victim.pid)
        await asyncio.sleep(seconds)
    finally:
        over.set()
    return await asking, again


async def _replaced(pid: int) -> float | None:
    """The seconds until there are as many engines as before without that process."""
    began = time.monotonic()
    while time.monotonic() - began < AGAIN_SECONDS:
        await asyncio.sleep(0.5)
        engines = {one.pid for one in await asyncio.to_thread(up, "generator")}
        if len(engines - {pid}) >= ENGINES:
            return time.monotonic() - began
    return None


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
