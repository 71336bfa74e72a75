"""One program in two libraries: it books orders, 32 at once, and keeps what it cannot book.

Both note each order that is booked in a file, with the time, and count all of them in a key-value store by
compare-and-swap, unless `COUNT` is 0. Nothing here needs either library.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

COUNTED = os.environ.get("COUNT", "1") == "1"
ATTEMPTS = 5
CONCURRENCY = 32


class BadOrder(Exception):
    """An order without items."""


class Notes:
    """What was booked, in a file that a kill does not shorten."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def booked(self, event_id: int) -> None:
        """Note an order, by its place in the stream."""
        os.write(self._file, f"{event_id} {time.monotonic()}\n".encode())


def read_notes(path: Path) -> list[tuple[int, float]]:
    """Return the orders that were booked, and when."""
    if not path.exists():
        return []
    lines = (line.split() for line in path.read_text().splitlines())
    return [(int(event_id), float(at)) for event_id, at in lines]
