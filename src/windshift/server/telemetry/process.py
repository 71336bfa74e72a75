"""Readings of this process, from the operating system and the interpreter."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from windshift.server.telemetry import instruments as i
from windshift.server.telemetry.registry import Point, Registry

_STATM = Path("/proc/self/statm")
_DESCRIPTORS = (Path("/proc/self/fd"), Path("/dev/fd"))


def add_process(registry: Registry, version: str) -> None:
    """Let a registry read this process; what the system does not tell has no readings."""
    started = time.monotonic()
    registry.add(i.CPU_TIME, _cpu_time)
    registry.add_number(i.MEMORY, _resident_bytes)
    registry.add_number(i.DESCRIPTORS, _descriptors)
    registry.add_number(i.UPTIME, lambda: time.monotonic() - started)
    registry.add(i.GC_COLLECTIONS, _collections)
    registry.add(i.BUILD_INFO, lambda: (((version, platform.python_version()), 1),))


def _cpu_time() -> Iterator[Point]:
    times = os.times()
    yield ("user",), times.user
    yield ("system",), times.system


def _resident_bytes() -> float | None:
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> float | None:
    for directory in _DESCRIPTORS:
        try:
            return sum(1 for _ in directory.iterdir()) - 1  # without the one that lists them
        except OSError:
            continue
    return None


def _collections() -> Iterator[Point]:
    for generation, statistics in enumerate(gc.get_stats()):
        yield (str(generation),), statistics["collections"]
