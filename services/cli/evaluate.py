"""`longthink eval`: strategies against each other, on the same questions."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import Assignments, Profile, Url


class Format(StrEnum):
    """How the rows are printed."""

    TABLE = "table"
    JSON = "json"


def evaluate(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results.jsonl is kept.")],
    split: Annotated[
        str | None,
        typer.Option(help="Synthetic questions: easy, hard or compound; dev/hard and the like."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="F.jsonl", help='Questions of your own: {"question", "answer"} a line.'
        ),
    ] = None,
    strategies: Annotated[
        # In help, what stands in brackets is markup but for the backslash.
        str,
        typer.Option(help=r"What to compare, each as strategy\[/selector]\[@stop]."),
    ] = "single,majority,best_of_n",
    candidates: Annotated[str, typer.Option(help="How many candidates, one or several.")] = "16",
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="So many questions: 300 of a split, all of a file."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the questions, and seeds the requests.")] = 0,
    temperature: Annotated[float, typer.Option(help="How freely candidates are sampled.")] = 0.8,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Length of one candidate at most.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, metavar="C", help="So many questions at a time.")
    ] = 8,
    format: Annotated[Format, typer.Option(help="How the rows are printed.")] = Format.TABLE,  # noqa: A002
    url: Url = None,
    profile: Profile = None,
    assignments: Assignments = None,
) -> None:
    """Measure strategies on the same questions; the same command goes on where it was stopped."""
    from rich.console import Console  # noqa: PLC0415 - quick help

    from services.cli.measuring import Plan, measure, report  # noqa: PLC0415
    from services.cli.running import own_output, service  # noqa: PLC0415

    plan = Plan.of(
        split=split,
        file=file,
        strategies=strategies,
        candidates=candidates,
        limit=limit,
        seed=seed,
        temperature=temperature,
        max_tokens=max_tokens,
    )
    told = Console(stderr=True)
    try:
        with own_output() as output:
            with service(url, profile, assignments or (), told) as address:
                measured = asyncio.run(measure(address, plan, out, concurrency, told))
            report(measured, Console(file=output), as_json=format is Format.JSON)
    except KeyboardInterrupt:
        told.print("Interrupted: the same command goes on from here.", style="yellow")
        raise typer.Exit(130) from None
    for line in measured.amiss():
        told.print(line, style="yellow", markup=False, highlight=False)
    if measured.errors:
        raise typer.Exit(1)
