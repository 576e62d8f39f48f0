"""What a candidate costs the orchestrators of one large site, against many sites of one worker.

    python -m tests.bench.own_cost [--workers N] [--rounds N]

Each site's admission, planner and driver run on the simulator's clock at nine tenths of what its
workers can take, N sites of one worker beside one another in one process, or one site of N: as much
is asked, kept and awaited either way, so that caches cost both about the same, and what differs
hangs on the size of a site: on how many workers an orchestrator chooses from, say. They take turns.
Prints one JSON object: the CPU milliseconds a candidate either way, and the ratio of the two, the
median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from statistics import median
from time import process_time

from services.cli.simulating import ways_of
from services.simulation import clock
from services.simulation.capacity import Need, need
from services.simulation.model import REFERENCE, Model
from services.simulation.run import Course, Load, Service, Site, Ways
from services.simulation.sweep import Sweep
from services.simulation.watch import Watch

PART = 0.9
"""How much is asked, of what the workers can take."""
REQUESTS = 10_000
"""What is simulated at most."""


@dataclass(frozen=True, slots=True)
class Compared:
    """CPU milliseconds a candidate, in one large site and in as many sites as it has workers."""

    workers: int
    one_site_ms: float
    many_sites_ms: float
    ratio: float


def compare(model: Model, load: Load, workers: int, rounds: int) -> Compared:
    """One site against many, each measured in a process of its own."""
    ways = ways_of(None, ())
    needed = need(model, load, ways)
    most = PART * needed.capacity(workers, workers)
    load = replace(load, seconds=min(load.seconds, REQUESTS / most))
    one, many = [], []
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for _ in range(rounds):
            one.append(pool.apply(cost, (model, needed, load, ways, workers, 1)))
            many.append(pool.apply(cost, (model, needed, load, ways, 1, workers)))
    ratio = median(large / small for large, small in zip(one, many, strict=True))
    return Compared(workers, median(one), median(many), ratio)


def cost(model: Model, needed: Need, load: Load, ways: Ways, workers: int, sites: int) -> float:
    """Milliseconds a candidate, where so many sites of so many workers each run side by side."""
    sweep = Sweep(
        workers=(workers,),
        loads=(PART,),
        rate=None,
        rewards=1.0,
        orchestrators=None,
        requests=REQUESTS,
    )
    ((site, asked),) = sweep.points(load, needed)
    random.seed(asked.seed)  # for those who draw without a generator of their own
    watch = Watch()
    began = process_time()
    courses = clock.run(_side_by_side(model, site, asked, ways, watch, sites))
    own = process_time() - began - watch.seconds
    return 1000 * own / sum(one.candidates for course in courses for one in course.asked)


async def _side_by_side(
    model: Model, site: Site, load: Load, ways: Ways, watch: Watch, sites: int
) -> Sequence[Course]:
    services = [
        Service(model, site, replace(load, seed=load.seed + place), ways, watch)
        for place in range(sites)
    ]
    return await asyncio.gather(*(service.run() for service in services))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    model = Model.load(REFERENCE)
    load = Load(questions=model.of("easy,hard"), efforts=("low",), seconds=5, deadline=3)
    compared = compare(model, load, asked.workers, asked.rounds)
    print(json.dumps(asdict(compared)))  # noqa: T201


if __name__ == "__main__":
    main()
