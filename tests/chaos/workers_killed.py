"""Workers are killed under load, one every few seconds: what was accepted is answered.

    python -m tests.chaos.workers_killed [GENERATORS] [PERIOD] [SECONDS] [CLIENTS]

starts the embedded service with GENERATORS (4) engines, has CLIENTS (8) ask it all the time, and
kills one that is up every PERIOD (10) seconds for SECONDS (120), as long as another one is up: on a
small machine a new one takes longer to start. What must hold: of the accepted requests at least
99.9% are answered.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

from services.app import Service
from tests.chaos.asking import Record, asked, kill, settings, up
from tests.chaos.figures import Figure, tell

LEAST = 0.999


def main(generators: int = 4, period: int = 10, seconds: int = 120, clients: int = 8) -> int:
    with Service.start(settings(generators)) as service:
        record, kills = asyncio.run(kill_under_load(service.url, period, seconds, clients))
    return tell(
        (
            Figure(
                f"answered while {kills} of {generators} workers were killed in {seconds} s",
                f">= {LEAST:.1%}",
                str(record),
                held=record.share >= LEAST and kills > 0,
            ),
        )
    )


async def kill_under_load(
    url: str, period: float, seconds: float, clients: int
) -> tuple[Record, int]:
    """What became of the requests, and how many workers were killed."""
    chance, kills = random.Random(0), 0
    until = time.monotonic() + seconds
    async with asked(url, clients) as record:
        while time.monotonic() < until:
            await asyncio.sleep(period)
            working = await asyncio.to_thread(up, "generator")
            if len(working) > 1:
                kill(chance.choice(working))
                kills += 1
    return record, kills


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
