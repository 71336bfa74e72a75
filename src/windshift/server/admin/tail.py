"""Follows a stream as events are stored: in order, each once, nothing settled.

JetStream delivers the events through a memory consumer without acknowledgements. It is created again, after
the last event seen, whenever it or the connection is lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from windshift.nats import Connection, Message, NotConnected, retry
from windshift.nats import headers as h
from windshift.nats.jetstream.api import JetStream, JsonObject, StoredMessage
from windshift.nats.jetstream.pulling import Arrival, Ended, Notice, Puller, PullOptions, split_ack_subject
from windshift.nats.times import NANOSECONDS, from_unix_ns
from windshift.server.admin.events import Selection
from windshift.server.admin.probing import probe_config
from windshift.server.domain import names
from windshift.server.domain.broker_errors import broker_errors
from windshift.server.domain.errors import BrokerUnavailable
from windshift.server.events.positions import start_keys
from windshift.server.events.specs import AtEnd, AtStart, AtTime, StartPosition

_BATCH: Final = 256
_BATCH_BYTES: Final = 512 * 1024
"""What is on its way to one tail at most."""
_MAX_QUEUED: Final = 64 * 1024
"""Bytes queued for the client above which sending pauses."""
_UNUSED: Final = 10 * NANOSECONDS
"""Nanoseconds after which the broker removes a consumer that nobody asks any more."""
_NEWS: Final = 1.0
"""Seconds between two words about events that are not sent."""
_ASKING: Final = 5.0
"""Seconds that the broker may take to make a consumer, before it is asked again."""


class TailClient(Protocol):
    """The client's end of a tail. Sending queues and never blocks."""

    @property
    def queued(self) -> int:
        """Bytes sent that the client has not read."""
        ...

    async def ready(self) -> None:
        """Wait until the client has read most of what it was sent."""
        ...

    def begin(self) -> None:
        """Signal that from now on nothing is missed."""
        ...

    def send(self, message: StoredMessage) -> None:
        """Send an event."""
        ...

    def skipped(self, count: int, last_id: int) -> None:
        """Tell of events that are not sent because there are too many."""
        ...

    def caught_up(self) -> None:
        """Tell that all events are new from here on."""
        ...

    def position(self, last_id: int) -> None:
        """Tell how far a tail has come that lets nothing through."""
        ...


class Tails:
    """Makes tails.

    Args:
        connection: the connection to NATS.
        api: makes consumers.
    """

    def __init__(self, connection: Connection, api: JetStream) -> None:
        self._connection = connection
        self._api = api

    def tail(self, which: Selection, client: TailClient, max_rate: int) -> Tail:
        """Make a tail; see there for the arguments. Call this in a running event loop."""
        return Tail(self._connection, self._api, which, client, max_rate)


