"""One timer for whatever is due next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class DeadlineTimer:
    """Rings once at the earliest time that it was set to; then it has to be set anew.

    Args:
        loop: the event loop whose time counts.
        ring: called then.
    """

    __slots__ = ("_due", "_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf  # uvloop's timers do not all know that themselves

    def set(self, due: float, now: float) -> None:
        """Ring when ``due`` comes, at once if it is past; what is earlier stands. ``inf`` = never."""
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
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
