"""Which event a log record is about."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Handled:
    """The event that a handler has.

    Attributes:
        stream: its stream.
        consumer: the consumer.
        event_id: its id.
        attempt: how often it was delivered, this time included.
    """

    stream: str | None = None
    consumer: str | None = None
    event_id: int | None = None
    attempt: int | None = None


_NOTHING = Handled()
handled: ContextVar[Handled] = ContextVar("windshift_handled", default=_NOTHING)
"""The event of the handler that runs."""


class EventLogFilter(logging.Filter):
    """Adds `stream`, `consumer`, `event_id` and `attempt` to records; None where no event is being handled.

    It belongs to a handler of `logging`, `handler.addFilter(EventLogFilter())`: there, records of all loggers
    pass it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes."""
        current = handled.get()
        record.stream, record.consumer = current.stream, current.consumer
        record.event_id, record.attempt = current.event_id, current.attempt
        return True
