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
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from ray.cluster_utils import Cluster

from services.app import Service
from services.settings import RaySettings, RedisSettings
from tests.chaos.asking import AGAIN_SECONDS, Record, asked, kill, settings, until_up, up
from tests.chaos.figures import Figure, tell
from tests.integration.redis_process import RedisProcess

ENGINES = 2


def main(clients: int = 4, seconds: int = 15) -> int:
    with RedisProcess() as redis, RedisProcess() as rays, _cluster(rays) as cluster:
        there = RaySettings(address=cluster.address)
        of_two = settings(ENGINES, redis=RedisSettings(url=redis.url), ray=there)
        with Service.start(of_two) as service:
            record, again = asyncio.run(restart(service.url, cluster, clients, seconds))
    return tell(
        (
            Figure(
                f"answered while Ray's head was dead for {seconds} s and came back",
                "all that were accepted",
                str(record),
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
    head: Any = cluster.head_node
    async with asked(url, clients) as record:
        await asyncio.sleep(seconds)
        head.kill_gcs_server()
        await asyncio.sleep(seconds)
        head.start_gcs_server()  # which would end with the thread that started it
        await asyncio.sleep(seconds)
        victim, *_ = await asyncio.to_thread(up, "generator")
        kill(victim)
        again = await until_up(ENGINES, without={victim.pid})
        await asyncio.sleep(seconds)
    return record, again


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
