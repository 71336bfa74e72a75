"""Reads stored events without a consumer, forwards and backwards.

JetStream only reads forwards: the first messages after a position that match a subject. Backwards works by
windows of ids from the end, see `BackwardScan`.

A direct get returns many messages, but any replica answers it, and so does every mirror, even one with a
filter (nats-server 2.15): what that lacks would seem not to exist. So a stream with mirrors, or without
direct gets, is read from its leader, one message at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from typing import Any, Final, NamedTuple

from windshift.nats import Forbidden, NatsError, NoDirectGet
from windshift.nats import headers as h
from windshift.nats.jetstream.api import Batch, JetStream, JsonObject, StoredMessage
from windshift.server.admin.look import Look
from windshift.server.domain.broker_errors import broker_errors, domain_error
from windshift.server.domain.errors import EventNotFound, ForbiddenByBroker
from windshift.server.domain.names import EVERYTHING
from windshift.server.domain.pages import PAGE_BYTES
from windshift.server.events.backwards import BackwardScan
from windshift.server.events.headers import DATA_TYPE
from windshift.server.events.positions import rfc3339
from windshift.server.events.specs import AtEnd, AtId, AtStart, AtTime, StartPosition

MOST_SCANNED: Final = 50_000
"""Ids that one page looks through."""
_LOOK: Final = 0.2
"""Seconds that one page looks for."""
_BATCH: Final = 500
"""Messages that are asked for at once. The broker gives no more than 1,024."""
_WINDOW: Final = 256
"""Ids of the first window backwards."""


# --- What is asked for, and what is found ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events of a stream.

    Attributes:
        subjects: those that match one of these; empty = all.
        types: those of these types, by full Protobuf name; empty = all.
    """

    stream: str
    subjects: tuple[str, ...] = ()
    types: frozenset[bytes] = frozenset()

    def takes(self, message: StoredMessage) -> bool:
        """Whether a message that matches the subjects is of one of the types."""
        return not self.types or (h.get(message.block, DATA_TYPE) or b"") in self.types


class EventPage(NamedTuple):
    """Some events.

    Attributes:
        events: in the order in which they were asked for.
        scanned_to: the last id that was looked at; 0 = none.
        next: the id to go on with; None = there is no more.
    """

    events: list[StoredMessage]
    scanned_to: int
    next: int | None


