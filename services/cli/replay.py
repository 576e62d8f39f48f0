"""`longthink replay`: rules tuned on yesterday's samples, and a trace led to its end again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from planner.errors import InvalidOption
from planner.search import STRATEGIES
from planner.search.sampling import Sampling
from planner.selection import SELECTORS
from planner.selection.judge import Judge
from services.cli.options import Stop, listed

# What planner/replay.py takes: whole samples are of no use to others, and a judge takes a model.
_STRATEGIES = [
    name
    for name, kind in STRATEGIES.items()
    if isinstance(kind, type) and issubclass(kind, Sampling)
]
_SELECTORS = [name for name in SELECTORS if name != Judge.name]


class Format(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    JSON = "json"


def replay(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Recorded samples, JSONL, a query a line."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help=f"One that samples whole answers independently: {listed(_STRATEGIES)}; majority "
            "where none is named."
        ),
    ] = None,
    selector: Annotated[
        str | None,
        typer.Option(help=f"How the answer is chosen: {listed(_SELECTORS)}."),
    ] = None,
    stop: Stop = None,
    candidates: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="At most so many samples a query; else all."),
    ] = None,
    shuffle: Annotated[
        int | None,
        typer.Option(metavar="SEED", help="Take the samples of each query in a drawn order."),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(
            metavar="ID|FILE.json", help="Replay a trace instead: of the service, or a saved one."
        ),
    ] = None,
    url: Annotated[
        str,
        typer.Option(
            envvar="LONGTHINK_URL", metavar="URL", help="Where the service with the trace runs."
        ),
    ] = "http://127.0.0.1:8000",
    format: Annotated[Format, typer.Option(help="How the result is printed.")] = Format.TABLE,  # noqa: A002
) -> None:
    """Run a strategy over recorded samples, in seconds and for free; or replay a trace.

    A line of FILE is {"id", "question", "answer", "samples": [{"text", "answer"?, "tokens"?,
    "score"?, "logprobs"?}]}. The samples of a query arrive one at a time in the order of the file,
    as from a single worker, each followed by its score; a stopping rule sees them so, and what it
    leaves is saved. A sample's own "answer" counts, and only without one is it looked for in its
    text; "score" (from 0 to 1) is its grade.

    With --trace, the search of that request is led again through all it was told, and must come to
    the same outcome: the command ends with 1 if it doesn't.
    """
    from services.cli import replaying  # noqa: PLC0415 - quick help

    as_json = format is Format.JSON
    if trace is not None and file is None:
        if any(said is not None for said in (strategy, selector, stop, candidates, shuffle)):
            raise InvalidOption(
                "A trace is replayed as it was recorded: --strategy, --selector, --stop, "
                "--candidates and --shuffle are for a FILE of samples."
            )
        if not replaying.again(trace, url, as_json=as_json):
            raise typer.Exit(1)
    elif file is not None and trace is None:
        replaying.samples(
            file,
            strategy=strategy or "majority",
            selector=selector,
            stop=stop,
            candidates=candidates,
            shuffle=shuffle,
            as_json=as_json,
        )
    else:
        raise InvalidOption("Name what to replay: either a FILE of samples or --trace.")
