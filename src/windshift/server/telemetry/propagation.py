"""Where a call's trace context is found in its gRPC metadata.

The W3C's is built in. Others are OpenTelemetry's propagators, which packages bring as entry points; what they
find is worded as the W3C does, since that is how it goes on with the event. Baggage is accepted and goes
nowhere: an event has no place for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import entry_points
from typing import Any, Final, Protocol

from windshift.server.telemetry.context import TraceContext, read_trace_context

_GROUP: Final = "opentelemetry_propagator"
_WITHOUT_TRACE: Final = ("baggage", "none")


class Carrier(Protocol):
    """A call, as far as its metadata goes."""

    def header(self, name: bytes) -> str:
        """Return a header, empty when absent."""
        ...


Extract = Callable[[Carrier], TraceContext | None]


def extractor(propagators: Sequence[str]) -> Extract:
    """Make what finds a trace context by any of these propagators; the last one that finds one counts.

    Raises:
        LookupError: one is not installed.
    """
    extracts = [_one(name) for name in dict.fromkeys(propagators) if name not in _WITHOUT_TRACE]
    if not extracts:
        return _nothing
    return extracts[0] if len(extracts) == 1 else partial(_last, extracts[::-1])


def _one(name: str) -> Extract:
    return w3c if name == "tracecontext" else _installed(name)


def w3c(carrier: Carrier) -> TraceContext | None:
    """Find a W3C trace context: ``traceparent`` and ``tracestate``."""
    parent = carrier.header(b"traceparent")
    return read_trace_context(parent, carrier.header(b"tracestate")) if parent else None


def _nothing(_: Carrier) -> TraceContext | None:
    return None


def _last(extracts: Sequence[Extract], carrier: Carrier) -> TraceContext | None:
    for extract in extracts:
        context = extract(carrier)
        if context is not None:
            return context
    return None


def _installed(name: str) -> Extract:
    """Load a propagator that a package brings."""
    found = entry_points(group=_GROUP, name=name)
    if not found:
        raise LookupError(f"no package has the propagator {name}")
    return partial(_extract, next(iter(found)).load()(), _Getter())


class _Getter:
    """How OpenTelemetry's propagators read a carrier."""

    def get(self, carrier: Carrier, key: str) -> list[str] | None:
        value = carrier.header(key.lower().encode())
        return [value] if value else None

    def keys(self, carrier: Carrier) -> list[str]:
        return []


def _extract(propagator: Any, getter: Any, carrier: Carrier) -> TraceContext | None:
    from opentelemetry import context, trace  # noqa: PLC0415 - nobody else needs it

    found = propagator.extract(carrier, context.Context(), getter)
    span = trace.get_current_span(found).get_span_context()
    if not span.is_valid:
        return None
    parent = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    return read_trace_context(parent, span.trace_state.to_header())
