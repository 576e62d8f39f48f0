"""What `longthink simulate` does, and how it prints what it came to."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from planner.errors import InvalidOption
from services.calibration import load as load_calibration
from services.cli.running import service
from services.client import Client
from services.profiles import load as load_profile
from services.simulation import explaining
from services.simulation.figures import Figures
from services.simulation.model import REFERENCE, Model
from services.simulation.run import Load, Ways
from services.simulation.sweep import Sweep, swept

Number = TypeVar("Number", int, float)

_WIDE = 150
"""Columns of a table in a file, which nothing needs to be squeezed into."""


def simulate(
    *,
    workers: tuple[int, ...],
    rewards: float,
    orchestrators: int | None,
    loads: tuple[float, ...],
    rate: float | None,
    seconds: float,
    least: int,
    requests: int,
    efforts: tuple[str, ...],
    split: str | None,
    deadline: float,
    seed: int,
    model: Path | None,
    out: Path | None,
    processes: int | None,
    ways: Ways,
    as_json: bool,
) -> None:
    """Simulate every point, print it and draw it. Raises InvalidOption, ModelError."""
    if strangers := [word for word in efforts if word not in ways.presets]:
        known = ", ".join(ways.presets)
        raise InvalidOption(f"--efforts must be of {known}, not {', '.join(strangers)}.")
    measured = Model.load(model or REFERENCE)
    load = Load(
        questions=measured.of(split),
        efforts=efforts,
        seconds=seconds,
        deadline=deadline,
        seed=seed,
    )
    sweep = Sweep(
        workers=workers,
        loads=loads,
        rate=rate,
        rewards=rewards if measured.reward is not None else 0.0,
        orchestrators=orchestrators,
        least=least,
        requests=requests,
    )
    told, began = Console(stderr=True), time.perf_counter()
    found = swept(
        measured,
        sweep,
        load,
        ways,
        processes=processes or len(os.sched_getaffinity(0)),
        told=lambda one: told.print(_line(one), style="dim", highlight=False),
    )
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))  # noqa: T201
    else:
        _print(found)
    if out is not None:
        _publish(found, out, f"{', '.join(efforts)} effort, {measured.described}")
    asked = sum(one.requests for one in found)
    took = time.perf_counter() - began
    told.print(f"{asked:,} counted requests in {took:.0f} s", style="dim", highlight=False)


def ways_of(profile: Path | None, assignments: Sequence[str]) -> Ways:
    """What of a profile decides how requests are thought about, and which are let in."""
    settings = load_profile(profile, assignments)
    path = settings.service.calibration_file
    return Ways(
        presets=settings.presets(),
        calibration=None if path is None else load_calibration(path),
        rules=settings.admission.rules,
        hedge_share=settings.service.hedge_share,
    )


def fit(
    file: Path, described: str, url: str | None, profile: Path | None, assignments: Sequence[str]
) -> None:
    """Measure a service and write its model. Raises FitError, ServiceError."""
    from services.simulation.fit import Fitter  # noqa: PLC0415 - only for this
    from services.simulation.processes import cpu_seconds  # noqa: PLC0415

    told = Console(stderr=True)
    settings = load_profile(profile, assignments).generator
    engines = explaining.Engines(
        delimiter=settings.step_delimiter,
        max_num_seqs=settings.max_num_seqs,
        batched_tokens=settings.max_num_batched_tokens or explaining.BATCHED_TOKENS,
    )

    async def observe(address: str) -> explaining.Observed:
        async with Client(address) as client:
            fitter = Fitter(
                client,
                engines,
                cpu_seconds=cpu_seconds if url is None else None,
                told=lambda line: told.print(line, style="dim", highlight=False),
            )
            return await fitter.observe()

    with service(url, profile, assignments, told) as address:
        observed = asyncio.run(observe(address))
    found = explaining.fitted(observed, engines, described)
    found.save(file)
    for kind, error in explaining.misfit(observed, found).items():
        told.print(f"{kind}: half of the batches within {error:.0%}", highlight=False)
    told.print(f"longthink simulate --model {file}", highlight=False)


def numbers(name: str, text: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """Numbers with commas between them. Raises InvalidOption."""
    try:
        found = tuple(kind(word) for word in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) <= 0:
        raise InvalidOption(f"{name} must be numbers above 0 with commas between, not {text!r}.")
    return found


def _print(found: Sequence[Figures]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        *("workers", "edges", "offered/s", "replied/s", "in time/s", "in time", "right"),
        *("p50 s", "p99 s", "busy", "rewards", "edges busy", "refused", "candidates", "own ms"),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        table.add_row(
            f"{one.workers:,}+{one.rewards:,}",
            f"{one.orchestrators:,}",
            *(f"{value:,.1f}" for value in (one.offered, one.throughput, one.goodput)),
            *(f"{value:.1%}" for value in (one.in_time, one.right)),
            *(f"{value:.2f}" for value in (one.p50, one.p99)),
            *(f"{value:.0%}" for value in (one.busy, one.rewards_busy, one.orchestrators_busy)),
            f"{one.refused:,}",
            f"{one.candidates:.1f}",
            f"{one.own_ms:.2f}",
        )
    console.print(table)


def _publish(found: Sequence[Figures], folder: Path, title: str) -> None:
    """Write the figures and their picture."""
    from services.simulation.picture import draw  # noqa: PLC0415 - only once all is there

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(one) for one in found], indent=2)
    (folder / "figures.json").write_text(text + "\n", encoding="utf-8")
    draw(found, folder, title=title)


def _line(one: Figures) -> str:
    return (
        f"{one.workers:,} workers, {one.offered:,.1f} requests/s: {one.in_time:.1%} in time, "
        f"p50 {one.p50:.2f} s, simulated in {one.real_seconds:.0f} s"
    )
