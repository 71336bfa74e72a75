"""Files that are reloaded when they change, or on demand. What was loaded before serves until then."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Generic, TypeAlias, TypeVar

from windshift.server.background.threads import in_thread

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_POLL: Final = 0.5
_STEADY: Final = 1.0
_RETRY: Final = 30.0
_TIMEOUT: Final = 60.0
_MOST_HANGING: Final = 4


class NotUsable(Exception):
    """The files cannot be used. The text says why, in one line without secrets."""


class Hanging(NotUsable):
    """A file system hangs."""

    def __init__(self) -> None:
        super().__init__("reading does not come to an end; does the file system hang?")


def refuse_pipes(paths: Iterable[Path]) -> None:
    """Raise `NotUsable` for pipes and devices, which may never end, or change with each read.

    Files that cannot be examined are left to the reader.
    """
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError:
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise NotUsable(f"{path}: not a file that can be read again and again")


Signature: TypeAlias = tuple[int, ...]
"""Tells versions of a file apart without reading it: device, inode, size, times of the last changes."""

State: TypeAlias = tuple[Signature | None, ...]
"""The signatures of a group of files; None for a missing one."""

_UNKNOWN: Final[State] = ()
"""The state of files that cannot be examined; equal to no other."""


def state_of(paths: Iterable[Path]) -> State:
    """Examine files. Symbolic links are followed, so one with a new target counts as changed."""
    return tuple(map(_signature, paths))


def _signature(path: Path) -> Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns, found.st_mtime_ns


class Changes:
    """Decides when to load files, from what polls see of them.

    A change counts when it has been stable for a second, so that files are not read while they are being
    written. Refused files are tried again after `retry` seconds, since the reason may be elsewhere.
    """

    def __init__(self, retry: float = _RETRY) -> None:
        self._retry = retry
        self._loaded: State | None = None
        self._seen: State | None = None
        self._seen_at = 0.0
        self._try_at: float | None = None

    def due(self, state: State, now: float) -> bool:
        """Note what a poll saw at `now` (seconds), and return whether to load it."""
        if state != self._seen:
            self._seen, self._seen_at = state, now
        steady = now - self._seen_at >= _STEADY
        return steady and (state != self._loaded or (self._try_at is not None and now >= self._try_at))

    def loaded(self, state: State, now: float, *, refused: bool) -> bool:
        """Note that these files were loaded or refused; return whether they are new."""
        new, self._loaded = state != self._loaded, state
        self._try_at = now + self._retry if refused else None
        return new


class Watched(Generic[T]):
    """A group of files, reloaded when one of them changes.

    `load` reads the files and returns a result, in a thread; `take` replaces the previous result with it, in
    the event loop. If `load` raises `NotUsable` or OSError, for example for a missing file, the previous
    result stays in use, and the log has one error for this version of the files; for any other exception it
    has a traceback too.

    Args:
        what: one word for logs and metrics.
        paths: the files.
        load: runs in a thread; never concurrently, unless it takes longer than `timeout`.
        take: must neither block nor raise.
        poll: seconds between checks of the files.
        retry: seconds until refused files are tried again.
        timeout: seconds after which the file system counts as hanging, which is a refusal too.

    Attributes:
        reloads: successful loads after the first.
        failures: refused versions of the files.
        failing: whether the current version is refused.
    """

    def __init__(
        self,
        what: str,
        paths: Iterable[Path],
        load: Callable[[], T],
        take: Callable[[T], None],
        *,
        poll: float = _POLL,
        retry: float = _RETRY,
        timeout: float = _TIMEOUT,
    ) -> None:
        self.what = what
        self.paths = tuple(paths)
        self._load = load
        self._take = take
        self._poll = poll
        self._changes = Changes(retry)
        self._timeout = timeout
        self._threads = 0
        self._busy = asyncio.Lock()
        self.reloads = 0
        self.failures = 0
        self.failing = False

    def start(self) -> None:
        """Load for the first time, blocking. Raises `NotUsable`."""
        state = state_of(self.paths)
        try:
            self._take(self._load())
        except OSError as error:
            raise NotUsable(_explained(error)) from error
        self._changes.loaded(state, asyncio.get_running_loop().time(), refused=False)

    async def watch(self) -> None:
        """Check the files until cancelled, and load them when they have changed."""
        while True:
            await asyncio.sleep(self._poll)
            await self._look(demanded=False)

    async def reload(self) -> None:
        """Load now, changed or not, and log the result."""
        await self._look(demanded=True)

    async def _look(self, *, demanded: bool) -> None:
        """Check the files, and load them if they changed or on demand; the next poll shows a later change."""
        async with self._busy:
            state = _UNKNOWN
            try:
                state = await self._read(lambda: state_of(self.paths))
                if not demanded and not self._changes.due(state, asyncio.get_running_loop().time()):
                    return
                self._take(await self._read(self._load))
            except Exception as error:  # noqa: BLE001 - whatever it is, the server goes on with what it has
                self._refused(state, error, demanded=demanded)
                return
            self._changes.loaded(state, asyncio.get_running_loop().time(), refused=False)
            self.reloads += 1
            self.failing = False
            log.info("reloaded %s: %s", self.what, self._names())

    async def _read(self, work: Callable[[], R]) -> R:
        """Return the result of work in a thread. Raise its exception, or `Hanging`.

        A read that hangs keeps its thread; while there are several of those, no more are started.
        """
        if self._threads >= _MOST_HANGING:
            raise Hanging
        reading = in_thread(work, "windshift-files")
        self._threads += 1
        reading.add_done_callback(self._ended)
        await asyncio.wait([reading], timeout=self._timeout)
        if not reading.done():
            raise Hanging
        return reading.result()

    def _ended(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1

    def _refused(self, state: State, error: Exception, *, demanded: bool) -> None:
        self.failing = True
        if isinstance(error, Hanging):
            state = _UNKNOWN
        new = self._changes.loaded(state, asyncio.get_running_loop().time(), refused=True)
        if not new and not demanded:
            return
        self.failures += 1
        log.error(
            "cannot reload %s from %s; what was loaded before stays: %s",
            self.what,
            self._names(),
            _explained(error),
            exc_info=None if isinstance(error, (NotUsable, OSError)) else error,
        )

    def _names(self) -> str:
        return ", ".join(map(str, self.paths))


def _explained(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) if isinstance(error, NotUsable) else type(error).__name__
