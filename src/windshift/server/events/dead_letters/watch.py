"""Watches: streams of dead letters as they are written.

A notification from the writer makes a watch fast; polling makes it complete.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final, NamedTuple, Protocol

from windshift.nats.times import NANOSECONDS
from windshift.server.broker.following import StreamClient
from windshift.server.domain.errors import BrokerUnavailable, InvalidField, OutcomeUnknown
from windshift.server.events.dead_letters.model import DeadLetter, DeadLetterFilter
from windshift.server.events.dead_letters.store import DeadLetterStore
from windshift.server.events.notes import DEAD, Notes

_PAGE_SIZE: Final = 500
_PAGE_BYTES: Final = 256 * 1024
"""Data that one watch holds in memory, besides what its client has not read."""
_MAX_QUEUED: Final = 16 * 1024
"""Bytes queued for the client above which sending pauses."""
_READING: Final = 5.0
"""Seconds that the broker may take to answer."""
_OVERLAP_NS: Final = 60 * NANOSECONDS
"""How far to go back in time when the broker has lost entries."""

_POSITION: Final = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})", re.ASCII)


class WatchPosition(NamedTuple):
    """How far a watch has come.

    Attributes:
        after: the position of the last dead letter.
        time_ns: when that was written, in nanoseconds since 1970. Needed only if the broker loses dead
            letters, or the whole stream, and then assigns the same positions again.
    """

    after: int
    time_ns: int


def write_position(dead_letter: DeadLetter) -> str:
    """Write the position of a dead letter."""
    return f"{dead_letter.position}-{dead_letter.time_ns}"


def read_position(field: str, text: str) -> WatchPosition:
    """Read a position; raise `InvalidField` for anything that `write_position` did not write."""
    found = _POSITION.fullmatch(text)
    if found is None:
        raise InvalidField(field, "is not a position; use that of the last entry received")
    return WatchPosition(int(found[1]), int(found[2]))


class Watcher(StreamClient, Protocol):
    """The client's end of a watch."""

    def send(self, dead_letter: DeadLetter) -> None:
        """Send a dead letter."""
        ...


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """Timers of a watch.

    Attributes:
        interval: how often to poll.
        retry_interval: how long to wait after the broker was unavailable.
        min_interval: least time between two polls, so that a burst of dead letters is read in few pages even
            with hundreds of watches.
    """

    interval: timedelta = timedelta(seconds=3)
    retry_interval: timedelta = timedelta(milliseconds=250)
    min_interval: timedelta = timedelta(milliseconds=100)


_OPTIONS: Final = WatchOptions()


@dataclass(eq=False)
class Watch:
    """One watch; `with_data` has it read events' data. Create it in a running event loop."""

    _store: DeadLetterStore
    _notes: Notes
    _which: DeadLetterFilter
    _client: Watcher
    _options: WatchOptions = _OPTIONS
    with_data: bool = field(kw_only=True)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _mark: int = 0

    def __post_init__(self) -> None:
        self._reached = WatchPosition(0, 0)
        self._marked_at = self._loop.time()

    async def run(self, begin: WatchPosition | None, *, existing: bool) -> None:
        """Send dead letters until cancelled.

        Without a position to begin at, `existing` says whether to include those already there. Raise
        `BrokerUnavailable` if the broker is unavailable at the beginning; later, wait for it.
        """
        stop = self._notes.listen(DEAD, self._which.stream, self._which.consumer, self._wake.set)
        try:
            last = await self._store.last_position(self._deadline())
            self._reached = begin or WatchPosition(0 if existing else last, 0)
            self._client.begin()
            while True:
                await self._poll_and_wait()
        finally:
            stop()

    async def _poll_and_wait(self) -> None:
        """Send what is new, then wait until there may be more."""
        timeout = self._options.interval
        again_at = self._loop.time() + self._options.min_interval.total_seconds()
        try:
            await self._poll()
        except (BrokerUnavailable, OutcomeUnknown):
            timeout = self._options.retry_interval
            self._wake.clear()
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await self._wake.wait()
        except TimeoutError:
            pass
        await asyncio.sleep(max(0.0, again_at - self._loop.time()))

    async def _poll(self) -> None:
        self._wake.clear()
        last = await self._store.last_position(self._deadline())
        if last < self._reached.after:
            self._go_back()
        more = last > self._reached.after
        while more:
            more = await self._send_page()
        await self._skip_others(last)

    async def _skip_others(self, last: int) -> None:
        """Skip dead letters that do not match, so that polling costs one request when nothing is new.

        Pages come from any replica, which may lag, so the leader has to confirm that nothing matches. A
        former leader may still answer as such, so skip only what has been there for `interval`.
        """
        now = self._loop.time()
        if now - self._marked_at < self._options.interval.total_seconds():
            return
        which, after, mark = self._which, self._reached.after, min(self._mark, last)
        if mark > after:
            deadline = self._deadline()
            if await self._store.next_position(which.stream, which.consumer, after, deadline) is None:
                self._reached = self._reached._replace(after=mark)
        self._mark, self._marked_at = last, now

    def _go_back(self) -> None:
        """Start over, in a stream that lost something, with what may be new."""
        time_ns = self._reached.time_ns
        if time_ns:
            since_ns = time_ns - _OVERLAP_NS
            self._which = replace(self._which, since_ns=max(since_ns, self._which.since_ns or since_ns))
        self._reached = WatchPosition(0, time_ns)

    async def _send_page(self) -> bool:
        """Send a page; return whether there are more."""
        most = _PAGE_BYTES if self.with_data else None
        page = await self._store.page(
            self._which, self._reached.after, _PAGE_SIZE, self._deadline(), max_data=most
        )
        for dead_letter in page.dead_letters:
            self._client.send(dead_letter)
            self._reached = WatchPosition(dead_letter.position, dead_letter.time_ns)
            if self._client.queued > _MAX_QUEUED:
                await self._client.ready()
        self._reached = self._reached._replace(after=max(page.after, self._reached.after))
        return page.more

    def _deadline(self) -> float:
        return self._loop.time() + _READING
