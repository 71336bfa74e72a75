"""Saying what happens, step by step."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Narration:
    """Prints lines with the seconds since the start and who does something."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, who: str, what: str) -> None:
        """Say that somebody did something."""
        print(f"{time.monotonic() - self._start:6.2f} s  {who:<8} {what}", flush=True)

    @contextmanager
    def listening(self, logger: str) -> Iterator[None]:
        """Say what a logger says, too."""
        log, handler = logging.getLogger(logger), _Handler(self)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)

    def heading(self, text: str) -> None:
        """Begin a part."""
        print(f"\n{text}", flush=True)

    def line(self, text: str) -> None:
        """Say something within a part."""
        print(f"  {text}", flush=True)


class _Handler(logging.Handler):
    def __init__(self, tell: Narration) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Say it without a traceback."""
        self._tell("library", record.getMessage())


def euros(cents: int) -> str:
    """Write an amount of cents."""
    return f"EUR {cents // 100}.{cents % 100:02d}"
