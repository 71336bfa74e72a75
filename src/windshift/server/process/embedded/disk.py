"""Whether nats-server can store: the room that its file system has, and what its own log says of its writes.

nats-server (2.15) answers nothing to a write that its disk refuses, and takes no further ones for that stream
until it is started anew, also when there is room again. So writes are refused before it comes to that, and
what has failed is mended by a restart, as soon as that is of use. Not sooner: what it knows of
acknowledgements is then in its memory alone, and it writes that down when it stops.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

_RESERVE: Final = 1 << 30
"""Bytes that are kept free at most."""
_TRIAL: Final = 64 * 1024
_NO_ROOM: Final = 256 * 1024
"""Bytes; with less free nats-server may not be able to log that it failed."""
_FEWEST_FILES: Final = 64
"""Files that must be possible besides those that there are."""

TOO_MANY_OPEN_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""Errors that say nothing about a disk."""


class Space(NamedTuple):
    """The file system of a directory, in bytes and as far as this user may use it."""

    total: int
    free: int
    files: int
    """How many more there may be."""
    read_only: bool

    @property
    def reserve(self) -> int:
        """What is kept free, for what nats-server writes on its own: a twentieth, 1 GiB at most."""
        return min(self.total // 20, _RESERVE)

    @property
    def limit(self) -> int:
        """What nats-server may store at most."""
        return self.total - self.reserve


def look(directory: Path, trial: Path | None = None, *, sync: bool = False) -> Space:
    """Look at the file system of a directory, and try to write the file `trial`. Raises OSError.

    A file system that was made read-only after an error of the disk shows that in nothing but a write. With
    `sync` the file goes to the disk itself.
    """
    found = os.statvfs(directory)
    files = found.f_favail if found.f_files else _FEWEST_FILES  # some file systems do not count them
    read_only = bool(found.f_flag & os.ST_RDONLY) or (trial is not None and not _writable(trial, sync=sync))
    return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, files, read_only)


def _writable(trial: Path, *, sync: bool) -> bool:
    try:
        with trial.open("wb") as file:
            if sync:
                file.write(bytes(_TRIAL))
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        if error.errno in TOO_MANY_OPEN_FILES:
            raise
        return error.errno in {errno.ENOSPC, errno.EDQUOT} and not sync  # that is seen otherwise
    finally:
        with suppress(OSError):
            trial.unlink()
    return True


_FAILED: Final = re.compile(
    r"\[(?:ERR|WRN)\] .*(?:critical write error|failed to store a msg|will be DISABLED|disabling JetStream|"
    r"no space left|read-only file system)",
    re.IGNORECASE,
)


def failure(logged: Iterable[str]) -> str:
    """Return why a write failed last, by these lines of nats-server's log; "" if none did."""
    found = [line for line in logged if _FAILED.search(line)]
    return found[-1].rpartition(": ")[2].strip() if found else ""


class Trouble(StrEnum):
    """Why nothing can be stored."""

    FULL = "its disk is full"
    READ_ONLY = "its disk cannot be written to"
    FAILED = "its disk refused a write"
    """nats-server has given up on writes that could be made now: a restart is worth it."""
    SILENT = "its disk does not answer"


@dataclass(slots=True)
class Disk:
    """What is known of the disk, from looks at it. Decides; reads no file and no clock.

    Attributes:
        directory: where the data lies.
        space: as it was seen last; None before the first look.
        trouble: why nothing can be stored now; None when it can.
        failed: why nats-server failed to write; empty when it has not since it was started.
        since: when the trouble began, or ended.
    """

    directory: Path
    space: Space | None = None
    trouble: Trouble | None = None
    failed: str = ""
    since: float = 0.0

    def seen(self, space: Space | None, failed: str, now: float) -> bool:
        """Take in a look (None: there was no answer), and say whether that changed the trouble."""
        self.space = space or self.space
        self.failed = failed or self.failed or _unlogged_failure(space)
        trouble = self._judge(space)
        changed = trouble is not self.trouble
        if changed:
            self.trouble, self.since = trouble, now
        return changed

    @property
    def described(self) -> str:
        """The directory, and how much room there is, for operators."""
        if self.space is None:
            return str(self.directory)
        free, total = self.space.free, self.space.total
        why = f"; nats-server: {self.failed}" if self.failed else ""
        return f"{self.directory}: {_megabytes(free)} free of {_megabytes(total)}{why}"

    def _judge(self, space: Space | None) -> Trouble | None:
        if space is None:
            return Trouble.SILENT
        if space.read_only:
            return Trouble.READ_ONLY
        # Once it was full, there must be some more, so that it does not change back and forth.
        wanted = space.reserve * 3 // 2 if self.trouble is Trouble.FULL else space.reserve
        if space.free < wanted or space.files < _FEWEST_FILES:
            return Trouble.FULL
        return Trouble.FAILED if self.failed else None


def _unlogged_failure(space: Space | None) -> str:
    """Return why nats-server may have failed without a word: its log lies on the same disk."""
    if space is None or not (space.read_only or space.free < _NO_ROOM):
        return ""
    return "read-only file system" if space.read_only else "no space left on device"


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"
