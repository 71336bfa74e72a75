"""Metrics of this process: from the operating system, the interpreter and the event loop."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Final

import windshift
from windshift.server.telemetry import instruments as i
from windshift.server.telemetry.registry import Histogram, Point, Registry

_STATM: Final = Path("/proc/self/statm")
_DESCRIPTORS: Final = (Path("/proc/self/fd"), Path("/dev/fd"))
_LAG_INTERVAL: Final = 0.5


def add_process(registry: Registry, libnghttp2: str) -> None:
    """Add this process's instruments; those that the system does not support have no readings.

    Args:
        registry: gets them.
        libnghttp2: version of the one that is loaded.
    """
    started = time.monotonic()
    registry.add(i.CPU_TIME, _cpu_time)
    registry.add_number(i.MEMORY, resident_bytes)
    registry.add_number(i.DESCRIPTORS, _descriptors)
    registry.add_number(i.UPTIME, lambda: time.monotonic() - started)
    registry.add(i.GC_COLLECTIONS, _collections)
    build = (windshift.__version__, platform.python_version(), libnghttp2)
    registry.add(i.BUILD_INFO, lambda: ((build, 1),))


def _cpu_time() -> Iterator[Point]:
    times = os.times()
    yield ("user",), times.user
    yield ("system",), times.system


def resident_bytes() -> int | None:
    """Return the memory of this process; None where the system does not tell."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> float | None:
    for directory in _DESCRIPTORS:
        try:
            return sum(1 for _ in directory.iterdir()) - 1  # without the one of this listing
        except OSError:
            continue
    return None


def _collections() -> Iterator[Point]:
    for generation, statistics in enumerate(gc.get_stats()):
        yield (str(generation),), statistics["collections"]


class LoopLag:
    """Measures how late the event loop calls a timer: how long any ready task has to wait."""

    def __init__(self, registry: Registry) -> None:
        self._histogram = Histogram(i.LOOP_LAG.bounds)
        registry.add(i.LOOP_LAG, lambda: (((), self._histogram.read()),))
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._arm(asyncio.get_running_loop())

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(_LAG_INTERVAL, self._observe, loop, perf_counter() + _LAG_INTERVAL)

    def _observe(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._histogram.observe(max(0.0, perf_counter() - due))
        self._arm(loop)
