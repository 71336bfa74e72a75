"""Logs and counts the events that consumers gave up on.

A log record says which event it was and what happened to it, never what is in it. Writing one takes as long
as a publish, so that where thousands of a stream are given up, not each has one.
"""

from __future__ import annotations

import logging
from collections import Counter
from time import monotonic
from typing import Any, Final

from windshift.server.domain.errors import WindshiftError
from windshift.server.events.dead_letters.model import Cause, DeadLetter, Failure
from windshift.server.events.deliveries import Delivery
from windshift.server.events.model import ConsumerKey
from windshift.server.telemetry.log_throttle import LogThrottle
from windshift.server.telemetry.propagation import read_trace_context

_log = logging.getLogger(__name__)

GONE: Final = "GONE"
"""The cause of a drop when the stream had already removed the event."""

_NEARLY_FULL_AGAIN: Final = 600.0
"""Seconds between two warnings that the stream of dead letters is nearly full."""

_INTERVAL: Final = 10.0
_MOST: Final = 300
"""Records of one kind about one stream in that many seconds."""
_STREAMS: Final = 1_000
"""Streams, times kinds, whose records are counted at most; with more of them counting begins anew."""

CAUSES: Final = tuple(cause.value for cause in Cause)


class DeadLetterStats:
    """Logs and counts what became of events that consumers gave up on; called once per event, afterwards.

    Attributes:
        written: dead letters that were written, by cause.
        drops: events that were given up on without one, by cause or `GONE`.
        failures: failed attempts to write one; the event stays where it is.
        replays: replays that were started.
        size: bytes of the stream of dead letters, as it was looked at last.
        limit: how many it may have; 0 = no limit.
        outstanding: replays that wait or are under way, by consumer, as they were looked at last.

    Args:
        interval: least seconds between two log records about failures.
    """

    def __init__(self, interval: float = 10.0) -> None:
        self.written = dict.fromkeys(CAUSES, 0)
        self.drops = dict.fromkeys((*CAUSES, GONE), 0)
        self.failures = self.replays = self.size = self.limit = 0
        self.outstanding: Counter[ConsumerKey] = Counter()
        self._failed = LogThrottle(interval)
        self._full = LogThrottle(_NEARLY_FULL_AGAIN)
        self._throttles: dict[tuple[str, str], LogThrottle] = {}

    def kept(self, dead_letter: DeadLetter) -> None:
        """Report an event that became a dead letter."""
        failure = dead_letter.failure
        self.written[failure.cause.value] += 1
        self._tell("an event became a dead letter", failure, dead_letter)

    def dropped(self, failure: Failure, event: Delivery | None = None) -> None:
        """Report an event that was dropped without a dead letter, as requested."""
        self.drops[failure.cause.value] += 1
        self._tell("an event was dropped without a dead letter", failure, event)

    def gone(self, failure: Failure) -> None:
        """Report an event that its stream removed before it could become a dead letter."""
        self.drops[GONE] += 1
        self._tell("an event was removed by its stream before it became a dead letter", failure)

    def _tell(self, text: str, failure: Failure, event: DeadLetter | Delivery | None = None) -> None:
        """Log what became of an event, unless there are too many of the kind."""
        throttle = self._throttle(text, failure.id.stream)
        if throttle.passes(monotonic()):
            known = {} if event is None else _event(event)
            _log.warning(text, extra=_fields(failure) | known | throttle.more())

    def _throttle(self, text: str, stream: str) -> LogThrottle:
        """Return what counts records of one kind about a stream: those of others are not hidden by them."""
        throttle = self._throttles.get((text, stream))
        if throttle is None:
            if len(self._throttles) >= _STREAMS:
                self._throttles.clear()
            throttle = self._throttles[text, stream] = LogThrottle(_INTERVAL, _MOST)
        return throttle

    def not_kept(self, failure: Failure, error: Exception) -> None:
        """Report a dead letter that could not be written; the event will be redelivered."""
        self.failures += 1
        if self._failed.passes(monotonic()):
            fields = _fields(failure) | {"error": _reason(error)} | self._failed.more()
            _log.warning("a dead letter cannot be written; the event stays", extra=fields)

    def used(self, size: int, limit: int, *, is_nearly_full: bool) -> None:
        """Report how many bytes of dead letters there are, and how many there may be."""
        self.size, self.limit = size, limit
        if is_nearly_full and self._full.passes(monotonic()):
            _log.warning(
                "the stream of dead letters is nearly full, and refuses them then; replay or purge some, or "
                "raise WINDSHIFT_DEAD_LETTERS_MAX_MB",
                extra={"size": size, "limit": limit},
            )

    def replayed(self, consumer: ConsumerKey) -> None:
        """Count a replay that was started."""
        self.replays += 1
        self.outstanding[consumer] += 1


def _fields(failure: Failure) -> dict[str, Any]:
    stream, consumer, seq, _ = failure.id
    fields = {
        "stream": stream,
        "consumer": consumer,
        "event_id": int(seq),
        "attempts": failure.attempts,
        "cause": failure.cause.value,
        "reason": failure.reason,
        "error_type": failure.error_type,
        "replay_count": failure.replay_count,
    }
    return {name: value for name, value in fields.items() if value not in {"", 0}}


def _event(event: DeadLetter | Delivery) -> dict[str, Any]:
    fields = {"subject": event.subject, "type": event.type_name}
    trace = read_trace_context(event.trace_parent, "") if event.trace_parent else None
    if trace is not None:
        fields |= {"trace_id": trace.parent[3:35], "span_id": trace.parent[36:52]}
    return {name: value for name, value in fields.items() if value}


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, WindshiftError) else type(error).__name__
