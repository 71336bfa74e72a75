"""Sends the events of a stream as they are stored: in order, each once, nothing settled."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import Final, Protocol

from windshift.nats import NatsError
from windshift.nats.jetstream.api import JetStream, JsonObject, StoredMessage
from windshift.server.admin.events import Selection
from windshift.server.admin.probing import own_config
from windshift.server.auth.policy import Principal
from windshift.server.auth.quotas import Bucket
from windshift.server.background.pacing import pause
from windshift.server.broker.following import Follower, StreamClient
from windshift.server.broker.room import PullRoom
from windshift.server.domain.broker_errors import follower_errors
from windshift.server.domain.errors import BrokerUnavailable, StreamNotFound
from windshift.server.events.positions import start_config
from windshift.server.events.specs import AtEnd, StartPosition
from windshift.server.ownership.ownership import Ownership

_MAX_QUEUED: Final = 64 * 1024
"""Bytes queued for the client above which sending pauses."""
_INTERVAL: Final = 0.02
"""Seconds between two looks at new events: those between them are sent together."""
_NEWS: Final = 1.0
"""Seconds between two words about events that are not sent."""
_ASKING: Final = 5.0
"""Seconds that the broker may take to make a consumer or to tell of it, before it is asked again."""
_LOST: Final = 10.0
"""Seconds after which what a tail has seen counts as lost by the broker: a new leader may lag a little."""


class TailClient(StreamClient, Protocol):
    """The client's end of a tail. What is sent is collected, until `flush`."""

    def send(self, message: StoredMessage) -> None:
        """Send an event."""

    def skipped(self, count: int, last_id: int) -> None:
        """Tell of events that are not sent because there are too many."""

    def caught_up(self) -> None:
        """Tell that all events are new from here on."""

    def position(self, last_id: int) -> None:
        """Tell how far a tail has come that lets nothing through."""

    def flush(self) -> None:
        """Have what was sent leave."""


