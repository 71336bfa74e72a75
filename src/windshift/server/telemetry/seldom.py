"""How often something is told that may happen all the time."""

from __future__ import annotations


class Seldom:
    """Lets one through in a while, or a few, and counts the others.

    Args:
        interval: seconds, which begin with one that is let through.
        most: how many are let through in that time.
    """

    __slots__ = ("_interval", "_most", "_passed", "_passed_at", "_skipped")

    def __init__(self, interval: float, most: int = 1) -> None:
        self._interval = interval
        self._most = most
        self._passed = 0
        self._passed_at: float | None = None
        self._skipped = 0

    def passes(self, now: float) -> bool:
        """Tell whether this one is let through."""
        if self._passed_at is None or now - self._passed_at >= self._interval:
            self._passed_at = now
            self._passed = 0
        elif self._passed >= self._most:
            self._skipped += 1
            return False
        self._passed += 1
        return True

    def take_skipped(self) -> int:
        """Return how many were not let through since this was asked last."""
        skipped, self._skipped = self._skipped, 0
        return skipped
