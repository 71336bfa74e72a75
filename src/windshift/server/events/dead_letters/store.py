"""The stream of dead letters: written exactly once, read, counted and removed."""

from __future__ import annotations

import logging
from time import time_ns
from typing import Final

from windshift.nats import Connection, NatsError, NoDirectGet, retry
from windshift.nats.jetstream import (
    Batch,
    JetStream,
    JsonObject,
    StoredMessage,
    Writes,
    batch_get,
    codes,
)
from windshift.nats.times import NANOSECONDS
from windshift.server.broker_errors import domain_error
from windshift.server.errors import BrokerUnavailable
from windshift.server.events.dead_letters.codec import (
    RESTS,
    SUBJECTS,
    Entry,
    entry_subject,
    letter,
    read_entry,
)
from windshift.server.events.dead_letters.letters import (
    STREAM,
    DeadLetter,
    Failure,
    LetterId,
    id_text,
    read_id,
)
from windshift.server.events.dead_letters.own_streams import OwnStream
from windshift.server.events.dead_letters.pages import (
    LetterFilter,
    Page,
    choose,
    rests_of,
    scan_query,
    subjects_of,
)
from windshift.server.events.dead_letters.reader import LetterReader, UnreadableEntry
from windshift.server.events.dead_letters.writer import LetterWriter, Written
from windshift.server.events.model import StreamSeq

__all__ = ["DeadLetterStore", "LetterFilter", "Page", "Written"]

log = logging.getLogger(__name__)

_DAY: Final = 24 * 60 * 60 * NANOSECONDS

_CONFIG: Final[JsonObject] = {
    "name": STREAM,
    "description": "Events that consumers of Windshift gave up on.",
    "subjects": [f"{SUBJECTS}>", f"{RESTS}>"],
    "storage": "file",
    "retention": "limits",
    "max_msgs_per_subject": -1,
    "allow_rollup_hdrs": True,
    "discard": "new",
    "max_age": 30 * _DAY,
    "allow_direct": True,
}
_NEEDED: Final = ("subjects", "max_msgs_per_subject", "allow_rollup_hdrs", "allow_direct")

_WRITTEN_WITHIN: Final = 5 * 60 * NANOSECONDS
"""Time after which no entry that refers to a rest is on its way any more."""


