"""One log record for each failed call.

Bugs of the server are errors. An unreachable broker is a warning, throttled. Everything else is a mistake of
a client or was asked for (a deadline, a drain): logged at debug level, and counted by the metrics.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from google.rpc.error_details_pb2 import ErrorInfo

from windshift.rpc import Failure, RpcError, StatusCode
from windshift.server.telemetry.log_throttle import LogThrottle
from windshift.server.telemetry.propagation import Extract
from windshift.server.telemetry.tracer import current_span

_log = logging.getLogger(__name__)

_FAULTS: Final = frozenset({StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DATA_LOSS})
_EXPECTED: Final = frozenset({"SHUTTING_DOWN", "CONNECTION_ENDED"})
"""Reasons of UNAVAILABLE that somebody asked for."""


class FailureLog:
    """Keeps the records. `interval` is seconds between two warnings about a broker that is away."""

    def __init__(self, extract: Extract, interval: float = 10.0) -> None:
        self._extract = extract
        self._unavailable = LogThrottle(interval)

    def failed(self, failure: Failure, now: float) -> None:
        """Write a record of a call that failed, if its level is logged. `now` is the loop's time."""
        error = failure.error
        reason = _reason(error)
        level, fields = self._level(error, reason, now)
        if not _log.isEnabledFor(level):
            return
        fields |= {"method": failure.method, "peer": failure.peer, "code": error.code.name, "reason": reason}
        text = error.message if error.fault is None else f"the handler failed: {type(error.fault).__name__}"
        _log.log(level, "%s", text, exc_info=error.fault, extra=fields | self._trace(failure))

    def _level(self, error: RpcError, reason: str, now: float) -> tuple[int, dict[str, Any]]:
        if error.code in _FAULTS:
            # Without a fault it is a client that breaks the protocol, which gRPC calls INTERNAL too.
            return (logging.DEBUG if error.fault is None else logging.ERROR), {}
        if error.code is not StatusCode.UNAVAILABLE or reason in _EXPECTED:
            return logging.DEBUG, {}
        if not self._unavailable.passes(now):
            return logging.DEBUG, {}
        return logging.WARNING, self._unavailable.more()

    def _trace(self, failure: Failure) -> dict[str, str]:
        """Say which trace a call belongs to: by its own span, or as its caller said."""
        span = current_span.get()
        if span is not None:
            return {"trace_id": span.trace_id, "span_id": span.span_id}
        context = self._extract(failure)
        if context is None:
            return {}
        return {"trace_id": context.parent[3:35], "span_id": context.parent[36:52]}


def _reason(error: RpcError) -> str:
    found = (detail.reason for detail in error.details if isinstance(detail, ErrorInfo))
    return next(found, error.code.name)
