"""Follows keys of a store: every change in the order of revisions, each once."""

from __future__ import annotations

import asyncio
import math
from typing import Final, Protocol

from windshift.nats import Busy, Connection, retry
from windshift.nats.jetstream.api import StoredMessage
from windshift.nats.jetstream.kv import BucketInfo, Buckets, Record, read_message, stream_of
from windshift.nats.semaphore import FairSemaphore
from windshift.server.broker.following import Follower, StreamClient
from windshift.server.broker.room import PullRoom
from windshift.server.domain import names
from windshift.server.domain.broker_errors import follower_errors
from windshift.server.domain.errors import BrokerUnavailable, InvalidField, StoreNotFound
from windshift.server.state.model import Revision

_MAX_QUEUED: Final = 64 * 1024
"""Bytes queued for the client above which sending pauses."""
_ASKING: Final = 15.0
"""Seconds that the broker may take to make a consumer, before it is asked again."""
_TURN: Final = 3.0
"""Seconds of these after which others have their turn, and it is asked again behind them."""
_AT_ONCE: Final = 16
"""Watches that a server makes consumers for at once: after a restart of the broker all need another one."""
_AT_ONCE_EACH: Final = 4
"""The same of one store: while it has no leader, each of them takes all of its time."""
_LAGGING: Final = 2.0
"""Seconds that a new leader may take to know all that the one before had."""
_LOST: Final = 10.0
"""Seconds after which what a watch has sent counts as lost by the broker."""


def watch_turns() -> FairSemaphore:
    """Return what has all watches of a server wait for each other to make consumers: stores take turns."""
    return FairSemaphore(_AT_ONCE, lambda _: _AT_ONCE_EACH)


class WatchClient(StreamClient, Protocol):
    """The client's end of a watch."""

    def send(self, key: str, record: Record) -> None:
        """Send a change of a key."""

    def up_to_date(self, revision: Revision) -> None:
        """Tell that everything is new from here on, and which revision was the last."""


class Watch(Follower):
    """One watch of a store. Create it in a running event loop; for its `turns` see `watch_turns`."""

    max_bytes = 128 * 1024

    def __init__(
        self,
        connection: Connection,
        buckets: Buckets,
        room: PullRoom,
        turns: FairSemaphore,
        store: str,
        pattern: str,
        client: WatchClient,
    ) -> None:
        super().__init__(connection, buckets.api.connection, room, stream_of(store))
        self._buckets = buckets
        self._turns = turns
        self._store = store
        self._pattern = pattern
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._next: int | None = None
        self._existing = False
        self._created = ""
        """When the store was made; empty = it was not looked at yet."""
        self._is_up_to_date = False

    async def run(self, begin: Revision, *, existing: bool) -> None:
        """Send changes from a revision on until cancelled; from 0 on, those from now on.

        With `existing` and without a revision, send what all keys hold first. Raise `StoreNotFound` when the
        store is not there, or not any more, `InvalidField` for a revision that it cannot have reached, or has
        lost, and `BrokerUnavailable` if the broker cannot be asked at the beginning; later, wait for it.
        """
        self._next, self._existing = begin or None, existing
        await self.follow(self._client.begin)

    async def make(self, name: str) -> None:
        """Make a consumer that begins behind what was seen.

        Wait until the store's leader has what was seen of it, since a new one may lag a little: without a
        turn, which others need.
        """
        deadline, give_up_at = self._loop.time() + _ASKING, math.inf
        async for _ in retry(deadline):
            try:
                await self._turns.take(self._store, deadline)
            except Busy:
                break
            try:
                async with asyncio.timeout(_TURN):
                    return await self._make_now(name, deadline)
            except TimeoutError:
                continue
            except InvalidField:
                now = self._loop.time()
                give_up_at = min(give_up_at, now + (_LOST if self._created else _LAGGING))
                if now >= give_up_at:
                    raise
            finally:
                self._turns.give_back(self._store)
        raise BrokerUnavailable

    async def _make_now(self, name: str, deadline: float) -> None:
        with follower_errors(stream=self._store):
            info = await self._look(deadline)
            if self._next is None and not self._existing:
                self._next = info.last_sequence + 1
            pending = await self._buckets.follow(
                self._store, self._pattern, self._next, name, {names.INTERNAL: ""}, deadline
            )
        if pending == 0:
            if self._next is None:  # another consumer is to miss no revision from here on
                self._next = info.last_sequence + 1
            self._up_to_date()

    async def _look(self, deadline: float) -> BucketInfo:
        """Look at the store. Raise `InvalidField` if its leader does not have what was seen of it."""
        info = await self._buckets.info(self._store, deadline)
        if self._created not in ("", info.created):
            raise StoreNotFound(self._store)  # this is another one
        after = info.last_sequence + 1
        if self._next is not None and self._next > after:
            raise InvalidField(
                "from_revision",
                f"must be at most {after} now; if it was seen, the store is another, or has lost it: "
                "read its keys",
            )
        self._created = info.created
        return info

    async def take(self, message: StoredMessage, pending: int) -> None:
        """Send a change."""
        key, record = read_message(self._store, message)
        self._next = record.sequence + 1
        self._client.send(key, record)
        if pending == 0:
            self._up_to_date()
        if self._client.queued > _MAX_QUEUED:
            await self._client.ready()

    def _up_to_date(self) -> None:
        """Tell the client once that it is up to date, as far as the replica that answered knows."""
        if not self._is_up_to_date:
            self._is_up_to_date = True
            self._client.up_to_date(Revision((self._next or 1) - 1))
