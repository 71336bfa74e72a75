"""How late the event loop calls its timers: how long anything that is ready has to wait."""

from __future__ import annotations

import asyncio
from time import perf_counter

from windshift.server.telemetry.registry import Histogram

_INTERVAL = 0.5


class LoopLag:
    """Looks at the running loop twice a second, from `start` to `stop`."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._arm(asyncio.get_running_loop())

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(_INTERVAL, self._look, loop, perf_counter() + _INTERVAL)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._histogram.observe(max(0.0, perf_counter() - due))
        self._arm(loop)
