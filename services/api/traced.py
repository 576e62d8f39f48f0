"""Puts each request to the API into a span of its own, and says which trace it belongs to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from services.spans import Spans

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""


class Traced:
    """Around whatever answers requests. What isn't under /v1 has no span."""

    def __init__(self, app: ASGIApp, *, spans: Spans, request_id: str) -> None:
        """`request_id` is where the scope of a request has its id."""
        self._app = app
        self._spans = spans
        self._id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application does."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        with self._spans.serving(scope, scope[self._id]) as answered:

            async def send_noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    answered(message["status"])
                await send(message)

            await self._app(scope, receive, send_noted)


def trace_id(scope: Scope, request_id: str) -> str:
    """The trace that a request belongs to: the client's if it names one, or else its own."""
    found = _TRACEPARENT.fullmatch(Headers(scope=scope).get("traceparent", "").strip())
    named = found is not None and found[0][:2] != "ff" and found[1].strip("0") != ""
    return found[1] if found is not None and named else request_id
