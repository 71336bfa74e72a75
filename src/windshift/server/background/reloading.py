"""Files that are reloaded when they change, or on demand. What was loaded before serves until then."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

from windshift.server.background.threads import in_thread

log = logging.getLogger(__name__)

T = TypeVar("T")

_POLL: Final = 0.5
_STEADY: Final = 1.0
_RETRY: Final = 30.0
_PATIENCE: Final = 60.0
_MOST_HANGING: Final = 4


class NotUsable(Exception):
    """What the files hold cannot be used. The text says why, in one line without secrets."""


class Hanging(NotUsable):
    """A file system does not answer."""

    def __init__(self) -> None:
        super().__init__("reading does not come to an end; does the file system hang?")


def refuse_pipes(paths: Iterable[Path]) -> None:
    """Raise `NotUsable` for pipes and devices, which may never end, or hold something else the next time.

    What cannot be looked at is left to whoever reads it.
    """
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError:
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise NotUsable(f"{path}: not a file that can be read again and again")


class Signature(NamedTuple):
    """What tells one version of a file from another, without reading it."""

    device: int
    inode: int
    size: int
    changed_ns: int
    modified_ns: int


State = tuple[Signature | None, ...]
"""The signatures of a group of files; None for one that is not there."""

_UNKNOWN: Final[State] = ()
"""The state of files that cannot be looked at: no other is the same."""


def state_of(paths: Iterable[Path]) -> State:
    """Look at files. Symbolic links are followed, so that one that leads elsewhere counts as changed."""
    return tuple(map(_signature, paths))


def _signature(path: Path) -> Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return Signature(found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns, found.st_mtime_ns)


class Changes:
    """Decides when files are to be loaded, from what polls see of them.

    A change counts once polls have seen the same for `steady` seconds: a file that is being written is left
    alone. What was refused is tried again after `retry` seconds, since the files may not be the reason.
    """

    def __init__(self, retry: float = _RETRY, steady: float = _STEADY) -> None:
        self._retry = retry
        self._steady = steady
        self._loaded: State | None = None
        self._seen: State | None = None
        self._seen_at = 0.0
        self._try_at: float | None = None

    def due(self, state: State, now: float) -> bool:
        """Take in what a poll saw at `now` (seconds), and say whether that is to be loaded."""
        if state != self._seen:
            self._seen, self._seen_at = state, now
        steady = now - self._seen_at >= self._steady
        return steady and (state != self._loaded or (self._try_at is not None and now >= self._try_at))

    def loaded(self, state: State, now: float, *, refused: bool) -> bool:
        """Take in that these files were loaded, or refused; return whether they were not known before."""
        new, self._loaded = state != self._loaded, state
        self._try_at = now + self._retry if refused else None
        return new


class Reading:
    """Runs what reads files in threads of their own.

    What does not end is left alone: it holds a thread, and once there are some of these, nothing is begun.

    Args:
        patience: seconds that something may take.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._running = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Return what the work returns. Raise what it raises, or `Hanging`."""
        if self._running >= _MOST_HANGING:
            raise Hanging
        reading = in_thread(work, "windshift-files")
        self._running += 1
        reading.add_done_callback(self._ended)
        await asyncio.wait([reading], timeout=self._patience)
        if not reading.done():
            raise Hanging
        return reading.result()

    def _ended(self, _: asyncio.Future[T]) -> None:
        self._running -= 1


class Watched(Generic[T]):
    """A group of files that belong together, loaded again when one of them changes.

    `load` reads the files and makes something of them, in a thread; `take` puts that in the place of what was
    there before, in the event loop. When `load` raises `NotUsable` or OSError, as when a file is missing,
    nothing is taken: what was loaded before goes on to serve, and the log has one error for that version of
    the files. Any other exception does the same and has a traceback.

    Args:
        what: what is loaded, in one word, for logs and metrics.
        paths: the files.
        load: runs in a thread, never twice at the same time unless it takes longer than `patience`.
        take: must not wait, and not fail.
        poll: seconds between looks at the files.
        retry: seconds until what was refused is tried again.
        patience: seconds after which the file system is taken to hang, which is a refusal too.

    Attributes:
        reloads: how often something was loaded and taken, the first time not counted.
        failures: versions of the files that were refused.
        failing: whether what lies on the disk now is refused.
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
        patience: float = _PATIENCE,
    ) -> None:
        self.what = what
        self.paths = tuple(paths)
        self._load = load
        self._take = take
        self._poll = poll
        self._changes = Changes(retry)
        self._reading = Reading(patience)
        self._busy = asyncio.Lock()
        self.reloads = 0
        self.failures = 0
        self.failing = False

    def start(self) -> None:
        """Load for the first time, here and now. Raises `NotUsable`."""
        state = state_of(self.paths)
        try:
            self._take(self._load())
        except OSError as error:
            raise NotUsable(_explained(error)) from error
        self._changes.loaded(state, asyncio.get_running_loop().time(), refused=False)

    async def watch(self) -> None:
        """Look at the files until cancelled, and load them when they have changed."""
        while True:
            await asyncio.sleep(self._poll)
            await self._look(demanded=False)

    async def reload(self) -> bool:
        """Load now, whatever polls have seen. Return whether it was taken; the log says so in any case."""
        return await self._look(demanded=True)

    async def _look(self, *, demanded: bool) -> bool:
        """Look at the files, and load them if they changed or on demand. Return whether they were taken."""
        async with self._busy:
            try:
                state = await self._reading.run(lambda: state_of(self.paths))
            except Exception as error:  # noqa: BLE001 - whatever it is, the watch goes on
                self._refused(_UNKNOWN, error, demanded=demanded)
                return False
            if demanded or self._changes.due(state, asyncio.get_running_loop().time()):
                return await self._reload(state, demanded=demanded)
            return False

    async def _reload(self, state: State, *, demanded: bool) -> bool:
        """Load what was in this state just now: a change meanwhile shows at the next poll."""
        try:
            self._take(await self._reading.run(self._load))
        except Exception as error:  # noqa: BLE001 - whatever it is, the server goes on with what it has
            self._refused(state, error, demanded=demanded)
            return False
        self._changes.loaded(state, asyncio.get_running_loop().time(), refused=False)
        self.reloads += 1
        self.failing = False
        log.info("reloaded %s: %s", self.what, self._names())
        return True

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
