"""What a soak can see of the service it loads, and how it is shown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from services.loading.growth import LONG, Growth, Soak
from services.loading.watch import alive
from services.profiles import load
from services.redis_server import RedisServer

_MIB = 2**20
_BYTES = ("pss", "rss")
_WORDS = {
    "pss": "memory (PSS), MiB",
    "rss": "memory (RSS), MiB",
    "processes": "processes",
    "files": "open files",
    "tasks": "tasks in the event loop",
    "keys": "keys in Redis",
}


@dataclass(frozen=True, slots=True)
class Sight:
    """The process whose family the service is, and its Redis; None where that isn't known."""

    root: int | None
    redis_url: str | None


@contextmanager
def sighted(
    url: str | None, pid: int | None, profile: Path | None, assignments: Sequence[str]
) -> Iterator[tuple[Sight, list[str]]]:
    """What can be seen of a service, and the assignments to start it with.

    One that is to be started here is given a Redis of ours where it would have started its own.
    Raises what reading the settings raises, and ServiceError for a process that isn't there.
    """
    settings = load(profile, assignments)
    root = os.getpid() if url is None else None if pid is None else alive(pid)
    known = settings.redis.url
    if url is not None or known is not None or settings.ray.address is not None:
        yield Sight(root, known), list(assignments)
        return
    with RedisServer() as redis:
        yield Sight(root, redis.url), [*assignments, f"redis.url={redis.url}"]


def growths(soak: Soak) -> Table:
    """What grew, from the second tenth of the load to the last."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("second tenth", "last tenth", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in soak.growths:
        early, late = _values(one)
        table.add_row(_WORDS[one.name], early, late, f"{one.share:+.1%}")
    return table


def at_rest(soak: Soak) -> Iterator[str]:
    """Lines about what was left when nothing was under way any more."""
    after, before = soak.after, soak.before
    told = {
        "tasks": None if after.tasks is None else f"{after.tasks} tasks, {before.tasks} before",
        "engines": None
        if after.running is None
        else f"{after.running} requests run, {after.waiting} wait and {after.kept} are on record "
        "in the engines",
        "keys": None
        if after.unexpiring is None
        else f"{after.unexpiring} of {after.keys} keys have no time to live",
    }
    yield "At rest: " + "; ".join(one for one in told.values() if one is not None) + "."
    if not soak.growths:
        yield f"{soak.samples} looks at it are too few to tell whether it grows."
    elif soak.seconds < LONG:
        yield f"Whether it grows is judged from {LONG / 60:.0f} minutes on: until then it warms up."


def _values(one: Growth) -> tuple[str, str]:
    scale = _MIB if one.name in _BYTES else 1
    return f"{one.early / scale:,.0f}", f"{one.late / scale:,.0f}"
