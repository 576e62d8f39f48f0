"""What must happen before Ray Serve's own HTTP proxy reads a request.

Serve lets a client switch off the server's timeout and the cancelling of abandoned requests by two
headers, which its proxy acts upon before the application sees them; and it puts an `x-request-id`
of its own beside the application's. Serve also answers some paths by itself, before any key is
asked for: of those only the one by which load balancers ask whether the proxy lives is left open,
as it says nothing but that. And where there is too much to do, most of what is refused needn't
reach it (`services.api.repeats`). The proxy runs in a process of its own, and takes what stands
around it from a function named in the environment of the process that starts Serve:

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=services.api.proxy:middlewares
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.errors import ApiError, answer
from services.api.repeats import REPEATED, Repeats

NOT_FOR_CLIENTS = (
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    REPEATED.encode(),
)
LIVE = "/-/healthz"
"""Serve's own path that stays open. Its others, all under `/-/`, say what runs here."""

_MOST_HEADERS = 100
_MOST_HEADER_BYTES = 32_768


def middlewares() -> list[Middleware]:
    """What Serve's proxy puts around itself."""
    return [Middleware(Guard)]


class Guard:
    """Strips the headers by which a client would steer Serve, and leaves one request id.

    What is Serve's own, or has more headers than anybody needs, never reaches it, and what would be
    refused doesn't (`services.api.repeats`).
    """

    def __init__(self, app: ASGIApp) -> None:
        # Here, as Serve puts the first of several innermost, and others the last.
        self._app = Repeats(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http" and (refusal := _refused(scope)):
            await answer(refusal)(scope, receive, send)
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


def _refused(scope: Scope) -> ApiError | None:
    path: str = scope["path"]
    if path.startswith("/-") and path != LIVE:
        return ApiError(HTTPStatus.NOT_FOUND, "There is nothing here.", code="not_found")
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > _MOST_HEADERS or size > _MOST_HEADER_BYTES:
        return ApiError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"At most {_MOST_HEADERS} headers of {_MOST_HEADER_BYTES:,} bytes in all are read.",
            code="headers_too_large",
        )
    return None


def _allowed(name: bytes) -> bool:
    return name.lower() not in NOT_FOR_CLIENTS
