"""Every chaos script in turn, in its full form, and one table of what was asked and what was seen.

    python -m tests.chaos [NAME ...]

A script is a module of this folder that can be run: it has a `main` guard. With names, only those
are run. What a script prints goes on as it comes. Where one tells no figures, its last line stands
for them, and its exit code says whether they held.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

from tests.chaos.figures import OUT, Figure, console, left, table

_GUARD = 'if __name__ == "__main__":'
_HERE = Path(__file__)


def scripts() -> list[str]:
    """The names of all that can be run, in order."""
    return sorted(
        path.stem
        for path in _HERE.parent.glob("*.py")
        if path != _HERE
        and not path.stem.startswith(("test_", "_"))
        and _GUARD in path.read_text(encoding="utf-8")
    )


def run(name: str) -> list[Figure]:
    """Run one script; its figures, and one more if it failed without missing any of them."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="longthink-chaos-") as folder:
        kept = Path(folder) / "figures"
        command = [sys.executable, "-u", "-m", f"tests.chaos.{name}"]
        last = ""
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, OUT: str(kept)}
        ) as process:
            for line in process.stdout or ():
                sys.stdout.write(line)
                sys.stdout.flush()
                last = line.strip() or last
        figures = left(kept)
    ended = f"{last[:80]} (exit code {process.returncode}, {time.monotonic() - began:.0f} s)"
    failed = process.returncode != 0
    if not figures or (failed and all(figure.held for figure in figures)):
        figures.append(Figure(name, "exit code 0", ended, held=not failed))
    return figures


def each(names: list[str]) -> Iterator[Figure]:
    """The figures of these scripts, one script after another."""
    for name in names:
        console().print(Rule(name))
        yield from run(name)


def main(names: list[str]) -> int:
    """Run them, draw the table; 0 if every figure held."""
    known = scripts()
    if unknown := sorted(set(names) - set(known)):
        Console(stderr=True).print(f"There is no {', '.join(unknown)}: there are {known}.")
        return 2
    figures = list(each(names or known))
    console().print(Rule("all of it"), table(figures))
    return 0 if figures and all(figure.held for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
