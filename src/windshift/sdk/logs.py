"""Which event a log record is about."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any

from .events import Event

handled: ContextVar[tuple[str, str, Event[Any]] | None] = ContextVar("windshift_handled", default=None)
"""Stream, consumer and event of the handler that runs."""


class EventLogFilter(logging.Filter):
    """Adds `stream`, `consumer`, `event_id` and `attempt` to records; None where no event is being handled.

    It belongs to a handler of `logging`, `handler.addFilter(EventLogFilter())`: there, records of all loggers
    pass it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes."""
        current = handled.get()
        stream, consumer, event = (None, None, None) if current is None else current
        record.stream, record.consumer = stream, consumer
        record.event_id = None if event is None else event.id
        record.attempt = None if event is None else event.attempt
        return True
