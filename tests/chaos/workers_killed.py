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
from services.settings import GeneratorSettings, RewardSettings, ServiceSettings, Settings
from tests.chaos.asking import Record, ask_until, kill, up
from tests.chaos.figures import Figure, tell

CANDIDATES = 4
LEAST = 0.999


def main(generators: int = 4, period: int = 10, seconds: int = 120, clients: int = 8) -> int:
    settings = Settings(
        service=ServiceSettings(port=0, log_level="warning"),
        generator=GeneratorSettings(replicas=generators),
        reward=RewardSettings(enabled=False),
    )
    with Service.start(settings) as service:
        record, kills = asyncio.run(kill_under_load(service.url, period, seconds, clients))
    counts = f"{record.answered} of {record.accepted}, {record.refused} refused"
    times = f"p50 {record.percentile(0.5):.1f} s, p99 {record.percentile(0.99):.1f} s"
    return tell(
        (
            Figure(
                f"answered while {kills} of {generators} workers were killed in {seconds} s",
                f">= {LEAST:.1%}",
                f"{record.share:.2%} ({counts}; {times}) {dict(record.failures) or ''}",
                held=record.share >= LEAST and kills > 0,
            ),
        )
    )


async def kill_under_load(
    url: str, period: float, seconds: float, clients: int
) -> tuple[Record, int]:
    """What became of the requests, and how many workers were killed."""
    over = asyncio.Event()
    asking = asyncio.create_task(ask_until(url, over, clients=clients, candidates=CANDIDATES))
    chance, kills = random.Random(0), 0
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            await asyncio.sleep(period)
            working = await asyncio.to_thread(up, "generator")
            if len(working) > 1:
                kill(chance.choice(working))
                kills += 1
    finally:
        over.set()
    return await asking, kills


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
