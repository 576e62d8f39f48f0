"""What an operator and a client ask besides answers: models, health, metrics, traces."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Protocol, TypeAlias

from fastapi import APIRouter
from pydantic_core import to_json
from redis.exceptions import RedisError
from starlette.responses import JSONResponse, Response

from planner.errors import LongthinkError
from services.api.errors import ApiError, unavailable
from services.api.exposition import CONTENT_TYPE, merge
from services.api.limits import Limits
from services.api.schema import unknown_model
from services.telemetry import Telemetry
from services.trace import Event

Ready: TypeAlias = Callable[[], Awaitable[dict[str, bool]]]
"""Says of each engine, by name, whether it answers."""

EngineMetrics: TypeAlias = Callable[[], Awaitable[list[tuple[str, str]]]]
"""The Prometheus text of each engine replica, as (replica, text)."""

_TRACE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_FLUSH_SECONDS = 1.0


class Traces(Protocol):
    """Where traces are read from: `services.trace.TraceStore`."""

    async def flush(self) -> None:
        """Return when everything written so far can be read, or is lost."""

    async def read(self, trace_id: str) -> list[Event] | None:
        """The events of a trace, or None. Raises RedisError when Redis can't be reached."""


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


def health(ready: Ready, *, limits: Limits) -> APIRouter:
    """Whether the service is up, and whether it can answer."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health/live")
    async def live() -> Response:
        """Whether the service runs at all."""
        return JSONResponse({"status": "live"})

    @routes.get("/health/ready")
    async def is_ready() -> Response:
        """200 once every engine answers; until then 503, and what is missing."""
        engines = await _engines(ready, limits.probe_seconds)
        missing = sorted(name for name, answers in engines.items() if not answers)
        if engines and not missing:
            return JSONResponse({"status": "ready", "engines": engines})
        body = {"status": "starting", "engines": engines, "missing": missing or ["engines"]}
        return JSONResponse(body, HTTPStatus.SERVICE_UNAVAILABLE)

    return routes


def observed(
    *, traces: Traces, engine_metrics: EngineMetrics, limits: Limits, telemetry: Telemetry
) -> APIRouter:
    """What the service did."""
    routes = APIRouter(tags=["observability"])

    @routes.get("/metrics")
    async def metrics() -> Response:
        """The metrics of the service and of every engine replica, for Prometheus."""
        engines: list[tuple[str, str]] = []
        try:
            async with asyncio.timeout(limits.probe_seconds):
                engines = await engine_metrics()
        except (LongthinkError, TimeoutError) as error:
            telemetry.engines_unheard(error)
        return Response(merge(telemetry.metrics(), engines), media_type=CONTENT_TYPE)

    @routes.get("/v1/traces/{trace_id}")
    async def show_trace(trace_id: str) -> Response:
        """The log of a request: everything told about it, in order."""
        events = None
        if _TRACE_ID.fullmatch(trace_id):
            events = await _read(traces, trace_id, limits.retry_seconds)
        if events is None:
            raise ApiError(
                HTTPStatus.NOT_FOUND,
                "There is no such trace. Traces are kept for a limited time.",
                code="trace_not_found",
                param="trace_id",
            )
        body = {"id": trace_id, "events": [_told(event) for event in events]}
        return Response(to_json(body, inf_nan_mode="null"), media_type="application/json")

    return routes


async def _engines(ready: Ready, seconds: float) -> dict[str, bool]:
    try:
        async with asyncio.timeout(seconds):
            return await ready()
    except (LongthinkError, TimeoutError):
        return {}


async def _read(traces: Traces, trace_id: str, retry_seconds: float) -> list[Event] | None:
    # A client that asks right after its reply should find the end of the log, too.
    with suppress(TimeoutError):
        async with asyncio.timeout(_FLUSH_SECONDS):
            await traces.flush()
    try:
        return await traces.read(trace_id)
    except RedisError:
        message = "Traces can't be read at present."
        raise unavailable(message, "traces_unavailable", retry_seconds) from None


def _told(event: Event) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "seconds": event.seconds,
        "kind": event.kind,
        "data": event.data,
    }
