"""How often something is told that may happen all the time."""

from __future__ import annotations


class Seldom:
    """Lets one through in a while, and counts the others.

    Args:
        interval: seconds.
    """

    __slots__ = ("_interval", "_passed_at", "_skipped")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._passed_at: float | None = None
        self._skipped = 0

    def passes(self, now: float) -> bool:
        """Tell whether this one is let through."""
        if self._passed_at is not None and now - self._passed_at < self._interval:
            self._skipped += 1
            return False
        self._passed_at = now
        return True

    def take_skipped(self) -> int:
        """Return how many were not let through since this was asked last."""
        skipped, self._skipped = self._skipped, 0
        return skipped
