"""Lists of all streams and all consumers; callers at about the same time share one request.

A list keeps only what it is sorted and searched by; the entries that are shown are requested individually.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from itertools import chain
from math import inf
from time import perf_counter
from typing import Any, Final, Generic, NamedTuple, TypeVar

from windshift.nats import Busy, Unanswered
from windshift.nats.jetstream.api import JetStream, metadata_of
from windshift.nats.times import parse_rfc3339
from windshift.server.background.batches import for_each
from windshift.server.background.pacing import paced, pause
from windshift.server.domain.broker_errors import broker_errors
from windshift.server.domain.errors import BrokerUnavailable, StreamNotFound
from windshift.server.domain.names import INTERNAL, RESERVED_STREAMS
from windshift.server.events.consumers import is_durable
from windshift.server.events.model import ConsumerKey
from windshift.server.ownership.amounts import owner_of

T = TypeVar("T")
K = TypeVar("K")

_LONGEST: Final = 5.0
"""Seconds that a look is good for at most."""
_KEPT: Final = 20
"""A look is good for so many times as long as it took: short where there is little to see."""
_TIMEOUT: Final = 15.0
"""Seconds that a look may take."""
_FOR_ENTRIES: Final = 3.0
"""Seconds of these that are left to those who wait, when a look at consumers is not over by then."""
SLICE: Final = 250
"""Rows that one turn of the event loop is busy with."""
_AT_ONCE: Final = 16
"""Streams whose consumers are asked for at once."""
_LATELY: Final = 60.0
"""Seconds for which consumers that had no leader are why lists of others take too long."""


class Page(NamedTuple, Generic[T, K]):
    """A page of a list.

    Attributes:
        total: how many entries there are on all pages.
        after: where the next page begins: what the last entry is sorted by; None = there is none.
    """

    entries: list[T]
    total: int
    after: K | None


class StreamRow(NamedTuple):
    """What lists of streams are sorted and searched by.

    Attributes:
        subjects: those it is bound to.
        origin: the stream that it is a mirror of; empty = it is none.
        created_ns: in nanoseconds since 1970.
        size: bytes it holds.
        last_id: the last id ever given.
        direct: whether many of its messages can be read at once.
        rate: events stored per second since the look before; 0 when it was not there then.
        changed_at: when a look first saw what it holds now, in the loop's time; 0 = the first look did.
    """

    name: str
    subjects: tuple[str, ...]
    origin: str
    created_ns: int
    events: int
    size: int
    last_id: int
    consumers: int
    direct: bool
    rate: float
    changed_at: float

    @property
    def held(self) -> tuple[int, int, int, int]:
        """What changes: the numbers of events, bytes, the last id and consumers."""
        return self.events, self.size, self.last_id, self.consumers

    def contains(self, text: str) -> bool:
        """Whether a text in lower case is in the name or in a subject."""
        return (
            not text or text in self.name.lower() or any(text in subject.lower() for subject in self.subjects)
        )


class StreamsSeen(NamedTuple):
    """All streams.

    Attributes:
        at: when they were looked at, in the loop's time.
        named: the rows by name.
        mirrored: the names of those that others are mirrors of, also mirrors that have no leader now.
    """

    at: float
    rows: list[StreamRow]
    named: Mapping[str, StreamRow]
    mirrored: frozenset[str]


class ConsumerRow(NamedTuple):
    """What lists of consumers are sorted by, and what says who sees one: whether it has a name, its owner."""

    key: ConsumerKey
    pending: int
    unsettled: int
    durable: bool
    owner: str


class SharedLook(Generic[T]):
    """A look that is taken when somebody asks, and shared by all who ask within the next seconds.

    Args:
        take: looks, until a deadline in the loop's time.
        longest: seconds that a look is good for at most.
        changes: counts what makes earlier looks wrong.
    """

    def __init__(
        self,
        take: Callable[[float], Coroutine[Any, Any, T]],
        longest: float,
        changes: Callable[[], int] = lambda: 0,
    ) -> None:
        self._take = take
        self._longest = longest
        self._count_changes = changes
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[T] | None = None
        self._good_until = 0.0
        self._changes = 0

    async def get(self, deadline: float | None) -> T:
        """Return what is known, or look. `deadline` (loop time; None = none) ends waiting, not the look.

        Raise `BrokerUnavailable` when the broker has not told it by then.
        """
        if self._task is None or self._is_old(self._task):
            self._changes = self._count_changes()
            self._task = self._loop.create_task(paced(self._look()))
            self._task.add_done_callback(retrieve)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._task)
        except TimeoutError:
            raise BrokerUnavailable from None

    def _is_old(self, task: asyncio.Task[T]) -> bool:
        is_over = task.done() and self._loop.time() >= self._good_until
        return is_over or self._changes != self._count_changes()

    async def _look(self) -> T:
        began = perf_counter()
        self._good_until = 0.0
        found = await self._take(self._loop.time() + _TIMEOUT)
        self._good_until = self._loop.time() + min(_KEPT * (perf_counter() - began), self._longest)
        return found


def retrieve(task: asyncio.Task[Any]) -> None:
    """Have no log tell of the error of a task that has ended: whoever waited has it."""
    if not task.cancelled():
        task.exception()


class Look:
    """What there is."""

    def __init__(self, api: JetStream) -> None:
        self._api = api
        self._loop = asyncio.get_running_loop()
        # What is changed through this server is seen by who looks after that.
        self._streams = SharedLook(self._look_at_streams, _LONGEST, lambda: api.changes)
        self._consumers = SharedLook(self._look_at_consumers, _LONGEST, lambda: api.changes)
        self._seen: dict[str, StreamRow] = {}
        self._seen_at = 0.0
        self._origins: dict[str, str] = {}
        """What streams are mirrors of."""
        self._silent: dict[str, float] = {}
        """Streams with consumers that had no leader when they were read last, and when that was."""

    async def seen(self, deadline: float) -> StreamsSeen:
        """Return all streams, but those that Windshift and the broker keep for themselves."""
        return await self._streams.get(deadline)

    async def consumers(self, deadline: float) -> list[ConsumerRow]:
        """Return the consumers of all these streams."""
        return await self._consumers.get(deadline)

    async def rows_of(self, stream: str, deadline: float) -> list[ConsumerRow]:
        """Return the consumers of one stream, as they are now; raise `StreamNotFound`."""
        rows: list[ConsumerRow] = []
        is_silent = False
        with broker_errors(stream=stream):
            async for page in self._api.pages(f"CONSUMER.LIST.{stream}", "consumers", deadline):
                is_silent |= bool(page.missing)
                rows += (
                    ConsumerRow(
                        ConsumerKey(stream, info["name"]),
                        info["num_pending"],
                        info["num_ack_pending"],
                        is_durable(info["config"]),
                        owner_of(info["config"]),
                    )
                    for info in page.items
                    if INTERNAL not in metadata_of(info["config"])
                )
        if is_silent:
            self._silent[stream] = self._loop.time()
        else:
            self._silent.pop(stream, None)
        return rows

    async def consumers_of(self, streams: Sequence[str], deadline: float) -> list[ConsumerRow]:
        """Return the consumers of some streams, as they are now, and none of those that do not exist.

        While some have no leader, those are left out which the broker has not told by `deadline`.
        """
        found = await for_each(streams, lambda name: self._rows_if_answered(name, deadline), at_once=_AT_ONCE)
        return list(chain.from_iterable(found))

    def silent_last(self, streams: Iterable[str]) -> list[str]:
        """Return streams in the order in which their consumers should be asked for."""
        return sorted(streams, key=lambda name: (name in self._silent, name))

    async def _look_at_streams(self, deadline: float) -> StreamsSeen:
        seen, then, now = self._seen, self._seen_at, self._loop.time()
        rows: dict[str, StreamRow] = {}
        origins: dict[str, str] = {}
        with broker_errors():
            async for page in self._api.pages("STREAM.LIST", "streams", deadline):
                origins |= {name: self._origins[name] for name in page.missing & self._origins.keys()}
                for info in page.items:
                    name = info["config"]["name"]
                    if not name.startswith(RESERVED_STREAMS):
                        row = rows[name] = _stream_row(info, seen.get(name), then, now)
                        if row.origin:
                            origins[name] = row.origin
                    await pause()
        self._seen, self._seen_at, self._origins = rows, now, origins
        return StreamsSeen(now, list(rows.values()), rows, frozenset(origins.values()))

    async def _look_at_consumers(self, deadline: float) -> list[ConsumerRow]:
        seen = await self._look_at_streams(deadline)
        self._silent = {name: at for name, at in self._silent.items() if name in seen.named}
        streams = self.silent_last(row.name for row in seen.rows if row.consumers)
        return await self.consumers_of(streams, deadline - _FOR_ENTRIES)

    async def _rows_if_answered(self, stream: str, deadline: float) -> list[ConsumerRow]:
        try:
            return await self.rows_of(stream, deadline)
        except StreamNotFound:
            self._silent.pop(stream, None)
            return []
        except BrokerUnavailable as error:
            last = max(self._silent.values(), default=-inf)
            if self._loop.time() - last < _LATELY and isinstance(error.__cause__, Busy | Unanswered):
                return []
            raise


def _stream_row(info: Mapping[str, Any], before: StreamRow | None, then: float, now: float) -> StreamRow:
    """Read a stream. `before` is what the look at `then` saw of it; 0 = there was no look."""
    config, state = info["config"], info["state"]
    held = state["messages"], state["bytes"], state["last_seq"], state.get("consumer_count", 0)
    stored = 0 if before is None else max(0, held[2] - before.last_id)
    is_same = then == 0 or (before is not None and held == before.held)
    changed_at = (0.0 if before is None else before.changed_at) if is_same else now
    created = parse_rfc3339(info["created"])
    row = StreamRow(
        config["name"],
        tuple(config.get("subjects") or ()),
        (config.get("mirror") or {}).get("name", ""),
        0 if created is None else created.unix_ns,
        *held,
        bool(config.get("allow_direct")),
        stored / max(now - then, 0.001),
        changed_at,
    )
    return before if before == row else row  # to free thousands of old ones at once takes milliseconds
