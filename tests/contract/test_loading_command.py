"""`longthink load` as a whole: its own process, locust's beneath it, and the edge on a socket."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.domain import Query, Vote
from planner.effort import Options
from planner.errors import WorkersUnavailable
from services.run import Reply, Run
from tests.contract.scripted_service import (
    MODEL,
    OUTCOME,
    SPENT,
    ScriptedReasoner,
    ScriptedRun,
    Service,
    Stage,
    serving,
)
from workers.reference.synthetic import queries

pytestmark = pytest.mark.timeout(240)
"""Each test starts two processes that import for seconds, on a machine that may be busy."""

GOLD = {
    query.question: query.answer
    for kind in ("easy", "hard")
    for query in queries("test", kind, 300, 0)
}


async def half_right(run: ScriptedRun) -> Reply:
    """Answer soon; every other answer is the right one."""
    await asyncio.sleep(random.Random(run.query.seed).uniform(0.01, 0.2))
    gold = GOLD[run.query.messages[-1].content]
    answer = gold if (run.query.seed or 0) % 2 else f"{gold}1"
    outcome = replace(OUTCOME, answer=answer, votes=(Vote(answer, 1, 1.0),))
    return run.comes_to(outcome, replace(SPENT, completion_tokens=10, candidates=1))


async def command(service: Service, out: Path, *arguments: str) -> Process:
    """The command, started."""
    options = ("--url", service.url, "--out", str(out), "--format", "json", *arguments)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "load", *options), stdout=PIPE, stderr=PIPE
    )


async def ended(process: Process) -> tuple[int, dict[str, Any], str]:
    """Its exit code, its report and what it said on the way."""
    async with asyncio.timeout(200):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out or "{}"), err.decode()


async def test_an_open_loop_asks_at_its_rate(tmp_path: Path) -> None:
    """With a burst, a mix of everything and clients that leave; nothing fails, half is right."""
    keys = tmp_path / "keys.toml"
    keys.write_text('[modest]\nkey = "lt-secret-m"\n[greedy]\nkey = "lt-secret-g"\nweight = 3\n')
    mix = ("--split", "easy,hard:2", "--efforts", "none,low", "--keys", str(keys))
    async with serving(half_right) as service:
        process = await command(
            *(service, tmp_path / "out", "--rate", "40", "--seconds", "3", "--burst", "3x1"),
            *(*mix, "--hang-ups", "0.1", "--hang-up-seconds", "0.01", "--within", "60"),
        )
        code, told, _ = await ended(process)
        asked = len(service.reasoner.runs)
    all_ = told["together"]
    assert code == 0
    assert 130 <= all_["sent"] <= 270
    assert all_["answered"] + all_["hung_up"] == all_["sent"]
    assert 0 < all_["hung_up"] < all_["sent"] / 4
    assert all_["answered"] <= asked <= all_["sent"]
    assert 0.3 < all_["accuracy"] < 0.7
    assert all_["overspent"] == all_["failed"] == all_["refused"] == 0
    assert all_["tokens_per_right"] * all_["right"] == 10 * all_["answered"]
    assert 0 < all_["latency"]["p50"] <= all_["latency"]["p99"] <= all_["latency"]["max"]
    assert {kind: [row["name"] for row in rows] for kind, rows in told["groups"].items()} == {
        "split": ["easy", "hard"],
        "effort": ["low", "none"],
        "tenant": ["greedy", "modest"],
        "reply": ["plain", "streamed"],
    }
    assert told["model"] == MODEL
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.json", "requests.jsonl", "load.svg", "load.png"}
    assert all(b"secret" not in path.read_bytes() for path in (tmp_path / "out").iterdir())


async def test_users_ask_one_after_another_until_they_are_stopped(tmp_path: Path) -> None:
    """No more of them at a time than there are; Ctrl-C ends them with a report of what there is."""
    at_once = most = 0

    async def counted(run: ScriptedRun) -> Reply:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return await half_right(run)
        finally:
            at_once -= 1

    async with serving(counted) as service:
        process = await command(service, tmp_path, "--users", "3", "--seconds", "60")
        async with asyncio.timeout(200):
            while len(service.reasoner.runs) < 20:
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        code, told, said = await ended(process)
    assert code == 0
    assert most == 3
    assert told["interrupted"]
    assert told["seconds"] < 60
    assert "Interrupted" in said
    assert told["together"]["answered"] >= 16
    assert told["together"]["unfinished"] <= 3


class Wavering(ScriptedReasoner):
    """Refuses for the moment, and every fourth time for no good reason."""

    async def start(self, query: Query, options: Options, **others: Any) -> Run:
        """Begin nothing."""
        raise RuntimeError if (query.seed or 0) % 4 == 0 else WorkersUnavailable


async def test_a_service_that_fails_is_told_of(tmp_path: Path) -> None:
    """Refusals are counted and pardoned, other errors of the service are not."""
    async with serving(stage=Stage(reasoner=Wavering())) as service:
        options = ("--rate", "40", "--seconds", "2", "--stream", "0")
        code, told, _ = await ended(await command(service, tmp_path, *options))
    all_ = told["together"]
    assert code == 1
    assert 0 < all_["failed"] < all_["refused"]
    assert all_["failed"] + all_["refused"] == all_["sent"]
    assert told["refusals"][0]["code"] == "workers_unavailable"
    assert told["refusals"][0]["without_retry_after"] == 0
    assert told["failures"][0][0].startswith("500: ")


async def test_users_who_are_refused_wait(tmp_path: Path) -> None:
    """They don't ask again at once, however soon they were refused."""
    async with serving(stage=Stage(reasoner=ScriptedReasoner(refusal=WorkersUnavailable()))) as one:
        options = ("--users", "2", "--seconds", "2", "--stream", "0")
        code, told, _ = await ended(await command(one, tmp_path, *options))
    assert code == 0
    assert 2 <= told["together"]["refused"] <= 10
