"""The figures that a chaos script promises: what was asked, what was seen, whether it held.

A script ends with `tell(...)`, which prints them as a table and says by the exit code whether all
held. `python -m tests.chaos` puts those of all scripts into one table: it hands each the name of a
file, in which they are left as JSON, a figure a line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

OUT = "LONGTHINK_CHAOS_FIGURES"
"""The variable that names the file."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One promise: of `what`, `asked` was to be, `seen` was, and so it `held` or not."""

    what: str
    asked: str
    seen: str
    held: bool


def tell(figures: Iterable[Figure]) -> int:
    """Print figures and leave them for who collects them; the exit code, 0 if all held."""
    figures = tuple(figures)
    console().print(table(figures))
    if name := os.environ.get(OUT):
        lines = [json.dumps(asdict(figure)) + "\n" for figure in figures]
        with Path(name).open("a", encoding="utf-8") as file:
            file.writelines(lines)
    return 0 if figures and all(figure.held for figure in figures) else 1


def console() -> Console:
    """Where tables go: as wide as a terminal is, and wide enough where there is none."""
    here = Console()
    return here if here.is_terminal else Console(width=140)


def left(path: Path) -> list[Figure]:
    """The figures that were left in a file."""
    if not path.exists():
        return []
    return [Figure(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def table(figures: Iterable[Figure]) -> Table:
    """Figures, a row each."""
    drawn = Table("what", "asked", "seen", "")
    for figure in figures:
        verdict = "[green]held[/]" if figure.held else "[red]missed[/]"
        drawn.add_row(figure.what, figure.asked, figure.seen, verdict)
    return drawn
