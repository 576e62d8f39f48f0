"""A reply as server-sent events: the role, the thinking, the answer, the usage, `[DONE]`.

Nothing a client was shown is ever contradicted: a stream that can't go on ends with an error and
without `[DONE]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from time import monotonic
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from planner.effort import Effort
from services.api import reply as replies
from services.api.errors import ApiError, in_vain
from services.api.limits import Limits
from services.api.progress import Lines, Typing
from services.api.standing import ratelimit
from services.api.turn import Turn
from services.run import Reply

_HEARTBEAT = b": thinking\n\n"
_DONE = b"data: [DONE]\n\n"


class EventStream(Response):
    """Sends chunks as they come, for as long as the client is there."""

    media_type = "text/event-stream"

    def __init__(self, turn: Turn, chunks: AsyncGenerator[bytes, None]) -> None:
        # No proxy may hold it back, and no cache may keep it.
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        headers |= {"x-request-id": turn.run.trace.id, **ratelimit(turn.run.allowance)}
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._turn = turn
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application does."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        # Some servers raise OSError when there is nobody to send to: then there is nothing to do.
        with suppress(OSError):
            async with self._turn.attended(receive), aclosing(self._chunks) as chunks:
                await send(start)
                async for chunk in chunks:
                    await send(_body(chunk, more=True))
                await send(_body(b"", more=False))


class ChunkWriter:
    """Writes the chunks of one turn."""

    def __init__(
        self,
        turn: Turn,
        *,
        model: str,
        created: int,
        limits: Limits,
        failure: Callable[[Exception], ApiError],
        progressed: Callable[[float], None],
    ) -> None:
        """`failure` makes an error for the client; `progressed` hears of the first sign of work."""
        self._turn = turn
        self._limits = limits
        self._failure = failure
        self._progressed = progressed
        self._lines = Lines(turn.run.effort)
        live = written_live(turn.run.effort, turn.ask.options.answers)
        self._typing = Typing() if live else None
        self._frame = {
            "id": f"chatcmpl-{turn.run.trace.id}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Every event of the stream, encoded."""
        yield self._delta({"role": "assistant", "content": ""})
        try:
            async with aclosing(self._thinking()) as thinking:
                async for chunk in thinking:
                    yield chunk
            for chunk in self._answer(self._turn.result()):
                yield chunk
        except Exception as error:  # noqa: BLE001  whatever it was, the client must be told here
            yield _event(self._failure(error).body())
        else:
            yield _DONE

    async def _thinking(self) -> AsyncGenerator[bytes, None]:
        """Progress, or the candidate as it is written, until the reply is there."""
        first = True
        line_due = spoke = monotonic()
        async with self._following() as woken:
            while not self._turn.reply.done():
                now = monotonic()
                text = self._typing.take() if self._typing else ""
                if text:
                    chunk = self._delta({"content": text})
                elif self._typing is None and self._lines.news and now >= line_due:
                    chunk = self._delta({"reasoning_content": self._lines.take()})
                    line_due = now + self._limits.progress_seconds
                elif now - spoke >= self._limits.heartbeat_seconds:
                    yield _HEARTBEAT
                    spoke = now
                    continue
                else:
                    until = spoke + self._limits.heartbeat_seconds
                    if self._typing is None and self._lines.news:
                        until = min(until, line_due)
                    await _wait(woken, until - now)
                    continue
                if first:
                    self._progressed(self._turn.seconds)
                    first = False
                yield chunk
                spoke = now

    @asynccontextmanager
    async def _following(self) -> AsyncIterator[asyncio.Event]:
        """While inside, the trace is followed; the event is set when there is anything new."""
        woken = asyncio.Event()
        wake = lambda _: woken.set()  # noqa: E731  so that it can be taken off again
        following = asyncio.create_task(self._follow(woken))
        self._turn.reply.add_done_callback(wake)
        try:
            yield woken
        finally:
            self._turn.reply.remove_done_callback(wake)
            following.cancel()

    async def _follow(self, woken: asyncio.Event) -> None:
        screen = self._typing or self._lines
        async for event in self._turn.run.trace.follow():
            screen.see(event)
            woken.set()

    def _answer(self, reply: Reply) -> list[bytes]:
        ask = self._turn.ask
        shown = replies.choices(reply.outcome, ask.options.answers)
        ours = replies.extension(reply, answers=ask.options.answers, seconds=self._turn.seconds)
        chunks = []
        for index, choice in enumerate(shown):
            delta: dict[str, Any] = {"content": self._rest(choice.content)}
            if index > 0:
                delta["role"] = "assistant"
            if index > 0 or delta["content"]:
                chunks.append(self._delta(delta, index=index))
        for index, choice in enumerate(shown):
            last = index == len(shown) - 1
            chunks.append(
                self._delta(
                    {},
                    index=index,
                    finish=choice.finish_reason,
                    extra={"longthink": ours} if last else {},
                )
            )
        if ask.include_usage:
            numbers = replies.usage(reply.spent, shown)
            chunks.append(_event({**self._frame, "choices": [], "usage": numbers}))
        return chunks

    def _rest(self, content: str) -> str:
        """What of the answer hasn't been sent as it was written."""
        rest = content if self._typing is None else self._typing.finish(content)
        if rest is None:
            raise in_vain(
                "The worker failed in mid-answer and another one wrote a different answer.",
                "answer_changed",
            )
        return rest

    def _delta(
        self,
        delta: Mapping[str, Any],
        *,
        index: int = 0,
        finish: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {**self._frame, "choices": [choice], **(extra or {})}
        if self._turn.ask.include_usage:
            chunk["usage"] = None
        return _event(chunk)


def written_live(effort: Effort, answers: int) -> bool:
    """Whether the answer can be shown as it is written: there must be no other to choose."""
    return effort.strategy == "single" and answers == 1


async def _wait(woken: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await woken.wait()
    woken.clear()


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + to_json(data, inf_nan_mode="null") + b"\n\n"


def _body(chunk: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": chunk, "more_body": more}
