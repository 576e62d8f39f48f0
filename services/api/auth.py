"""Who may come in: every request needs an API key, but those that ask whether the service lives.

A key comes as `Authorization: Bearer KEY`, or as the password of HTTP Basic, so that a browser can
show the page and its user is asked for it. The tenant it belongs to is in the scope of the request
from here on. What is no key is refused before anything else is read of the request, and whether a
path exists is nobody's business without one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeAlias

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from planner.errors import LedgerUnavailable
from services.api.errors import ApiError, answer, unavailable
from services.tenants import IN_SCOPE, Tenant

Find: TypeAlias = Callable[[str], Awaitable[Tenant | None]]
"""Whose an API key is: `services.keyring.Keyring.find`. Raises LedgerUnavailable."""

OPEN = frozenset({"/health/live"})
"""The paths that need no key. Ray Serve's own are `services.api.proxy`'s."""

FOR_OPERATORS = frozenset({"/metrics"})
"""The paths at which one would see what others do."""

_LONGEST = 512
"""A longer Authorization header holds no key of ours."""


class Auth:
    """Lets in who has a key."""

    def __init__(self, app: ASGIApp, *, find: Find, retry_seconds: float) -> None:
        self._app = app
        self._find = find
        self._retry_seconds = retry_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application does."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # Nothing here speaks WebSocket: closed before it is accepted, it is refused.
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            scope[IN_SCOPE] = await self._tenant(scope)
        except ApiError as error:
            await answer(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _tenant(self, scope: Scope) -> Tenant:
        """Who asks. Raises ApiError: 401, 403, or 503 where that can't be known."""
        key = _key(Headers(scope=scope).getlist("authorization"))
        if key is None:
            raise _unknown("Send an API key: 'Authorization: Bearer KEY'.")
        try:
            tenant = await self._find(key)
        except LedgerUnavailable:
            message = "API keys can't be looked up at present."
            raise unavailable(message, "keys_unavailable", self._retry_seconds) from None
        if tenant is None:
            raise _unknown("This API key is not known here, or was revoked.")
        if scope["path"].rstrip("/") in FOR_OPERATORS and not tenant.operator:
            raise ApiError(
                HTTPStatus.FORBIDDEN,
                "This shows what all tenants do: it needs the key of an operator.",
                code="operators_only",
            )
        return tenant


def _key(sent: list[str]) -> str | None:
    """The key in the Authorization headers; None unless there is one of them that has one."""
    if len(sent) != 1 or len(sent[0]) > _LONGEST:
        return None
    scheme, _, said = sent[0].partition(" ")
    match scheme.lower():
        case "bearer":
            return said.strip()
        case "basic":
            try:
                pair = base64.b64decode(said.strip(), validate=True).decode("ascii")
            except (binascii.Error, UnicodeDecodeError):
                return None
            return pair.partition(":")[2]
        case _:
            return None


def _unknown(message: str) -> ApiError:
    return ApiError(
        HTTPStatus.UNAUTHORIZED,
        message,
        code="invalid_api_key",
        # A browser asks its user by the first; the name is anybody's, the password is the key.
        headers={"www-authenticate": 'Basic realm="longthink (password: API key)", Bearer'},
    )
