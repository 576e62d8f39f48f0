"""Refusals that are said again in front of Ray Serve's proxy, for as long as they hold.

Where more is asked for than can be done, refusing it takes what others would have been answered
with: a request passes the proxy, a router and the edge before it is told no. So the edge says with
a refusal for how long others like it needn't be looked at (`services.gate`), and for that time, a
fraction of a second, whoever asks for the same with the same API key is refused here. The same is
all of a request's options; its messages, and the like, don't matter to admission. Whoever sends an
`Idempotency-Key` is always let through, as there may be an answer for it.

The edge is told of what was refused here with the next request of that API key that goes through,
so that it is counted. Memory is bounded; what finds no place is let through.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from random import uniform
from secrets import token_hex

from pydantic_core import from_json, to_json
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.errors import HOLDS, about
from services.api.key import HEADER

REPEATED = "x-longthink-repeated"
"""Header of a request: how many of its API key were refused here before it, `code=count,...`."""

_PATH = "/v1/chat/completions"
_NO_MATTER = frozenset(
    (
        "messages",
        "metadata",
        "prompt_cache_key",
        "safety_identifier",
        "seed",
        "stream",
        "stream_options",
        "user",
    )
)
"""The fields of a request that admission doesn't look at."""
_MOST_BYTES = 65_536
"""A longer body is let through."""
_BODY_SECONDS = 0.5
"""So is one that doesn't come for so long."""
_MOST_KEYS = 1024
_MOST_KINDS = 16
"""Refusals that are held for one API key."""
_ANSWERS_OWN = frozenset((b"x-request-id", b"retry-after", b"retry-after-ms", HOLDS.encode()))
"""The headers of a refusal that aren't said again as they are."""


def repeated(said: str | None) -> Mapping[str, int]:
    """How many refusals of each code the header REPEATED tells of."""
    return {
        code: int(count) for code, count in re.findall(r"([a-z_]+)=(\d{1,4})(?:,|$)", said or "")
    }


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What the edge said, and until when it holds."""

    until: float
    status: int
    headers: list[tuple[bytes, bytes]]
    retry_seconds: float
    body: bytes
    code: str


class Repeats:
    """Lets requests through, but for those that would be refused."""

    def __init__(self, app: ASGIApp, *, now: Callable[[], float] = time.monotonic) -> None:
        """`now` counts seconds, and never goes back."""
        self._app = app
        self._now = now
        self._held: dict[bytes, dict[bytes, _Refusal]] = {}
        """By who asks, then by what was asked for."""
        self._untold: dict[bytes, Counter[str]] = {}
        """What was refused here and the edge doesn't know of yet, by who asked and by code."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application does."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != _PATH:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        who = _digest(headers.get("authorization", "").encode("latin-1"))
        body = _Body(receive)
        if HEADER not in headers and self._kinds(who):
            await body.look()
            # It may be over by now.
            refusal = self._kinds(who).get(body.kind() or b"")
            if refusal is not None:
                await self._repeat(who, refusal, send)
                return

        def hold(seconds: float, start: Message, said: bytes) -> None:
            kind = body.kind()
            if kind is not None:
                self._hold(who, kind, _refusal(self._now() + seconds, start, said))

        await self._app(self._telling(scope, who), body, _Listening(send, hold, body.forget))

    def _kinds(self, who: bytes) -> dict[bytes, _Refusal]:
        """What is held for whoever asks. What is over is forgotten."""
        kinds = self._held.get(who, {})
        for kind in [it for it, refusal in kinds.items() if refusal.until <= self._now()]:
            del kinds[kind]
        if not kinds:
            self._held.pop(who, None)
        return kinds

    def _hold(self, who: bytes, kind: bytes, refusal: _Refusal) -> None:
        if len(self._held) >= _MOST_KEYS:
            for other in list(self._held):
                self._kinds(other)
        if who not in self._held and len(self._held) >= _MOST_KEYS:
            return
        kinds = self._held.setdefault(who, {})
        if kind in kinds or len(kinds) < _MOST_KINDS:
            kinds[kind] = refusal

    async def _repeat(self, who: bytes, refusal: _Refusal, send: Send) -> None:
        if who not in self._untold and len(self._untold) >= _MOST_KEYS:
            # Who was refused longest ago isn't likely to come back.
            del self._untold[next(iter(self._untold))]
        self._untold.setdefault(who, Counter())[refusal.code] += 1
        said = {"x-request-id": token_hex(16), **about(refusal.retry_seconds * uniform(1.0, 1.5))}
        own = [(name.encode(), value.encode()) for name, value in said.items()]
        headers = [*refusal.headers, *own]
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": refusal.body})

    def _telling(self, scope: Scope, who: bytes) -> Scope:
        """The request, with what the edge doesn't know yet."""
        untold = self._untold.pop(who, None)
        if untold is None:
            return scope
        said = ",".join(f"{code}={count}" for code, count in untold.items())
        return {**scope, "headers": [*scope["headers"], (REPEATED.encode(), said.encode())]}


