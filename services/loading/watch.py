"""Looks at a service while it is under load: its processes, its tasks, its engines and its Redis.

What always holds: whatever can't be looked at is None, and never a zero.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
from redis import Redis
from redis.exceptions import RedisError

from services.client import ServiceError

_GAUGE = re.compile(r"^([a-z_:]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_GAUGES = {
    "longthink_asyncio_tasks": "tasks",
    "longthink_requests_in_flight": "in_flight",
    "longthink_engine_kept": "kept",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
}
_SCRAPE_SECONDS = 10.0
_SETTLE_SECONDS = 15.0
_MANY = 1_000
_NAMED = 5
_LASTING = "longthink:{tenants}:"
"""How the keys begin that are meant to last: tenants and their API keys."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one moment, so many seconds from the start of the load.

    `pss` is the memory of its processes in bytes, what they share counted once; `parts` says how
    much of it is whose. `kept` is how many requests the engines' fronts have a record of. `bare`
    names some of the keys in Redis without a time to live, of which there are `unexpiring`.
    """

    seconds: float
    pss: int | None = None
    rss: int | None = None
    processes: int | None = None
    files: int | None = None
    tasks: int | None = None
    in_flight: int | None = None
    running: int | None = None
    waiting: int | None = None
    kept: int | None = None
    keys: int | None = None
    unexpiring: int | None = None
    bare: tuple[str, ...] = ()
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, as far as is known."""
        return not any((self.in_flight, self.running, self.waiting, self.kept))


class Watch:
    """Looks every so many seconds of the load, in a thread of its own, while inside.

    `root` is the process whose descendants are looked at, itself included unless it is our own;
    what is among `others` is none of the service. Without it or `redis_url`, nothing is said of
    processes or keys.
    """

    def __init__(
        self,
        url: str,
        *,
        every: float,
        root: int | None = None,
        redis_url: str | None = None,
        secret: str | None = None,
    ) -> None:
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        self._http = httpx.Client(base_url=url, timeout=_SCRAPE_SECONDS, headers=headers)
        self._every = every
        self._root = root
        self._redis = None if redis_url is None else Redis.from_url(redis_url)
        self._origin = time.monotonic()
        self._looking = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self.samples: list[Sample] = []
        self.others: set[int] = set()

    def __enter__(self) -> Self:
        self._looking = False
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def follow(self, seconds: float, until: float) -> None:
        """The load has gone on for so many seconds, of so many: between them it is looked at."""
        self._origin = time.monotonic() - seconds
        self._looking = seconds < until

    def close(self) -> None:
        """Close the connections. It can't look any more."""
        self._http.close()
        if self._redis is not None:
            self._redis.close()

    def look(self) -> Sample:
        """The service now."""
        return Sample(
            time.monotonic() - self._origin,
            **self._processes(),
            **self._measured(),
            **self._keys(),
        )

    def settled(self) -> Sample:
        """The service once nothing is under way any more, or after a while in which it stays so."""
        give_up = time.monotonic() + _SETTLE_SECONDS
        while not (sample := self.look()).idle and time.monotonic() < give_up:
            time.sleep(0.5)
        return sample

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            if self._looking:
                self.samples.append(self.look())

    def _processes(self) -> dict[str, Any]:
        try:
            return {} if self._root is None else self._sized(self._family(self._root))
        except psutil.Error:
            return {}

    def _sized(self, family: list[psutil.Process]) -> dict[str, Any]:
        parts: Counter[str] = Counter()
        rss = files = count = 0
        for process in family:
            # One that ends meanwhile has nothing any more.
            with suppress(psutil.NoSuchProcess), process.oneshot():
                memory = process.memory_full_info()
                parts[_name(process)] += memory.pss
                rss += memory.rss
                files += process.num_fds()
                count += 1
        return {
            "pss": sum(parts.values()),
            "rss": rss,
            "files": files,
            "processes": count,
            "parts": dict(parts),
        }

    def _family(self, root: int) -> list[psutil.Process]:
        """The process and all below it, without ourselves and what is none of the service."""
        top = psutil.Process(root)
        strangers = {os.getpid()}
        for other in self.others:
            with suppress(psutil.NoSuchProcess):
                below = psutil.Process(other).children(recursive=True)
                strangers |= {other, *(one.pid for one in below)}
        family = [top, *top.children(recursive=True)]
        return [one for one in family if one.pid not in strangers]

    def _measured(self) -> dict[str, Any]:
        """The gauges of the service, all its parts together."""
        try:
            text = self._http.get("/metrics").raise_for_status().text
        except httpx.HTTPError:
            return {}
        return gauges(text)

    def _keys(self) -> dict[str, Any]:
        if self._redis is None:
            return {}
        try:
            return _keys(self._redis)
        except RedisError:
            return {}


def gauges(text: str) -> dict[str, Any]:
    """What a service's metrics say of it, all its parts together; nothing of what isn't there."""
    found: Counter[str] = Counter()
    for name, _, value in _GAUGE.findall(text):
        if name in _GAUGES:
            found[_GAUGES[name]] += int(float(value))
    return dict(found)


def _keys(redis: Redis) -> dict[str, Any]:
    """How many keys there are, and which of them will never go away by themselves."""
    count, bare = 0, []
    batch: list[bytes] = []
    for key in redis.scan_iter(count=_MANY):
        batch.append(key)
        count += 1
        if len(batch) == _MANY:
            bare += _bare(redis, batch)
            batch = []
    bare += _bare(redis, batch)
    return {"keys": count, "unexpiring": len(bare), "bare": tuple(bare[:_NAMED])}


def _bare(redis: Redis, keys: list[bytes]) -> list[str]:
    pipe = redis.pipeline(transaction=False)
    for key in keys:
        pipe.pttl(key)
    names = [key.decode(errors="replace") for key in keys]
    return [
        name
        for name, left in zip(names, pipe.execute(), strict=True)
        if left == -1 and not name.startswith(_LASTING)
    ]


def _name(process: psutil.Process) -> str:
    """What it is: the title that Ray gave it, less what it does just now, or the program's name."""
    line = process.cmdline()
    title = (line[0] if line else process.name()).partition(" ")[0]
    return title.partition(".")[0] if title.startswith("ray::") else Path(title).name


def alive(pid: int) -> int:
    """The process id, if there is such a process. Raises ServiceError."""
    if not psutil.pid_exists(pid):
        raise ServiceError(f"--pid {pid}: there is no such process on this machine.")
    return pid
