"""Following a stream: its messages in their order, each once, nothing acknowledged.

They come from a consumer in memory that needs no acknowledgements ("ordered consumer", ADR-17). Whenever it
or the connection is lost, another one is made that begins behind the last message.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from windshift.nats.connection import Connection
from windshift.nats.errors import NotConnected, Unavailable
from windshift.nats.jetstream.api import API_PREFIX, StoredMessage
from windshift.nats.jetstream.pulling import (
    Arrival,
    Notice,
    PullEnded,
    Puller,
    PullOptions,
    split_ack_subject,
)
from windshift.nats.protocol import Message
from windshift.nats.retry import retry
from windshift.nats.times import from_unix_ns
from windshift.server.broker.room import PullRoom
from windshift.server.domain import names
from windshift.server.domain.broker_errors import PASSING

_BATCH: Final = 256
"""Messages that are asked for at once."""
_TURN: Final = 5.0
"""Seconds to wait for a turn to ask for one large message, before waiting anew."""
_LASTED: Final = 5.0
"""Seconds after which the loss of a consumer, or the end of a request, is not one of a series any more."""
_UNDER_WAY: Final = 1.0
"""Seconds after which a consumer that nobody waits for is deleted once more: the broker may have handled the
first deletion before the request that makes it."""


class StreamClient(Protocol):
    """The client's end of a call that follows a stream. Sending queues and never blocks."""

    @property
    def queued(self) -> int:
        """Bytes sent that the client has not read."""

    async def ready(self) -> None:
        """Wait until the client has read most of what it was sent."""

    def begin(self) -> None:
        """Signal that from now on nothing is missed."""


@dataclass(eq=False)
class Follower(ABC):
    """Takes the messages of a stream.

    Attributes:
        connection: the connection to NATS that messages come by.
        asking: the one on which `make` asks. What was made is deleted there, behind the request for it.
        room: what all who pull on `connection` may ask for together.
        stream: the stream's name.
    """

    max_bytes = 512 * 1024
    """What is on its way at most, but for one message that is larger."""
    interval = 0.0
    """Seconds between two looks at what came, where the consumer has no more: a message by itself costs
    several times as much as one among others. What comes after a longer silence does not wait."""

    connection: Connection
    asking: Connection
    room: PullRoom
    stream: str

    @abstractmethod
    async def make(self, name: str) -> None:
        """Make a consumer of a name that begins behind what was taken.

        After an error in `PASSING` this is called again, but for the first time.
        """

    @abstractmethod
    async def take(self, message: StoredMessage, pending: int) -> None:
        """Take a message; the consumer had so many more when it sent this one.

        While this waits, no more are asked for.
        """

    def idle(self) -> float:
        """Return when to call this again, in the loop's time: it is called when all that came was taken."""
        return math.inf

    async def silent(self) -> None:  # noqa: B027 - few have something to do
        """Note that the consumer has sent nothing for some seconds, though it was asked for more."""

    async def follow(self, begin: Callable[[], None]) -> None:
        """Take messages until cancelled; call `begin` when there is a consumer.

        Raises what `make` and `take` raise.
        """
        loop = asyncio.get_running_loop()
        consumer = await self._make()
        begin()
        attempts = retry(None, first=2)
        while True:
            made_at = loop.time()
            await self._pull_from(consumer)
            if loop.time() - made_at > _LASTED:
                attempts = retry(None, first=2)
            async for _ in attempts:  # the pauses of those that are lost at once grow
                try:
                    consumer = await self._make()
                except PASSING:
                    continue
                break

    async def _make(self) -> str:
        """Have a consumer made, and return its name."""
        name = names.generated_name()
        try:
            await self.make(name)
        except asyncio.CancelledError:
            self._drop(name)  # the request for it may be under way,
            asyncio.get_running_loop().call_later(_UNDER_WAY, self._drop, name)  # and be done after this one
            raise
        return name

    async def _pull_from(self, consumer: str) -> None:
        """Take what a consumer has, until it is lost."""
        pulls = _Pulls(self, consumer)
        hooks = self.connection.on_lost, self.connection.on_replaced
        for hook in hooks:
            hook.append(pulls.lost)
        try:
            await pulls.run()
        except NotConnected:
            pass
        finally:
            for hook in hooks:
                hook.remove(pulls.lost)
            pulls.close()
            self._drop(consumer)

    def _drop(self, consumer: str) -> None:
        """Delete a consumer now, if that can be; by itself it goes later, and there may be only so many."""
        try:
            self.asking.publish(f"{API_PREFIX}CONSUMER.DELETE.{self.stream}.{consumer}".encode())
        except NotConnected:
            pass


