"""The command line. Each command is a file; what is slow to import, it imports when it runs.

Standard output carries results, standard error everything said on the way. An error that longthink
raises on purpose ends a command with its message and exit code 1.
"""

from __future__ import annotations

import sys

import typer

from planner.errors import LongthinkError
from services.cli import ask, demo, doctor, evaluate, keys, load, replay, serve, simulate, trace

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A reasoning service behind the OpenAI API: it samples, grades and votes in a budget.",
)
app.command("serve", cls=serve.Command)(serve.serve)
app.command("ask")(ask.ask)
app.command("eval")(evaluate.evaluate)
app.command("load")(load.load)
app.command("replay")(replay.replay)
app.command("simulate")(simulate.simulate)
app.command("trace")(trace.trace)
app.add_typer(keys.app, name="keys")
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """What the command `longthink` runs."""
    try:
        app()
    except LongthinkError as error:
        for line in str(error).splitlines():
            typer.echo(f"longthink: {line}", err=True)
        sys.exit(1)