class DeadLetterStore:
    """All dead letters of one account. Deadlines are in the loop's time.

    Every method raises `BrokerUnavailable` when the broker does not answer in time. Where the stream of dead
    letters does not exist there are none.
    """

    def __init__(
        self,
        connection: Connection,
        api: JetStream,
        writes: Writes,
        default_replicas: int,
    ) -> None:
        self._connection = connection
        self._api = api
        self._stream = OwnStream(api, writes, _CONFIG, _NEEDED, default_replicas)
        self._reader = LetterReader(api, STREAM)
        self._writer = LetterWriter(connection, api, self._stream, self._reader)

    async def ensure(self, replicas: int | None, deadline: float) -> None:
        """Create the stream, or raise the number of its replicas to this one; leave what others set.

        Raise `StreamFull`, `ReplicasUnavailable`, `SubjectsOverlap` or `OutcomeUnknown`, too.
        """
        await self._stream.ensure(replicas, deadline)

    async def write(self, failure: Failure, deadline: float) -> tuple[Written, DeadLetter | None]:
        """Keep an event that a consumer gave up on. Doing so again is harmless, and finds it done.

        The event is read from its stream or, after a replay, from its dead letter. The dead letter that is
        returned has no data. Raise `StreamFull`; `BrokerUnavailable`, when nothing was stored;
        `OutcomeUnknown`.
        """
        return await self._writer.write(failure, deadline)

    async def recall(self, stream: str, consumer: str, deadline: float) -> frozenset[tuple[StreamSeq, int]]:
        """Say which events of a consumer are dead letters, by id and time in nanoseconds since 1970."""
        found: set[tuple[StreamSeq, int]] = set()
        try:
            async for some in self._api.subjects(STREAM, subjects_of(stream, consumer), deadline):
                for subject in some:
                    seq, _, stored_ns = subject.rpartition(".")
                    found.add((StreamSeq(int(seq.rpartition(".")[2])), int(stored_ns)))
        except NatsError as refusal:
            _unless_missing(refusal)
        return frozenset(found)

    async def get(self, id: LetterId, deadline: float) -> DeadLetter | None:  # noqa: A002
        """Read a dead letter, the latest write included; `None` if there is none."""
        before = None
        async for _ in retry(deadline):
            try:
                entry = await self._reader.entry(id, deadline)
            except UnreadableEntry:
                log.warning("the dead letter %s cannot be read", id_text(id))
                return None
            if entry is None:
                return None
            event = await self._reader.event(entry, deadline)
            if event is not None:
                return letter(entry, event, with_data=True)
            if entry == before:
                log.error("the data of the dead letter %s is gone", id_text(id))
                return None
            before = entry
        raise BrokerUnavailable

    async def delete(self, id: LetterId, deadline: float) -> bool:  # noqa: A002
        """Remove a dead letter; false when there was none. Raise `OutcomeUnknown`, too."""
        async for _ in retry(deadline):
            stored = await self._reader.last(entry_subject(id), deadline)
            if stored is None:
                return False
            removed = await self._reader.remove_at(stored.sequence, deadline)
            await self._remove_rest(stored, deadline)
            if removed:
                return True
            # it was written anew
        raise BrokerUnavailable

    async def _remove_rest(self, stored: StoredMessage, deadline: float) -> None:
        try:
            entry = read_entry(stored)
        except ValueError:
            return
        if entry.rest_size is not None:
            await self._reader.remove(entry.rest_subject, deadline)

    async def purge(self, stream: str, consumer: str, deadline: float) -> int:
        """Remove all of a consumer, of a stream, or all; return how many there were.

        Raise `OutcomeUnknown`, too.
        """
        pattern = rests_of(stream, consumer)
        try:
            rests = [rest async for some in self._api.subjects(STREAM, pattern, deadline) for rest in some]
            unneeded = [rest for rest in rests if await self._is_unneeded(rest, deadline)]
            request = {"filter": subjects_of(stream, consumer)}
            answer = await self._api.change(f"STREAM.PURGE.{STREAM}", request, deadline)
        except NatsError as refusal:
            _unless_missing(refusal)
            return 0
        for rest in unneeded:
            await self._reader.remove(rest, deadline)
        return int(answer.get("purged", 0))

    async def _is_unneeded(self, rest: str, deadline: float) -> bool:
        """Whether nobody will read this rest once its entry is gone. One may be on its way just now."""
        name, _, writer = rest.removeprefix(RESTS).rpartition(".")
        try:
            entry = await self._reader.entry(read_id(name), deadline)
        except (UnreadableEntry, ValueError):
            return False
        if entry is not None and entry.writer == writer:
            return True
        stored = await self._reader.last(rest, deadline)
        return stored is not None and time_ns() - stored.unix_ns > _WRITTEN_WITHIN

    async def page(
        self,
        which: LetterFilter,
        after: int,
        most: int,
        most_bytes: int,
        deadline: float,
        *,
        with_data: bool = True,
    ) -> Page:
        """Read dead letters after a position (0: from the first), as some replica has them.

        A page looks at a bounded number of entries: it may be empty although there are more.

        Args:
            which: what passes.
            after: the position.
            most: how many there may be, 1 or more.
            most_bytes: how much data they may have, but for the first.
            deadline: when to give up.
            with_data: whether data is wanted. Without it, other programs' headers are left out where an event
                is so large that it takes two messages.
        """
        query = scan_query(which, after, most, most_bytes, with_data=with_data)
        batch = await self._scan(query, deadline)
        entries = [_entry_or_position(stored) for stored in batch.messages]
        chosen = choose(entries, batch.left, which, most, most_bytes, with_data=with_data)
        letters = []
        for entry in chosen.entries:
            event = await self._reader.event(entry, deadline) if with_data else entry.event
            if event is not None:  # it was removed, or written anew further on
                letters.append(letter(entry, event, with_data=with_data))
        return Page(letters, chosen.seen or after, chosen.more)

    async def count(self, stream: str, consumer: str, deadline: float) -> int:
        """Count the dead letters of a consumer, of a stream, or all, as some replica has them."""
        query = {"seq": 1, "next_by_subj": subjects_of(stream, consumer), "batch": 1}
        batch = await self._scan(query, deadline)
        return len(batch.messages) + batch.left

    async def last_position(self, deadline: float) -> int:
        """Return the position of the last dead letter that was ever written; 0 for none."""
        try:
            info = await self._api.stream_info(STREAM, deadline)
        except NatsError as refusal:
            _unless_missing(refusal)
            return 0
        return int(info["state"]["last_seq"])

    async def next_position(self, stream: str, consumer: str, after: int, deadline: float) -> int | None:
        """Return the position of the first dead letter after a position, as the leader has it, if any."""
        query = {"seq": after + 1, "next_by_subj": subjects_of(stream, consumer)}
        found = await self._reader.message(query, deadline)
        return None if found is None else found.sequence

    async def _scan(self, query: JsonObject, deadline: float) -> Batch:
        """Read entries; none where there is no stream."""
        async for _ in retry(deadline):
            try:
                return await batch_get(self._connection, STREAM, query, deadline)
            except NoDirectGet:
                pass
            except NatsError as error:
                raise domain_error(error) from error
            if await self._is_missing(deadline):
                return Batch([], 0)
        raise BrokerUnavailable

    async def _is_missing(self, deadline: float) -> bool:
        """Whether there is no stream. One that does not allow direct reads is made to."""
        try:
            info = await self._api.stream_info(STREAM, deadline)
        except NatsError as refusal:
            _unless_missing(refusal)
            return True
        if not info["config"].get("allow_direct"):
            await self._stream.ensure(None, deadline)
        return False


def _entry_or_position(stored: StoredMessage) -> Entry | int:
    try:
        return read_entry(stored)
    except ValueError:
        return stored.sequence


def _unless_missing(refusal: NatsError) -> None:
    """Raise what a refusal means, unless it is that the stream does not exist."""
    if refusal.err_code != codes.STREAM_NOT_FOUND:
        raise domain_error(refusal) from refusal
