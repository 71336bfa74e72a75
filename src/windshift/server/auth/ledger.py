"""What the workers of one server count together, in memory that they share.

There is no lock on the way of a call: each worker writes its own number of a row, and adds up those of all.
Only new rows are made under a lock. Where two of them write one level at the same moment, one of the writes
may be lost: a rate is kept but for that.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final, TypeAlias

Row: TypeAlias = "list[float] | memoryview[float]"

_ROWS: Final = 16_384
_PROBES: Final = 64
"""Rows, from where a key belongs, that are tried."""
_CELL: Final = 8
"""Bytes of a number."""
_LEVEL: Final = 2
"""Numbers that a level has."""


class Ledger:
    """Rows of numbers by key: one number for each worker that counts, or the two of a level.

    Args:
        file: a descriptor of the memory, which `make` has made.
        workers: how many there are.
        worker: which of them this process is, from 1; 0 = none.
    """

    def __init__(self, file: int, workers: int, worker: int = 0) -> None:
        self.own = worker - 1
        self._file = file
        self._width = max(_LEVEL, workers)
        memory = memoryview(mmap.mmap(file, _size(workers)))
        self._marks = memory[: _ROWS * _CELL].cast("q")
        self._cells = memory[_ROWS * _CELL :].cast("d")

    @staticmethod
    def make(workers: int) -> int:
        """Make the memory for so many workers, all zeros, and return its descriptor. Linux only."""
        file = os.memfd_create("windshift-ledger")
        os.ftruncate(file, _size(workers))
        return file

    def tally(self, *key: str) -> Row | None:
        """Return the number of each worker, all 0 for a new key; None when there is no room for more."""
        return self._row(_mark(key) & ~1)

    def level(self, *key: str) -> Row | None:
        """Return the two numbers that make a level, both 0 when the key is new; None as above."""
        return self._row(_mark(key) | 1)

    def forget(self, worker: int) -> None:
        """Set what a worker has counted to 0: it has ended."""
        for row in range(_ROWS):
            if self._marks[row] and not self._marks[row] & 1:
                self._cells[row * self._width + worker - 1] = 0

    def _row(self, mark: int) -> Row | None:
        with self._locked():
            for row in ((mark // 2 + probe) % _ROWS for probe in range(_PROBES)):
                if self._marks[row] in (0, mark):
                    self._marks[row] = mark
                    return self._cells[row * self._width : (row + 1) * self._width]
        return None

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
    return _ROWS * _CELL * (1 + max(_LEVEL, workers))


class Tally:
    """A number of things that there are, at all workers.

    Args:
        ledger: where the workers count together; None = this process is alone.
        key: what is counted.
    """

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
