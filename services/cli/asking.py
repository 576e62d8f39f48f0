"""Asks one question of a running service, and shows the search while it goes on.

The picture is made from the trace, which is followed while the reply is streamed: the stream says
which trace it is, and its lines of progress stand in where there is no terminal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

from rich.console import Console
from rich.live import Live

from services.cli.picture import Picture, result
from services.client import Client, ServiceError

_DRAW_SECONDS = 0.1
"""A picture is drawn no more often than this."""
_AGAIN_SECONDS = 0.3
"""When a trace that can't be followed yet is asked for again."""

_ID_PREFIX = "chatcmpl-"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and what is said of how to think about it; None where nothing is."""

    question: str
    effort: str | None = None
    strategy: str | None = None
    selector: str | None = None
    stop: str | None = None
    seed: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    candidates: int | None = None
    completion_tokens: int | None = None
    reward_tokens: int | None = None
    usd: float | None = None
    deadline_seconds: float | None = None

    def body(self, model: str) -> dict[str, Any]:
        """The request."""
        budget = self._said(
            "candidates", "completion_tokens", "reward_tokens", "usd", "deadline_seconds"
        )
        ours = self._said("strategy", "selector", "stop") | ({"budget": budget} if budget else {})
        effort = {} if self.effort is None else {"reasoning_effort": self.effort}
        return {
            "model": model,
            "messages": [{"role": "user", "content": self.question}],
            **self._said("temperature", "max_tokens", "seed"),
            **effort,
            **({"longthink": ours} if ours else {}),
        }

    def _said(self, *names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class Answered:
    """What a person saw: the message, and the `longthink` object of the reply."""

    content: str
    ours: Mapping[str, Any]


async def show(url: str, asked: Asked, console: Console) -> Answered:
    """Ask, draw the search while it goes on where there is a terminal, and then the reply."""
    async with Client(url) as client:
        body = asked.body(await client.model())
        picture = Picture()
        answered = await _watch(client, body, picture, console)
        await _complete(client, answered, picture)
        picture.finish(answered.ours)
        console.print(picture, result(answered.content, answered.ours, client.url))
        return answered


async def reply(url: str, asked: Asked) -> dict[str, Any]:
    """Ask, and return the whole reply."""
    async with Client(url) as client:
        return await client.chat(asked.body(await client.model()))


async def _watch(
    client: Client, body: Mapping[str, Any], picture: Picture, console: Console
) -> Answered:
    """Follow the stream to its end."""
    content = ""
    ours: Mapping[str, Any] | None = None
    async with _drawing(client, picture, console) as screen:
        async for chunk in client.stream(body):
            ours = chunk.get("longthink", ours)
            for choice in chunk["choices"]:
                content += choice["delta"].get("content") or ""
                screen.heard(chunk["id"], choice["delta"])
    if ours is None:
        raise ServiceError(f"{client.url} doesn't answer as longthink does.")
    return Answered(content, ours)


async def _complete(client: Client, answered: Answered, picture: Picture) -> None:
    """Have the picture show every candidate, also those told after its last look."""
    try:
        trace = await client.trace(answered.ours["trace_id"])
    except ServiceError as error:
        picture.say(f"The candidates can't be shown: {error}")
        return
    for event in trace["events"]:
        picture.see(event)


class _Screen:
    """Where the search is seen: a picture that is drawn again and again, or lines."""

    def __init__(self, client: Client, picture: Picture, live: Live | None, lines: Console) -> None:
        self._client = client
        self._picture = picture
        self._live = live
        self._lines = lines
        self._trace = asyncio.get_running_loop().create_future()

    def heard(self, reply_id: str, delta: Mapping[str, Any]) -> None:
        """Take a piece of the stream."""
        if not self._trace.done():
            self._trace.set_result(reply_id.removeprefix(_ID_PREFIX))
        self._picture.write(delta.get("content") or "")
        if line := delta.get("reasoning_content"):
            self._picture.say(line)
            if self._live is None:
                self._lines.print(line.strip(), style="dim", markup=False, highlight=False)
        if self._live is not None:
            self._live.refresh()

    async def look(self) -> None:
        """Draw what the trace says, until it is closed."""
        trace_id = await self._trace
        while True:
            try:
                await draw(self._client, trace_id, self._picture, self._live)
                return
            except ServiceError:
                # Nothing is written yet; the lines of the stream are shown meanwhile.
                await asyncio.sleep(_AGAIN_SECONDS)


async def draw(client: Client, trace_id: str, picture: Picture, live: Live | None) -> None:
    """Follow a trace to its end, and draw it on the way where there is something to draw on."""
    due = 0.0
    async for event in client.follow(trace_id):
        picture.see(event)
        now = monotonic()
        if live is not None and now >= due:
            live.refresh()
            due = now + _DRAW_SECONDS
    if live is not None:
        live.refresh()


@asynccontextmanager
async def _drawing(client: Client, picture: Picture, console: Console) -> AsyncIterator[_Screen]:
    """The picture on a terminal, while inside; elsewhere, lines on standard error."""
    lines = Console(stderr=True)
    if not console.is_terminal:
        yield _Screen(client, picture, None, lines)
        return
    with Live(picture, console=console, auto_refresh=False, transient=True) as live:
        screen = _Screen(client, picture, live, lines)
        looking = asyncio.create_task(screen.look())
        try:
            yield screen
        finally:
            looking.cancel()
            await asyncio.wait([looking])
