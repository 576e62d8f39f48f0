"""What an operator and a client ask besides answers: models, health, metrics, traces."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, TypeAlias

from fastapi import APIRouter
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from planner.errors import LedgerUnavailable, LongthinkError
from services.allowance import Usage
from services.api.errors import invalid, unavailable
from services.api.exposition import CONTENT_TYPE, merge
from services.api.limits import Limits
from services.api.live import Traces, told, unknown
from services.api.lobby import Lobby
from services.api.schema import unknown_model
from services.api.standing import standing
from services.recent import MOST
from services.telemetry import Telemetry
from services.tenants import Tenant, tenant_of

Ready: TypeAlias = Callable[[], Awaitable[dict[str, bool]]]
"""Says of each engine, by name, whether it answers."""

EngineMetrics: TypeAlias = Callable[[], Awaitable[list[tuple[str, str]]]]
"""The Prometheus text of each engine replica, as (replica, text)."""

Edges: TypeAlias = Callable[[Mapping[str, bool], Sequence[str]], Awaitable[list[tuple[str, str]]]]
"""The Prometheus text of each edge, as (edge, text), given which parts and which engines answer.

One that is by itself has no name.
"""

Usages: TypeAlias = Callable[[Tenant], Awaitable[Usage]]
"""How a tenant stands: `services.allowance.Allowances.usage`. Raises LedgerUnavailable."""

_TRACE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_SEQ = re.compile(r"[0-9]{1,15}")


def models(model: str) -> APIRouter:
    """What can be asked: the one model that the service is."""
    routes = APIRouter(tags=["models"])
    described = {
        "id": model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "longthink",
    }

    @routes.get("/v1/models")
    async def list_models() -> Response:
        """The models that can be asked."""
        return JSONResponse({"object": "list", "data": [described]})

    # Names of models may hold slashes, as those of Hugging Face do.
    @routes.get("/v1/models/{name:path}")
    async def show_model(name: str) -> Response:
        """One model."""
        if name != model:
            raise unknown_model(name, model)
        return JSONResponse(described)

    return routes


def health(ready: Ready, *, limits: Limits, lobby: Lobby) -> APIRouter:
    """Whether the service is up, and whether it can answer."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health/live")
    async def live() -> Response:
        """Whether the service runs at all."""
        return JSONResponse({"status": "live"})

    @routes.get("/health/ready")
    async def is_ready() -> Response:
        """200 once every engine answers; until then 503, and what is missing. 503 again from the
        moment when the service is told to stop.
        """
        if lobby.closing:
            reason = "The service is being stopped and takes nothing new."
            draining = {"status": "draining", "reason": reason}
            return JSONResponse(draining, HTTPStatus.SERVICE_UNAVAILABLE)
        engines = await _engines(ready, limits.probe_seconds)
        missing = sorted(name for name, answers in engines.items() if not answers)
        if engines and not missing:
            return JSONResponse({"status": "ready", "engines": engines})
        body = {"status": "starting", "engines": engines, "missing": missing or ["engines"]}
        return JSONResponse(body, HTTPStatus.SERVICE_UNAVAILABLE)

    return routes


def observed(
    ready: Ready,
    *,
    engine_metrics: EngineMetrics,
    edges: Edges,
    limits: Limits,
    telemetry: Telemetry,
) -> APIRouter:
    """What the service did, in figures."""
    routes = APIRouter(tags=["observability"])

    async def heard() -> list[tuple[str, str]]:
        try:
            async with asyncio.timeout(limits.probe_seconds):
                return await engine_metrics()
        except (LongthinkError, TimeoutError) as error:
            telemetry.engines_unheard(error)
            return []

    @routes.get("/metrics")
    async def metrics() -> Response:
        """The metrics of every edge and of every engine replica, for Prometheus."""
        engines, parts = await asyncio.gather(heard(), _engines(ready, limits.probe_seconds))
        told = await edges(parts, [replica for replica, _ in engines])
        return Response(merge(told, engines), media_type=CONTENT_TYPE)

    return routes


def budget(usage: Usages, *, limits: Limits) -> APIRouter:
    """What a tenant has used and has left."""
    routes = APIRouter(tags=["budget"])

    @routes.get("/v1/budget")
    async def show_budget(request: Request) -> Response:
        """The limits of whoever asks: used, held by what is under way, left, and when it frees."""
        tenant = tenant_of(request.scope)
        try:
            return _json(standing(tenant, await usage(tenant)))
        except LedgerUnavailable:
            message, seconds = "What was spent can't be read at present.", limits.retry_seconds
            raise unavailable(message, "ledger_unavailable", seconds) from None

    return routes


def traces(kept: Traces) -> APIRouter:
    """What each request did, and the end of one that is under way.

    Nobody but the person who looks at it may end a search, and no page of another site in that
    person's browser: a browser asks before it sends a DELETE across sites, and as no response of
    this service carries CORS headers, it doesn't get leave.
    """
    routes = APIRouter(prefix="/v1/traces", tags=["observability"])

    @routes.get("")
    async def list_traces(request: Request) -> Response:
        """The newest requests, newest first: at most `limit` of them, 50 without it."""
        most = _limit(request.query_params.get("limit", "50"))
        found = await kept.recent(most, tenant_of(request.scope))
        return _json({"object": "list", "data": [asdict(one) for one in found]})

    @routes.get("/{trace_id}")
    async def show_trace(trace_id: str, request: Request) -> Response:
        """The log of a request: everything told about it, in order."""
        events = await kept.read(_id(trace_id), tenant_of(request.scope))
        return _json({"id": trace_id, "events": [told(event) for event in events]})

    @routes.get("/{trace_id}/events")
    async def follow_trace(trace_id: str, request: Request) -> Response:
        """The log of a request as server-sent events, while it is written, from the first event.

        With `Last-Event-ID`, from the event after that one.
        """
        last = request.headers.get("last-event-id", "")
        after = int(last) if _SEQ.fullmatch(last) else -1
        return await kept.follow(_id(trace_id), after, tenant_of(request.scope))

    @routes.delete("/{trace_id}")
    async def end_trace(trace_id: str, request: Request) -> Response:
        """End a search: its request is answered with the best so far."""
        await kept.end(_id(trace_id), tenant_of(request.scope))
        return JSONResponse({"id": trace_id, "status": "ending"}, HTTPStatus.ACCEPTED)

    return routes


async def _engines(ready: Ready, seconds: float) -> dict[str, bool]:
    try:
        async with asyncio.timeout(seconds):
            return await ready()
    except (LongthinkError, TimeoutError):
        return {}


def _id(text: str) -> str:
    """A trace's id. What can't be one never reaches Redis as a key."""
    if not _TRACE_ID.fullmatch(text):
        raise unknown()
    return text


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MOST):
        raise invalid(f"limit must be a whole number from 1 to {MOST}.", "limit")
    return int(text)


def _json(body: Any) -> Response:
    return Response(to_json(body, inf_nan_mode="null"), media_type="application/json")
