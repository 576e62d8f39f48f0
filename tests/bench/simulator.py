"""The simulator against the real thing: throughput and latency of the reference models.

    .venv/bin/python -m tests.bench.simulator [--replicas 1,2] [--users 1,4,12] [--seconds 60]

It starts the service here, measures its workers, and has so many users ask questions, each the next
one when the last was answered; then it simulates the same users with what was just measured. All of
the service shares the cores of this machine, and so do the simulated parts: as many cores as it is
found to have when all of them are busy, since two that are threads of one are hardly more than one.
Prints a table and ends with 1 if throughput or median latency is off by more than --allowed.

Every request asks a hard question and takes eight samples, which are graded and vote. What `auto`
takes instead hangs on what it has learned so far, and differs from one minute to the next by more
than what is to be shown here; so does the median where most questions are easy and some are hard.

A virtual machine runs faster at one time and slower at another. So the same few requests of one
candidate are sent alone before and after the measuring, and before and after each load, and all
that was measured is taken for as much faster or slower as they were; the table says how much.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from services.cli.running import service
from services.cli.simulating import ways_of
from services.client import Client
from services.evaluation.questions import Question as Asked
from services.evaluation.questions import synthetic
from services.simulation.explaining import Engines, fitted, misfit
from services.simulation.fit import SEED, Fitter
from services.simulation.model import EngineModel, Model
from services.simulation.processes import cpu_seconds
from services.simulation.run import Load, Site, simulate

SPLIT = "hard"
EFFORT = "low"
SETTINGS = tuple(
    f"efforts.{EFFORT}.{name}={value}"
    for name, value in (
        ("strategy", '"majority"'),
        ("selector", '"weighted"'),
        ("stop", '"none"'),
        ("candidates", "8"),
    )
)
QUESTIONS = 24
TIMES = 5
"""How often the same load is simulated, each time by other chances."""
PACED = 4
"""The requests that say at which pace the machine is."""
PACES = 5
"""How often they are sent, of which the median counts."""

_LOOP = """\
import time
began = time.perf_counter()
for _ in range(500):
    sum(range(100_000))
print(time.perf_counter() - began)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """So many users on so many replicas: requests a second and median seconds, both ways."""

    replicas: int
    users: int
    throughput: tuple[float, float]
    p50: tuple[float, float]
    tokens: tuple[float, float]
    pace: float
    """What everything took, as a part of what it did when it was measured."""

    @property
    def off(self) -> float:
        """The larger of the two errors, as a part of what is real."""
        pairs = (self.throughput, self.p50)
        return max(abs(simulated / real - 1) for real, simulated in pairs)


def cores() -> float:
    """How many times the work of one core all of them do together."""
    all_of_them = len(os.sched_getaffinity(0))
    alone, together = (max(_work(it) for _ in range(3)) for it in (1, all_of_them))
    return min(float(all_of_them), together / alone)


