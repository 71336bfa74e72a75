"""Logs what the broker forbids this server's user, throttled by kind."""

from __future__ import annotations

import logging
import re
import time
from typing import Final

from windshift.nats.protocol import ErrorKind, ServerError
from windshift.server.telemetry.log_throttle import LogThrottle

log = logging.getLogger(__name__)

_KINDS: Final = re.compile(r"\$JS\.API\.\w+\.(MSG\.)?\w+|\$JS\.\w+|\$KV|_WS\.\w+|_INBOX")


class ViolationLog:
    """Logs violations.

    Args:
        inbox_prefix: what this server's inboxes begin with. The rest of such a subject is never logged.
        interval: seconds between two records of one kind, such as one operation of JetStream's API on any
            stream, or an event on any subject.
    """

    def __init__(self, inbox_prefix: str, interval: float = 600.0) -> None:
        self._inbox_prefix = inbox_prefix + "."
        self._interval = interval
        self._throttles: dict[tuple[ErrorKind, str], LogThrottle] = {}

    def log(self, violation: ServerError) -> None:
        """Log a violation, unless one of its kind was logged lately."""
        subject = violation.subject.decode(errors="replace")
        kind = _KINDS.match(subject)
        key = (violation.kind, kind[0] if kind else "")
        throttle = self._throttles.setdefault(key, LogThrottle(self._interval))
        if throttle.passes(time.monotonic()):
            log.error(
                'NATS: this user may not %s "%s"; what needs it fails',
                "publish to" if violation.kind is ErrorKind.PUBLISH_FORBIDDEN else "subscribe to",
                self._inbox_prefix + ">" if subject.startswith(self._inbox_prefix) else subject,
                extra=throttle.more(),
            )
