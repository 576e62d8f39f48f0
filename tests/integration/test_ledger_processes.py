"""Several processes holding from one budget at once."""

from __future__ import annotations

import asyncio
import json
import sys

from planner.domain import Budget, Cost
from planner.ports import Ledger

# Holds 500 operations of 7 tokens, 25 at a time, some alone and some in batches of 5; prints how
# many were granted.
HOLDER = """
import asyncio, json, sys
from planner.domain import Cost
from planner.ports import Hold
from services.budget import RedisLedger, connect

async def main(url, name):
    async with connect(url, max_connections=8) as client:
        ledger = RedisLedger(client, lease_seconds=60)
        holds = [Hold(f"{name}/{i}", Cost(completion_tokens=7, candidates=1)) for i in range(500)]
        batches = [(h,) for h in holds[:250]] + [tuple(holds[i:i + 5]) for i in range(250, 500, 5)]
        granted = 0
        for start in range(0, len(batches), 25):
            calls = (ledger.hold("r", batch) for batch in batches[start:start + 25])
            granted += sum(sum(verdicts) for verdicts, _ in await asyncio.gather(*calls))
        print(json.dumps(granted))

asyncio.run(main(*sys.argv[1:]))
"""


async def granted_to(url: str, name: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, url, name, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return int(json.loads(said))


async def test_processes_together_get_what_there_is(redis_url: str, ledger: Ledger) -> None:
    """Four processes that ask for 2,000 holds of 7 tokens get exactly the 857 that 6,000 holds."""
    await ledger.open("r", Budget(completion_tokens=6_000, candidates=1_000))
    granted = await asyncio.gather(*(granted_to(redis_url, f"p{index}") for index in range(4)))
    account = await ledger.account("r")
    assert sum(granted) == 6_000 // 7
    assert account.held == Cost(completion_tokens=857 * 7, candidates=857)
    assert account.left().completion_tokens == 1
