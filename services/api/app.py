"""The HTTP application, put together from what it is handed.

Every response carries `x-request-id`, which is the id of the request's trace where it has one. A
client's own `x-request-id` goes into the log and nowhere else. Every error, of whatever origin, has
OpenAI's shape.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from secrets import token_hex
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from planner.effort import Effort, Options, settle
from planner.errors import LongthinkError
from services.admission import Admission
from services.api import page, routes
from services.api.auth import Auth, Find
from services.api.chat import ChatCompletions
from services.api.errors import ApiError, answer, told
from services.api.key import HEADER
from services.api.limits import Limits
from services.api.live import Store, Traces
from services.api.lobby import Lobby
from services.api.routes import Edges, EngineMetrics, Ready, Usages
from services.api.schema import ChatRequest
from services.api.traced import Traced, trace_id
from services.gate import Gate
from services.once import Once
from services.reasoning import Reasoner
from services.telemetry import Telemetry

_ID = "longthink.request_id"
"""Where the scope of a request has its id."""


def build(
    reasoner: Reasoner,
    *,
    model_name: str,
    ready: Ready,
    traces: Store,
    engine_metrics: EngineMetrics,
    edges: Edges | None = None,
    limits: Limits | None = None,
    telemetry: Telemetry | None = None,
    settle: Callable[[Options], Effort] = settle,
    once: Once | None = None,
    find: Find | None = None,
    usage: Usages | None = None,
    meterable: Callable[[], Awaitable[None]] | None = None,
    gate: Gate | None = None,
    lobby: Lobby | None = None,
) -> FastAPI:
    """The application that serves `reasoner` as the model `model_name`.

    `edges` asks all edges for their metrics; without it this one tells its own. `settle` says what
    a request's options come to; it must be what `reasoner` goes by. `once` answers what has an
    `Idempotency-Key`; without it, no key is taken. `find` knows the API keys; without it whoever
    comes is the local tenant. `usage` says how a tenant stands. `meterable` raises
    LedgerUnavailable while nothing can be metered, so that nothing is begun. `gate` is what
    requests wait before; without one, all begin at once. `lobby` knows who is being answered, for
    whoever stops the service.
    """
    limits = limits or Limits()
    telemetry = telemetry or Telemetry()
    gate = gate or Gate(Admission())
    lobby = lobby or Lobby()
    app = FastAPI(
        title="longthink",
        description="Test-time compute behind the OpenAI API.",
        redirect_slashes=False,
    )
    refuse = partial(told, retry_seconds=limits.retry_seconds)
    app.add_exception_handler(LongthinkError, _handler(refuse))
    app.add_exception_handler(HTTPException, _handler(_of_http))
    if find is not None:
        app.add_middleware(Auth, find=find, retry_seconds=limits.retry_seconds)
    if telemetry.spans is not None:
        app.add_middleware(Traced, spans=telemetry.spans, request_id=_ID)
    app.add_middleware(Envelope, telemetry=telemetry, refuse=refuse, lobby=lobby)
    app.include_router(routes.models(model_name))
    app.include_router(routes.health(ready, limits=limits, lobby=lobby))
    app.include_router(
        routes.observed(
            ready,
            engine_metrics=engine_metrics,
            edges=edges or _alone(telemetry),
            limits=limits,
            telemetry=telemetry,
        )
    )
    app.include_router(routes.traces(Traces(reasoner, traces, limits, over=lobby.over)))
    if usage is not None:
        app.include_router(routes.budget(usage, limits=limits))
    app.include_router(page.page())
    chat = ChatCompletions(
        reasoner,
        model=model_name,
        limits=limits,
        telemetry=telemetry,
        settle=settle,
        gate=gate,
        once=once,
        meterable=meterable,
    )

    @app.post("/v1/chat/completions", tags=["chat"], openapi_extra=_documentation())
    async def create_chat_completion(request: Request) -> Response:
        """Think, and answer."""
        return await chat(request, request.scope[_ID])

    return app


def _alone(telemetry: Telemetry) -> Edges:
    async def edges(parts: Mapping[str, bool], engines: Sequence[str]) -> list[tuple[str, str]]:
        return [("", telemetry.scraped(parts, engines))]

    return edges


class Envelope:
    """What every request gets: an id on its response and its log lines, and an answer at all."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        telemetry: Telemetry,
        refuse: Callable[[Exception], ApiError],
        lobby: Lobby,
    ) -> None:
        self._app = app
        self._telemetry = telemetry
        self._refuse = refuse
        self._lobby = lobby

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope[_ID] = token_hex(16)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.setdefault("x-request-id", request_id)
                if self._lobby.closing:
                    headers["connection"] = "close"
            await send(message)

        ids = {"request_id": request_id, "trace_id": trace_id(scope, request_id)}
        with self._lobby.visit(), bound_contextvars(**ids, **_clients_id(scope)):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                self._telemetry.log.exception("request failed")
                if started:
                    # The server has to cut a response that can't be finished.
                    raise
                await answer(self._refuse(error))(scope, receive, send_with_id)


def _clients_id(scope: Scope) -> dict[str, str]:
    theirs = Headers(scope=scope).get("x-request-id", "")[:128]
    return (
        {"client_request_id": theirs}
        if theirs.isascii() and theirs.isprintable() and theirs
        else {}
    )


def _handler(
    refuse: Callable[[Any], ApiError],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(_: Request, error: Exception) -> Response:
        return answer(refuse(error))

    return handle


def _of_http(error: HTTPException) -> ApiError:
    """Of routing: no such path, or no such method there."""
    status = HTTPStatus(error.status_code)
    return ApiError(
        status,
        f"{error.detail}. The API's documentation is at /docs.",
        code=status.name.lower(),
        headers=error.headers or {},
    )


def _documentation() -> dict[str, Any]:
    """The body of a request for the API's documentation: it is read here, not by FastAPI."""
    schema = ChatRequest.model_json_schema()
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "parameters": [
            {
                "name": HEADER,
                "in": "header",
                "description": "Sent again with it, the request goes on from where it was.",
                "schema": {"type": "string"},
            }
        ],
    }
