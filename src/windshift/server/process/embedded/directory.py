"""The data directory: one server at a time, readable by its owner alone."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import stat
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from windshift.server.process.errors import StartError

log = logging.getLogger(__name__)

_PRIVATE = 0o700
_PRIVATE_FILE = 0o600
_POLL = 0.02
_SETTING = "WINDSHIFT_DATA_DIR"


class LogEnd(NamedTuple):
    """Where nats-server's log ended: the files that it had moved aside, and the size of the last one."""

    moved: frozenset[Path]
    size: int


class DataDirectory:
    """Paths below the data directory, and the lock that makes it ours.

    nats-server inherits the lock (`lock_fd`), so that the directory stays taken as long as either process
    lives: two nats-servers on one store would destroy it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        """What exists only while a server runs."""
        self.config = self.run / "nats.conf"
        self.log = path / "nats-server.log"
        self.stock = path / "stock.json"
        """What lies in the directory, as it was left."""
        self.damaged = path / "damaged"
        """Where streams are moved that could not be read, and need not be."""
        self._store = path / "jetstream"  # nats-server adds this name to its store_dir
        self._lock_file = path / "lock"
        self.lock_fd = -1
        """The descriptor that holds the lock; -1 when it is not held."""

    async def acquire(self, wait: float) -> None:
        """Create the directory if need be, and lock it.

        When the server that held it is dead, and only its nats-server is still about to stop, wait up to
        `wait` seconds for that. Raises `StartError`.
        """
        try:
            self._prepare()
            await self._take_lock(wait)
        except OSError as error:
            self.release()
            raise self.unusable(error) from error
        except StartError:
            self.release()
            raise

    def release(self) -> None:
        """Give the lock back. The files stay."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def write_config(self, text: str) -> None:
        """Write nats-server's configuration, which holds a password, for our eyes only."""
        self.run.mkdir(mode=_PRIVATE, exist_ok=True)
        self.config.unlink(missing_ok=True)
        with open(self.config, "x", encoding="utf-8", opener=partial(os.open, mode=_PRIVATE_FILE)) as file:
            file.write(text)

    def log_end(self) -> LogEnd:
        """Return where nats-server's log ends now. Raises OSError."""
        try:
            return LogEnd(frozenset(self._moved_logs()), self.log.stat().st_size)
        except FileNotFoundError:
            return LogEnd(frozenset(self._moved_logs()), 0)

    def logged_since(self, end: LogEnd) -> list[str]:
        """Return the lines that nats-server has logged since, also to a file that it has moved aside then.

        Raises OSError.
        """
        first, *others = *sorted(self._moved_logs() - end.moved), self.log
        with first.open("rb") as file:
            file.seek(end.size)
            logged = file.read() + b"".join(each.read_bytes() for each in others)
        return logged.decode(errors="replace").splitlines()

    def open_log(self) -> int:
        """Open nats-server's log for appending, and return the descriptor."""
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _PRIVATE_FILE)

    def streams(self) -> dict[str, Path]:
        """Find the directories of streams, by name. Raises OSError."""
        found = (each for each in self._store.glob("*/streams/*") if each.is_dir() and any(each.iterdir()))
        return {each.name: each for each in found if not each.name.startswith(".")}

    def put_aside(self, stream: str, part: str) -> Path:
        """Move a part of a stream's directory to where nats-server does not find it, and return where.

        Raises OSError.
        """
        self.damaged.mkdir(mode=_PRIVATE, exist_ok=True)
        source = self.streams()[stream] / part
        name = "-".join((stream, *Path(part).parts, time.strftime("%Y%m%dT%H%M%S")))
        return source.rename(self.damaged / name)

    def ports_file(self, pid: int) -> Path | None:
        """Find the file in which the nats-server of this id says where it listens."""
        return next(self.run.glob(f"*_{pid}.ports"), None)

    def tidy(self) -> None:
        """Remove what an earlier run left: configuration with its password, ports and ids.

        Directories are not ours; they stay. Raises OSError.
        """
        for file in self.run.iterdir():
            if not file.is_dir():
                file.unlink(missing_ok=True)

    def unusable(self, error: OSError) -> StartError:
        """Say in one line what is wrong with the directory, and which file when it is one of ours."""
        reason = os.strerror(error.errno) if error.errno else "it cannot be used"
        file = Path(error.filename) if isinstance(error.filename, str) else self.path
        what = (
            file
            if file.is_relative_to(self.path) and file != self.path
            else f"the data directory {self.path}"
        )
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        advice = "make room there" if full else "make it writable"
        return StartError(f"cannot write to {what}: {reason}", advice, _SETTING)

    def _moved_logs(self) -> set[Path]:
        """Find the logs that nats-server has moved aside; their names end with the time of that."""
        return set(self.path.glob(f"{self.log.name}.*"))

    def _prepare(self) -> None:
        for missing in (each for each in reversed(self.path.parents) if not each.exists()):
            missing.mkdir(mode=_PRIVATE, exist_ok=True)
        self.path.mkdir(mode=_PRIVATE, exist_ok=True)
        self.lock_fd = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
        for directory in (self.run, self._store):
            directory.mkdir(mode=_PRIVATE, exist_ok=True)
            directory.chmod(_PRIVATE)
        self._close_to_others()

    def _close_to_others(self) -> None:
        """Take away what others may do here: of a directory that we share with nothing else, everything.

        One with other things in it may be shared on purpose, as /tmp is: there our own files are closed.
        """
        logs = list(self.path.glob(f"{self.log.name}*"))
        for file in (self._lock_file, *logs):
            if file.is_file():
                file.chmod(_PRIVATE_FILE)
        state = self.path.stat()
        ours = {self.run, self._store, self._lock_file, self.stock, self.damaged, *logs}
        if state.st_uid == os.geteuid() and ours.issuperset(self.path.iterdir()):
            self.path.chmod(_PRIVATE)
        elif state.st_mode & stat.S_IWOTH and not state.st_mode & stat.S_ISVTX:
            log.warning("everybody may write to the data directory %s, and replace what is in it", self.path)

    async def _take_lock(self, wait: float) -> None:
        give_up = time.monotonic() + wait
        while not self._try_lock():
            if self._owner_lives() or time.monotonic() >= give_up:
                raise StartError(
                    f"the data directory {self.path} is in use by another server", "stop that one", _SETTING
                )
            await asyncio.sleep(_POLL)
        os.truncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, b"%d\n" % os.getpid(), 0)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _owner_lives(self) -> bool:
        """Tell whether the server that took the lock is alive, as far as its id tells."""
        try:
            pid = int(os.pread(self.lock_fd, 20, 0))
            os.kill(pid, 0)
        except (ValueError, ProcessLookupError):
            return False
        except PermissionError:
            return True  # alive, and another user's
        return True
