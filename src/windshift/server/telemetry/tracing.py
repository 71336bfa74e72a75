"""Tracing as a whole: made from the configuration, ended with the process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final

from windshift.server.config import TelemetryConfig
from windshift.server.telemetry.span_export import SpanExport
from windshift.server.telemetry.span_log import log_span
from windshift.server.telemetry.tracer import Sampler, Span, Tracer

_TURN: Final = 0.0005
"""Seconds that a thread may keep Python from the others. While a batch is put into Protobuf, calls would else
wait for 5 ms at a time: with all of 2,500 publishes a second recorded that was half of their 99th percentile.
"""


class Tracing:
    """The tracer and where its spans go.

    Attributes:
        tracer: begins spans.
        export: what sends them to the collector, if there is one; it counts.
    """

    def __init__(self, config: TelemetryConfig) -> None:
        self.export = _export(config)
        finishes: list[Callable[[Span], None]] = []
        if self.export is not None:
            finishes.append(self.export.add)
        if config.log_spans:
            finishes.append(log_span)
        self.tracer = Tracer(Sampler(config.sampler), _all(finishes))

    async def close(self, timeout: float) -> None:
        """Send what waits, for `timeout` seconds at most."""
        if self.export is not None:
            await asyncio.to_thread(self.export.close, timeout)


def start_tracing(config: TelemetryConfig) -> Tracing | None:
    """Begin to trace, if spans are to go anywhere."""
    wanted = config.traces.endpoint is not None or config.log_spans
    return Tracing(config) if wanted else None


def _export(config: TelemetryConfig) -> SpanExport | None:
    if config.traces.endpoint is None:
        return None
    from windshift.server.telemetry.exporters import OtlpSender  # noqa: PLC0415 - most servers have no collector

    sys.setswitchinterval(_TURN)
    return SpanExport(OtlpSender(config), config.batch)


def _all(finishes: list[Callable[[Span], None]]) -> Callable[[Span], None]:
    if len(finishes) == 1:
        return finishes[0]

    def finish(span: Span) -> None:
        for each in finishes:
            each(span)

    return finish
