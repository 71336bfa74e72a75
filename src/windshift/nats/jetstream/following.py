"""Following a stream: its messages in their order, each once, nothing acknowledged.

They come from a consumer in memory that needs no acknowledgements ("ordered consumer", ADR-17). Whenever it
or the connection is lost, another one is made that begins behind the last message.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from windshift.nats import headers as h
from windshift.nats.connection import Connection
from windshift.nats.errors import NotConnected
from windshift.nats.jetstream.api import API_PREFIX, JsonObject, StoredMessage
from windshift.nats.jetstream.pulling import Arrival, Ended, Notice, Puller, PullOptions, split_ack_subject
from windshift.nats.protocol import Message
from windshift.nats.retry import retry
from windshift.nats.times import NANOSECONDS, from_unix_ns

_BATCH: Final = 256
"""Messages that are asked for at once."""
_UNUSED: Final = 10 * NANOSECONDS
"""Nanoseconds after which the server removes a consumer that nobody asks any more."""


def following_config(name: str, filters: tuple[str, ...]) -> JsonObject:
    """Return the configuration of a consumer to follow a stream with, but for where it begins."""
    return {
        "name": name,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": _UNUSED,
        "filter_subjects": list(filters),
    }


@dataclass(frozen=True, slots=True)
class Follower:
    """Hands out the messages of a stream.

    Attributes:
        connection: the connection to NATS.
        stream: the stream's name.
        make: makes a consumer that begins behind what was taken, and returns its name.
        take: takes a message, and how many more the consumer had when it sent this one. While it waits, no
            more are asked for.
        passing: errors of `make` after which it is called again, but for the first time.
        idle: called while nothing comes; returns when to call it again, in the loop's time.
        max_bytes: what is on its way at most, but for one message that is larger.
    """

    connection: Connection
    stream: str
    make: Callable[[], Awaitable[str]]
    take: Callable[[StoredMessage, int], Awaitable[None]]
    passing: tuple[type[Exception], ...]
    idle: Callable[[], float] = lambda: math.inf
    max_bytes: int = 512 * 1024

    async def run(self, begin: Callable[[], None]) -> None:
        """Hand out messages until cancelled; call `begin` when there is a consumer.

        Raises what `make` and `take` raise.
        """
        consumer = await self.make()
        begin()
        while True:
            await self._follow(consumer)
            async for _ in retry(None, first=2):
                try:
                    consumer = await self.make()
                except self.passing:
                    continue
                break

    async def _follow(self, consumer: str) -> None:
        """Hand out what a consumer has, until it is lost."""
        arrivals = _Arrivals(self.idle)
        options = PullOptions()
        puller = Puller(self.connection, self.stream, consumer, options, arrivals.add)
        self.connection.on_lost.append(arrivals.lost)
        try:
            if puller.open():
                await self._pull(puller, arrivals, options.silence)
        except NotConnected:
            pass
        finally:
            self.connection.on_lost.remove(arrivals.lost)
            puller.forget()
            self._drop(consumer)

    def _drop(self, consumer: str) -> None:
        """Delete a consumer now, if that can be; by itself it goes later, and there may be only so many."""
        try:
            self.connection.publish(f"{API_PREFIX}CONSUMER.DELETE.{self.stream}.{consumer}".encode())
        except NotConnected:
            pass

    async def _pull(self, puller: Puller, arrivals: _Arrivals, silence: float) -> None:
        """Ask for messages, one request after the other, until one is missing or no word comes any more."""
        asked, number, max_bytes = 0, 1, self.max_bytes
        while True:
            if asked == 0:
                asked = _BATCH if max_bytes else 1
                if not puller.pull(asked, max_bytes):
                    return
            arrival = await arrivals.next(silence)
            if isinstance(arrival, Message):
                _, sequence, nth, stored_ns, pending = map(int, split_ack_subject(arrival.reply))
                if nth != number:
                    return
                asked, number, max_bytes = asked - 1, number + 1, self.max_bytes
                await self.take(_stored(arrival, sequence, stored_ns), pending)
            elif isinstance(arrival, Ended):
                asked, max_bytes = 0, 0 if arrival.too_large else self.max_bytes
            elif arrival is not Notice.ALIVE:
                return


class _Arrivals:
    """What has arrived and was not handed out yet: no more than was asked for."""

    def __init__(self, idle: Callable[[], float]) -> None:
        self._idle = idle
        self._waiting: deque[Arrival] = deque()
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def add(self, arrival: Arrival) -> None:
        self._waiting.append(arrival)
        self._news.set()

    def lost(self) -> None:
        self.add(Notice.LOST)

    async def next(self, silence: float) -> Arrival:
        """Wait for what comes next; after so many seconds of silence the consumer counts as lost."""
        give_up = self._loop.time() + silence
        while not self._waiting:
            self._news.clear()
            try:
                async with asyncio.timeout_at(min(give_up, self._idle())):
                    await self._news.wait()
            except TimeoutError:
                if self._loop.time() >= give_up:
                    return Notice.LOST
        return self._waiting.popleft()


def _stored(message: Message, sequence: int, stored_ns: int) -> StoredMessage:
    return StoredMessage(
        message.subject.decode(errors="replace"),
        sequence,
        h.split(message.headers),
        message.body,
        from_unix_ns(stored_ns),
    )
