"""The simulator against the reference models, and what it says of a thousand workers.

    python -m tests.chaos.simulator [SECONDS]

has 1, 4 and 12 users ask the embedded service for SECONDS (60), with one engine and with two, and
simulates the same with what was measured of its workers right before, at the pace that the machine
has by then (see `tests.bench.simulator`). Then it simulates 1 to 1,000 of them at what they can
take, and at twice as much. What must hold: requests a second and median latency are within 15% of
the real ones; goodput under twice the load is at least 90% of its peak; and the CPU time that
planner and driver take a candidate is about the same for one site of a hundred workers as for a
hundred sites of one, side by side in one process either way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from services.cli.simulating import ways_of
from services.simulation.figures import Figures
from services.simulation.model import Model
from services.simulation.run import Load
from services.simulation.sweep import Sweep, by_workers, swept
from tests.bench.own_cost import compare
from tests.bench.simulator import side_by_side
from tests.chaos.figures import Figure, tell

REPLICAS, USERS = (1, 2), (1, 4, 12)
WORKERS = (1, 10, 100, 1000)
COMPARED = (10, 100)
LOADS = (0.7, 1.0, 2.0)
ALLOWED = 0.15
FLAT = 1.3
ROUNDS = 3
REQUESTS = 4_000


def main(seconds: float = 60) -> int:
    rows, model = side_by_side(REPLICAS, USERS, seconds)
    figures = [
        Figure(
            f"simulated against real, {row.replicas} engines, {row.users} users",
            f"within {ALLOWED:.0%}",
            f"{row.off:.0%}: {row.throughput[0]:.2f} → {row.throughput[1]:.2f} requests/s, "
            f"p50 {row.p50[0]:.2f} → {row.p50[1]:.2f} s",
            held=row.off <= ALLOWED,
        )
        for row in rows
    ]
    real, simulated = tell(figures), tell(sizes(model))
    return real or simulated


def sizes(model: Model) -> Iterator[Figure]:
    """What holds at every number of workers."""
    found = by_workers(points(model))
    worst = min(them[-1].goodput / max(it.goodput for it in them) for them in found.values())
    yield Figure(
        f"simulated: goodput at twice the load, 1 to {max(WORKERS):,} workers",
        ">= 90% of its peak",
        f"{worst:.0%} at least",
        held=worst >= 0.9,
    )
    for workers in COMPARED:
        compared = compare(model, _load(model), workers, ROUNDS)
        yield Figure(
            f"simulated: CPU time of planner and driver a candidate, {workers:,} workers",
            f"at most {FLAT:g} x that of {workers:,} sites of one worker",
            f"{compared.ratio:.2f} x: {compared.one_site_ms:.2f} ms",
            held=compared.ratio <= FLAT,
        )


def _load(model: Model) -> Load:
    return Load(questions=model.of("easy,hard"), efforts=("low",), seconds=60, deadline=5)


def points(model: Model) -> Sequence[Figures]:
    """Each number of workers at each load."""
    sweep = Sweep(
        workers=WORKERS,
        loads=LOADS,
        rate=None,
        rewards=1.0,
        orchestrators=None,
        requests=REQUESTS,
    )
    cores = len(os.sched_getaffinity(0))
    return swept(model, sweep, _load(model), ways_of(None, ()), processes=cores)


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