class _Pulls:
    """The pull requests to one consumer, one after the other, and what has arrived by them."""

    def __init__(self, follower: Follower, consumer: str) -> None:
        self._follower = follower
        self._options = PullOptions()
        self._puller = Puller(follower.connection, follower.stream, consumer, self._options, self._add)
        self._part = follower.room.part()
        self._arrivals: deque[Arrival] = deque()
        """What was not taken yet: until then it counts as asked for, so that the room bounds it too."""
        self._news = asyncio.Event()
        self._has_all = False
        """Whether the consumer had no more messages when it sent the last one."""
        self._loop = asyncio.get_running_loop()
        self._asked_at = self._loop.time()
        self._attempts = retry(None, first=2)

    async def run(self) -> None:
        """Hand out messages until one is missing, or no word comes any more."""
        if not self._puller.open():
            return
        number, is_large = 1, False
        while await self._ask(is_large=is_large):
            begun, self._asked_at = number, self._loop.time()
            while isinstance(arrival := await self._next(), Message | Notice):
                if arrival is Notice.ALIVE:
                    await self._follower.silent()
                    continue
                if isinstance(arrival, Notice):
                    return
                sequence, nth, stored_ns, pending = map(int, split_ack_subject(arrival.reply)[1:])
                if nth != number:
                    return
                number += 1
                self._has_all = pending == 0
                await self._follower.take(_stored(arrival, sequence, stored_ns), pending)
                if is_large or number - begun == _BATCH:
                    break
            else:
                is_large = await self._ended(arrival, was_large=is_large, is_idle=number == begun)
                continue
            is_large = False

    async def _ended(self, end: PullEnded, *, was_large: bool, is_idle: bool) -> bool:
        """Pause after a request that ended at once and brought nothing, longer after each of several.

        Return whether the next message is larger than what may be asked for.
        """
        if not is_idle or self._loop.time() - self._asked_at > _LASTED:
            self._attempts = retry(None, first=2)
        elif was_large or not end.too_large:
            await anext(self._attempts)
        return end.too_large and is_idle

    async def _ask(self, *, is_large: bool) -> bool:
        """Ask for more, or for the next message alone, because it is larger than what may be asked for."""
        self._follower.idle()
        self._part.clear()
        if not is_large:
            return self._puller.pull(_BATCH, self._part.ask(self._follower.max_bytes))
        room = self._follower.room
        async for _ in retry(None):
            try:
                self._part.whole = await room.whole.take(room.largest, self._loop.time() + _TURN)
            except Unavailable:
                continue
            break
        return self._puller.pull(1, no_wait=True)  # of one that is gone the share is free at once

    async def _next(self) -> Arrival:
        """Wait for what comes next; after some seconds of silence the consumer counts as lost."""
        if not self._arrivals and not await self._wait():
            return Notice.LOST
        arrival = self._arrivals.popleft()
        if isinstance(arrival, Message):
            self._part.came(len(arrival.headers) + len(arrival.body) + len(arrival.subject))
            self._part.end_whole()
        return arrival

    async def _wait(self) -> bool:
        """Wait until something has come; return whether it has."""
        idle, interval = self._follower.idle, self._follower.interval
        again = idle()
        if self._has_all and interval:
            self._has_all = False
            await asyncio.sleep(interval)
        give_up = self._loop.time() + self._options.silence
        while not self._arrivals:
            self._news.clear()
            try:
                async with asyncio.timeout_at(min(give_up, again)):
                    await self._news.wait()
            except TimeoutError:
                if self._loop.time() >= give_up:
                    return False
                again = idle()
        return True

    def _add(self, arrival: Arrival) -> None:
        self._arrivals.append(arrival)
        self._news.set()

    def lost(self) -> None:
        """Note that the connection is gone, or about to be."""
        self._add(Notice.LOST)

    def close(self) -> None:
        self._puller.forget()
        del self._puller  # it holds this: a cycle, which would be left to the collector
        self._part.leave()


def _stored(message: Message, sequence: int, stored_ns: int) -> StoredMessage:
    return StoredMessage(
        message.subject.decode(errors="replace"),
        sequence,
        message.headers,
        message.body,
        from_unix_ns(stored_ns),
    )
