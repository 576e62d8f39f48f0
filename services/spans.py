"""OpenTelemetry spans of requests, from HTTP down to the engines' calls.

A request under `/v1` is a server span, which continues the client's trace where a `traceparent`
names one; otherwise the trace has the request's own id. Under it stands `chat {model}`, in the
conventions for generative AI (https://opentelemetry.io/docs/specs/semconv/gen-ai/), and under that
one span for each task, made when the request's own trace says how that ended; and under a task one
for each call of a worker. What always holds: nothing of a prompt or an answer is in a span unless
`capture_content` asks for it.

The SDK is imported here, and this is imported only where spans are asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic, time_ns
from typing import Any

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from planner.domain import CUT_SHORT, Finish
from services.tenants import LOCAL, tenant_of
from services.trace import Event, Kind
from services.watch import Called, Ended, Request
from workers.messages import Generated, Graded

_TRACE_ID: ContextVar[int | None] = ContextVar("trace_id", default=None)
_TOLD = (
    *(Kind.PLANNED, Kind.STEP, Kind.DECIDED, Kind.HURRIED),
    *(Kind.CANCELLED, Kind.HEDGED, Kind.LEFT),
)
_OF_STEP = ("id", "state", "strategy", "tokens", "share", "confidence", "stopped", "what")
_PATH = "/v1/traces"
_MOST_WAITING = 16_384
"""Spans that may wait to be sent. A search of 256 candidates ends with a thousand at a time, which
would soon be more than the SDK's 2,048."""


@dataclass(slots=True)
class _Open:
    """A request whose `chat` span has begun. `zero` is nanoseconds of the wall clock at `began`."""

    span: api.Span
    context: Context
    began: float
    zero: int
    finishes: dict[tuple[int, ...], str] = field(default_factory=dict)
    """Why candidates ended, by path."""
    texts: dict[tuple[int, ...], str] = field(default_factory=dict)
    """What they say, where that is to be captured."""

    def at(self, moment: float) -> int:
        """A moment of the monotonic clock, in nanoseconds of the wall clock."""
        return self.zero + int((moment - self.began) * 1e9)


