"""Simulates many points of a table, side by side on the cores of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

from services.simulation.capacity import Need, need
from services.simulation.figures import Figures
from services.simulation.model import Model
from services.simulation.run import Load, Site, Ways, simulate
from workers.ending import end_with


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What is varied: how many workers there are, and how much is asked of them.

    A load is a part of what so many can take, by an estimate; or else there is one `rate` for all.
    There are `rewards` reward models a generator. A point is as long as the load says, longer
    where that is less than `least` requests, and shorter where it is more than `requests`.
    """

    workers: tuple[int, ...]
    loads: tuple[float, ...]
    rate: float | None
    rewards: float
    orchestrators: int | None
    requests: int
    least: int = 1

    def points(self, load: Load, needed: Need) -> Iterator[tuple[Site, Load]]:
        """Sites with what is asked of them."""
        for workers in self.workers:
            rewards = max(1, round(workers * self.rewards)) if self.rewards else 0
            most = needed.capacity(workers, rewards)
            rates = [most * part for part in self.loads] if self.rate is None else [self.rate]
            for rate in rates:
                own = self.orchestrators or needed.orchestrators(min(rate, 1.5 * most))
                seconds = min(max(load.seconds, self.least / rate), self.requests / rate)
                site = Site(workers=workers, rewards=rewards, orchestrators=own)
                yield site, load.at(rate=rate, seconds=seconds)


def swept(
    model: Model,
    sweep: Sweep,
    load: Load,
    ways: Ways | None = None,
    *,
    processes: int,
    told: Callable[[Figures], None] = lambda _: None,
) -> tuple[Figures, ...]:
    """The figures of every point, in order; `told` hears of each as soon as it is there."""
    points = list(sweep.points(load, need(model, load, ways)))
    if processes == 1:
        return tuple(_heard(simulate(model, *point, ways), told) for point in points)
    spawned = get_context("spawn")
    with ProcessPoolExecutor(processes, spawned, end_with, (os.getpid(),)) as pool:
        # The largest take longest, and begin first.
        order = sorted(range(len(points)), key=lambda at: -_size(points[at][1]))
        futures = {pool.submit(simulate, model, *points[at], ways): at for at in order}
        for future in as_completed(futures):
            told(future.result())
        return _in_order(futures)


def _in_order(futures: dict[Future[Figures], int]) -> tuple[Figures, ...]:
    found = sorted(futures.items(), key=lambda item: item[1])
    return tuple(future.result() for future, _ in found)


def _heard(found: Figures, told: Callable[[Figures], None]) -> Figures:
    told(found)
    return found


def _size(load: Load) -> float:
    return (load.rate or 0.0) * load.seconds


def by_workers(found: Sequence[Figures]) -> dict[int, list[Figures]]:
    """The points of each number of workers."""
    grouped: dict[int, list[Figures]] = {}
    for one in found:
        grouped.setdefault(one.workers, []).append(one)
    return grouped
