"""When to ping a silent peer, and when to give it up, without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class KeepaliveAction(Enum):
    """What to do about a silent peer.

    Attributes:
        PING: send the peer a PING.
        CLOSE: the peer did not answer the PING; close the connection.
    """

    PING = 1
    CLOSE = 2


@dataclass(slots=True)
class Keepalive:
    """When to ping a peer, and when to close the connection.

    Anything a peer sends proves that it is there, not only the answer to a PING. Time is checked only in
    `check`, so receiving costs nothing, and nothing is more precise than the time between two calls of it.

    Args:
        interval: seconds of silence before a PING; 0 = never.
        timeout: seconds after the PING within which something must arrive.
    """

    interval: float
    timeout: float
    _seen: int = -1
    _heard_at: float = 0.0
    _asked_at: float | None = None

    def restart(self) -> None:
        """Count the peer as heard at the next `check`."""
        self._seen = -1

    def check(self, received: int, now: float) -> KeepaliveAction | None:
        """Return what to do, `now` in seconds, with so many bytes received in all; None = nothing."""
        if received != self._seen:
            self._seen = received
            self._heard_at = now
            self._asked_at = None
        elif self._asked_at is not None:
            if now - self._asked_at > self.timeout:
                return KeepaliveAction.CLOSE
        elif self.interval and now - self._heard_at >= self.interval:
            self._asked_at = now
            return KeepaliveAction.PING
        return None
