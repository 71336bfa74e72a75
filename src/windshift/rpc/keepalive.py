"""When to ping a silent peer, and when to give it up, without I/O."""

from __future__ import annotations

from enum import Enum


class Silence(Enum):
    """What a peer's silence means.

    Attributes:
        NONE: nothing yet.
        TO_ASK_ABOUT: send the peer a PING.
        FOR_GOOD: the peer did not answer the PING; give it up.
    """

    NONE = 0
    TO_ASK_ABOUT = 1
    FOR_GOOD = 2


class Keepalive:
    """When to ping a peer, and when to give it up.

    Anything a peer sends proves that it is there, not only the answer to a PING. Time is checked only in
    `look`, so receiving costs nothing, and nothing is more precise than the time between two calls of it.

    Args:
        interval: seconds of silence before a PING; 0 = never.
        timeout: seconds after the PING within which something must arrive.
    """

    __slots__ = ("_asked_at", "_heard_at", "_interval", "_seen", "_timeout")

    def __init__(self, interval: float, timeout: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._seen = -1
        self._heard_at = 0.0
        self._asked_at: float | None = None

    def rest(self) -> None:
        """Count the peer as heard at the next `look`."""
        self._seen = -1

    def look(self, received: int, now: float) -> Silence:
        """Say what the peer's silence means now.

        Args:
            received: total bytes received from the peer.
            now: seconds of a monotonic clock.
        """
        if received != self._seen:
            self._seen = received
            self._heard_at = now
            self._asked_at = None
        elif self._asked_at is not None:
            if now - self._asked_at > self._timeout:
                return Silence.FOR_GOOD
        elif self._interval and now - self._heard_at >= self._interval:
            self._asked_at = now
            return Silence.TO_ASK_ABOUT
        return Silence.NONE
