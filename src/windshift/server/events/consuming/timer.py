"""What one task of a call waits for: that something happened, or the earliest of several deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class Signal:
    """An `asyncio.Event` for a single waiting task: it takes an eighth of the memory."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        """Whether it was set since it was cleared."""
        return self._is_set

    def set(self) -> None:
        """Let the waiting task go on, now or when it waits."""
        if self._is_set:  # as it mostly is: many things happen in one turn of the loop
            return
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        """Let the next `wait` wait."""
        self._is_set = False

    async def wait(self) -> None:
        """Wait until it is set."""
        if self._is_set:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class DeadlineTimer:
    """Calls `ring` once at the earliest time that was set; then it must be set again."""

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
        self._timer = self._loop.call_at(max(due, now), self._fire)
        self._due = due

    def _fire(self) -> None:
        self._timer = None
        self._due = inf
        self._ring()

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
