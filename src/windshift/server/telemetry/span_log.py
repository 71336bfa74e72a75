"""Finished spans as log records, for use without a collector."""

from __future__ import annotations

import logging

from windshift.server.telemetry.tracer import Span

_log = logging.getLogger(__name__)


def log_span(span: Span) -> None:
    """Write a span to the log."""
    _log.info(
        "%s (%s, %.3f ms%s) trace %s span %s parent %s %s",
        span.name,
        span.kind.value,
        (span.ended - span.started) / 1e6,
        f", {span.error}" if span.error else "",
        span.trace_id,
        span.span_id,
        span.parent_id or "none",
        span.attributes,
    )
