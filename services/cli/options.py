"""Options that several commands have in common."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from planner.search import STRATEGIES
from planner.selection import SELECTORS
from planner.stopping import ALWAYS, RULES


def listed(names: Iterable[str]) -> str:
    """Names as help shows them."""
    return ", ".join(names)


Strategy: TypeAlias = Annotated[
    str | None, typer.Option(help=f"How candidates are searched for: {listed(STRATEGIES)}.")
]
Selector: TypeAlias = Annotated[
    str | None, typer.Option(help=f"How the answer is chosen: {listed(SELECTORS)}.")
]
Stop: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help=f"When enough is enough: {listed([*ALWAYS, *RULES])}, joined by +, with a setting "
        "after a colon as in beta:0.95; or none, which takes every candidate."
    ),
]
Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="LONGTHINK_URL",
        metavar="URL",
        help="Use the service that runs there; without one, one is started here and stopped again.",
    ),
]
Profile: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="TOML file of settings; without one, the embedded default."),
]
Assignments: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.NAME=VALUE",
        help="Set any setting; may be repeated. `longthink serve --help` lists them.",
    ),
]
