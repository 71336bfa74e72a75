"""Where log records go and what they look like: stderr, as JSON lines or as plain lines for people."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

from windshift.server.config.tree import LogLevel
from windshift.server.telemetry.log_text import escaped, fields_of, harmless, traceback_of
from windshift.server.telemetry.signals import Telemetry
from windshift.server.telemetry.tracer import current_span

_LIBRARIES: Final = ("asyncio", "nats", "opentelemetry", "grpc", "urllib3", "requests")
"""Loggers of libraries: only their warnings matter."""
_LAST_EXPORT: Final = 2.0
"""Seconds that the process waits at its end for records to be sent."""


def configure_logging(level: LogLevel, *, readable: bool, stream: TextIO | None = None) -> None:
    """Send all records of `level` and above to `stream` (default stderr) from now on.

    `readable` selects plain lines; terminals always get those.
    """
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(_Plain() if readable or target.isatty() else _json())
    handler.addFilter(add_trace)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.name)
    logging.captureWarnings(capture=True)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


@contextmanager
def exported_logs(telemetry: Telemetry) -> Iterator[None]:
    """Also send records to a collector, if configured, while in this block.

    Waiting records are sent at its end, for 2 seconds at most.
    """
    handler = telemetry.log_handler()
    if handler is None:
        yield
        return
    handler.addFilter(add_trace)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        telemetry.close_logs(_LAST_EXPORT)


def add_trace(record: logging.LogRecord) -> bool:
    """Add the current call's span to a record. A filter that passes everything."""
    span = current_span.get()
    if span is not None and not hasattr(record, "trace_id"):
        record.trace_id, record.span_id = span.trace_id, span.span_id
    return True


class _Plain(logging.Formatter):
    """One line per record: time, level, logger, message, fields; then the traceback, indented."""

    def format(self, record: logging.LogRecord) -> str:
        time = self.formatTime(record, "%H:%M:%S")
        head = f"{time}.{record.msecs:03.0f} {record.levelname:<7} {record.name}: "
        fields = "".join(f" {name}={escaped(str(value))}" for name, value in fields_of(record).items())
        lines = (f"\n    {escaped(line)}" for line in traceback_of(record).splitlines())
        return head + escaped(harmless(record.getMessage())) + fields + "".join(lines)


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415 - people at a terminal do not need it

    class Bounded(JsonFormatter):
        """One JSON object per record. JSON does the escaping; we bound the lengths."""

        def formatException(self, ei: Any) -> str:  # noqa: N802 - the library's name
            return traceback_of(logging.makeLogRecord({"exc_info": ei}))

        def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
            for name, value in log_data.items():
                if isinstance(value, str) and name != "exception":
                    log_data[name] = harmless(value)
            log_data["level"] = str(log_data["level"]).lower()
            return log_data

    return Bounded(
        "{levelname}{name}{message}",
        style="{",
        timestamp="time",
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
    )
