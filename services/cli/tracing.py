"""What `longthink trace` does: fetches a trace, or follows it, and draws it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from services.cli.asking import draw
from services.cli.picture import Picture, facts
from services.client import Client

_MOST_LINES = 200
"""A tree with more is drawn in part."""


async def fetched(url: str, trace_id: str, *, follow: bool) -> dict[str, Any]:
    """The whole trace; with `follow`, once it is closed."""
    async with Client(url) as client:
        if follow:
            async for _ in client.follow(trace_id):
                pass  # until it ends; what is kept of it is read below
        trace: dict[str, Any] = await client.trace(trace_id)
        return trace


async def show(url: str, trace_id: str, console: Console, *, follow: bool) -> None:
    """Draw a trace; with `follow`, again and again until it is closed."""
    picture = Picture(most_lines=_MOST_LINES)
    async with Client(url) as client:
        if follow and console.is_terminal:
            growing = Picture()
            with Live(growing, console=console, auto_refresh=False, transient=True) as live:
                await draw(client, trace_id, growing, live)
        elif follow:
            await draw(client, trace_id, picture, None)
        for event in (await client.trace(trace_id))["events"]:
            picture.see(event)
    console.print(_asked(picture), picture, _end(picture, trace_id))


def _asked(picture: Picture) -> RenderableType:
    return Panel(Text(picture.question), title="Question", title_align="left")


def _end(picture: Picture, trace_id: str) -> RenderableType:
    """What it came to, or that it is still under way."""
    strategy: str = picture.effort.get("strategy", "")
    outcome: Mapping[str, Any] | None = picture.outcome
    if outcome is None:
        return Text(f"{trace_id} is under way, by {strategy}; --follow stays with it.", style="dim")
    return Group(facts({**outcome, "strategy": strategy}))
