"""What JetStream holds, looked at from time to time: streams, their consumers, and how far these are behind.

Looking costs the broker a request for every 256 streams, one for every 256 consumers of a stream that has
any, and one for each consumer that is behind, to read how old its oldest event is. They are made one after
the other, and all of them are bounded: what goes beyond a bound is left out and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from windshift.nats import JetStreamError
from windshift.nats.jetstream.api import JetStream, JsonObject

_MOST_FILTERS: Final = 4
_ANY: Final = ">"


@dataclass(frozen=True, slots=True)
class CensusLimits:
    """How much one look may take in.

    Attributes:
        streams: the first ones by name.
        consumers: of those streams.
        ages: requests for the oldest event of a consumer; those known from the look before need none.
        age_bytes: bytes of events that these may read, as far as the mean size of a stream's events tells.
    """

    streams: int = 500
    consumers: int = 1_000
    ages: int = 200
    age_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StreamCensus:
    """One stream."""

    name: str
    messages: int
    size: int
    first_id: int
    last_id: int
    consumers: int


@dataclass(frozen=True, slots=True)
class ConsumerCensus:
    """One consumer.

    Attributes:
        stream: the stream's name.
        name: its own.
        durable: whether somebody gave it that name.
        pending: events that it has yet to hand over.
        unacknowledged: events that it has handed over and that are not settled.
        redelivered: those among them that it has handed over more than once.
        settled_to: every event of its up to this id is settled.
        filters: the subjects that it takes; empty = all.
    """

    stream: str
    name: str
    durable: bool
    pending: int
    unacknowledged: int
    redelivered: int
    settled_to: int
    filters: tuple[str, ...]

    @property
    def behind(self) -> bool:
        """Whether there are events that are not settled."""
        return self.pending > 0 or self.unacknowledged > 0


ConsumerKey = tuple[str, str]
"""A stream's name and a consumer's."""


@dataclass(slots=True)
class Census:
    """What one look has found.

    Attributes:
        streams: those that were looked at.
        consumers: the same.
        oldest: when the oldest event was stored that a consumer has not got settled, in nanoseconds since
            1970; those that are not behind have none.
        omitted_streams: how many were left out.
        omitted_consumers: the same.
        omitted_ages: consumers that are behind and whose oldest event was not asked for.
    """

    streams: list[StreamCensus] = field(default_factory=list)
    consumers: list[ConsumerCensus] = field(default_factory=list)
    oldest: dict[ConsumerKey, int] = field(default_factory=dict)
    omitted_streams: int = 0
    omitted_consumers: int = 0
    omitted_ages: int = 0


class _Oldest(NamedTuple):
    """The oldest event that a consumer had not got settled when it was looked at last."""

    settled_to: int
    seq: int
    stored_ns: int


class CensusTaker:
    """Looks at what JetStream holds."""

    def __init__(self, api: JetStream, limits: CensusLimits | None = None) -> None:
        self._api = api
        self._limits = limits or CensusLimits()
        self._known: dict[ConsumerKey, _Oldest] = {}

    async def take(self, deadline: float) -> Census:
        """Look, until `deadline` (loop time) at most.

        Raise `Unavailable` or `JetStreamError` when that was not possible.
        """
        census = Census()
        await self._look_at_streams(census, deadline)
        for stream in census.streams:
            if stream.consumers:
                await self._look_at_consumers(census, stream, deadline)
        await self._look_at_ages(census, deadline)
        return census

    async def _look_at_streams(self, census: Census, deadline: float) -> None:
        async for page in self._pages("STREAM.LIST", "streams", deadline):
            room = self._limits.streams - len(census.streams)
            census.streams += [_stream(info) for info in page.items[:room]]
            census.omitted_streams = max(0, page.total - len(census.streams))
            if len(census.streams) == self._limits.streams:
                return

    async def _look_at_consumers(self, census: Census, stream: StreamCensus, deadline: float) -> None:
        room = self._limits.consumers - len(census.consumers)
        if room == 0:
            census.omitted_consumers += stream.consumers
            return
        seen = 0
        try:
            async for page in self._pages(f"CONSUMER.LIST.{stream.name}", "consumers", deadline):
                taken = page.items[: room - seen]
                seen += len(taken)
                census.consumers += map(_consumer, taken)
                if seen == room:
                    census.omitted_consumers += page.total - seen
                    return
        except JetStreamError:
            return  # the stream was deleted meanwhile

    async def _pages(self, operation: str, key: str, deadline: float) -> AsyncIterator[_Page]:
        """Ask for a list, page by page."""
        offset, total = 0, 1
        while offset < total:
            answer = await self._api.call(operation, {"offset": offset}, deadline)
            items = list(answer.get(key) or ())
            total = int(answer.get("total") or 0)
            if not items:
                return
            offset += len(items)
            yield _Page(items, total)
            await asyncio.sleep(0)  # a page is some hundred kilobytes of JSON: let others run

    # Ages

    async def _look_at_ages(self, census: Census, deadline: float) -> None:
        streams = {stream.name: stream for stream in census.streams}
        known, self._known = self._known, {}
        requests, room = self._limits.ages, self._limits.age_bytes
        for consumer in census.consumers:
            if not consumer.behind:
                continue
            key, stream = (consumer.stream, consumer.name), streams[consumer.stream]
            oldest = known.get(key)
            if oldest is None or oldest.settled_to != consumer.settled_to or oldest.seq < stream.first_id:
                cost = max(1, len(consumer.filters))
                size = cost * (stream.size // max(1, stream.messages))
                if cost > min(requests, _MOST_FILTERS) or size > room:
                    census.omitted_ages += 1
                    continue
                requests, room = requests - cost, room - size
                oldest = await self._oldest(consumer, deadline)
            if oldest is not None:
                self._known[key] = oldest
                census.oldest[key] = oldest.stored_ns

    async def _oldest(self, consumer: ConsumerCensus, deadline: float) -> _Oldest | None:
        found: _Oldest | None = None
        for subject in consumer.filters or (_ANY,):
            query = {"seq": consumer.settled_to + 1, "next_by_subj": subject}
            try:
                message = await self._api.message(consumer.stream, query, deadline)
            except JetStreamError:
                return None  # the stream was deleted meanwhile
            if message is not None and (found is None or message.sequence < found.seq):
                found = _Oldest(consumer.settled_to, message.sequence, message.unix_ns)
        return found


class _Page(NamedTuple):
    """A part of a list, and how long all of it is."""

    items: list[JsonObject]
    total: int


def _stream(info: Mapping[str, Any]) -> StreamCensus:
    state = info["state"]
    return StreamCensus(
        info["config"]["name"],
        state["messages"],
        state["bytes"],
        state["first_seq"],
        state["last_seq"],
        state.get("consumer_count", 0),
    )


def _consumer(info: Mapping[str, Any]) -> ConsumerCensus:
    config = info["config"]
    one = config.get("filter_subject")
    return ConsumerCensus(
        info["stream_name"],
        info["name"],
        bool(config.get("durable_name")),
        info.get("num_pending", 0),
        info.get("num_ack_pending", 0),
        info.get("num_redelivered", 0),
        info.get("ack_floor", {}).get("stream_seq", 0),
        tuple(config.get("filter_subjects") or ((one,) if one else ())),
    )
