"""A snapshot of what JetStream holds: streams, their consumers, and how far behind these are.

It costs the broker a request for every 256 streams, one for every 256 consumers of a stream, and one for each
consumer that is behind, to read the age of its oldest event. The requests are made one after the other, and
their number is bounded: what exceeds a bound is left out and counted. When to take one is the business of
`snapshot_cache`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Final, NamedTuple, TypeVar

from windshift.nats import Busy, JetStreamError, Unanswered
from windshift.nats.jetstream.api import JetStream, Page, metadata_of
from windshift.server.domain.names import INTERNAL

T = TypeVar("T")

_MOST_FILTERS: Final = 4
_FOR_AGES: Final = 0.5
"""Seconds of a snapshot that are left for the ages when consumers take too long."""
_ANY: Final = ">"
_READ_ANEW: Final = 60.0
"""Seconds after which the oldest event of a consumer is read again: it may have been deleted."""


@dataclass(frozen=True, slots=True)
class SnapshotLimits:
    """The bounds of one snapshot.

    Attributes:
        streams: how many streams, the first by name.
        consumers: how many durable consumers of these; where there are more, each stream has its share.
            Ephemeral ones are not counted.
        read: how many consumers are read, ephemeral ones included; streams with few come first.
        ages: requests for oldest events; those known from the last snapshot need none for a minute, nor
            where there are more.
        age_bytes: bytes of events that these requests may read, estimated by the mean size in the stream.
    """

    streams: int = 500
    consumers: int = 1_000
    read: int = 4_000
    ages: int = 200
    age_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StreamUsage:
    """One stream.

    Attributes:
        discard: what happens at a limit: the old events go, or new ones are refused ("new").
        most_messages: how many events it may have. None = no limit.
        most_size: how many bytes. None = no limit.
    """

    name: str
    messages: int
    size: int
    first_id: int
    last_id: int
    consumers: int
    discard: str
    most_messages: int | None
    most_size: int | None


@dataclass(frozen=True, slots=True)
class ConsumerProgress:
    """One consumer.

    Attributes:
        stream: the stream's name.
        name: the consumer's name.
        created: when it was made, as the broker says it; one that was deleted and made anew has another.
        durable: whether a client chose the name.
        pending: events not delivered yet.
        unacknowledged: events delivered but not settled.
        redelivered: those of them that were delivered more than once.
        settled_to: every event up to this id is settled.
        filters: subjects that it takes; empty = all.
    """

    stream: str
    name: str
    created: str
    durable: bool
    pending: int
    unacknowledged: int
    redelivered: int
    settled_to: int
    filters: tuple[str, ...]

    @property
    def behind(self) -> bool:
        """Whether some events are not settled."""
        return self.pending > 0 or self.unacknowledged > 0


ConsumerKey = tuple[str, str]
"""A stream's name and a consumer's."""


@dataclass(slots=True)
class Snapshot:
    """What JetStream held at one time.

    Attributes:
        streams: streams, within the bounds.
        consumers: their consumers, within the bounds.
        oldest: when the oldest unsettled event of a consumer was stored, in nanoseconds since 1970; only for
            consumers that are behind.
        omitted_streams: how many streams were left out.
        omitted_consumers: how many consumers were left out.
        omitted_ages: how many consumers are behind whose oldest event was not read.
        taken_ns: when it was begun, in nanoseconds since 1970.
    """

    streams: list[StreamUsage] = field(default_factory=list)
    consumers: list[ConsumerProgress] = field(default_factory=list)
    oldest: dict[ConsumerKey, int] = field(default_factory=dict)
    omitted_streams: int = 0
    omitted_consumers: int = 0
    omitted_ages: int = 0
    taken_ns: int = field(default_factory=time.time_ns)


class _Oldest(NamedTuple):
    """The oldest unsettled event of a consumer in the last snapshot, which was read then."""

    consumer: ConsumerProgress
    seq: int
    stored_ns: int
    read_at: float

    def is_that_of(self, consumer: ConsumerProgress, stream: StreamUsage) -> bool:
        """Whether it still is, unless it was deleted from the middle of the stream."""
        before = self.consumer
        is_same = before.created == consumer.created and before.filters == consumer.filters
        return is_same and before.settled_to == consumer.settled_to and self.seq >= stream.first_id


class SnapshotCollector:
    """Takes snapshots of JetStream."""

    def __init__(self, api: JetStream, limits: SnapshotLimits | None = None) -> None:
        self._api = api
        self._limits = limits or SnapshotLimits()
        self._known: dict[ConsumerKey, _Oldest] = {}

    async def collect(self, deadline: float) -> Snapshot:
        """Take a snapshot by `deadline` (loop time); raise `Unavailable` or `JetStreamError` on failure.

        Consumers and ages that the broker has not told by then are left out.
        """
        snapshot = Snapshot()
        await self._add_streams(snapshot, deadline)
        await self._add_consumers(snapshot, deadline - _FOR_AGES)
        await self._add_ages(snapshot, deadline)
        return snapshot

    async def _add_streams(self, snapshot: Snapshot, deadline: float) -> None:
        async for page in self._api.pages("STREAM.LIST", "streams", deadline):
            room = self._limits.streams - len(snapshot.streams)
            snapshot.streams += [_stream(info) for info in page.items[:room]]
            snapshot.omitted_streams = max(0, page.total - len(snapshot.streams))
            if len(snapshot.streams) == self._limits.streams:
                return

    async def _add_consumers(self, snapshot: Snapshot, deadline: float) -> None:
        """Read a page of each stream's consumers, then the next ones, so that many in one hide no others."""
        durable: list[list[ConsumerProgress]] = []
        room = self._limits.read
        reading = deque(
            (stream, 0, list[ConsumerProgress]()) for stream in snapshot.streams if stream.consumers
        )
        while reading:
            stream, offset, named = reading.popleft()
            if offset == 0:
                durable.append(named)
            if room == 0:
                snapshot.omitted_consumers += stream.consumers - offset
                continue
            try:
                page = await self._consumers(stream, offset, deadline)
            except (Busy, Unanswered):  # each list takes seconds while leaders are away; see `Page.missing`
                page, room = Page([], 0), 0
                snapshot.omitted_consumers += stream.consumers - offset
            taken = page.items[:room]
            found = [_consumer(info) for info in taken if INTERNAL not in metadata_of(info["config"])]
            room -= len(taken)
            named += (each for each in found if each.durable)
            snapshot.consumers += (each for each in found if not each.durable)
            offset += len(taken) + len(page.missing)
            snapshot.omitted_consumers += len(page.missing)
            if (taken or page.missing) and offset < page.total:
                reading.append((replace(stream, consumers=page.total), offset, named))
            await asyncio.sleep(0)  # a page is some hundred kilobytes of JSON: let others run
        chosen = shares(durable, self._limits.consumers)
        snapshot.omitted_consumers += sum(map(len, durable)) - len(chosen)
        snapshot.consumers = [*chosen, *snapshot.consumers]  # in this order the ages of the oldest are read

    async def _consumers(self, stream: StreamUsage, offset: int, deadline: float) -> Page:
        try:
            async for page in self._api.pages(f"CONSUMER.LIST.{stream.name}", "consumers", deadline, offset):
                return page
        except JetStreamError:
            pass  # the stream was just deleted
        return Page([], 0)

    # Ages

    async def _add_ages(self, snapshot: Snapshot, deadline: float) -> None:
        now = asyncio.get_running_loop().time()
        streams = {stream.name: stream for stream in snapshot.streams}
        behind = {(each.stream, each.name): each for each in snapshot.consumers if each.behind}
        known = {
            key: oldest
            for key, oldest in self._known.items()
            if key in behind and oldest.is_that_of(behind[key], streams[key[0]])
        }
        self._known = {}
        requests, room = self._limits.ages, self._limits.age_bytes
        # What is not known is read first, then what was read long ago.
        for key in sorted(behind, key=lambda key: known[key].read_at if key in known else -inf):
            consumer, stream, oldest = behind[key], streams[key[0]], known.get(key)
            if oldest is None or now - oldest.read_at >= _READ_ANEW:
                cost = max(1, len(consumer.filters))
                size = cost * (stream.size // max(1, stream.messages))
                if cost <= min(requests, _MOST_FILTERS) and size <= room:
                    requests, room = requests - cost, room - size
                    try:
                        oldest = await self._oldest(consumer, now, deadline)
                    except (Busy, Unanswered):
                        requests = 0
                        snapshot.omitted_ages += oldest is None
                elif oldest is None:
                    snapshot.omitted_ages += 1
            if oldest is not None:
                self._known[key] = oldest
                snapshot.oldest[key] = oldest.stored_ns

    async def _oldest(self, consumer: ConsumerProgress, now: float, deadline: float) -> _Oldest | None:
        found: _Oldest | None = None
        for subject in consumer.filters or (_ANY,):
            query = {"seq": consumer.settled_to + 1, "next_by_subj": subject}
            try:
                message = await self._api.message(consumer.stream, query, deadline)
            except JetStreamError:
                return None  # the stream was just deleted
            if message is not None and (found is None or message.sequence < found.seq):
                found = _Oldest(consumer, message.sequence, message.unix_ns, now)
        return found


def shares(groups: Iterable[list[T]], room: int) -> list[T]:
    """Return all members of all groups, or where there is no room for them, as many of each as can be."""
    chosen: list[T] = []
    by_size = sorted(groups, key=len)
    for left, group in zip(range(len(by_size), 0, -1), by_size, strict=True):
        chosen += group[: (room - len(chosen)) // left]
    return chosen


def _stream(info: Mapping[str, Any]) -> StreamUsage:
    config, state = info["config"], info["state"]
    most_messages, most_size = config.get("max_msgs", -1), config.get("max_bytes", -1)
    return StreamUsage(
        config["name"],
        state["messages"],
        state["bytes"],
        state["first_seq"],
        state["last_seq"],
        state.get("consumer_count", 0),
        config.get("discard", "old"),
        most_messages if most_messages > 0 else None,
        most_size if most_size > 0 else None,
    )


def _consumer(info: Mapping[str, Any]) -> ConsumerProgress:
    config = info["config"]
    one = config.get("filter_subject")
    return ConsumerProgress(
        info["stream_name"],
        info["name"],
        info["created"],
        bool(config.get("durable_name")),
        info.get("num_pending", 0),
        info.get("num_ack_pending", 0),
        info.get("num_redelivered", 0),
        info.get("ack_floor", {}).get("stream_seq", 0),
        tuple(config.get("filter_subjects") or ((one,) if one else ())),
    )
