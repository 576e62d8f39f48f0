"""`longthink demo`: the whole path once, before your eyes, in a few minutes."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from services.cli.options import Assignments, Profile, Url


def demo(
    candidates: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many candidates to sample.")
    ] = 16,
    seed: Annotated[int, typer.Option(help="Which question, and how it is sampled.")] = 6,
    url: Url = None,
    profile: Profile = None,
    assignments: Assignments = None,
) -> None:
    """Start the service, and have it answer two questions while you watch."""
    from rich.console import Console  # noqa: PLC0415 - quick help

    from services.cli.running import service  # noqa: PLC0415
    from services.cli.showing import show  # noqa: PLC0415

    console = Console()
    console.print(
        "\nA hard question, asked once and then many times over: candidates are sampled side by "
        "side by vLLM, graded step by step by a reward model, and vote, inside a budget. Then one "
        "that is several questions: it is taken apart, and each step is searched by itself.\n",
        highlight=False,
    )
    with service(url, profile, assignments or (), console) as address:
        answered = asyncio.run(show(address, candidates, seed, console))
    if not answered:
        console.print("The service gave no answer.", style="red")
        raise typer.Exit(1)
    console.print(
        "\nGo on with\n"
        "  .venv/bin/longthink serve                    the same service, until Ctrl-C\n"
        '  .venv/bin/longthink ask "…" --effort high    a question of your own\n'
        "  .venv/bin/longthink eval --help              what each strategy is worth\n"
        "or point any OpenAI client at it: base_url=http://127.0.0.1:8000/v1.\n",
        markup=False,
        highlight=False,
    )
