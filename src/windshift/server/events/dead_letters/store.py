"""The stream of dead letters: reading, counting and removing. `writer` writes to it."""

from __future__ import annotations

import asyncio
import logging
import sys
from datetime import timedelta
from math import ceil, inf
from time import time_ns
from typing import Any, Final, NamedTuple

from windshift.nats import NatsError, NoDirectGet, retry
from windshift.nats import headers as h
from windshift.nats.jetstream.api import Batch, JetStream, JsonObject, StoredMessage
from windshift.nats.jetstream.writes import Writes
from windshift.nats.times import NANOSECONDS, Time
from windshift.server.domain.broker_errors import domain_error
from windshift.server.domain.errors import BrokerUnavailable, StreamFull
from windshift.server.events.dead_letters.codec import (
    CLAIM_SUBJECTS,
    CLAIMANT,
    OVERFLOW_SUBJECTS,
    SUBJECTS,
    Entry,
    EventCopy,
    claim_subject,
    dead_letter,
    end_subjects,
    entry_subject,
    join_overflow,
    read_entry,
)
from windshift.server.events.dead_letters.model import (
    BEGINNING,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterId,
    id_pattern,
)
from windshift.server.events.managed_stream import Conflict, ManagedStream, SizeLimit
from windshift.server.events.model import StreamSeq
from windshift.server.events.positions import rfc3339
from windshift.server.events.runs import Run

log = logging.getLogger(__name__)

STREAM: Final = "WS_DEAD_LETTERS"

_CONFIG: Final[JsonObject] = {
    "name": STREAM,
    "description": "Events that consumers of Windshift gave up on.",
    "subjects": [f"{SUBJECTS}>", f"{OVERFLOW_SUBJECTS}>", f"{CLAIM_SUBJECTS}>"],
    "storage": "file",
    "retention": "limits",
    "max_msgs_per_subject": -1,
    "allow_rollup_hdrs": True,
    "discard": "new",
    "max_age": 30 * 24 * 60 * 60 * NANOSECONDS,
    "allow_direct": True,
    "allow_msg_ttl": True,
}
_NEEDED: Final = ("subjects", "max_msgs_per_subject", "allow_rollup_hdrs", "allow_direct", "allow_msg_ttl")

_REPLAY: Final = b"replay"
"""Who claims the end of a replay: whichever of its deliveries."""
_WRITTEN_WITHIN: Final = 5 * 60 * NANOSECONDS
"""Age from which an overflow message is not waiting for its entry any more."""
_MAX_SCANNED: Final = 500
"""Entries that one page scans at most."""
_MAX_BYTES_SCANNED: Final = 4 * 1024 * 1024
"""Bytes of entries after which a page stops scanning."""
_LOOK_AGAIN: Final = 1.0
"""Seconds until it is looked again whether a full stream has room."""
_AT_ONCE: Final = 50
"""Entries that are read in one turn of the event loop."""
_HEADER_SIZE: Final = 512
"""Approximate bytes of an entry without its data."""


class Usage(NamedTuple):
    """How much the stream of dead letters holds, in bytes.

    Attributes:
        size: what it holds, overflow messages included.
        limit: what it may hold; 0 = no limit.
    """

    size: int = 0
    limit: int = 0

    def has_room(self, size: int) -> bool:
        """Whether a dead letter of this size leaves a fiftieth free, for what else is written there."""
        return not self.limit or self.size + size <= self.limit - self.limit // 50

    @property
    def is_nearly_full(self) -> bool:
        """Whether four fifths are used."""
        return self.limit > 0 and self.size * 5 >= self.limit * 4


class UnreadableEntry(Exception):
    """Where a dead letter should be is a message that this version did not write."""


class End(NamedTuple):
    """What lies on the subjects on which an event ends: a dead letter, a claim, or nothing.

    Attributes:
        position: its sequence in the stream; 0 for nothing.
        time: when it was written.
        entry: the dead letter.
        claimant: who claimed that the event ended otherwise: it was acknowledged, or dropped.
    """

    position: int = 0
    time: Time = BEGINNING
    entry: Entry | None = None
    claimant: bytes = b""

    def is_of(self, run: Run) -> bool:
        """Whether the event ended in this run of the consumer, not in an earlier one."""
        return self.position > 0 and run.has(self.position, self.time)


class Page(NamedTuple):
    """Some dead letters, in the order in which they were written."""

    dead_letters: list[DeadLetter]
    after: int
    """The position to continue after."""
    more: bool
    """Whether there were more after it."""


