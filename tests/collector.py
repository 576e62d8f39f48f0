"""A collector of OpenTelemetry spans, as small as can be: it listens, decodes and keeps."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True, slots=True)
class Collected:
    """One span as it came, its ids in hexadecimal digits, its times in nanoseconds."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    failed: bool
    attributes: dict[str, Any]
    events: dict[str, int]


@dataclass(slots=True)
class Collector:
    """What came so far."""

    url: str = ""
    spans: list[Collected] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    headers: list[dict[str, str]] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        """Decode one request of an exporter."""
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {it.key: _value(it.value) for it in resource.resource.attributes}
            self.services.add(named["service.name"])
            for scope in resource.scope_spans:
                self.spans += map(_collected, scope.spans)

    def named(self, name: str) -> list[Collected]:
        """The spans of that name."""
        return [span for span in self.spans if span.name == name]

    def under(self, parent: Collected) -> list[Collected]:
        """The spans whose parent this is."""
        return [span for span in self.spans if span.parent_id == parent.span_id]

    def awaited(self, name: str, seconds: float = 30.0) -> Collected:
        """The first span of that name, once it has come."""
        until = time.monotonic() + seconds
        while not (found := self.named(name)):
            assert time.monotonic() < until, f"no span {name!r} came"
            time.sleep(0.05)
        return found[0]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens while inside."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Take what an exporter sends to the path for traces."""
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            right = self.path == "/v1/traces"
            if right:
                collector.headers.append(dict(self.headers))
                collector.take(body)
            self.send_response(200 if right else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _collected(span: Span) -> Collected:
    return Collected(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == 2,
        attributes={it.key: _value(it.value) for it in span.attributes},
        events={event.name: event.time_unix_nano for event in span.events},
    )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None
