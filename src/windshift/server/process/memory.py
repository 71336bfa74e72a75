"""How much memory clients may make this process hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_CONTROL_GROUPS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # version 1
)
_SMALLEST: Final = 64 * 1024 * 1024
_SHARE: Final = 4


def memory_to_hold() -> int:
    """Return the bytes that all clients may make the server hold: a quarter of the memory, or 64 MiB."""
    limits = [_physical(), *map(_of_control_group, _CONTROL_GROUPS)]
    known = [limit for limit in limits if limit]
    return max(min(known, default=0) // _SHARE, _SMALLEST)


def _physical() -> int:
    """Return the machine's memory; 0 = unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _of_control_group(file: Path) -> int:
    """Return the container's limit; 0 = none."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such file; "max"
        return 0