class DeadLetterStore:
    """All dead letters of one account. Deadlines are in the loop's time.

    Every method raises `BrokerUnavailable` when the broker does not answer in time. Where the stream of dead
    letters does not exist there are none.

    Attributes:
        stream: the stream itself.
        usage: how much it holds, as it was seen last.
    """

    def __init__(
        self, api: JetStream, writes: Writes, default_replicas: int, limit: SizeLimit | None = None
    ) -> None:
        self._api = api
        self.stream = ManagedStream(api, writes, _CONFIG, _NEEDED, default_replicas, limit)
        self.usage = Usage()
        self._looked_at = -inf

    async def ensure(self, replicas: int | None, deadline: float) -> None:
        """Create the stream, or raise the number of its replicas; leave what others set.

        May also raise `StreamFull`, `ReplicasUnavailable`, `SubjectsOverlap` or `OutcomeUnknown`.
        """
        await self.stream.ensure(replicas, deadline)

    # --- Room -----------------------------------------------------------------------------------------------

    async def look_at_usage(self, deadline: float) -> Usage:
        """See how much the stream holds."""
        info = await self.stream.info(deadline)
        if info is None:
            self.usage = Usage()
        else:
            self.usage = Usage(info["state"]["bytes"], max(0, info["config"].get("max_bytes") or 0))
        return self.usage

    async def require_room(self, size: int, deadline: float) -> None:
        """Raise `StreamFull` unless a dead letter of this size leaves room for what else has to be written.

        It is looked at once a second at most while there is none, and what other servers write is seen late.
        """
        now = asyncio.get_running_loop().time()
        if not self.usage.has_room(size) and now >= self._looked_at + _LOOK_AGAIN:
            self._looked_at = now
            await self.look_at_usage(deadline)
        if not self.usage.has_room(size):
            raise StreamFull(f"stream {STREAM} is full; raise its limit, or replay or purge dead letters")
        self.usage = self.usage._replace(size=self.usage.size + size)

    # --- One dead letter, as the stream's leader has it ----------------------------------------------------

    async def entry(self, id: DeadLetterId, deadline: float) -> Entry | None:  # noqa: A002
        """Read an entry; `None` if there is none. May also raise `UnreadableEntry`."""
        stored = await self.stream.last(entry_subject(id), deadline)
        if stored is None:
            return None
        try:
            return read_entry(stored)
        except ValueError as error:
            raise UnreadableEntry from error

    async def end(self, id: DeadLetterId, deadline: float) -> End:  # noqa: A002
        """Read how an event ended, if it has. May also raise `UnreadableEntry`."""
        stored = await self.stream.last(end_subjects(id), deadline)
        if stored is None:
            return End()
        if stored.subject.startswith(CLAIM_SUBJECTS):
            claimant = next((value for name, value in stored.headers if name == CLAIMANT), b"?")
            return End(stored.sequence, stored.time, None, claimant)
        try:
            return End(stored.sequence, stored.time, read_entry(stored))
        except ValueError as error:
            raise UnreadableEntry from error

    async def claim(
        self,
        id: DeadLetterId,  # noqa: A002
        claimant: bytes,
        kept_for: timedelta,
        run: Run,
        deadline: float,
    ) -> bool:
        """Decide that an event ended without a dead letter; false when it had ended before, in this run.

        Safe to repeat for the same claimant. May also raise `OutcomeUnknown` or `StreamFull`.
        """
        end = End()
        async for _ in retry(deadline):
            conflict = await self._claim(id, claimant, kept_for, end.position, deadline)
            if conflict is None:
                return True
            try:
                end = await self.end(id, deadline)
            except UnreadableEntry:
                return False
            if end.claimant == claimant:
                return True
            if end.is_of(run) or (not end.position and conflict.is_certain):
                return False
        raise BrokerUnavailable

    async def claim_replay(
        self,
        id: DeadLetterId,  # noqa: A002
        number: int,
        kept_for: timedelta,
        deadline: float,
    ) -> bool:
        """Decide that a replayed event ended acknowledged, or dropped, and remove its dead letter.

        False when the consumer had given up on it again. Safe to repeat. May also raise `OutcomeUnknown` or
        `StreamFull`.
        """
        async for _ in retry(deadline):
            try:
                end = await self.end(id, deadline)
            except UnreadableEntry:
                return False
            if end.entry is not None:
                if end.entry.failure.replay_count >= number:
                    return False
                if await self._claim(id, _REPLAY, kept_for, end.position, deadline) is not None:
                    continue
            await self.delete(id, deadline)
            return True
        raise BrokerUnavailable

    async def _claim(
        self,
        id: DeadLetterId,  # noqa: A002
        claimant: bytes,
        kept_for: timedelta,
        expected: int,
        deadline: float,
    ) -> Conflict | None:
        """Store a claim in place of what is expected; return why not, if that is not there any more."""
        headers = ((CLAIMANT, claimant), (h.TTL, b"%ds" % ceil(kept_for.total_seconds())))
        try:
            await self.stream.put(claim_subject(id), b"", headers, deadline, expected, end_subjects(id))
        except Conflict as conflict:
            return conflict
        return None

    async def event(self, entry: Entry, deadline: float) -> EventCopy | None:
        """Reassemble an entry's event; `None` if its overflow is gone, as the entry should be by now."""
        if not entry.has_overflow:
            return entry.event
        overflow = await self.stream.last(entry.overflow_subject, deadline)
        return None if overflow is None else join_overflow(entry.event, overflow.body)

    async def get(self, id: DeadLetterId, deadline: float) -> DeadLetter | None:  # noqa: A002
        """Read a dead letter; `None` if there is none."""
        before = None
        async for _ in retry(deadline):
            try:
                entry = await self.entry(id, deadline)
            except UnreadableEntry:
                log.warning("the dead letter %s cannot be read", id)
                return None
            if entry is None:
                return None
            event = await self.event(entry, deadline)
            if event is not None:
                return dead_letter(entry, event, with_data=True)
            if entry == before:
                log.error("the data of the dead letter %s is gone", id)
                return None
            before = entry
        raise BrokerUnavailable

    async def delete(self, id: DeadLetterId, deadline: float) -> bool:  # noqa: A002
        """Remove a dead letter; false when there was none. May also raise `OutcomeUnknown`."""
        async for _ in retry(deadline):
            stored = await self.stream.last(entry_subject(id), deadline)
            if stored is None:
                return False
            removed = await self.stream.delete(stored.sequence, deadline)
            try:
                entry = read_entry(stored)
            except ValueError:
                pass
            else:
                if entry.has_overflow:
                    await self.stream.delete_last(entry.overflow_subject, deadline)
            if removed:
                return True
            # it was rewritten meanwhile
        raise BrokerUnavailable

    # --- All of a consumer, of a stream, or all, as the leader has them ------------------------------------

    async def recall(self, stream: str, consumer: str, deadline: float) -> frozenset[tuple[StreamSeq, int]]:
        """Return which events of a consumer are dead letters or claimed, by id and time.

        Times are nanoseconds since 1970.
        """
        found: set[tuple[StreamSeq, int]] = set()
        async for subject in self.stream.subjects(f"_WS.*.{stream}.{consumer}.*.*", deadline):
            seq, _, stored_ns = subject.rpartition(".")
            found.add((StreamSeq(int(seq.rpartition(".")[2])), int(stored_ns)))
        return frozenset(found)

    async def purge(self, stream: str, consumer: str, deadline: float) -> int:
        """Remove all; return how many there were. May also raise `OutcomeUnknown`."""
        overflows = self.stream.subjects(OVERFLOW_SUBJECTS + id_pattern(stream, consumer), deadline)
        unneeded = [each async for each in overflows if await self._is_unneeded(each, deadline)]
        purged = await self.stream.purge(_pattern(stream, consumer), deadline)
        for subject in unneeded:
            await self.stream.delete_last(subject, deadline)
        return purged

    async def _is_unneeded(self, overflow: str, deadline: float) -> bool:
        """Whether an overflow message is useless without its present entry, and no write is under way."""
        id_text, _, writer = overflow.removeprefix(OVERFLOW_SUBJECTS).rpartition(".")
        try:
            entry = await self.entry(DeadLetterId.parse(id_text), deadline)
        except (UnreadableEntry, ValueError):
            return False
        if entry is not None and entry.writer == writer:
            return True
        stored = await self.stream.last(overflow, deadline)
        return stored is not None and time_ns() - stored.unix_ns > _WRITTEN_WITHIN

    async def last_position(self, deadline: float) -> int:
        """Return the position of the last dead letter ever written; 0 for none."""
        info = await self.stream.info(deadline)
        return 0 if info is None else int(info["state"]["last_seq"])

    async def next_position(self, stream: str, consumer: str, after: int, deadline: float) -> int | None:
        """Return the position of the first dead letter after a position; `None` for none."""
        query = {"seq": after + 1, "next_by_subj": _pattern(stream, consumer)}
        found = await self.stream.message(query, deadline)
        return None if found is None else found.sequence

    # --- Many, as some replica has them: the latest may be missing ------------------------------------------

    async def page(
        self,
        which: DeadLetterFilter,
        after: int,
        limit: int,
        max_bytes: int,
        deadline: float,
        *,
        with_data: bool = True,
    ) -> Page:
        """Read dead letters after a position (0: from the first).

        A page scans a limited number of entries, so it may be empty although there are more.

        Args:
            which: the filter.
            after: the position.
            limit: most dead letters, 1 or more.
            max_bytes: most data, except for the first.
            deadline: when to give up.
            with_data: whether to read data. If not, dead letters with an overflow message lack the headers of
                other programs.
        """
        max_bytes = max_bytes if with_data else sys.maxsize
        batch = await self._scan(scan_query(which, after, limit, max_bytes), deadline)
        scanned = await _entries_or_positions(batch.messages)
        chosen = choose(scanned, batch.left, which, limit, max_bytes)
        dead_letters = []
        for entry in chosen.entries:
            event = await self.event(entry, deadline) if with_data else entry.event
            if event is not None:  # else it was removed, or rewritten further on
                dead_letters.append(dead_letter(entry, event, with_data=with_data))
        return Page(dead_letters, chosen.seen or after, chosen.more)

    async def count(self, stream: str, consumer: str, deadline: float) -> int:
        """Count the dead letters of a consumer, a stream, or all."""
        query = {"seq": 1, "next_by_subj": _pattern(stream, consumer), "batch": 1}
        batch = await self._scan(query, deadline)
        return len(batch.messages) + batch.left

    async def _scan(self, query: JsonObject, deadline: float) -> Batch:
        """Read entries; none where there is no stream."""
        async for _ in retry(deadline):
            try:
                return await self._api.batch(STREAM, query, deadline)
            except NoDirectGet:
                pass
            except NatsError as error:
                raise domain_error(error) from error
            if await self._is_missing(deadline):
                return Batch([], 0)
        raise BrokerUnavailable

    async def _is_missing(self, deadline: float) -> bool:
        """Whether there is no stream. If it does not allow direct gets, make it do so."""
        info = await self.stream.info(deadline)
        if info is not None and not info["config"].get("allow_direct"):
            await self.stream.ensure(None, deadline)
        return info is None


