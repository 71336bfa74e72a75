"""Since when this process has been awake: what it reads first after a pause may have waited long.

A process that was stopped, or got no CPU, reads deliveries late. Their timeouts began when the broker sent
them, so they are counted from the beginning of the pause.
"""

from __future__ import annotations

import asyncio
import sys
from math import inf
from time import monotonic
from typing import Final

INTERVAL: Final = 0.25
"""Seconds between looks at the clock."""

PAUSE: Final = 2 * INTERVAL
"""Seconds between looks that count as a pause."""

LONG: Final = 1.5
"""Seconds between looks after which others may have stopped waiting for this process."""


def fresh_time(loop: asyncio.AbstractEventLoop) -> float:
    """Read the loop's clock anew: its own time is of when it woke, and it may have been asleep since.

    On macOS that clock goes on while the machine sleeps, and `monotonic` does not: its own time has to do.
    """
    return loop.time() if sys.platform == "darwin" else monotonic()


class PauseDetector:
    """Notices pauses of the event loop, while `watch` runs."""

    __slots__ = ("_asleep_since", "_awake_since", "_missed", "_seen")

    def __init__(self) -> None:
        self._seen = inf
        self._asleep_since = self._awake_since = self._missed = -inf

    async def watch(self) -> None:
        """Look at the clock until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            self.look(now())
            await asyncio.sleep(INTERVAL)

    def look(self, now: float) -> None:
        """Note that the process is awake."""
        if now - self._seen > PAUSE:
            self._asleep_since, self._awake_since = self._seen, now
        if now - self._seen > LONG:
            self._missed = now
        self._seen = now

    def has_missed(self, time: float, now: float) -> bool:
        """Whether the process was asleep for so long since `time` that others may not have waited for it."""
        return now - self._seen > LONG or self._missed > time

    def arrived(self, now: float) -> float:
        """Return the earliest time at which something read `now` may have arrived."""
        if now - self._seen > PAUSE:
            return self._seen
        return self._asleep_since if now - self._awake_since < INTERVAL else now
