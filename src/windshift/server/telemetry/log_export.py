"""Log records to a collector, by OpenTelemetry's own exporters.

Imported only when records are to be sent; see `windshift.server.telemetry.exporters`, which is for spans.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from windshift.server.config import BatchConfig, OtlpProtocol, SignalConfig, TelemetryConfig
from windshift.server.telemetry import conventions as c
from windshift.server.telemetry.batch_export import BatchExport
from windshift.server.telemetry.log_text import fields_of, message_of, traceback_of
from windshift.server.telemetry.otlp import Sender, grpc_arguments, http_arguments
from windshift.server.telemetry.resource import resource_attributes

_OF_EXPORTERS: Final = ("opentelemetry", "grpc", "urllib3", "requests")
"""What sending a record may log: sending that too would never end."""

_SEVERITIES: Final = (
    (logging.ERROR, SeverityNumber.ERROR, "ERROR"),
    (logging.WARNING, SeverityNumber.WARN, "WARN"),
    (logging.INFO, SeverityNumber.INFO, "INFO"),
    (logging.NOTSET, SeverityNumber.DEBUG, "DEBUG"),
)
_NAMES: Final = {"code": c.RPC_RESPONSE_STATUS_CODE, "reason": "windshift.reason", "more": "windshift.more"}
"""Fields of our records, and what they are called in OpenTelemetry."""


class OtlpLogSender(Sender[tuple[str, LogRecord]]):
    """Sends log records, with the names of their loggers, by OTLP.

    Args:
        config: where to, and how.
    """

    def __init__(self, config: TelemetryConfig) -> None:
        super().__init__(
            lambda: _exporter(config.logs, config.logs.timeout),
            "opentelemetry.exporter.otlp.proto.http._log_exporter",
        )
        self._resource = Resource(resource_attributes(config), c.SCHEMA_URL)

    def export(self, batch: Sequence[tuple[str, LogRecord]]) -> bool:
        """Send records."""
        records = [
            ReadableLogRecord(record, self._resource, InstrumentationScope(logger, None, c.SCHEMA_URL))
            for logger, record in batch
        ]
        return self._exporter.export(records) is LogRecordExportResult.SUCCESS


class OtlpHandler(logging.Handler):
    """Hands records to a collector, besides where else they go.

    Args:
        config: where to, and how.
    """

    def __init__(self, config: TelemetryConfig) -> None:
        super().__init__()
        self._export = BatchExport(
            OtlpLogSender(config), BatchConfig(timedelta(seconds=1)), "log records", ""
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record. Never blocks."""
        if record.name.partition(".")[0] not in _OF_EXPORTERS:
            self._export.add((record.name, translated(record)))

    def end(self, timeout: float) -> None:
        """Send what waits, for `timeout` seconds at most. Blocks that long."""
        self._export.close(timeout)


def translated(record: logging.LogRecord) -> LogRecord:
    """Put a record into the words of OpenTelemetry, with the bounds that it has in the log."""
    fields = fields_of(record)
    context = _context(str(fields.pop("trace_id", "")), str(fields.pop("span_id", "")))
    number, text = next((number, text) for level, number, text in _SEVERITIES if record.levelno >= level)
    return LogRecord(
        timestamp=int(record.created * 1e9),
        observed_timestamp=time.time_ns(),
        context=context,
        severity_text=text,
        severity_number=number,
        body=message_of(record),
        attributes={**_attributes(fields), **_exception(record)},
    )


def _context(trace_id: str, span_id: str) -> Context:
    if not trace_id or not span_id:
        return Context(unknown=True)  # an empty one would be taken for none
    span = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True)
    return set_span_in_context(NonRecordingSpan(span), Context())


def _attributes(fields: Mapping[str, str | float]) -> dict[str, str | float]:
    attributes: dict[str, str | float] = {}
    for name, value in fields.items():
        if name == "method":
            attributes[c.RPC_METHOD] = str(value).removeprefix("/")
        elif name == "peer":
            host, _, port = str(value).rpartition(":")
            attributes[c.NETWORK_PEER_ADDRESS] = host.strip("[]")
            attributes[c.NETWORK_PEER_PORT] = int(port) if port.isdigit() else port
        else:
            attributes[_NAMES.get(name, name)] = value
    return attributes


def _exception(record: logging.LogRecord) -> dict[str, str]:
    if not record.exc_info or record.exc_info[0] is None:
        return {}
    kind = record.exc_info[0]
    return {"exception.type": kind.__qualname__, "exception.stacktrace": traceback_of(record)}


def _exporter(config: SignalConfig, timeout: timedelta) -> LogRecordExporter:
    if config.protocol is OtlpProtocol.GRPC:
        from opentelemetry.exporter.otlp.proto.grpc import _log_exporter  # noqa: PLC0415 - one of the two

        return _log_exporter.OTLPLogExporter(**grpc_arguments(config, timeout))
    from opentelemetry.exporter.otlp.proto.http import _log_exporter as over_http  # noqa: PLC0415 - is needed

    return over_http.OTLPLogExporter(**http_arguments(config, timeout))
