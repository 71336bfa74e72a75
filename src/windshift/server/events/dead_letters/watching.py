"""Telling of dead letters as they are written.

A note from whoever wrote one makes it fast; looking from time to time makes it certain.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, NamedTuple, Protocol

from windshift.nats.times import NANOSECONDS
from windshift.server.errors import BrokerUnavailable, InvalidField, OutcomeUnknown
from windshift.server.events.dead_letters.letters import DeadLetter
from windshift.server.events.dead_letters.store import DeadLetterStore, LetterFilter
from windshift.server.events.notes import DEAD, Notes

_PAGE: Final = 500
_PAGE_BYTES: Final = 256 * 1024
"""Data that one watch holds in memory, beside what its client has not read."""
_UNREAD: Final = 16 * 1024
"""Bytes that wait for the client to read before no more is sent."""

_POSITION: Final = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})", re.ASCII)


class WatchPosition(NamedTuple):
    """How far a watch has come.

    Attributes:
        after: the position of the last entry.
        time_ns: when that entry was written, in nanoseconds since 1970. Only for a broker that has lost
            entries, or the whole stream, and gives out positions again.
    """

    after: int
    time_ns: int


def write_position(letter: DeadLetter) -> str:
    """Write where a dead letter stands."""
    return f"{letter.position}-{_time_ns(letter)}"


def read_position(field: str, text: str) -> WatchPosition:
    """Read what `write_position` wrote; raise `InvalidField` for anything else."""
    found = _POSITION.fullmatch(text)
    if found is None:
        raise InvalidField(field, "is no position; pass on that of the last entry that was received")
    return WatchPosition(int(found[1]), int(found[2]))


class Watcher(Protocol):
    """The client's end of a watch. Sending queues and never blocks."""

    @property
    def queued(self) -> int:
        """Bytes that were sent and that the client has not read."""
        ...

    async def ready(self) -> None:
        """Wait until the client has read most of what it was sent."""
        ...

    def begin(self) -> None:
        """Tell the client that what is written from now on will be told."""
        ...

    def tell(self, letter: DeadLetter) -> None:
        """Send a dead letter."""
        ...


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """Timers of a watch.

    Attributes:
        interval: how often to look without having been told.
        retry_interval: how long to wait after the broker could not be asked.
        read_timeout: how long the broker may take to answer.
        gather: least time from one look to the next: what is written meanwhile is read together. Hundreds of
            watches would otherwise look without a pause while many dead letters are written.
        overlap: how far to go back in time when the broker has lost entries.
    """

    interval: timedelta = timedelta(seconds=3)
    retry_interval: timedelta = timedelta(milliseconds=250)
    read_timeout: timedelta = timedelta(seconds=5)
    gather: timedelta = timedelta(milliseconds=100)
    overlap: timedelta = timedelta(minutes=1)


class Watch:
    """One watch. To be made in a running event loop.

    Args:
        store: the dead letters.
        notes: what servers tell each other.
        which: those to tell of.
        with_data: whether to read the events' data.
        client: whom to tell.
        options: timers.
    """

    def __init__(
        self,
        store: DeadLetterStore,
        notes: Notes,
        which: LetterFilter,
        client: Watcher,
        options: WatchOptions,
        *,
        with_data: bool,
    ) -> None:
        self._store = store
        self._notes = notes
        self._which = which
        self._client = client
        self._options = options
        self._with_data = with_data
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._reached = WatchPosition(0, 0)
        self._mark = 0
        self._marked_at = self._loop.time()

    async def run(self, begin: WatchPosition | None, *, existing: bool) -> None:
        """Tell of dead letters until cancelled.

        Without a place to begin, `existing` says whether those count that there are. Raise
        `BrokerUnavailable` when the broker cannot be asked at the beginning; later that is waited out.
        """
        stop = self._notes.listen(DEAD, self._which.stream, self._which.consumer, self._wake.set)
        try:
            last = await self._store.last_position(self._deadline())
            self._reached = begin or WatchPosition(0 if existing else last, 0)
            self._client.begin()
            while True:
                await self._look_patiently()
        finally:
            stop()

    async def _look_patiently(self) -> None:
        """Tell of what is new, then wait until there may be more."""
        pause, again_at = self._options.interval, self._loop.time() + self._options.gather.total_seconds()
        try:
            await self._look()
        except (BrokerUnavailable, OutcomeUnknown):
            pause = self._options.retry_interval
            self._wake.clear()
        try:
            async with asyncio.timeout(pause.total_seconds()):
                await self._wake.wait()
        except TimeoutError:
            pass
        await asyncio.sleep(max(0.0, again_at - self._loop.time()))

    async def _look(self) -> None:
        self._wake.clear()
        last = await self._store.last_position(self._deadline())
        if last < self._reached.after:
            self._go_back()
        more = last > self._reached.after
        while more:
            more = await self._tell_a_page()
        await self._skip_others(last)

    async def _skip_others(self, last: int) -> None:
        """Skip the entries of others, so that nothing new costs one request.

        Pages come from any replica, which may lag, so the leader has to confirm that none of ours is among
        them. A server that led the stream a moment ago may answer as its leader: skip only what is older.
        """
        now = self._loop.time()
        if now - self._marked_at < self._options.interval.total_seconds():
            return
        after, mark = self._reached.after, min(self._mark, last)
        if mark > after and await self._next_position(after) is None:
            self._reached = self._reached._replace(after=mark)
        self._mark, self._marked_at = last, now

    async def _next_position(self, after: int) -> int | None:
        which = self._which
        return await self._store.next_position(which.stream, which.consumer, after, self._deadline())

    def _go_back(self) -> None:
        """Begin anew, in a stream that is not what it was, with what can be new there."""
        time_ns = self._reached.time_ns
        if time_ns:
            since_ns = time_ns - self._options.overlap // timedelta(microseconds=1) * 1000
            self._which = replace(self._which, since_ns=max(since_ns, self._which.since_ns or since_ns))
        self._reached = WatchPosition(0, time_ns)

    async def _tell_a_page(self) -> bool:
        """Tell of some; say whether there are more."""
        client = self._client
        page = await self._store.page(
            self._which, self._reached.after, _PAGE, _PAGE_BYTES, self._deadline(), with_data=self._with_data
        )
        for letter in page.letters:
            client.tell(letter)
            self._reached = WatchPosition(letter.position, _time_ns(letter))
            if client.queued > _UNREAD:
                await client.ready()
        self._reached = self._reached._replace(after=max(page.after, self._reached.after))
        return page.more

    def _deadline(self) -> float:
        return self._loop.time() + self._options.read_timeout.total_seconds()


def _time_ns(letter: DeadLetter) -> int:
    return letter.time.seconds * NANOSECONDS + letter.time.nanos