class Tail(Follower):
    """One tail. Create it in a running event loop.

    Args:
        api: makes consumers; events come by its connection, and delay nothing but other reads.
        room: what may be asked for on that connection.
        max_rate: most events per second; 0 = any number.
        ownership: knows who has what, where there are rules.
    """

    interval = _INTERVAL

    def __init__(
        self,
        api: JetStream,
        room: PullRoom,
        which: Selection,
        client: TailClient,
        max_rate: int,
        ownership: Ownership | None = None,
    ) -> None:
        super().__init__(api.connection, api.connection, room, which.stream)
        self._api = api
        self._which = which
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._max_rate = max_rate
        self._bucket = Bucket(self._loop.time())
        self._ownership = ownership
        self._caller: Principal | None = None
        self._next: StartPosition | int = AtEnd()
        self._created = ""
        """When the stream was made; empty = it was not looked at yet."""
        self._give_up_at = math.inf
        """Until when the stream's leader may still come to know what was seen."""
        self._existing = 0
        """The last event that there was when the tail began."""
        self._consumer = ""
        self._is_caught_up = False
        self._passed = 0
        """The last event that the types did not let through, if none was sent after it."""
        self._skipped = 0
        self._skipped_to = 0
        self._reported_at = self._loop.time()

    async def run(self, begin: StartPosition, caller: Principal | None = None) -> None:
        """Send events until cancelled. What is made for that counts as an ephemeral consumer of the caller.

        Raise `StreamNotFound` when the stream is not there, or not any more, also when another one is in its
        place, or the broker has lost what was seen of it: new events have the ids of those. Raise
        `BrokerUnavailable` if the broker cannot be asked at the beginning, and `QuotaExceeded` if the caller
        has too many consumers then; later, wait for the broker, and keep the place.
        """
        self._next, self._caller = begin, caller
        try:
            await self.follow(self._client.begin)
        finally:
            if self._ownership is not None:
                self._ownership.consumer_deleted(self.stream, self._consumer)

    async def make(self, name: str) -> None:
        """Make a consumer that begins behind what was seen."""
        self._client.flush()
        stream, deadline = self.stream, self._loop.time() + _ASKING
        with follower_errors(stream=stream):
            self._look(await self._api.stream_info(stream, deadline))
            config = own_config(name, self._which.subjects) | _start(self._next)
            before, self._consumer = self._consumer, name
            if self._caller is None or self._ownership is None:
                pending = await self._api.create_hidden_consumer(stream, config, deadline)
            elif before:
                owned = self._ownership.keep_consumer(self._caller, stream, config, before)
                pending = await self._api.create_hidden_consumer(stream, owned, deadline)
            else:
                async with self._ownership.consumer(self._caller, stream, config, deadline) as owned:
                    pending = await self._api.create_hidden_consumer(stream, owned, deadline)
                self._ownership.keep_consumer(self._caller, stream, config)
        if not pending:
            self._catch_up()

    def _look(self, info: JsonObject) -> None:
        """See whether the stream is the same, and has what was seen of it."""
        after = int(info["state"]["last_seq"]) + 1
        if self._created not in ("", info["created"]):
            raise StreamNotFound(self.stream)
        if not self._created:
            self._created, self._existing = info["created"], after - 1
        if isinstance(self._next, AtEnd):
            self._next = after
        if not isinstance(self._next, int) or self._next <= after:
            self._give_up_at = math.inf
            return
        now = self._loop.time()
        self._give_up_at = min(self._give_up_at, now + _LOST)
        if now >= self._give_up_at:
            raise StreamNotFound(self.stream)
        raise BrokerUnavailable

    # --- What the client is sent --------------------------------------------------------------------------

    async def take(self, message: StoredMessage, pending: int) -> None:
        """Send an event, unless it is not among those that are wanted, or beyond the rate."""
        self._next = message.sequence + 1
        if not self._which.takes(message):
            self._passed = message.sequence
        elif self._is_within_rate():
            self._tell_skipped()
            self._client.send(message)
            self._passed = 0
        else:
            self._skipped, self._skipped_to = self._skipped + 1, message.sequence
        self._tell_in_time()
        if pending == 0 or message.sequence >= self._existing:  # with a slow reader some are always pending
            self._catch_up()
        if self._client.queued > _MAX_QUEUED:
            self._client.flush()
            await self._client.ready()
        await pause()

    def _is_within_rate(self) -> bool:
        """Tell whether one more event is within the rate, and count it then."""
        rate = self._max_rate
        if rate:
            if not self._bucket.has_some(rate, rate, self._loop.time()):
                return False
            self._bucket.take(1)
        return True

    async def silent(self) -> None:
        """Ask whether there is anything to wait for: what was pending may have been removed."""
        if self._is_caught_up:
            return
        with suppress(NatsError):
            stream, deadline = self.stream, self._loop.time() + _ASKING
            info = await self._api.consumer_info(stream, self._consumer, deadline)
            if info is not None and not info["num_pending"]:
                self._catch_up()

    def _catch_up(self) -> None:
        if not self._is_caught_up:
            self._is_caught_up = True
            self._tell_skipped()
            self._client.caught_up()

    def idle(self) -> float:
        """Send what was collected, and tell of what is not sent; return when to do it again."""
        again = self._tell_in_time()
        self._client.flush()
        return again

    def _tell_in_time(self) -> float:
        """Tell of what is not sent, if it is time to; return when it will be."""
        if not (self._skipped or self._passed):
            return math.inf
        if self._loop.time() < self._reported_at + _NEWS:
            return self._reported_at + _NEWS
        self._reported_at = self._loop.time()
        self._tell_skipped()
        if self._passed:
            self._client.position(self._passed)
            self._passed = 0
        return math.inf

    def _tell_skipped(self) -> None:
        if self._skipped:
            self._client.skipped(self._skipped, self._skipped_to)
            self._skipped = 0


def _start(begin: StartPosition | int) -> JsonObject:
    if isinstance(begin, int):
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": begin}
    return start_config(begin, 0)
