"""`longthink trace`: what a request did, as a picture in the terminal."""

from __future__ import annotations

import asyncio
import json
import sys
from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    """How the trace is printed."""

    PICTURE = "picture"
    JSON = "json"


def trace(
    trace_id: Annotated[
        str, typer.Argument(metavar="ID", help="Of the trace: a reply has it as its trace_id.")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="Stay with a search that is under way to its end.")
    ] = False,
    format: Annotated[  # noqa: A002
        Format, typer.Option(help="A picture, or the trace itself.")
    ] = Format.PICTURE,
    url: Annotated[
        str,
        typer.Option(envvar="LONGTHINK_URL", metavar="URL", help="Where the service runs."),
    ] = "http://127.0.0.1:8000",
) -> None:
    """Draw a search: its plan, its tree or candidates, its votes, its budget, and why it stopped.

    The page that the service shows at its address has the same, to click through.
    """
    from rich.console import Console  # noqa: PLC0415 - quick help

    from services.cli.tracing import fetched, show  # noqa: PLC0415

    if format is Format.JSON:
        told = asyncio.run(fetched(url, trace_id, follow=follow))
        sys.stdout.write(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    else:
        asyncio.run(show(url, trace_id, Console(), follow=follow))
