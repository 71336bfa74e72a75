"""Where log records go and what they look like: stderr, JSON lines for machines, plain lines for people."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final, TextIO

from windshift.server.config import LogLevel

_LEVELS: Final = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}
_LIBRARIES: Final = ("asyncio", "nats", "uvicorn")
"""Loggers of others: their warnings matter, their progress reports do not."""


def configure_logging(level: LogLevel, *, readable: bool, stream: TextIO | None = None) -> None:
    """Send all records of `level` and above to `stream` (stderr), for this process and from now on.

    `readable` asks for plain lines; they are also what a terminal gets.
    """
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(_plain() if readable or target.isatty() else _json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    logging.captureWarnings(capture=True)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, _LEVELS[level]))


def _plain() -> logging.Formatter:
    return logging.Formatter(
        "{asctime}.{msecs:03.0f} {levelname:<7} {name}: {message}", datefmt="%H:%M:%S", style="{"
    )


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415 - people at a terminal do not need it

    class LowerCaseLevel(JsonFormatter):
        def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
            log_data["level"] = str(log_data["level"]).lower()
            return log_data

    return LowerCaseLevel(
        "{levelname}{name}{message}",
        style="{",
        timestamp="time",
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
    )
