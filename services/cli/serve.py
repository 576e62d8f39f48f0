"""`longthink serve`: runs the service until it is told to stop."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from planner.errors import LongthinkError
from services.cli.options import Assignments, Profile


class Command(TyperCommand):
    """Its help ends with every setting, as services/settings.py describes them."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        super().format_help(ctx, formatter)
        _list_settings()


def serve(
    profile: Profile = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    generators: Annotated[
        int | None, typer.Option(metavar="N", help="How many engines write candidates.")
    ] = None,
    assignments: Assignments = None,
    logs: Annotated[
        bool,
        typer.Option(
            "--logs",
            help="Show what the service's processes log; without it, only the files in Ray's "
            "session folder (/tmp/ray/session_latest/logs) have it.",
        ),
    ] = False,
) -> None:
    """Run the service until Ctrl-C or SIGTERM.

    SIGHUP has every engine and the edge replaced one by one, by what the profile says then, while
    requests go on.
    """
    from rich.console import Console  # noqa: PLC0415 - quick help

    from services.cli.running import started  # noqa: PLC0415
    from services.profiles import load  # noqa: PLC0415

    flags = {"service.host": host, "service.port": port, "generator.replicas": generators}
    said = [f"{name}={value}" for name, value in flags.items() if value is not None]
    settings = load(profile, [*(assignments or ()), *said])
    console = Console()
    if warning := _of_redis(settings.redis.url):
        console.print(warning, style="yellow", markup=False, highlight=False)

    def replace() -> None:
        """Have all replicas replaced, by what the profile says now."""
        console.print("Replacing all engines and the edge, one by one.")
        try:
            service.replace(load(profile, [*(assignments or ()), *said]))
        except LongthinkError as error:
            console.print(f"Not replaced: {error}", markup=False, highlight=False)
        else:
            console.print("Replaced.")

    try:
        with started(settings, console, logs=logs) as service:
            # Not wrapped, so that the lines can be pasted.
            invitation = _invitation(service.url, settings.generator.name)
            console.print(invitation, markup=False, highlight=False, soft_wrap=True)
            service.wait(replace)
    except KeyboardInterrupt:
        console.print("Stopped.")


def _of_redis(url: str | None) -> str | None:
    """What is to be said of a Redis that may drop budgets; nothing of one that doesn't answer.

    What starts next finds that out by itself.
    """
    from redis.exceptions import RedisError  # noqa: PLC0415 - quick help

    from services.redis_server import evicts  # noqa: PLC0415

    try:
        policy = evicts(url) if url else None
    except (RedisError, ValueError):
        return None
    if policy is None:
        return None
    return (
        f"Redis drops keys when its memory is full ({policy}), and budgets among them: set its "
        "maxmemory-policy to noeviction."
    )


def _invitation(url: str, model: str) -> str:
    """How to ask the service something."""
    question = "Anna has 3 boxes with 12 pens each and gives 7 pens away. How many pens are left?"
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": question}]})
    return f"""
longthink answers at {url}/v1 as the model {model}.

  curl {url}/v1/chat/completions -H 'content-type: application/json' -d '
    {body}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="none")
  client.chat.completions.create(model="{model}", messages=[...],
                                 extra_body={{"longthink": {{"budget": {{"candidates": 16}}}}}})

Ctrl-C stops it."""


def _list_settings() -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.padding import Padding  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from services.settings import describe  # noqa: PLC0415

    console = Console(highlight=False)
    lines: list[Any] = [
        Text("Settings", style="bold"),
        "Each is a key of the profile, a variable, and a name for --set; with its default:\n",
    ]
    for one in describe():
        lines.append(Text.assemble((one.name, "cyan"), f" = {one.default}   ", (one.env, "dim")))
        lines.append(Padding(Text(one.help), (0, 0, 0, 4)))
    lines.append(Text("efforts.WORD.strategy, .selector, .stop, .candidates", style="cyan"))
    lines.append(
        Padding(Text("What a word of reasoning_effort means; as it ships where not set."), (0, 4))
    )
    console.print(*lines, sep="\n")