def _work(count: int) -> float:
    """What so many processes that do nothing else get done together, in runs a second."""
    loops = [
        subprocess.Popen([sys.executable, "-c", _LOOP], stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    return sum(1 / float(loop.communicate()[0]) for loop in loops)


async def pace(client: Client) -> float:
    """The seconds that a few requests of one candidate take, one after another; always the same."""
    model = await client.model()
    asked = synthetic(SPLIT, PACED, SEED + 1)
    took = []
    for _ in range(PACES):
        began = time.perf_counter()
        for question in asked:
            await client.chat(
                {
                    "model": model,
                    "messages": [{"role": "user", "content": question.text}],
                    "seed": SEED,
                    "reasoning_effort": "none",
                }
            )
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def at_pace(model: Model, factor: float) -> Model:
    """The model of the same workers on a machine on which all takes so many times as long."""

    def slowed(engine: EngineModel) -> EngineModel:
        return replace(
            engine,
            step_seconds=factor * engine.step_seconds,
            sequence_seconds=factor * engine.sequence_seconds,
            prompt_token_seconds=factor * engine.prompt_token_seconds,
            kv_token_seconds=factor * engine.kv_token_seconds,
            call_seconds=factor * engine.call_seconds,
            batch_seconds=factor * engine.batch_seconds,
        )

    own = model.orchestrator
    return replace(
        model,
        generator=slowed(model.generator),
        reward=None if model.reward is None else slowed(model.reward),
        orchestrator=replace(
            own,
            request_seconds=factor * own.request_seconds,
            call_seconds=factor * own.call_seconds,
            way_seconds=factor * own.way_seconds,
            batch_seconds=factor * own.batch_seconds,
        ),
        ledger_seconds=factor * model.ledger_seconds,
    )


async def real(
    client: Client, asked: Sequence[Asked], users: int, seconds: float
) -> tuple[float, float, float]:
    """Requests a second, median seconds and mean tokens of users who ask one after another."""
    model = await client.model()
    dice = random.Random(users)
    # Each as often as the others: so few draws would be worth more than what is compared.
    order = itertools.cycle(dice.sample(asked, len(asked)))
    took: list[tuple[float, float]] = []
    tokens: list[int] = []
    began = time.perf_counter()

    async def use() -> None:
        while (now := time.perf_counter() - began) < seconds:
            reply = await client.chat(
                {
                    "model": model,
                    "messages": [{"role": "user", "content": next(order).text}],
                    "seed": dice.randrange(1 << 40),
                    "reasoning_effort": EFFORT,
                }
            )
            took.append((now, time.perf_counter() - began))
            tokens.append(reply["longthink"]["spent"]["completion_tokens"])

    await asyncio.gather(*(use() for _ in range(users)))
    within = [one for one in took if one[1] <= seconds]
    latencies = [end - start for start, end in took]
    return len(within) / seconds, statistics.median(latencies), statistics.mean(tokens)


async def measured(url: str, engines: Engines, rounds: int) -> tuple[Model, float]:
    """The model of the service at `url`, and the pace at which it was then."""
    async with Client(url) as client:
        fitter = Fitter(
            client,
            engines,
            cpu_seconds=cpu_seconds,
            rounds=rounds,
            questions=QUESTIONS,
            told=lambda line: print(line, file=sys.stderr),  # noqa: T201
        )
        before = await pace(client)
        observed = await fitter.observe()
        at = statistics.mean((before, await pace(client)))
    model = fitted(observed, engines, "here and now")
    print(model.generator, model.reward, model.orchestrator, misfit(observed, model))  # noqa: T201
    return model, at


async def compared(
    url: str, model: Model, at: float, replicas: int, users: Sequence[int], seconds: float
) -> list[Row]:
    """A row for each number of users. The model was measured at the pace `at`."""
    rows = []
    asked = synthetic(SPLIT, QUESTIONS, SEED)
    async with Client(url) as client:
        for together in users:
            shared, before = cores(), await pace(client)
            there = await real(client, asked, together, seconds)
            factor = statistics.mean((before, await pace(client))) / at
            load = Load(
                questions=model.of(SPLIT),
                efforts=(EFFORT,),
                seconds=seconds,
                users=together,
                repeated=True,
            )
            site = Site(workers=replicas, rewards=1, cores=shared)
            # It has a loop of its own.
            here = [
                await asyncio.to_thread(
                    simulate,
                    at_pace(model, factor),
                    site,
                    replace(load, seed=seed),
                    ways_of(None, SETTINGS),
                )
                for seed in range(TIMES)
            ]
            rows.append(
                Row(
                    replicas,
                    together,
                    (there[0], statistics.mean(it.throughput for it in here)),
                    (there[1], statistics.mean(it.p50 for it in here)),
                    (there[2], statistics.mean(it.completion_tokens for it in here)),
                    factor,
                )
            )
    return rows


def side_by_side(
    replicas: Sequence[int],
    users: Sequence[int],
    seconds: float,
    *,
    rounds: int = 2,
) -> tuple[list[Row], Model]:
    """A row for each number of replicas and of users; and the model, measured on the first."""
    told = Console(stderr=True)
    model, at = None, 0.0
    rows: list[Row] = []
    for count in replicas:
        with service(None, None, [*SETTINGS, f"generator.replicas={count}"], told) as url:
            if model is None:
                model, at = asyncio.run(measured(url, Engines(delimiter="\n"), rounds))
            rows += asyncio.run(compared(url, model, at, count, users, seconds))
    assert model is not None, "at least one replica"
    return rows, model


def table(rows: Sequence[Row], allowed: float) -> Table:
    """Real against simulated."""
    printed = Table(title=f"real → simulated, at most {allowed:.0%} apart")
    for name in ("replicas", "users", "requests/s", "median s", "tokens", "off", "pace"):
        printed.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        style = "red" if row.off > allowed else "green"
        printed.add_row(
            str(row.replicas),
            str(row.users),
            f"{row.throughput[0]:.2f} → {row.throughput[1]:.2f}",
            f"{row.p50[0]:.2f} → {row.p50[1]:.2f}",
            f"{row.tokens[0]:.0f} → {row.tokens[1]:.0f}",
            f"[{style}]{row.off:.0%}[/]",
            f"{row.pace:.2f} x",
        )
    return printed


def main() -> None:
    """Measure, ask, simulate, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--replicas", default="1,2", metavar="N,N")
    parser.add_argument("--users", default="1,4,12", metavar="N,N")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=2, help="how often batches are measured")
    parser.add_argument("--allowed", type=float, default=0.15)
    parser.add_argument("--keep", type=Path, help="where the measured model is written")
    arguments = parser.parse_args()
    replicas, users = (
        tuple(map(int, said.split(","))) for said in (arguments.replicas, arguments.users)
    )
    rows, model = side_by_side(replicas, users, arguments.seconds, rounds=arguments.rounds)
    if arguments.keep is not None:
        model.save(arguments.keep)
    Console(width=120).print(table(rows, arguments.allowed))
    sys.exit(any(row.off > arguments.allowed for row in rows))


if __name__ == "__main__":
    main()
