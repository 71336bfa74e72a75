"""A small OTLP collector, over gRPC or HTTP, on the official protos: it keeps what it is sent."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as PbSpan

from tests.support.windshift_process import wait_for

Attributes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it arrived, with what it arrived with."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    attributes: Attributes
    links: list[tuple[str, str]]
    """Trace and span of each."""
    failed: bool
    remote_parent: bool
    started: int
    ended: int
    resource: Attributes
    resource_schema: str
    scope: tuple[str, str]
    scope_schema: str


@dataclass(slots=True)
class Collector:
    """What arrived. Everything else is the servers' business."""

    traces: list[trace_pb.ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[metrics_pb.ExportMetricsServiceRequest] = field(default_factory=list)
    logs: list[logs_pb.ExportLogsServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of each request, names in lower case."""
    attempts: int = 0
    refusing: bool = False
    """Whether requests are answered with an error that says to come again."""
    open: threading.Event = field(default_factory=threading.Event)
    """While it is clear, requests wait."""
    endpoint: str = ""
    """Where it listens: a URL without a path."""

    def __post_init__(self) -> None:
        self.open.set()

    @property
    def spans(self) -> list[Span]:
        """All spans that arrived, in the order in which they began."""
        found = [span for request in list(self.traces) for span in read_spans(request)]
        return sorted(found, key=lambda span: span.started)

    def wait_spans(self, count: int) -> list[Span]:
        """Wait until as many spans are there."""
        wait_for(lambda: len(self.spans) >= count, lambda: f"{[span.name for span in self.spans]}")
        return self.spans

    def trace(self, trace_id: str, count: int) -> dict[str, Span]:
        """Wait until a trace has as many spans, and give them by name."""
        wait_for(
            lambda: len([span for span in self.spans if span.trace_id == trace_id]) >= count,
            lambda: f"{self.spans}",
        )
        return {span.name: span for span in self.spans if span.trace_id == trace_id}

    def take(self, kind: str, request: Message, headers: dict[str, str]) -> bool:
        """Keep a request, or refuse it."""
        self.attempts += 1
        self.open.wait()
        if self.refusing:
            return False
        self.headers.append(headers)
        kept: list[Any] = getattr(self, kind)
        kept.append(request)
        return True


def read_spans(request: trace_pb.ExportTraceServiceRequest) -> Iterator[Span]:
    """Read the spans of a request."""
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scoped in group.scope_spans:
            scope = (scoped.scope.name, scoped.scope.version)
            for span in scoped.spans:
                yield Span(
                    span.name,
                    PbSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.trace_state,
                    _attributes(span.attributes),
                    [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    bool(span.flags & 0x200),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    resource,
                    group.schema_url,
                    scope,
                    scoped.schema_url,
                )


def _attributes(pairs: Any) -> Attributes:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    value: AnyValue = pair.value
    return getattr(value, value.WhichOneof("value") or "string_value")


# --- gRPC -------------------------------------------------------------------------------------------------

_SERVICE = "opentelemetry.proto.collector."
_GRPC: dict[str, tuple[str, Any, Callable[[], Message]]] = {
    "traces": (
        f"{_SERVICE}trace.v1.TraceService",
        trace_pb.ExportTraceServiceRequest,
        trace_pb.ExportTraceServiceResponse,
    ),
    "metrics": (
        f"{_SERVICE}metrics.v1.MetricsService",
        metrics_pb.ExportMetricsServiceRequest,
        metrics_pb.ExportMetricsServiceResponse,
    ),
    "logs": (
        f"{_SERVICE}logs.v1.LogsService",
        logs_pb.ExportLogsServiceRequest,
        logs_pb.ExportLogsServiceResponse,
    ),
}


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for a collector that speaks TLS; with an authority, clients must have its certificates."""

    certificate: Path
    key: Path
    authority: Path | None = None


@contextmanager
def grpc_collector(tls: Tls | None = None, port: int = 0) -> Iterator[Collector]:
    """Run a collector over gRPC for as long as the block lasts."""
    collector = Collector()
    pool = ThreadPoolExecutor(4)
    server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
    for kind, (name, request_type, response_type) in _GRPC.items():
        method: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            _grpc_handler(collector, kind, response_type),
            request_deserializer=request_type.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": method}),))
    if tls is None:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        authority = tls.authority.read_bytes() if tls.authority else None
        pair = [(tls.key.read_bytes(), tls.certificate.read_bytes())]
        credentials = grpc.ssl_server_credentials(pair, authority, require_client_auth=authority is not None)
        port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    collector.endpoint = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
    server.start()
    try:
        yield collector
    finally:
        collector.open.set()
        server.stop(0).wait()
        pool.shutdown()


def _grpc_handler(
    collector: Collector, kind: str, response_type: Callable[[], Message]
) -> Callable[[Message, grpc.ServicerContext], Message]:
    def export(request: Message, context: grpc.ServicerContext) -> Message:
        headers = {name: str(value) for name, value in context.invocation_metadata()}
        if not collector.take(kind, request, headers):
            context.abort(grpc.StatusCode.UNAVAILABLE, "come again")
        return response_type()

    return export


# --- HTTP -------------------------------------------------------------------------------------------------


@contextmanager
def http_collector(tls: Tls | None = None, prefix: str = "/v1/") -> Iterator[Collector]:
    """Run a collector over HTTP, below this path, for as long as the block lasts."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            kind = self.path.removeprefix(prefix)
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            known = self.path.startswith(prefix) and kind in _GRPC
            status = 404
            if known:
                status = 200 if collector.take(kind, _GRPC[kind][1].FromString(body), headers) else 503
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.authority is not None:
            context.load_verify_locations(tls.authority)
            context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)
    collector.endpoint = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        collector.open.set()
        server.shutdown()
        thread.join()
        server.server_close()
