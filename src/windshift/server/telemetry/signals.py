"""Traces, metrics and logs of one process: builds what is configured, and closes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from windshift.server.config.telemetry import BatchConfig, TelemetryConfig
from windshift.server.telemetry.exporter import Exporter, Messages
from windshift.server.telemetry.registry import Collect, PeriodicReader
from windshift.server.telemetry.tracer import Sampler, Span, Tracer

_log = logging.getLogger(__name__)

_MIN_METRIC_INTERVAL: Final = 0.1

SPANS: Final = Messages(
    "spans are being lost: %s",
    "spans are exported again; %d were lost",
    "%d spans were not exported",
    hint=" (OTEL_BSP_MAX_QUEUE_SIZE)",
)
METRICS: Final = Messages(  # none are lost: the next readings include them
    "metrics cannot be exported: %s", "metrics are exported again; %d times they were not", ""
)
LOGS: Final = Messages(
    "log records are being lost: %s",
    "log records are exported again; %d were lost",
    "%d log records were not exported",
)


class Telemetry:
    """The telemetry of a process. Each signal with an endpoint has an exporter.

    Attributes:
        spans: exports finished spans; None without an endpoint.
        tracer: starts spans; None if they would go nowhere.
    """

    def __init__(self, config: TelemetryConfig) -> None:
        self._config = config
        self.spans = self._open_spans()
        self.tracer = self._make_tracer()
        self._logs: Exporter[Any] | None = None

    def _open_spans(self) -> Exporter[Span] | None:
        if self._config.traces.endpoint is None:
            return None
        from windshift.server.telemetry.otlp_signals import span_sender  # noqa: PLC0415 - slow, rarely needed

        return Exporter(span_sender(self._config), self._config.spans.batch, SPANS)

    def _make_tracer(self) -> Tracer | None:
        finishes: list[Callable[[Span], None]] = []
        if self.spans is not None:
            finishes.append(self.spans.add)
        if self._config.spans.log:
            finishes.append(_log_span)
        if not finishes:
            return None

        def finish_all(span: Span) -> None:
            for finish in finishes:
                finish(span)

        return Tracer(Sampler(self._config.spans.sampler), finishes[0] if len(finishes) == 1 else finish_all)

    async def close_spans(self, timeout: float) -> None:
        """Send waiting spans for up to `timeout` seconds."""
        if self.spans is not None:
            await asyncio.to_thread(self.spans.close, timeout)

    def metric_reader(self, collect: Collect) -> PeriodicReader | None:
        """Return an exporter of metrics; None without an endpoint."""
        if self._config.metrics.endpoint is None:
            return None
        from windshift.server.telemetry.otlp_signals import metric_sender  # noqa: PLC0415 - as above

        one_at_a_time = BatchConfig(queue_size=1, batch_size=1)
        queue = Exporter(metric_sender(self._config), one_at_a_time, METRICS)
        interval = max(_MIN_METRIC_INTERVAL, self._config.metric_export.interval.total_seconds())
        return PeriodicReader(queue, collect, interval)

    def log_handler(self) -> logging.Handler | None:
        """Return a handler that exports log records; None without an endpoint."""
        if self._config.logs.endpoint is None:
            return None
        from windshift.server.telemetry.otlp_signals import OtlpHandler, log_sender  # noqa: PLC0415 - as above

        batch = BatchConfig(timedelta(seconds=1))
        self._logs = Exporter(log_sender(self._config), batch, LOGS)
        return OtlpHandler(self._logs)

    def close_logs(self, timeout: float) -> None:
        """Send waiting log records for up to `timeout` seconds. Blocks."""
        if self._logs is not None:
            self._logs.close(timeout)


def _log_span(span: Span) -> None:
    """Log a finished span, for use without a collector."""
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
