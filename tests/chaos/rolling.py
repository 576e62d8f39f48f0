"""Every worker and the edge are replaced, one by one, while requests go on: none may fail.

    python -m tests.chaos.rolling [CLIENTS] [GENERATORS]

starts the embedded service with two edges and GENERATORS (2) engines, has CLIENTS (4) ask it all
the time, about half of what it can bear, replaces all its replicas as SIGHUP does, and goes on for
a moment. What must hold: no replica is left, no response is a 5xx, and no connection was cut.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from services.app import Service
from services.settings import GeneratorSettings, ServiceSettings, Settings
from tests.chaos.asking import Record, asked, replicas
from tests.chaos.figures import Figure, tell

KINDS = ("generator", "reward", "edge")


def main(clients: int = 4, generators: int = 2) -> int:
    with Service.start(two_edges(generators)) as service:
        before = {one.pid for kind in KINDS for one in replicas(kind)}
        record, seconds = asyncio.run(replace_under_load(service, clients))
        after = {one.pid for kind in KINDS for one in replicas(kind)}
    happened = record.failures + record.refusals
    errors = sum(count for what, count in happened.items() if not what.startswith("4"))
    answers = f"{record.answered} answered, p50 {record.percentile(0.5):.1f} s"
    return tell(
        (
            Figure(
                "replicas replaced under half load",
                "all",
                f"{len(before - after)} of {len(before)} in {seconds:.0f} s",
                held=bool(before) and not before & after,
            ),
            Figure(
                "5xx and cut connections meanwhile",
                "none",
                f"{errors} {dict(happened) or ''} ({answers})",
                held=not errors and record.answered > 0,
            ),
        )
    )


def two_edges(generators: int, **more: Any) -> Settings:
    """A service with as many engines; `more` has other sections."""
    return Settings(
        service=ServiceSettings(port=0, log_level="warning", replicas=2),
        generator=GeneratorSettings(replicas=generators),
        **more,
    )


async def replace_under_load(service: Service, clients: int) -> tuple[Record, float]:
    """What became of the requests meanwhile, and how long it took to replace all."""
    async with asked(service.url, clients) as record:
        await asyncio.sleep(5)
        began = time.monotonic()
        await asyncio.to_thread(service.replace)
        seconds = time.monotonic() - began
        await asyncio.sleep(5)
    return record, seconds


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