class EventReader:
    """Reads events. Deadlines are in the loop's time.

    All methods raise `StreamNotFound` and `BrokerUnavailable`.
    """

    def __init__(self, api: JetStream, look: Look) -> None:
        self._api = api
        self._look = look
        self._loop = asyncio.get_running_loop()

    async def get(self, stream: str, query: JsonObject, deadline: float) -> StoredMessage:
        """Read one event from the stream's leader.

        `query` is that of ``STREAM.MSG.GET``. May also raise `EventNotFound`.
        """
        message = await self._message(stream, query, deadline)
        if message is None:
            raise EventNotFound(stream)
        return message

    async def read(
        self, which: Selection, begin: StartPosition | int, limit: int, deadline: float, *, backwards: bool
    ) -> EventPage:
        """Read a page of at most `limit` events, with `backwards` towards older ones.

        `begin` is where, or the id that a page before said to go on with.
        """
        page = _Page(self._loop.time() + _LOOK, limit)
        if backwards:
            held = await self._held(which.stream, deadline)
            newest = await self._newest(which.stream, begin, held, deadline)
            return await self._backwards(which, held, newest, page, deadline)
        if isinstance(begin, AtEnd):
            held = await self._held(which.stream, deadline)
            query, direct = {"seq": held.last + 1}, held.direct
        else:
            query, direct = _first_query(begin), await self._is_direct(which.stream, deadline)
        return await self._forwards(which, query, page, deadline, direct=direct)

    # --- Forwards -----------------------------------------------------------------------------------------

    async def _forwards(
        self, which: Selection, query: dict[str, Any], page: _Page, deadline: float, *, direct: bool
    ) -> EventPage:
        page.scanned_to = query.get("seq", 1) - 1
        while True:
            want = _BATCH if which.types else min(_BATCH, page.room)
            query |= {"batch": want, "max_bytes": PAGE_BYTES}
            batch = await self._batch(which, query, page.until, deadline, direct=direct)
            beyond = page.take(batch.messages, which)
            if beyond is not None or not batch.left:
                return page.ended(beyond)
            if page.is_over(self._loop.time()):
                return page.ended(page.scanned_to + 1)
            query = {"seq": page.scanned_to + 1}

    # --- Backwards ----------------------------------------------------------------------------------------

    async def _newest(self, stream: str, begin: StartPosition | int, held: _Held, deadline: float) -> int:
        match begin:
            case int():
                return begin
            case AtId(stream_seq):
                return min(stream_seq, held.last)
            case AtStart():
                return held.first
            case AtTime(unix_ns):
                query = {"start_time": rfc3339(unix_ns), "next_by_subj": EVERYTHING}
                message = await self._message(stream, query, deadline)
                return held.last if message is None else message.sequence
            case AtEnd():
                return held.last

    async def _backwards(
        self, which: Selection, held: _Held, newest: int, page: _Page, deadline: float
    ) -> EventPage:
        scan = BackwardScan(held.first, newest, _WINDOW if held.direct else 1, _BATCH)
        while not scan.is_over:
            oldest, end = scan.oldest, scan.newest
            query = {"seq": oldest, "batch": _BATCH, "max_bytes": PAGE_BYTES}
            batch = await self._batch(which, query, page.until, deadline, direct=held.direct, newest=end)
            inside = scan.take(batch)
            if inside is None:
                if page.scanned_to and page.is_over(self._loop.time()):
                    return page.ended(scan.newest)
                continue
            beyond = page.take(inside, which)
            if beyond is not None:
                return page.ended(beyond)
            page.scanned += end - oldest + 1 - len(inside)
            page.scanned_to = oldest
            is_some = bool(page.found) or page.scanned >= _WINDOW  # a page that ends has got somewhere
            if is_some and page.is_over(self._loop.time()) and not scan.is_over:
                return page.ended(scan.newest)
        return page.ended(None)

    # --- Asking -------------------------------------------------------------------------------------------

    async def _batch(
        self,
        which: Selection,
        query: dict[str, Any],
        until: float,
        deadline: float,
        *,
        direct: bool,
        newest: int | None = None,
    ) -> Batch:
        """Read the first messages from some place on that match one of the subjects.

        Those behind `newest` are not needed. One by one, they are read until a time, or for a while when the
        first ones of each subject took as long.
        """
        if direct:
            try:
                return await self._at_once(which, query, deadline)
            except (Forbidden, NoDirectGet):  # or it was switched off just now
                pass
            except NatsError as error:
                raise domain_error(error, stream=which.stream) from error
        return await self._one_by_one(which, query, until, deadline, newest)

    async def _at_once(self, which: Selection, query: dict[str, Any], deadline: float) -> Batch:
        batches = [
            await self._api.batch(which.stream, query | {"next_by_subj": subject}, deadline)
            for subject in which.subjects or (EVERYTHING,)
        ]
        return batches[0] if len(batches) == 1 else merged(batches, query["batch"])

    async def _one_by_one(
        self, which: Selection, query: dict[str, Any], until: float, deadline: float, newest: int | None
    ) -> Batch:
        begin = {key: value for key, value in query.items() if key not in ("batch", "max_bytes")}
        following: dict[str, StoredMessage] = {}  # by subject
        messages: list[StoredMessage] = []
        size = 0
        for subject in which.subjects or (EVERYTHING,):
            message = await self._message(which.stream, begin | {"next_by_subj": subject}, deadline)
            if message is not None:
                following[subject] = message
        now = self._loop.time()
        until = until if now < until else min(deadline, now + _LOOK)
        while following:
            subject, message = min(following.items(), key=lambda item: item[1].sequence)
            if newest is not None and message.sequence > newest:
                break
            if not messages or message.sequence > messages[-1].sequence:  # or two of the subjects match it
                messages.append(message)
                size += len(message.body)
            if newest is not None and message.sequence >= newest:
                break
            if len(messages) >= query["batch"] or size >= query["max_bytes"] or self._loop.time() >= until:
                return Batch(messages, 1)
            ask = {"seq": message.sequence + 1, "next_by_subj": subject}
            after = await self._message(which.stream, ask, deadline)
            if after is None:
                del following[subject]
            else:
                following[subject] = after
        return Batch(messages, 0)

    async def _message(self, stream: str, query: JsonObject, deadline: float) -> StoredMessage | None:
        with broker_errors(stream=stream):
            return await self._api.message(stream, query, deadline)

    async def _held(self, stream: str, deadline: float) -> _Held:
        with broker_errors(stream=stream):
            info = await self._api.stream_info(stream, deadline)
        state = info["state"]
        direct = bool(info["config"].get("allow_direct"))
        if direct:
            direct = stream not in (await self._look.seen(deadline)).mirrored
        return _Held(max(1, state["first_seq"]), state["last_seq"], direct)

    async def _is_direct(self, stream: str, deadline: float) -> bool:
        """Tell whether many messages can be read at once, by the look that all callers share.

        Where that is not true any more the broker refuses, and they are read one by one.
        """
        with suppress(ForbiddenByBroker):
            seen = await self._look.seen(deadline)
            row = seen.named.get(stream)
            if row is not None:
                return row.direct and stream not in seen.mirrored
        return (await self._held(stream, deadline)).direct  # it is new, or none that a look shows