class Tail:
    """One tail. `Tails` makes it.

    Args:
        connection: the connection to NATS.
        api: makes consumers.
        which: the events.
        client: where to send them.
        max_rate: most events per second; 0 = any number.
    """

    def __init__(
        self, connection: Connection, api: JetStream, which: Selection, client: TailClient, max_rate: int
    ) -> None:
        self._connection = connection
        self._api = api
        self._which = which
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._rate = _Rate(max_rate, self._loop.time())
        self._arrivals: deque[Arrival] = deque()
        self._news = asyncio.Event()
        self._next: StartPosition | int = AtEnd()
        self._is_caught_up = False
        self._passed = 0
        """The last event that the types did not let through, if none was sent after it."""
        self._skipped = 0
        self._skipped_to = 0
        self._told_at = self._loop.time()

    async def run(self, begin: StartPosition) -> None:
        """Send events until cancelled.

        Raise `StreamNotFound` when the stream is not there, or not any more, and `BrokerUnavailable` if the
        broker cannot be asked at the beginning; later, wait for it.
        """
        self._next = begin
        consumer = await self._make(self._loop.time() + _ASKING)
        self._client.begin()
        while True:
            await self._follow(consumer)
            async for _ in retry(None, first=2):
                try:
                    consumer = await self._make(self._loop.time() + _ASKING)
                except BrokerUnavailable:
                    continue
                break

    async def _make(self, deadline: float) -> str:
        """Make a consumer that begins behind what was seen, and return its name."""
        stream, name = self._which.stream, names.generated_name()
        with broker_errors(stream=stream):
            if isinstance(self._next, AtEnd):
                info = await self._api.stream_info(stream, deadline)
                self._next = int(info["state"]["last_seq"]) + 1
            config = probe_config(name, self._which.subjects) | _start(self._next)
            config["inactive_threshold"] = _UNUSED
            request = {"stream_name": stream, "config": config, "action": "create"}
            answer = await self._api.change(f"CONSUMER.CREATE.{stream}.{name}", request, deadline)
        if not answer["num_pending"]:
            self._catch_up()
        return name

    # --- What the consumer hands out ----------------------------------------------------------------------

    async def _follow(self, consumer: str) -> None:
        """Send what a consumer hands out, until it is lost."""
        options = PullOptions()
        puller = Puller(self._connection, self._which.stream, consumer, options, self._on_arrival)
        self._arrivals.clear()
        self._connection.on_lost.append(self._on_lost)
        try:
            if puller.open():
                await self._pull(puller, options.silence)
        except NotConnected:
            pass
        finally:
            self._connection.on_lost.remove(self._on_lost)
            puller.forget()

    async def _pull(self, puller: Puller, silence: float) -> None:
        """Ask for events, one request after the other, until one is missing or there is no word any more."""
        asked, number, max_bytes = 0, 1, _BATCH_BYTES
        while True:
            if asked == 0:
                asked = _BATCH if max_bytes else 1
                if not puller.pull(asked, max_bytes):
                    return
            arrival = await self._arrival(silence)
            if isinstance(arrival, Message):
                if int(split_ack_subject(arrival.reply)[2]) != number:
                    return
                asked, number, max_bytes = asked - 1, number + 1, _BATCH_BYTES
                await self._take(arrival)
            elif isinstance(arrival, Ended):
                asked, max_bytes = 0, 0 if arrival.too_large else _BATCH_BYTES
            elif arrival is not Notice.ALIVE:
                return

    async def _arrival(self, silence: float) -> Arrival:
        """Wait for what comes next, and tell the client meanwhile of what it is not sent."""
        give_up = self._loop.time() + silence
        while not self._arrivals:
            self._news.clear()
            until = min(give_up, self._told_at + _NEWS) if self._skipped or self._passed else give_up
            try:
                async with asyncio.timeout_at(until):
                    await self._news.wait()
            except TimeoutError:
                self._tell()
                if self._loop.time() >= give_up:
                    return Notice.LOST
        return self._arrivals.popleft()

    def _on_arrival(self, arrival: Arrival) -> None:
        self._arrivals.append(arrival)
        self._news.set()

    def _on_lost(self) -> None:
        self._on_arrival(Notice.LOST)

    # --- What the client is sent --------------------------------------------------------------------------

    async def _take(self, message: Message) -> None:
        _, sequence, _, stored_ns, pending = map(int, split_ack_subject(message.reply))
        self._next = sequence + 1
        stored = StoredMessage(
            message.subject.decode(errors="replace"),
            sequence,
            h.split(message.headers),
            message.body,
            from_unix_ns(stored_ns),
        )
        if not self._which.takes(stored):
            self._passed = sequence
        elif self._rate.allows(self._loop.time()):
            self._tell_skipped()
            self._client.send(stored)
            self._passed = 0
        else:
            self._skipped, self._skipped_to = self._skipped + 1, sequence
        if self._loop.time() - self._told_at >= _NEWS:
            self._tell()
        if pending == 0:
            self._catch_up()
        if self._client.queued > _MAX_QUEUED:
            await self._client.ready()

    def _catch_up(self) -> None:
        if not self._is_caught_up:
            self._is_caught_up = True
            self._tell_skipped()
            self._client.caught_up()

    def _tell(self) -> None:
        self._told_at = self._loop.time()
        self._tell_skipped()
        if self._passed:
            self._client.position(self._passed)
            self._passed = 0

    def _tell_skipped(self) -> None:
        if self._skipped:
            self._client.skipped(self._skipped, self._skipped_to)
            self._skipped = 0


def _start(begin: StartPosition | int) -> JsonObject:
    match begin:
        case int():
            return {"deliver_policy": "by_start_sequence", "opt_start_seq": begin}
        case AtStart():
            return {"deliver_policy": "all"}
        case AtTime():
            return {"deliver_policy": "by_start_time"} | start_keys(begin, 0)
        case _:
            return {"deliver_policy": "by_start_sequence"} | start_keys(begin, 0)


class _Rate:
    """A bucket of one second's worth that fills evenly."""

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._left = float(rate)
        self._filled_at = now

    def allows(self, now: float) -> bool:
        """Take one, if there is one."""
        if self._rate == 0:
            return True
        self._left = min(self._rate, self._left + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
