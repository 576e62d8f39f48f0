"""What stands around Ray Serve's proxy keeps clients from steering it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.proxy import middlewares
from services.api.repeats import REPEATED


class ServesOwnId:
    """Appends a second id to the response, as Ray Serve's proxy does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_two(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", b"serves"))
            await send(message)

        await self._app(scope, receive, send_two)


async def headers_seen(request: Request) -> Response:
    return JSONResponse(dict(request.headers), headers={"x-request-id": "ours"})


def client() -> httpx.AsyncClient:
    app: Callable[[Scope, Receive, Send], Awaitable[None]] = Starlette(
        routes=[Route("/", headers_seen)],
        middleware=[*middlewares(), Middleware(ServesOwnId)],
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


async def test_headers_that_steer_serve_are_stripped() -> None:
    """Neither reaches the proxy, however it is written; others do."""
    sent = {
        "X-Request-Timeout-Seconds": "0",
        "x-request-disconnect-disabled": "?1",
        REPEATED: "over_share=1000000",
        "x-request-id": "theirs",
    }
    async with client() as http:
        seen = (await http.get("/", headers=sent)).json()
    assert seen["x-request-id"] == "theirs"
    assert not {name.lower() for name in sent} - {"x-request-id"} & set(seen)


async def test_the_applications_request_id_is_the_only_one() -> None:
    """A client finds one id, by which it can find the trace."""
    async with client() as http:
        response = await http.get("/")
    assert response.headers.get_list("x-request-id") == ["ours"]


async def test_serves_own_paths_are_closed_but_liveness() -> None:
    """They are answered before keys are asked for: only the one that says no more than that."""
    async with client() as http:
        for path in ("/-/routes", "/-/routes/", "/-/", "/-", "/-/healthz/"):
            response = await http.get(path)
            assert response.status_code == 404
            assert response.json()["error"]["message"] == "There is nothing here."
        # Here nobody answers it; what matters is that it was handed on.
        assert "There is nothing here" not in (await http.get("/-/healthz")).text


async def test_more_headers_than_anybody_needs_are_refused() -> None:
    """Neither many nor long ones reach the proxy."""
    async with client() as http:
        many = {f"x-{number}": "" for number in range(200)}
        for headers in (many, {"x-long": "a" * 40_000}):
            assert (await http.get("/", headers=headers)).status_code == 431
