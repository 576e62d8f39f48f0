"""`longthink simulate`: what so many workers do under such a load, on a virtual clock."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import Assignments, Profile, Url


class Format(StrEnum):
    """How the figures are printed."""

    TABLE = "table"
    JSON = "json"


def simulate(
    workers: Annotated[
        str,
        typer.Option(metavar="N[,N…]", help="How many generators, one or several numbers."),
    ] = "1,10,100,1000",
    rewards: Annotated[
        float, typer.Option(min=0, metavar="R", help="Reward models a generator; 0 for none.")
    ] = 1.0,
    orchestrators: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Replicas of the edge, which drive the requests, each with a core of its own; "
            "without a number, so many that each is busy half of the time.",
        ),
    ] = None,
    loads: Annotated[
        str,
        typer.Option(
            metavar="X[,X…]",
            help="What is asked, as parts of what so many workers can take by an estimate.",
        ),
    ] = "0.4,0.7,0.9,1.1,1.4",
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="R", help="Requests a second, in place of --loads."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(min=0.1, help="How long requests come; the first quarter isn't counted."),
    ] = 20.0,
    least: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="At a point about so many at least, in more time."),
    ] = 1000,
    requests: Annotated[
        int, typer.Option(min=1, metavar="N", help="At a point at most so many, in less time.")
    ] = 20_000,
    efforts: Annotated[
        str,
        typer.Option(metavar="WORD[,WORD…]", help="Words of reasoning_effort that are asked with."),
    ] = "low",
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME…]",
            help="Which of the model's questions are asked; all, where none is named.",
        ),
    ] = "easy,hard",
    deadline: Annotated[
        float, typer.Option(min=0.001, metavar="S", help="budget.deadline_seconds of a request.")
    ] = 10.0,
    seed: Annotated[int, typer.Option(help="Another one draws other requests.")] = 0,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="How long workers take and what they write, as --fit measured it; without one, "
            "the reference models' on a small machine.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where figures.json and the picture are put."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Points that are simulated at once; else a core each."
        ),
    ] = None,
    format: Annotated[Format, typer.Option(help="How the figures are printed.")] = Format.TABLE,  # noqa: A002
    fit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Simulate nothing: measure a service that has nothing else to do (that of --url, "
            "or one that is started here) and write what --model takes.",
        ),
    ] = None,
    described: Annotated[
        str, typer.Option(help="With --fit: what it is measured on, in words.")
    ] = "",
    url: Url = None,
    profile: Profile = None,
    assignments: Assignments = None,
) -> None:
    """Say what workers that aren't there would do, with the service's own planner and driver.

    The driver, the planner and the accounts are those of the service; engines, Redis' latency and
    the clock are simulated, by times that were measured and candidates that were written on real
    workers. The same options give the same figures, but for the CPU time of planner and driver,
    which is measured on this machine while it simulates.
    """
    from services.cli import simulating  # noqa: PLC0415 - quick help

    if fit is not None:
        simulating.fit(fit, described, url, profile, assignments or ())
        return
    simulating.simulate(
        workers=simulating.numbers("--workers", workers, int),
        rewards=rewards,
        orchestrators=orchestrators,
        loads=simulating.numbers("--loads", loads, float),
        rate=rate,
        seconds=seconds,
        least=least,
        requests=requests,
        efforts=tuple(word.strip() for word in efforts.split(",")),
        split=split,
        deadline=deadline,
        seed=seed,
        model=model,
        out=out,
        processes=processes,
        ways=simulating.ways_of(profile, assignments or ()),
        as_json=format is Format.JSON,
    )
