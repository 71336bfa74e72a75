"""The events that are replayed to one call, one after the other.

Replays are seldom: nothing is asked of the broker for them before somebody said that there are some, and
nothing any more when all are delivered and settled.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from windshift.nats import Connection, Message, NatsError
from windshift.nats.jetstream.pulling import ACK, NAK, TERMINATE, Arrival, Notice, Puller
from windshift.server.domain.errors import WindshiftError
from windshift.server.events.consuming.flow import Replay
from windshift.server.events.consuming.interfaces import ConsumeOptions
from windshift.server.events.consuming.protocol import ConsumeProtocol
from windshift.server.events.consuming.shared import DeadLettering
from windshift.server.events.dead_letters.replay_queue import STREAM, read_pointer
from windshift.server.events.deliveries import Delivery, read_delivery
from windshift.server.events.model import ConsumerKey


async def any_replays(shared: DeadLettering, consumer: ConsumerKey, deadline: float) -> bool:
    """Whether the broker knows of replays for a consumer; no as well when it does not answer.

    That is looked at again with every new connection, and from time to time.
    """
    try:
        return bool(await shared.replays.outstanding(*consumer, deadline))
    except (WindshiftError, NatsError):
        return False


class ReplayFeed:
    """Brings replayed events to a call.

    Args:
        connection: the connection to NATS.
        shared: where dead letters are.
        protocol: the call; `make_room` is called when the client may hold one more event.
        options: timers.
        wake: set when the call has something to do.
    """

    __slots__ = (
        "_arrivals",
        "_connection",
        "_ensured",
        "_loop",
        "_patience",
        "_protocol",
        "_pull",
        "_room",
        "_shared",
        "_told",
        "_wake",
    )

    def __init__(
        self,
        connection: Connection,
        shared: DeadLettering,
        protocol: ConsumeProtocol,
        options: ConsumeOptions,
        wake: asyncio.Event,
    ) -> None:
        self._connection = connection
        self._shared = shared
        self._protocol = protocol
        self._pull = options.pull
        self._patience = options.confirm_timeout.total_seconds()
        self._wake = wake
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._told = asyncio.Event()
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        self._ensured = timedelta()

    def ring(self) -> None:
        """Look whether there are replays."""
        self._told.set()

    def make_room(self) -> None:
        """Note that the client may hold one more event."""
        self._room.set()

    def lose(self) -> None:
        """Wait for nothing any more that was asked for: the connection is another one."""
        self._arrivals.put_nowait(Notice.LOST)
        self._told.set()

    async def run(self) -> None:
        """Bring what there is, whenever there is something, until this is cancelled."""
        while True:
            await self._told.wait()
            self._told.clear()
            try:
                while await self._is_any():
                    await self._bring()
            except (WindshiftError, NatsError):
                await asyncio.sleep(_PAUSE)
                self._told.set()

    async def _is_any(self) -> bool:
        return bool(await self._shared.replays.outstanding(*self._protocol.consumer, self._deadline()))

    async def _bring(self) -> None:
        """Bring replays until the broker ends a request for the next one, or is not heard any more."""
        name = await self._ensure_consumer()
        self._arrivals = asyncio.Queue()
        puller = Puller(self._connection, STREAM, name, self._pull, self._arrivals.put_nowait)
        pointer: Delivery | None = None
        try:
            if not puller.open():
                await asyncio.sleep(_PAUSE)
                return
            while True:
                await self._wait_for_room()
                if not puller.pull(1):
                    await asyncio.sleep(_PAUSE)
                    return
                pointer = await self._next()
                if pointer is None:
                    return
                await self._follow(pointer, puller)
                pointer = None
        finally:
            await puller.close()
            if pointer is not None:
                puller.tell(pointer.reply, NAK)
            while not self._arrivals.empty():
                arrival = self._arrivals.get_nowait()
                if isinstance(arrival, Message):
                    puller.tell(arrival.reply, NAK)

    async def _wait_for_room(self) -> None:
        while not self._protocol.has_room_for_replays:
            self._room.clear()
            await self._room.wait()

    async def _ensure_consumer(self) -> str:
        timeout = self._protocol.found.timeout
        name = await self._shared.replays.ensure_consumer(*self._protocol.consumer, timeout, self._deadline())
        self._ensured = timeout
        return name

    async def _next(self) -> Delivery | None:
        """Wait for a pointer; None when none came of the request."""
        while True:
            try:
                async with asyncio.timeout(self._pull.silence):
                    arrival = await self._arrivals.get()
            except TimeoutError:
                return None
            if isinstance(arrival, Message):
                return read_delivery(arrival)
            if arrival is not Notice.ALIVE:
                await asyncio.sleep(_PAUSE if isinstance(arrival, Notice) else 0)
                return None

    async def _follow(self, pointer: Delivery, puller: Puller) -> None:
        """Pass on the event that a pointer stands for, or end the replay if there is nothing to deliver."""
        try:
            letter_id, count = read_pointer(pointer)
        except ValueError:  # somebody else's
            puller.tell(pointer.reply, TERMINATE)
            return
        if self._ensured != self._protocol.found.timeout:  # it was changed while this pointer was waited for
            await self._ensure_consumer()
        letter = await self._shared.store.get(letter_id, self._deadline())
        if letter is None or letter.failure.replay_count >= count:
            puller.tell(pointer.reply, ACK)
        else:
            delivery = letter.delivery(pointer.attempt, pointer.reply)
            self._protocol.replayed(delivery, Replay(letter_id, count), self._loop.time())
            self._wake.set()

    def _deadline(self) -> float:
        return self._loop.time() + self._patience


_PAUSE = 1.0
