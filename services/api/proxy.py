"""What must happen before Ray Serve's own HTTP proxy reads a request.

Serve lets a client switch off the server's timeout and the cancelling of abandoned requests by two
headers, which its proxy acts upon before the application sees them; and it puts an `x-request-id`
of its own beside the application's. The proxy runs in a process of its own, and takes what stands
around it from a function named in the environment of the process that starts Serve:

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=services.api.proxy:middlewares
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NOT_FOR_CLIENTS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")


def middlewares() -> list[Middleware]:
    """What Serve's proxy puts around itself."""
    return [Middleware(Guard)]


class Guard:
    """Strips the headers by which a client would steer Serve, and leaves one request id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        kept = [(name, value) for name, value in scope["headers"] if _allowed(name)]

        async def send_with_one_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                # The application's comes first; Serve appends its own.
                if ids := headers.getlist("x-request-id"):
                    headers["x-request-id"] = ids[0]
            await send(message)

        await self._app({**scope, "headers": kept}, receive, send_with_one_id)


def _allowed(name: bytes) -> bool:
    return name.lower() not in NOT_FOR_CLIENTS
