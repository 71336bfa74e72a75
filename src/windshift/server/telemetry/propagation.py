"""The W3C trace context: how it is read from metadata and headers.

https://www.w3.org/TR/trace-context/. Malformed values are ignored, never an error, as the standard says.
Other formats are read by OpenTelemetry's propagators, found as entry points, and passed on as W3C's. Baggage
is ignored: an event has no place for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

_IDS = r"(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
# Version 00 ends after the flags; later ones may continue after a dash; ff is not a version.
_PARENT = re.compile(rf"00-{_IDS}|(?!00|ff)[0-9a-f]{{2}}-{_IDS}(?:-[!-~]*)?")
# Level 1 of the standard, as OpenTelemetry reads it: it would log a warning of other keys with each span.
_KEY = r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_MEMBER = rf"[ \t]*(?:{_KEY}=[ !-+\--<>-~]{{0,255}}[!-+\--<>-~])?[ \t]*"
_STATE = re.compile(rf"{_MEMBER}(?:,{_MEMBER}){{0,31}}")
_MAX_LENGTH = 512


class TraceContext(NamedTuple):
    """``traceparent`` and ``tracestate``; the latter may be empty."""

    parent: str
    state: str = ""


UNRECORDED: Final = TraceContext("")
"""That of a call without a context that is not recorded: nor is what belongs to it."""


def read_trace_context(parent: str, state: str) -> TraceContext | None:
    """Check both headers. Return None without a valid parent; drop a malformed state."""
    if len(parent) > _MAX_LENGTH or _PARENT.fullmatch(parent) is None:
        return None
    state = state.strip(" \t")
    if len(state) > _MAX_LENGTH or _STATE.fullmatch(state) is None:
        state = ""
    return TraceContext(parent, state)


# --- Calls -------------------------------------------------------------------------------------------------

_GROUP: Final = "opentelemetry_propagator"
_WITHOUT_TRACE: Final = ("baggage", "none")


class Carrier(Protocol):
    """A call with metadata."""

    @property
    def fields(self) -> Mapping[bytes, bytes]:
        """The headers, and the last value of each."""

    def header(self, name: bytes) -> str:
        """Return a header, empty when absent."""


Extract = Callable[[Carrier], TraceContext | None]


def extractor(propagators: Sequence[str]) -> Extract:
    """Return a function that extracts a trace context; if several propagators find one, the last wins.

    Raises:
        LookupError: a propagator is not installed.
    """
    names = [name for name in dict.fromkeys(propagators) if name not in _WITHOUT_TRACE]
    extracts = [w3c if name == "tracecontext" else _installed(name) for name in reversed(names)]
    if len(extracts) == 1:
        return extracts[0]

    def extract(carrier: Carrier) -> TraceContext | None:
        for each in extracts:
            context = each(carrier)
            if context is not None:
                return context
        return None

    return extract


def w3c(carrier: Carrier) -> TraceContext | None:
    """Extract ``traceparent`` and ``tracestate``."""
    if b"traceparent" not in carrier.fields:
        return None
    return read_trace_context(carrier.header(b"traceparent"), carrier.header(b"tracestate"))


def _installed(name: str) -> Extract:
    from importlib.metadata import entry_points  # noqa: PLC0415 - 1 MB that is rarely needed

    found = entry_points(group=_GROUP, name=name)
    if not found:
        raise LookupError(f"no package has the propagator {name}")
    return partial(_extract, next(iter(found)).load()(), _Getter())


class _Getter:
    """Lets OpenTelemetry's propagators read a carrier."""

    def get(self, carrier: Carrier, key: str) -> list[str] | None:
        value = carrier.header(key.lower().encode())
        return [value] if value else None

    def keys(self, carrier: Carrier) -> list[str]:
        return []


def _extract(propagator: Any, getter: Any, carrier: Carrier) -> TraceContext | None:
    from opentelemetry import context, trace  # noqa: PLC0415 - only installed propagators need it

    found = propagator.extract(carrier, context.Context(), getter)
    span = trace.get_current_span(found).get_span_context()
    if not span.is_valid:
        return None
    parent = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    return read_trace_context(parent, span.trace_state.to_header())
