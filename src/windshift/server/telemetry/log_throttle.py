"""A limit on how often the same thing is logged."""

from __future__ import annotations


class LogThrottle:
    """Lets up to `limit` records through per `interval`, and counts the others.

    Args:
        interval: seconds, counted from the first record that passes.
        limit: records per interval.
    """

    __slots__ = ("_interval", "_limit", "_passed", "_passed_at", "_skipped")

    def __init__(self, interval: float, limit: int = 1) -> None:
        self._interval = interval
        self._limit = limit
        self._passed = 0
        self._passed_at: float | None = None
        self._skipped = 0

    def passes(self, now: float) -> bool:
        """Return whether to log this one."""
        if self._passed_at is None or now - self._passed_at >= self._interval:
            self._passed_at = now
            self._passed = 0
        elif self._passed >= self._limit:
            self._skipped += 1
            return False
        self._passed += 1
        return True

    def more(self) -> dict[str, int]:
        """Say how many records were skipped since the last call, as a field of a record; none: no field."""
        skipped, self._skipped = self._skipped, 0
        return {"more": skipped} if skipped else {}
