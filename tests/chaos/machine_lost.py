"""A machine of the cluster goes, with the engine on it, under load: what was accepted is answered.

    python -m tests.chaos.machine_lost [CLIENTS] [SECONDS]

makes a Ray cluster of three nodes on this machine, connects the service to it with two engines, has
CLIENTS (4) ask all the time, and after SECONDS (15) kills the raylet of a node that has an engine
and not the edge, and all that it had started. What must hold: every accepted request is answered,
and there are two engines again, on the nodes that are left.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from services.app import Service
from services.settings import RaySettings, RedisSettings
from tests.chaos.asking import AGAIN_SECONDS, Record, asked, replicas, settings, until_up
from tests.chaos.figures import Figure, tell
from tests.integration.redis_process import RedisProcess

ENGINES = 2


def main(clients: int = 4, seconds: int = 15) -> int:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    try:
        with RedisProcess() as redis:
            there = RaySettings(address=cluster.address)
            of_two = settings(ENGINES, redis=RedisSettings(url=redis.url), ray=there)
            with Service.start(of_two) as service:
                record, again = asyncio.run(lose(service.url, cluster, nodes, clients, seconds))
    finally:
        cluster.shutdown()
    return tell(
        (
            Figure(
                "answered while one of three machines went, and one of two engines with it",
                "all that were accepted",
                str(record),
                held=record.share == 1.0,
            ),
            Figure(
                "two engines again, on the machines that were left",
                f"within {AGAIN_SECONDS:.0f} s",
                "never" if again is None else f"{again:.0f} s",
                held=again is not None,
            ),
        )
    )


async def lose(
    url: str, cluster: Cluster, nodes: list[Any], clients: int, seconds: float
) -> tuple[Record, float | None]:
    """What became of the requests, and after how many seconds there were two engines again."""
    async with asked(url, clients) as record:
        await asyncio.sleep(seconds)
        lost = _with_an_engine_only(nodes)
        await asyncio.to_thread(cluster.remove_node, lost, allow_graceful=False)
        again = await until_up(ENGINES)
        await asyncio.sleep(seconds)
    return record, again


def _with_an_engine_only(nodes: list[Any]) -> Any:
    """A node that has an engine, and not the edge."""
    engines, edges = (
        {parent.pid for one in replicas(kind) for parent in one.parents()}
        for kind in ("generator", "edge")
    )
    for node in nodes:
        (raylet,) = node.all_processes["raylet"]
        assert psutil.pid_exists(raylet.process.pid)
        if raylet.process.pid in engines - edges:
            return node
    raise RuntimeError("No node beside the head has an engine and not the edge: try again.")


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