class Spans:
    """A watcher (see `services.watch`) that makes spans, and what serves HTTP with them."""

    def __init__(
        self, processor: SpanProcessor, *, model: str, sampled: float, captures: bool, version: str
    ) -> None:
        """`sampled` is the share of traces begun here that are kept; OTEL_TRACES_SAMPLER wins."""
        asked = "OTEL_TRACES_SAMPLER" in os.environ
        self._provider = TracerProvider(
            sampler=None if asked else ParentBased(TraceIdRatioBased(sampled)),
            resource=_resource(version),
            shutdown_on_exit=False,
            id_generator=_Ids(),
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("longthink", version)
        self._model = model
        self._captures = captures
        self._open: dict[str, _Open] = {}

    def shutdown(self) -> None:
        """Send what is left, and no more. Blocks."""
        self._provider.shutdown()

    # HTTP

    @contextmanager
    def serving(self, scope: Scope, request_id: str) -> Iterator[Callable[[int], None]]:
        """The span of a request, and what takes the status of its response."""
        parent = TraceContextTextMapPropagator().extract(dict(Headers(scope=scope)))
        method, status = scope["method"], 0

        def note(code: int) -> None:
            nonlocal status
            status = code

        wanted = _TRACE_ID.set(int(request_id, 16))
        try:
            span = self._tracer.start_span(
                method, parent, SpanKind.SERVER, {"http.request.method": method}
            )
        finally:
            _TRACE_ID.reset(wanted)
        span.set_attribute("url.path", scope["path"])
        span.set_attribute("url.scheme", scope["scheme"])
        span.set_attribute("longthink.request_id", request_id)
        try:
            with api.use_span(span, record_exception=False, set_status_on_exception=False):
                yield note
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            _answered(span, scope, status)
            span.end()

    # What the watch tells

    def began(self, request: Request) -> None:
        """See `services.watch.Watcher`."""
        now = time_ns()
        span = self._tracer.start_span(
            f"chat {self._model}", kind=SpanKind.INTERNAL, start_time=now
        )
        if not span.is_recording():
            return
        context = api.set_span_in_context(span, Context())
        self._open[request.id] = _Open(span, context, request.began, now)
        span.set_attributes(self._asked(request))
        if self._captures:
            messages = request.opened["query"]["messages"]
            span.set_attribute(
                "gen_ai.input.messages", json.dumps([_said(**it) for it in messages])
            )

    def said(self, request: Request, event: Event) -> None:
        """See `services.watch.Watcher`."""
        if event.kind in _TOLD and (under := self._open.get(request.id)):
            known = {
                name: event.data[name] for name in _OF_STEP if event.data.get(name) is not None
            }
            if event.kind is Kind.CANCELLED:
                known = {"calls": len(event.data["calls"]), "why": event.data["why"]}
            under.span.add_event(f"longthink.{event.kind}", known, under.at(monotonic()))

    def called(self, call: Called) -> None:
        """See `services.watch.Watcher`. The task that a call is of has it."""

    def ended(self, request: Request, task: Ended) -> None:
        """See `services.watch.Watcher`."""
        if under := self._open.get(request.id):
            begun = task.asked if task.asked is not None else task.ended
            span = self._tracer.start_span(
                task.kind, under.context, SpanKind.INTERNAL, _of(task), start_time=under.at(begun)
            )
            if (candidate := task.told["candidate"]) is not None:
                path = tuple(candidate["path"])
                under.finishes[path] = candidate["finish"]
                if self._captures:
                    under.texts[path] = candidate["text"]
                    span.set_attribute("longthink.text", candidate["text"])
            if task.told["status"] == "failed":
                span.set_status(Status(StatusCode.ERROR))
            context = api.set_span_in_context(span, Context())
            for call in task.calls:
                self._called(call, under, context)
            span.end(under.at(task.ended))

    def closed(self, request: Request, said: Mapping[str, Any] | None) -> None:
        """See `services.watch.Watcher`."""
        under = self._open.get(request.id)
        if under is None:
            return
        if said is None:
            under.span.set_status(Status(StatusCode.ERROR))
        else:
            under.span.set_attributes(_came_to(said))
            if finish := _finish(said["outcome"], under.finishes):
                under.span.set_attribute("gen_ai.response.finish_reasons", (finish,))
            if self._captures:
                under.span.set_attributes(_answer(said["outcome"], under.texts, finish))
        under.span.end()

    def over(self, request: Request) -> None:
        """See `services.watch.Watcher`. Tasks that nobody heard the end of have a span as well."""
        if under := self._open.pop(request.id, None):
            for late in request.calls.values():
                for call in late:  # another had done the same sooner
                    self._called(call, under, under.context)
            for task_id, asked in request.asked.items():
                about = {"longthink.task.id": task_id, "longthink.task.status": "unreported"}
                span = self._tracer.start_span(
                    task_id.partition(":")[0],
                    under.context,
                    SpanKind.INTERNAL,
                    about,
                    start_time=under.at(asked),
                )
                span.end()

    def _called(self, call: Called, under: _Open, context: Context) -> None:
        """The span of a call: as long as its worker had it, up to when that was heard of."""
        made = call.made
        timing = made.timing if isinstance(made, Generated | Graded) else None
        took = call.ended - call.sent
        engine = took if timing is None else min(timing.seconds, took)
        start = call.ended - engine
        about: dict[str, Any] = {
            "longthink.call.id": call.call.id,
            "longthink.call.finish": call.finish,
            "longthink.call.on_the_way_seconds": took - engine,
            "longthink.worker": made.worker if made is not None else "",
        }
        if isinstance(made, Generated):
            about["longthink.call.prompt_tokens"] = made.prompt_tokens
            about["longthink.call.cached_tokens"] = made.cached_tokens
            about["longthink.call.completion_tokens"] = made.completion_tokens
        elif isinstance(made, Graded):
            about["longthink.call.reward_tokens"] = made.reward_tokens
        span = self._tracer.start_span(
            f"engine {call.kind}", context, SpanKind.CLIENT, about, start_time=under.at(start)
        )
        if timing is not None and timing.queued is not None:
            span.add_event("scheduled", timestamp=under.at(start + timing.queued))
        if timing is not None and timing.first is not None:
            span.add_event("first token", timestamp=under.at(start + timing.first))
        if call.finish in ("failed", "lost"):
            span.set_status(Status(StatusCode.ERROR))
        span.end(under.at(call.ended))

    def _asked(self, request: Request) -> dict[str, Any]:
        query, effort = request.opened["query"], request.opened["effort"]
        sampling = query["sampling"]
        return {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "longthink",
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
            "gen_ai.response.id": f"chatcmpl-{request.id}",
            "gen_ai.request.temperature": sampling["temperature"],
            "gen_ai.request.top_p": sampling["top_p"],
            "gen_ai.request.max_tokens": sampling["max_tokens"],
            "gen_ai.request.seed": query["seed"],
            "longthink.trace_id": request.id,
            "longthink.tenant": request.opened.get("tenant", LOCAL.id),
            "longthink.strategy": effort["strategy"],
            "longthink.selector": effort["selector"],
            "longthink.stop": effort["stop"],
            "longthink.resumed": request.resumed,
        }


def exporting(endpoint: str | None, lost: Callable[[int], None]) -> SpanProcessor:
    """Sends spans in batches, as OTLP over HTTP; `lost` is told how many couldn't be sent.

    `endpoint` is the collector's address, to which the path for traces is added where it lacks it.
    Without one, and for all else (headers, certificates, time limits, batches), the OTEL_ variables
    of the environment count.
    """
    if endpoint is not None and not endpoint.endswith(_PATH):
        endpoint = endpoint.rstrip("/") + _PATH
    most = None if "OTEL_BSP_MAX_QUEUE_SIZE" in os.environ else _MOST_WAITING
    return BatchSpanProcessor(_Counted(OTLPSpanExporter(endpoint), lost), max_queue_size=most)


class _Counted(SpanExporter):
    """An exporter whose failures are counted."""

    def __init__(self, exporter: SpanExporter, lost: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._lost = lost

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._lost(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Ids(RandomIdGenerator):
    """A trace that begins here has the id of the request that it is of."""

    def generate_trace_id(self) -> int:
        return _TRACE_ID.get() or super().generate_trace_id()


def _resource(version: str) -> Resource:
    """Who makes the spans: longthink, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES says."""
    resource = Resource.create({SERVICE_VERSION: version})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: "longthink"}))
    return resource


