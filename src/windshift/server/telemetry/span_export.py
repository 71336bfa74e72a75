"""From spans that ended to the collector."""

from __future__ import annotations

from windshift.server.config import BatchConfig
from windshift.server.telemetry.batch_export import BatchExport, Sender
from windshift.server.telemetry.tracer import Span


class SpanExport(BatchExport[Span]):
    """The queue of spans and its thread."""

    def __init__(self, sender: Sender[Span], config: BatchConfig) -> None:
        super().__init__(sender, config, "spans", " (OTEL_BSP_MAX_QUEUE_SIZE)")