class _Body:
    """The body of a request, on its way to the application: called as it calls `receive`."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waiting = deque[Message]()
        self._read = b""
        self._open = True
        """Whether there may be more of it, and it isn't too long."""
        self._whole = False
        """Whether all of it was read."""

    async def __call__(self) -> Message:
        """The next message."""
        return self._waiting.popleft() if self._waiting else await self._next()

    async def look(self) -> None:
        """Read it, unless it is long or doesn't come; it is handed on later."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_BODY_SECONDS):
                while self._open:
                    self._waiting.append(await self._next())

    def kind(self) -> bytes | None:
        """What was asked for, as far as it matters; None where that can't be told."""
        if not self._whole:
            return None
        with suppress(ValueError):
            said = from_json(self._read)
            if isinstance(said, dict):
                matters = {it: said[it] for it in sorted(said) if it not in _NO_MATTER}
                return _digest(to_json(matters))
        return None

    def forget(self) -> None:
        """Keep nothing of it: nobody will ask."""
        self._open, self._whole, self._read = False, False, b""

    async def _next(self) -> Message:
        message = await self._receive()
        if self._open:
            self._read += message.get("body", b"")
            short, more = len(self._read) <= _MOST_BYTES, message.get("more_body", False)
            self._open = short and more
            self._read = self._read if short else b""
            self._whole = short and not more and message["type"] == "http.request"
        return message


class _Listening:
    """The response on its way to the client: hears how long a refusal holds."""

    def __init__(
        self,
        send: Send,
        hold: Callable[[float, Message, bytes], None],
        other: Callable[[], None],
    ) -> None:
        """`hold` is called with a refusal that holds, and `other` once it is known to be none."""
        self._send = send
        self._hold = hold
        self._other = other
        self._start: Message | None = None
        """The start of a refusal that holds."""
        self._said = b""
        self._seconds = 0.0

    async def __call__(self, message: Message) -> None:
        """Hand a message on."""
        if message["type"] == "http.response.start":
            message = self._started(message)
        elif self._start is not None:
            self._said += message.get("body", b"")
            if not message.get("more_body", False):
                self._hold(self._seconds, self._start, self._said)
        await self._send(message)

    def _started(self, start: Message) -> Message:
        holds = Headers(raw=list(start["headers"])).get(HOLDS)
        if holds is None:
            self._other()
            return start
        kept = [one for one in start["headers"] if one[0].lower() != HOLDS.encode()]
        self._start, self._seconds = start, int(holds) / 1000
        return {**start, "headers": kept}


def _refusal(until: float, start: Message, said: bytes) -> _Refusal:
    headers = [one for one in start["headers"] if one[0].lower() not in _ANSWERS_OWN]
    seconds = int(Headers(raw=list(start["headers"]))["retry-after-ms"]) / 1000
    code = from_json(said)["error"]["code"]
    return _Refusal(until, start["status"], headers, seconds, said, code)


def _digest(what: bytes) -> bytes:
    """What is kept of a key, or of what was asked for: short, and not the thing itself."""
    return blake2b(what, digest_size=16).digest()