def _answered(span: api.Span, scope: Scope, status: int) -> None:
    """Put down what is known of a request only once it was routed and answered."""
    route = getattr(scope.get("route"), "path", None)
    if route is not None:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("longthink.tenant", tenant_of(scope).id)
    if status:
        span.set_attribute("http.response.status_code", status)
    if status >= 500:  # what a client did wrong is no error of the server's
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))


def _of(task: Ended) -> dict[str, Any]:
    """What is said of a task."""
    told = task.told
    candidate = told["candidate"] or {}
    about = {
        "longthink.task.id": task.id,
        "longthink.task.status": told["status"],
        "longthink.task.path": candidate.get("path"),
        "longthink.task.finish": candidate.get("finish"),
        "longthink.task.score": candidate.get("score"),
        "longthink.task.why": task.why,
        "longthink.worker": told["worker"],
        "longthink.calls": len(task.calls),
        **_cost(told["cost"]),
    }
    return {name: value for name, value in about.items() if value is not None}


def _cost(cost: Mapping[str, int]) -> dict[str, int]:
    return {f"longthink.cost.{name}": value for name, value in cost.items() if value}


def _came_to(said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a request in the end. The usage is that of all branches."""
    spent, outcome = said["spent"], said["outcome"]
    return {
        "gen_ai.usage.input_tokens": spent["prompt_tokens"],
        "gen_ai.usage.cache_read.input_tokens": spent["cached_tokens"],
        "gen_ai.usage.output_tokens": spent["completion_tokens"],
        "longthink.reward_tokens": spent["reward_tokens"],
        "longthink.candidates": spent["candidates"],
        "longthink.micro_usd": spent["micro_usd"],
        "longthink.unreported_calls": said["unreported"],
        "longthink.stopped": str(outcome["stopped"] or ""),
        "longthink.confidence": outcome["confidence"],
        "longthink.selected_by": outcome["selector"],
        "longthink.answers": len(outcome["votes"]),
    }


def _finish(outcome: Mapping[str, Any], finishes: Mapping[tuple[int, ...], str]) -> str:
    """Why the best answer ends where it does, as its reply says it.

    Nothing if there is none, or if it was written before the request was gone on with here.
    """
    if not outcome["ranked"]:
        return "length" if outcome["stopped"] in CUT_SHORT else ""
    finish = finishes.get(tuple(outcome["ranked"][0]), "")
    return finish and ("stop" if finish == Finish.STOP else "length")


def _answer(
    outcome: Mapping[str, Any], texts: Mapping[tuple[int, ...], str], finish: str
) -> dict[str, Any]:
    """The reply and the answer in it, where they are to be captured."""
    about = {"longthink.answer": outcome["answer"] or ""}
    if outcome["ranked"] and (text := texts.get(tuple(outcome["ranked"][0]))) is not None:
        told = _said("assistant", text) | {"finish_reason": finish}
        about["gen_ai.output.messages"] = json.dumps([told])
    return about


def _said(role: str, content: str) -> dict[str, Any]:
    """A message, as the conventions write it."""
    return {"role": role, "parts": [{"type": "text", "content": content}]}