class _Held(NamedTuple):
    """The first id that a stream holds, the last that it gave, and whether many can be read at once."""

    first: int
    last: int
    direct: bool


def _first_query(begin: AtStart | AtId | AtTime | int) -> dict[str, Any]:
    match begin:
        case int():
            return {"seq": begin}
        case AtStart():
            return {"seq": 1}
        case AtId(stream_seq):
            return {"seq": stream_seq}
        case AtTime(unix_ns):
            return {"start_time": rfc3339(unix_ns)}


class _Page:
    """What was found so far, and how much looking that took.

    Attributes:
        scanned: how many ids were looked at.
        scanned_to: the last of them; 0 = none.
        until: when it was looked for long enough, in the loop's time.
    """

    def __init__(self, until: float, limit: int) -> None:
        self.found: list[StoredMessage] = []
        self.scanned = self.scanned_to = 0
        self.until = until
        self._limit = limit
        self._size = 0

    @property
    def room(self) -> int:
        return self._limit - len(self.found)

    @property
    def is_full(self) -> bool:
        return self.room == 0 or self._size >= PAGE_BYTES

    def is_over(self, now: float) -> bool:
        """Whether it is full, or was looked for long enough."""
        return self.is_full or self.scanned >= MOST_SCANNED or now >= self.until

    def take(self, messages: Sequence[StoredMessage], which: Selection) -> int | None:
        """Take those messages that are wanted; return the id of the first one that has no room."""
        for message in messages:
            if self.is_full:
                return message.sequence
            self.scanned += 1
            self.scanned_to = message.sequence
            if which.takes(message):
                self.found.append(message)
                self._size += len(message.body)
        return None

    def ended(self, after: int | None) -> EventPage:
        """Return the page; `after` is the id to go on with."""
        return EventPage(self.found, self.scanned_to, after)


def merged(batches: Sequence[Batch], most: int) -> Batch:
    """Return the first messages of several batches together, each once.

    A batch that has more to come is complete only up to its last message.
    """
    ends = [batch.messages[-1].sequence for batch in batches if batch.left and batch.messages]
    ordered = merge(*(batch.messages for batch in batches), key=lambda message: message.sequence)
    once = [next(same) for _, same in groupby(ordered, key=lambda message: message.sequence)]
    messages = [message for message in once if not ends or message.sequence <= min(ends)][:most]
    left = sum(batch.left for batch in batches) + len(once) - len(messages)
    return Batch(messages, left)
