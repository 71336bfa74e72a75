"""Spans: what is recorded of an operation, and by whom.

This is no `opentelemetry.sdk.trace.Tracer`, which costs 20 µs a span (docs/decisions/0004-tracing.md). A span
here is an object of strings and numbers; what OpenTelemetry's exporters take is made of it in their thread.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from contextvars import ContextVar
from random import getrandbits
from time import time_ns
from typing import Final, Self

from windshift.server.errors import WindshiftError
from windshift.server.telemetry.context import TraceContext, read_trace_context
from windshift.server.telemetry.conventions import ERROR_TYPE, Kind
from windshift.server.telemetry.sampling import Sampler

Attributes = dict[str, str | int | bool]

_RANDOM: Final = frozenset("2367abef")
"""Last digits of flags that have the second bit: the trace's id is random (W3C trace context level 2)."""
_LONGEST: Final = 255
"""Characters of a text that a client chose and nobody has checked."""


class Span:
    """An operation that is recorded. It is told to nobody before `end`.

    Attributes:
        name: what was done; there are few different ones.
        kind: on which side of it this server stands.
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        flags: two hexadecimal digits, those of this span's own ``traceparent``.
        state: the trace's ``tracestate``, perhaps empty.
        parent_id: the span that this one is a part of, empty for the first of a trace.
        remote: whether that one is another process's.
        link: the context of the producer of the event that this is about, if it is about one.
        attributes: names and values.
        error: the type of what went wrong, None when nothing did.
        started: nanoseconds since 1970.
        ended: the same.
    """

    __slots__ = (
        "_finish",
        "attributes",
        "ended",
        "error",
        "flags",
        "kind",
        "link",
        "name",
        "parent_id",
        "remote",
        "span_id",
        "started",
        "state",
        "trace_id",
    )

    def __init__(
        self,
        finish: Callable[[Span], None],
        kind: Kind,
        trace_id: str,
        flags: str,
        state: str,
        parent_id: str,
        *,
        remote: bool,
    ) -> None:
        self._finish = finish
        self.name = ""
        self.kind = kind
        self.trace_id = trace_id
        self.span_id = f"{getrandbits(64) or 1:016x}"
        self.flags = flags
        self.state = state
        self.parent_id = parent_id
        self.remote = remote
        self.link: TraceContext | None = None
        self.attributes: Attributes = {}
        self.error: str | None = None
        self.started = time_ns()
        self.ended = 0

    @property
    def context(self) -> TraceContext:
        """What is passed on to those whose work is a part of this."""
        return TraceContext(f"00-{self.trace_id}-{self.span_id}-{self.flags}", self.state)

    def child(self, kind: Kind) -> Span:
        """Begin a part of this operation. This one may have ended."""
        return Span(self._finish, kind, self.trace_id, self.flags, self.state, self.span_id, remote=False)

    def fail(self, error: str) -> None:
        """Note the type of what went wrong."""
        self.error = self.attributes[ERROR_TYPE] = error

    def __enter__(self) -> Self:
        current_span.set(self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self.fail(error_type(error))
        self.end()

    def end(self) -> None:
        """Note that the operation is over. To be called once."""
        self.ended = time_ns()
        self._finish(self)


current_span: ContextVar[Span | None] = ContextVar("current_span", default=None)
"""The span of the call that is being handled, when it is recorded: for log records."""


class Tracer:
    """Begins spans, if the sampler wants them.

    Args:
        sampler: decides.
        finish: is given every span that has ended; must be quick and not raise.
    """

    __slots__ = ("_finish", "_sampler")

    def __init__(self, sampler: Sampler, finish: Callable[[Span], None]) -> None:
        self._sampler = sampler
        self._finish = finish

    def start(self, kind: Kind, parent: TraceContext | None) -> Span | None:
        """Begin an operation that a caller asked for; None when it is not recorded."""
        if parent is not None:
            return self._continue(kind, parent) if self._sampler.continues(parent.parent) else None
        trace_id = self._sampler.begins()
        if trace_id is None:
            return None
        return Span(self._finish, kind, trace_id, "03", "", "", remote=False)

    def follow(self, kind: Kind, parent: str | None, state: str | None) -> Span | None:
        """Begin an operation on an event, by its headers, which may hold anything.

        It is a part of the trace of the event's producer, and links to the producer's span. Without such a
        trace nothing is recorded.
        """
        if parent is None or len(parent) < 55:
            return None
        try:
            if not self._sampler.continues(parent):
                return None
        except ValueError:
            return None
        producer = read_trace_context(parent, state or "")
        if producer is None:
            return None
        span = self._continue(kind, producer)
        span.link = producer
        return span

    def _continue(self, kind: Kind, parent: TraceContext) -> Span:
        text = parent.parent
        flags = "03" if text[54] in _RANDOM else "01"
        return Span(self._finish, kind, text[3:35], flags, parent.state, text[36:52], remote=True)


def error_type(error: BaseException) -> str:
    """Name what went wrong: by the reason that clients are told, or by the exception's class."""
    if isinstance(error, WindshiftError):
        return error.reason
    return "CANCELLED" if isinstance(error, CancelledError) else type(error).__qualname__


def bounded(text: str) -> str:
    """Cut a text that a client chose to what an attribute may have."""
    return text[:_LONGEST]
