"""Options that several commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

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
