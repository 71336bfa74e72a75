"""When to ping a silent peer, and when to give it up, without I/O."""

from __future__ import annotations

from enum import Enum


class Silence(Enum):
    """What a peer's silence means.

    Attributes:
        NONE: nothing, it is not long enough.
        TO_ASK_ABOUT: the peer is to be sent a PING.
        FOR_GOOD: the peer did not answer one and counts as gone.
    """

    NONE = 0
    TO_ASK_ABOUT = 1
    FOR_GOOD = 2


class Keepalive:
    """When to ask a peer whether it is there, and when to give it up.

    Whatever a peer sends proves that it is there, not only its answer. The time is looked at only in `look`,
    so nothing is more exact than the time between two looks, but receiving costs nothing.

    Args:
        interval: seconds without a received byte after which the peer is asked; 0 = never.
        timeout: seconds in which something must come then.
    """

    __slots__ = ("_asked_at", "_heard_at", "_interval", "_seen", "_timeout")

    def __init__(self, interval: float, timeout: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._seen = -1
        self._heard_at = 0.0
        self._asked_at: float | None = None

    def rest(self) -> None:
        """Take the peer for heard in the next look, whether it is or not."""
        self._seen = -1

    def look(self, received: int, now: float) -> Silence:
        """Say what the peer's silence means now.

        Args:
            received: bytes that ever came from the peer.
            now: seconds of a clock that does not go back.
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
