"""`longthink load`: synthetic questions at a rate, or by so many users, and what became of them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import Assignments, Profile, Url


class Format(StrEnum):
    """How the figures are printed."""

    TABLE = "table"
    JSON = "json"


def load(
    seconds: Annotated[
        float, typer.Option(min=1, metavar="S", help="For how long requests are sent.")
    ] = 30.0,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="R",
            help="An open loop: R requests a second on average, at the moments of a Poisson "
            "process, however many are on the way.",
        ),
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="A closed loop: N users, each of whom asks again once there is an answer, and "
            "about a second after a refusal. 4 where neither this nor --rate is given.",
        ),
    ] = None,
    burst: Annotated[
        str | None,
        typer.Option(
            metavar="FACTORxSECONDS[/EVERY][,…]",
            help="With --rate: FACTOR times the rate for so many seconds, at the end of every "
            "EVERY seconds, or once, in the middle.",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="NAME[:WEIGHT][,…]",
            help="Synthetic questions, easy, hard or compound, in proportion to their weights.",
        ),
    ] = "easy,hard",
    efforts: Annotated[
        str,
        typer.Option(
            metavar="WORD[:WEIGHT][,…]", help="Words of reasoning_effort, none to max, likewise."
        ),
    ] = "none,low",
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=r'Tenants, in TOML: a table \[NAME] for each, with key = "…" and weight = 1.',
        ),
    ] = None,
    stream: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="Of the requests, are streamed.")
    ] = 0.5,
    hang_ups: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="SHARE", help="Of the requests, lose their client on the way."
        ),
    ] = 0.0,
    hang_up_seconds: Annotated[
        float, typer.Option(min=0.01, metavar="S", help="Within how many seconds they do.")
    ] = 2.0,
    deadline: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="S", help="budget.deadline_seconds of each request."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="budget.completion_tokens of each request."),
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            metavar="S",
            help="A right answer is good up to so many seconds after the request was meant to be "
            "sent: half a second more than --deadline, or always where there is none.",
        ),
    ] = None,
    questions: Annotated[
        int, typer.Option(min=1, metavar="N", help="Different ones of each split.")
    ] = 300,
    grace: Annotated[
        float,
        typer.Option(min=0, metavar="S", help="For how long what is on the way may go on after."),
    ] = 60.0,
    soak: Annotated[
        bool,
        typer.Option(
            "--soak",
            help="Look at the service meanwhile, and say whether it grows or leaves anything: "
            "memory, open files, tasks, requests in the engines, keys in Redis.",
        ),
    ] = False,
    pid: Annotated[
        int | None,
        typer.Option(
            metavar="PID",
            help="With --soak and --url: the process of that `longthink serve`, if it is on this "
            "machine. Its Redis is the one of redis.url or REDIS_URL.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the questions, the moments and the mix.")] = 0,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the figures and the picture are put.")
    ] = Path("runs/load"),
    format: Annotated[Format, typer.Option(help="How they are printed.")] = Format.TABLE,  # noqa: A002
    url: Url = None,
    profile: Profile = None,
    assignments: Assignments = None,
) -> None:
    """Put the service under load, and say what it bears.

    Latency counts from the moment when a request was meant to be sent. DIR gets report.json,
    requests.jsonl, a line a request, and load.svg and load.png. Ctrl-C ends it early, with what it
    has. The exit code is 1 where a request failed in any other way than by a refusal (429, 503),
    spent more than its budget, or was never answered, or --soak found something.
    """
    from rich.console import Console  # noqa: PLC0415 - quick help

    from services.cli.loading import in_json, run, show  # noqa: PLC0415
    from services.cli.running import own_output, service  # noqa: PLC0415
    from services.cli.soaking import sighted  # noqa: PLC0415
    from services.client import KEY  # noqa: PLC0415
    from services.loading.jobs import Jobs  # noqa: PLC0415
    from services.loading.plan import Plan  # noqa: PLC0415

    plan = Plan.of(
        seconds=seconds,
        rate=rate,
        users=users,
        burst=burst,
        split=split,
        efforts=efforts,
        keys=keys,
        secret=os.environ.get(KEY),
        stream=stream,
        hangups=hang_ups,
        hangup_seconds=hang_up_seconds,
        deadline=deadline,
        tokens=tokens,
        within=within,
        questions=questions,
        grace=grace,
        seed=seed,
    )
    Jobs(plan)  # refuses a split that there is none of, before anything is started
    told = Console(stderr=True)
    try:
        with own_output() as output:
            with ExitStack() as parts:
                sight, assigned = None, list(assignments or ())
                if soak:
                    sight, assigned = parts.enter_context(sighted(url, pid, profile, assigned))
                address = parts.enter_context(service(url, profile, assigned, told))
                loaded = run(plan, address, told, sight)
            loaded.publish(out)
            if format is Format.JSON:
                output.write(in_json(loaded) + "\n")
            else:
                show(loaded, out, Console(file=output))
    except KeyboardInterrupt:
        told.print("Interrupted before there was anything to tell.", style="yellow")
        raise typer.Exit(130) from None
    if not loaded.sound:
        raise typer.Exit(1)
