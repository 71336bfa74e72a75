"""How many processor cores this process may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_1: Final = (
    Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
    Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""The same in version 1 of control groups."""


def usable_cores() -> int:
    """Return how many cores this process may use, 1 at least: of the machine, and of its container."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = _of_control_group()
    return max(1, cores if quota is None else min(cores, int(quota)))


def _of_control_group() -> float | None:
    """Return the cores' worth of time that the container may use; None = no limit."""
    try:
        words = _QUOTA.read_text().split()
    except OSError:
        try:
            words = [file.read_text() for file in _QUOTA_1]
        except OSError:
            return None
    try:
        quota, period = map(int, words)
    except ValueError:  # "max"
        return None
    return quota / period if quota > 0 and period > 0 else None
