"""`longthink doctor`: what is missing on this machine, and how to get it."""

from __future__ import annotations

import typer

from services.cli.options import Assignments, Profile


def doctor(profile: Profile = None, assignments: Assignments = None) -> None:
    """Check what the service needs here; exit code 1 where something essential is missing."""
    from rich.console import Console  # noqa: PLC0415 - quick help
    from rich.text import Text  # noqa: PLC0415

    from services.cli.checks import Level, checks  # noqa: PLC0415
    from services.profiles import load  # noqa: PLC0415

    signs = {Level.GOOD: ("✓", "green"), Level.NOTE: ("!", "yellow"), Level.BAD: ("✗", "red")}
    console = Console(highlight=False)
    found = []
    for check in checks(load(profile, assignments or ())):
        found.append(check)
        sign, style = signs[check.level]
        line = Text.assemble((f"{sign} ", style), f"{check.name}: {check.detail}")
        console.print(line, soft_wrap=True)
        if check.remedy:
            console.print(Text(f"    {check.remedy}", style=style), soft_wrap=True)
    bad = sum(check.level is Level.BAD for check in found)
    if bad:
        console.print(f"\n{bad} of {len(found)} things are missing.", style="red")
        raise typer.Exit(1)
    console.print("\nEverything the service needs is here.", style="green")
