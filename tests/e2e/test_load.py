"""Ten seconds of load on the whole service: it answers, keeps every budget and cleans up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from services.app import Service
from services.redis_server import RedisServer


def test_a_load_is_borne_and_nothing_is_left(
    service: Service, redis: RedisServer, tmp_path: Path
) -> None:
    """A mix with clients that hang up: nothing fails or overspends, and then all is at rest."""
    mix = ("--split", "easy,hard", "--efforts", "none,low", "--tokens", "800", "--hang-ups", "0.2")
    loaded = subprocess.run(
        [
            *(sys.executable, "-m", "services.cli", "load", "--soak", "--format", "json", *mix),
            *("--url", service.url, "--pid", str(os.getpid()), "--out", str(tmp_path)),
            *("--rate", "2", "--burst", "3x2", "--seconds", "10"),
        ],
        env={**os.environ, "REDIS_URL": redis.url},
        stdout=subprocess.PIPE,
        check=False,
        timeout=200,
    )
    told = json.loads(loaded.stdout)
    all_, left = told["together"], told["soak"]["after"]
    assert told["soak"]["amiss"] == []
    assert loaded.returncode == 0
    assert all_["failed"] == all_["overspent"] == all_["unfinished"] == 0
    assert all_["answered"] + all_["refused"] + all_["hung_up"] == all_["sent"] > 5
    assert all_["accuracy"] > 0.4
    assert all_["latency"]["p50"] > 0
    assert left["kept"] == left["running"] == left["waiting"] == left["in_flight"] == 0
    assert left["unexpiring"] == 0
    assert left["keys"] > 0
    assert left["tasks"] > 0
    assert left["pss"] > 100 << 20
