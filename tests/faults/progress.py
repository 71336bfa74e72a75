"""One line for each scenario: it changes in place on a terminal, and is written once elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_PLAIN_INTERVAL = 15.0
"""Seconds between two lines about the same scenario where lines cannot change."""


class Progress:
    """Shows how a scenario goes."""

    def __init__(self, out: TextIO | None = None, width: int = 110) -> None:
        self._out = sys.stdout if out is None else out
        self._live = self._out.isatty()
        self._width = width
        self._name = ""
        self._started = self._written = 0.0

    def begin(self, name: str) -> None:
        """Begin with a scenario."""
        self._name = name
        self._started = self._written = time.monotonic()
        self._show("", end="" if self._live else None)

    def say(self, what: str) -> None:
        """Say how far it is."""
        now = time.monotonic()
        if self._live and now - self._written > 0.1:
            self._show(what, end="")
        elif not self._live and now - self._written > _PLAIN_INTERVAL:
            self._show(what, end="\n")
        else:
            return
        self._written = now

    def finish(self, verdict: str, what: str) -> None:
        """Say how it went."""
        self._show(f"{verdict}  {what}", end="\n", whole=True)

    def line(self, text: str) -> None:
        """Write a line."""
        self._out.write(f"{text}\n")
        self._out.flush()

    def _show(self, what: str, *, end: str | None, whole: bool = False) -> None:
        if end is None:
            return
        text = f"{self._name:<20} {time.monotonic() - self._started:6.1f} s  {what}"
        if not whole:
            text = text[: self._width]
        self._out.write(f"\r\x1b[K{text}{end}" if self._live else f"{text}{end}")
        self._out.flush()
