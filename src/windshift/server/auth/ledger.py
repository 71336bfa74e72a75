"""What the workers of one server count together, in memory that they share.

There is no lock on the way of a call: each worker writes its own number of a row, and adds up those of all.
Only new rows are made under a lock. Where two of them write one level at the same moment, one of the writes
may be lost: a rate is kept but for that.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from math import inf
from typing import Final, TypeAlias

log = logging.getLogger(__name__)

Row: TypeAlias = "list[float] | memoryview[float]"

_ROWS: Final = 16_384
"""Rows for what lasts; there are as many again for what consumers do."""
_PROBES: Final = 64
"""Rows, from where a key belongs, that are tried."""
_CELL: Final = 8
"""Bytes of a number."""
_LEVEL: Final = 2
"""Numbers that a level has."""
LEFT: Final = 0
FILLED_AT: Final = 1
"""Where the two are: what is left, and when it was filled last."""
_KEPT: Final = 120.0
"""Seconds after which the level of a consumer that nobody has asked for may become another's."""


class Ledger:
    """Rows of numbers by key: one number for each worker that counts, or the two of a level.

    Args:
        file: a descriptor of the memory, which `make` has made.
        workers: how many there are.
        worker: which of them this process is, from 1; 0 = none.
    """

    def __init__(self, file: int, workers: int, worker: int = 0) -> None:
        self.own = worker - 1
        self._is_full = False
        self._file = file
        self._width = max(_LEVEL, workers)
        memory = memoryview(mmap.mmap(file, _size(workers)))
        self._marks = memory[: 2 * _ROWS * _CELL].cast("q")
        self._cells = memory[2 * _ROWS * _CELL :].cast("d")

    @staticmethod
    def make(workers: int) -> int:
        """Allocate shared memory for the workers, all zeros, and return its descriptor. Linux only."""
        file = os.memfd_create("windshift-ledger")
        os.ftruncate(file, _size(workers))
        return file

    def tally(self, *key: str) -> Row | None:
        """Return the number of each worker, all 0 for a new key; None when there is no room for more."""
        return self._row(_mark(key) & ~1)

    def level(self, *key: str) -> Row | None:
        """Return the two numbers that make a level, both 0 when the key is new; None as above."""
        return self._row(_mark(key) | 1)

    def level_of_consumer(self, now: float, *key: str) -> Row | None:
        """Return the same of what a consumer does, which takes no room from anything else.

        Who has not asked at it for a minute has to get it anew: it may be another consumer's. `now` is in
        seconds, by a clock that the workers share.
        """
        return self._row(_mark(key) | 1, now)

    def forget(self, worker: int) -> None:
        """Set what a worker has counted to 0: it has ended."""
        for row in range(_ROWS):
            if self._marks[row] and not self._marks[row] & 1:
                self._cells[row * self._width + worker - 1] = 0

    def _row(self, mark: int, now: float | None = None) -> Row | None:
        first = 0 if now is None else _ROWS
        rows = [first + (mark // 2 + probe) % _ROWS for probe in range(_PROBES)]
        with self._locked():
            for row in rows:
                if self._marks[row] == mark:
                    return self._cells_of(row)
            for row in rows:
                cells = self._cells_of(row)
                if not self._marks[row] or (now is not None and cells[FILLED_AT] < now - _KEPT):
                    self._marks[row] = mark
                    if now is not None:
                        cells[LEFT], cells[FILLED_AT] = inf, now
                    return cells
        self._note_full()
        return None

    def _cells_of(self, row: int) -> memoryview[float]:
        return self._cells[row * self._width : (row + 1) * self._width]

    def _note_full(self) -> None:
        if not self._is_full:
            self._is_full = True
            log.warning("no room to count more together: of some principals each worker counts alone")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


def _mark(key: Iterable[str]) -> int:
    """Return what stands for a key: never 0, and its last bit is free for what kind of row it is."""
    return int.from_bytes(blake2b("\0".join(key).encode(), digest_size=7).digest()) | 2


def _size(workers: int) -> int:
    return 2 * _ROWS * _CELL * (1 + max(_LEVEL, workers))


class Tally:
    """A number of things that there are, at all workers. Without a ledger this process is alone."""

    __slots__ = ("_own", "_row")

    def __init__(self, ledger: Ledger | None, *key: str) -> None:
        shared = None if ledger is None else ledger.tally(*key)
        self._row: Row = [0] if shared is None else shared
        self._own = 0 if ledger is None or shared is None else ledger.own

    @property
    def total(self) -> float:
        """How many there are."""
        return sum(self._row)

    @property
    def own(self) -> float:
        """How many of them are at this worker."""
        return self._row[self._own]

    def add(self, more: int) -> None:
        """Count more of them at this worker, or fewer."""
        self._row[self._own] += more
