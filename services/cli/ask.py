"""`longthink ask`: one question, the search before your eyes, and the answer."""

from __future__ import annotations

import asyncio
import json as encoding
import sys
from typing import Annotated

import typer

from planner.effort import PRESETS
from services.cli.options import Assignments, Profile, Selector, Stop, Strategy, Url, listed


def ask(
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    strategy: Strategy = None,
    selector: Selector = None,
    stop: Stop = None,
    candidates: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many candidates.")
    ] = None,
    effort: Annotated[
        str | None,
        typer.Option(help=f"What is left open is set by one word: {listed(PRESETS)}."),
    ] = None,
    budget_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many tokens generated.")
    ] = None,
    budget_reward_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many tokens graded.")
    ] = None,
    budget_usd: Annotated[
        float | None, typer.Option(metavar="X", help="At most so many US dollars.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="The best answer there is by then.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed samples the same.")] = None,
    temperature: Annotated[float | None, typer.Option(help="How freely it samples.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Length of one candidate at most.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the whole reply, and nothing else.")
    ] = False,
    url: Url = None,
    profile: Profile = None,
    assignments: Assignments = None,
) -> None:
    """Ask a question and watch how it is answered."""
    from rich.console import Console  # noqa: PLC0415 - quick help

    from services.cli.asking import Asked, reply, show  # noqa: PLC0415
    from services.cli.running import own_output, service  # noqa: PLC0415

    asked = Asked(
        question=sys.stdin.read() if question == "-" else question,
        effort=effort,
        strategy=strategy,
        selector=selector,
        stop=stop,
        seed=seed,
        temperature=temperature,
        max_tokens=max_tokens,
        candidates=candidates,
        completion_tokens=budget_tokens,
        reward_tokens=budget_reward_tokens,
        usd=budget_usd,
        deadline_seconds=deadline,
    )
    with (
        own_output() as output,
        service(url, profile, assignments or (), Console(stderr=True)) as address,
    ):
        if json:
            whole = asyncio.run(reply(address, asked))
            output.write(encoding.dumps(whole, indent=2, ensure_ascii=False) + "\n")
        else:
            asyncio.run(show(address, asked, Console(file=output)))
