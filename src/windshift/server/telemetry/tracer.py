"""The tracer: the sampler and the spans.

Not `opentelemetry.sdk.trace`, where a span costs 20 µs (docs/decisions/0004-tracing.md). A span here is an
object of strings and numbers; a thread converts it for OpenTelemetry's exporters.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import getrandbits
from time import time_ns
from typing import Final, Self

from windshift.conventions import ERROR_TYPE, SpanKind
from windshift.server.config.telemetry import SamplerConfig
from windshift.server.domain.errors import WindshiftError
from windshift.server.telemetry.propagation import UNRECORDED, TraceContext, read_trace_context

Attributes = dict[str, str | int | bool]

_RANDOM: Final = frozenset("2367abef")
"""Last digits of flags with the second bit set: the trace id is random (W3C trace context level 2)."""
_LONGEST: Final = 255
"""Characters kept of an unchecked text from a client."""
_SAMPLED: Final = frozenset("13579bdf")
"""Last digits of flags with the lowest bit set."""
_IDS: Final = 1 << 64
"""The number of values of the lower half of a trace id."""


class Sampler:
    """OpenTelemetry's six standard samplers: by the parent's flag or not, and a share of the other traces.

    The lower 64 bits of the trace id decide, as in OpenTelemetry's SDK for Python, so that all servers with
    the same share decide alike. https://opentelemetry.io/docs/specs/otel/trace/sdk/#built-in-samplers
    """

    __slots__ = ("_bound", "_parent_based")

    def __init__(self, config: SamplerConfig) -> None:
        self._parent_based = config.parent_based
        self._bound = round(config.ratio * _IDS)

    def continues(self, parent: str) -> bool:
        """Decide about a caller's trace, by its valid ``traceparent``."""
        if self._parent_based:
            return parent[54] in _SAMPLED
        return int(parent[19:35], 16) < self._bound

    def begins(self) -> str | None:
        """Return the id of a new trace; None = do not record one."""
        low = getrandbits(64)
        if low >= self._bound:
            return None
        return f"{getrandbits(64) or 1:016x}{low:016x}"


def _new_span_id() -> str:
    return (getrandbits(64) or 1).to_bytes(8).hex()  # all zeros are no id


@dataclass(slots=True, eq=False)
class Span:
    """A recorded operation, exported after its end.

    Attributes:
        finish: called at its end.
        kind: the role of this server in it.
        trace_id: 32 hexadecimal digits.
        flags: two hexadecimal digits, the flags of this span's ``traceparent``.
        state: the trace's ``tracestate``; may be empty.
        parent_id: the parent span; empty for the first span of a trace.
        remote: whether the parent is in another process.
        name: the operation, and perhaps its target; of low cardinality.
        span_id: 16 hexadecimal digits.
        link: the context of the event's producer, for operations on events.
        attributes: names and values.
        error: the type of the error; None = none.
        started: nanoseconds since 1970.
        ended: nanoseconds since 1970.
    """

    finish: Callable[[Span], None]
    kind: SpanKind
    trace_id: str
    flags: str
    state: str
    parent_id: str
    remote: bool
    name: str = ""
    span_id: str = field(default_factory=_new_span_id)
    link: TraceContext | None = None
    attributes: Attributes = field(default_factory=dict)
    error: str | None = None
    started: int = field(default_factory=time_ns)
    ended: int = 0

    @property
    def context(self) -> TraceContext:
        """The context to propagate."""
        return TraceContext(f"00-{self.trace_id}-{self.span_id}-{self.flags}", self.state)

    def child(self, kind: SpanKind) -> Span:
        """Start a child span. This one may have ended."""
        return Span(self.finish, kind, self.trace_id, self.flags, self.state, self.span_id, remote=False)

    def fail(self, error: str) -> None:
        """Set the type of the error."""
        self.error = self.attributes[ERROR_TYPE] = error

    def __enter__(self) -> Self:
        current_span.set(self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self.fail(error_type(error))
        self.end()

    def end(self) -> None:
        """End the operation. To be called once."""
        self.ended = time_ns()
        self.finish(self)


current_span: ContextVar[Span | None] = ContextVar("current_span", default=None)
"""The span of the current call, if recorded; log records refer to it."""


@dataclass(frozen=True, slots=True)
class Tracer:
    """Starts spans.

    Attributes:
        sampler: decides which.
        finish: called with every ended span; must be quick and not raise.
    """

    sampler: Sampler
    finish: Callable[[Span], None]

    def start(self, kind: SpanKind, parent: TraceContext | None) -> Span | None:
        """Start the span of a call; None = not recorded."""
        if parent is UNRECORDED:
            return None
        if parent is not None:
            return self._continue(kind, parent) if self.sampler.continues(parent.parent) else None
        trace_id = self.sampler.begins()
        if trace_id is None:
            return None
        return Span(self.finish, kind, trace_id, "03", "", "", remote=False)

    def follow(self, kind: SpanKind, parent: str | None, state: str | None) -> Span | None:
        """Start the span of an operation on an event, from its headers, which are not trusted.

        It continues the trace of the event's producer and links to the producer's span. Without a trace there
        nothing is recorded.
        """
        if parent is None or len(parent) < 55:
            return None
        try:
            if not self.sampler.continues(parent):
                return None
        except ValueError:
            return None
        producer = read_trace_context(parent, state or "")
        if producer is None:
            return None
        span = self._continue(kind, producer)
        span.link = producer
        return span

    def _continue(self, kind: SpanKind, parent: TraceContext) -> Span:
        text = parent.parent
        flags = "03" if text[54] in _RANDOM else "01"
        return Span(self.finish, kind, text[3:35], flags, parent.state, text[36:52], remote=True)


def error_type(error: BaseException) -> str:
    """Return the reason that clients get, or the exception's class name."""
    if isinstance(error, WindshiftError):
        return error.reason
    return "CANCELLED" if isinstance(error, CancelledError) else type(error).__qualname__


def bounded(text: str) -> str:
    """Cut a client's text to the length of an attribute."""
    return text[:_LONGEST]
