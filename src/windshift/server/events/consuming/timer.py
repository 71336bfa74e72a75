"""One timer for the earliest of several deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class DeadlineTimer:
    """Fires once at the earliest time that was set; then it must be set again.

    Args:
        loop: the event loop whose time counts.
        ring: called then.
    """

    __slots__ = ("_due", "_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf  # not all of uvloop's timers can tell their time

    def set(self, due: float, now: float) -> None:
        """Fire at ``due``, or now if it is past, unless an earlier time is set. ``inf`` = never."""
        if due >= self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(max(due, now), self._rings)
        self._due = due

    def _rings(self) -> None:
        self._timer = None
        self._due = inf
        self._ring()

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
