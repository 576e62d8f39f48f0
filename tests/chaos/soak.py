"""A service of its own under mixed load for an hour: it doesn't grow, and leaves nothing behind.

    python -m tests.chaos.soak [--minutes 60] [--users 6]

Users ask easy, hard and compound questions at several efforts, half of them streamed, and some of
them go away in mid-search. What must hold at the end: memory, of all the service's processes
together, grew by less than 5% from the second tenth of the time to the last; nothing overspent or
failed; and once nobody asks any more there is no task in the event loop that wasn't there before,
no request on record in an engine, and no key in Redis that would stay for ever.

Redis keeps what has ended for a minute only, so that what it holds can come to a steady state.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.chaos.figures import Figure, tell

_MIX = (
    *("--split", "easy:3,hard:3,compound", "--efforts", "none:3,low:3,medium:2,high"),
    *("--stream", "0.5", "--hang-ups", "0.15", "--hang-up-seconds", "1.5"),
    *("--set", "redis.ttl_seconds=60"),
)


def soak(minutes: float, users: int, folder: Path) -> dict[str, Any]:
    """Run it; what its report says."""
    options = ("--seconds", str(60 * minutes), "--users", str(users), "--out", str(folder))
    command = [sys.executable, "-m", "services.cli", "load", "--soak", *options, *_MIX]
    subprocess.run(command, check=False)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def figures(report: dict[str, Any]) -> Iterator[Figure]:
    """What was to hold, and what was seen."""
    told, load = report["soak"], report["together"]
    after, hours = told["after"], report["seconds"] / 3600
    under = f"soak of {60 * hours:.3g} min, {load['sent']:,} requests, {load['hung_up']:,} cut"
    memory = next((one for one in told["growths"] if one["name"] == "pss"), None)
    grew = "too short to say" if memory is None else _grew(memory)
    yield Figure(
        f"memory, {under}", "under +5%", grew, memory is not None and memory["share"] < 0.05
    )
    left = sum(after[name] or 0 for name in ("running", "waiting", "kept", "in_flight"))
    known = after["kept"] is not None
    yield Figure("requests left in engine and edge", "0", str(left), known and left == 0)
    orphans = told["orphans"]
    yield Figure("tasks left in the event loop", "0", str(orphans), orphans == 0)
    bare, keys = after["unexpiring"], after["keys"]
    yield Figure("keys without a time to live", "0", f"{bare} of {keys:,}", bare == 0)
    went_wrong = f"{load['failed']} and {load['overspent']}"
    yield Figure("failed and overspent", "0 and 0", went_wrong, went_wrong == "0 and 0")


def _grew(memory: dict[str, Any]) -> str:
    early, late = (memory[name] / 2**20 for name in ("early", "late"))
    return f"{memory['share']:+.1%}: {early:,.0f} to {late:,.0f} MiB"


def main() -> int:
    """Run it and tell; 0 if all held."""
    options = argparse.ArgumentParser(prog="python -m tests.chaos.soak")
    options.add_argument("--minutes", type=float, default=60)
    options.add_argument("--users", type=int, default=6)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="longthink-soak-") as folder:
        return tell(figures(soak(asked.minutes, asked.users, Path(folder))))


if __name__ == "__main__":
    sys.exit(main())