# --- Pages, decided without I/O -----------------------------------------------------------------------------


class Chosen(NamedTuple):
    """The entries of a page."""

    entries: list[Entry]
    seen: int
    """The position of the last entry that was looked at; 0 for none."""
    more: bool


def scan_query(which: DeadLetterFilter, after: int, limit: int, max_bytes: int) -> dict[str, Any]:
    """Return the request for the entries to scan."""
    query: dict[str, Any] = {
        "next_by_subj": _pattern(which.stream, which.consumer),
        "batch": _MAX_SCANNED,
        "max_bytes": _MAX_BYTES_SCANNED,
    }
    if which.is_everything:  # then scan no more than fits
        query["batch"] = min(limit, _MAX_SCANNED)
        query["max_bytes"] = min(max_bytes + limit * _HEADER_SIZE, _MAX_BYTES_SCANNED)
    if after == 0 and which.scan_from_ns is not None:
        return query | {"start_time": rfc3339(which.scan_from_ns)}
    return query | {"seq": after + 1}


def choose(
    scanned: list[Entry | int], left: int, which: DeadLetterFilter, limit: int, max_bytes: int
) -> Chosen:
    """Choose the entries of a page.

    Args:
        scanned: entries in order; an unreadable one is just its position.
        left: how many more follow these.
        which: the filter.
        limit: most entries.
        max_bytes: most data, except for the first entry.
    """
    chosen: list[Entry] = []
    seen = size = 0
    for entry in scanned:
        if isinstance(entry, int):
            seen = entry
            continue
        candidate = dead_letter(entry, entry.event, with_data=False)
        if which.is_past(candidate):
            return Chosen(chosen, entry.position, more=False)
        if which.matches(candidate):
            size += entry.data_size
            if len(chosen) == limit or (chosen and size > max_bytes):
                return Chosen(chosen, seen, more=True)
            chosen.append(entry)
        seen = entry.position
    return Chosen(chosen, seen, more=left > 0)


def _pattern(stream: str, consumer: str) -> str:
    return SUBJECTS + id_pattern(stream, consumer)


async def _entries_or_positions(stored: list[StoredMessage]) -> list[Entry | int]:
    """Read entries, and let other calls run in between: hundreds of them take a while."""
    entries: list[Entry | int] = []
    for message in stored:
        entries.append(_entry_or_position(message))
        if len(entries) % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return entries


def _entry_or_position(stored: StoredMessage) -> Entry | int:
    try:
        return read_entry(stored)
    except ValueError:
        return stored.sequence
