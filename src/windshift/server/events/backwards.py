"""How a stream is read backwards, decided without I/O: JetStream only reads forwards.

Windows of sequences are read one before the other. They grow while there is little in them, and shrink when
one holds more than can be read at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from windshift.nats.jetstream.api import Batch, StoredMessage

_STEP: Final = 4
"""By how much a window grows and shrinks."""


@dataclass(slots=True)
class BackwardScan:
    """The windows of one scan, which begins with the newest sequence of interest.

    Attributes:
        newest: the last sequence that was not looked at yet.
    """

    _first: int
    """The first sequence of interest."""
    newest: int
    _window: int
    """Sequences of the next window, 1 or more."""
    _most: int
    """Messages that can be read at once."""

    @property
    def is_over(self) -> bool:
        """Whether everything was looked at."""
        return self.newest < self._first

    @property
    def oldest(self) -> int:
        """The first sequence of the window, from which on to read."""
        return max(self._first, self.newest - self._window + 1)

    def take(self, batch: Batch) -> list[StoredMessage] | None:
        """Return what lies in the window, newest first, and go on to the window before it.

        `None` if the window holds more than this batch has: it is narrower now, and to be read again.
        """
        inside = [each for each in batch.messages if each.sequence <= self.newest]
        if batch.left and inside and len(inside) == len(batch.messages) and inside[-1].sequence < self.newest:
            self._window = max(1, self._window // _STEP)
            return None
        self.newest = self.oldest - 1
        if len(inside) * _STEP * 2 <= self._most:
            self._window *= _STEP
        return inside[::-1]
