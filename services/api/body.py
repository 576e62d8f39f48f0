"""Reading a request's body, no more of it and no longer than is allowed."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.requests import Request
from starlette.types import Receive

from services.api.errors import ApiError
from services.api.limits import Limits

_CLIENT_CLOSED_REQUEST = 499


async def read_json(request: Request, limits: Limits) -> bytes:
    """The body of a request that says it is JSON.

    It has to say so: a browser sends what says nothing, or something else, to any address that a
    strange page names, and would spend the compute of whoever looks at that page.

    Raises ApiError: 415, 413 where it is too long, 408 where it doesn't come.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "Send the body as JSON, with the header 'content-type: application/json'.",
            code="unsupported_media_type",
        )
    if _announced(request) > limits.body_bytes:
        raise _too_long(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _read(request.receive, limits)
    except TimeoutError:
        raise ApiError(
            HTTPStatus.REQUEST_TIMEOUT, "The body took too long to arrive.", code="body_timeout"
        ) from None


def _announced(request: Request) -> int:
    """How long the body says it is, in bytes; 0 where it doesn't say."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0


async def _read(receive: Receive, limits: Limits) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError(
                _CLIENT_CLOSED_REQUEST, "The client is gone.", code="client_closed_request"
            )
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limits.body_bytes:
            raise _too_long(limits)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _too_long(limits: Limits) -> ApiError:
    return ApiError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body is longer than {limits.body_bytes:,} bytes.",
        code="body_too_long",
    )
