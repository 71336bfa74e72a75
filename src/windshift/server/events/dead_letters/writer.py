"""Writes dead letters: each exactly once, whatever crashes and however many servers try.

The subject of an entry identifies event and consumer, and each write states what it replaces: nothing, or the
entry of an earlier replay. So an older entry never overwrites a newer one, and a repeated write finds what it
would have written. A claim that the event ended otherwise counts as an entry. None of this depends on timing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from enum import Enum
from time import time_ns
from typing import Final

from windshift.nats import Busy, Connection, NatsError, retry
from windshift.nats import headers as h
from windshift.nats.headers import HeaderLines
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.acks import PubAck
from windshift.nats.jetstream.api import JetStream, StoredMessage
from windshift.nats.semaphore import FairSemaphore
from windshift.nats.times import from_unix_ns
from windshift.server.auth.quotas import GiveBack, nothing_taken
from windshift.server.broker.asking import asking
from windshift.server.domain.broker_errors import domain_error
from windshift.server.domain.errors import (
    BrokerUnavailable,
    OutcomeUnknown,
    StreamFull,
    WindshiftError,
)
from windshift.server.events.dead_letters.codec import (
    ROOM_FOR_CONDITIONS,
    EventCopy,
    Packed,
    StoredDeadLetter,
    copy_event,
    dead_letter,
    end_subjects,
    entry_subject,
    overflow_subject,
    pack,
    stored_size,
)
from windshift.server.events.dead_letters.model import DeadLetter, Failure
from windshift.server.events.dead_letters.store import Charge, DeadLetterStore, RecordedEnd, UnreadableEntry
from windshift.server.events.managed_stream import Conflict
from windshift.server.events.notes import DEAD, Notes
from windshift.server.events.runs import ALWAYS, Run

log = logging.getLogger(__name__)

_AT_ONCE: Final = 32
"""Concurrent writes; each holds several copies of an event in memory."""
_DOUBT: Final = 0.2
"""Seconds to wait before looking again for an event that was not found."""
_WAITING: Final = 100_000
"""Writes that may wait for their turn; they hold no event yet."""


class Written(Enum):
    """The outcome of a write."""

    WRITTEN = "this call stored it"
    ALREADY = "it was already stored, perhaps by another server"
    GONE = "neither the event nor a dead letter of it exists any more"
    ENDED = "the event was acknowledged or dropped"


@dataclass(slots=True)
class _Attempt:
    """The state of one write."""

    failure: Failure
    writer: str
    run: Run
    deadline: float
    charge: Charge | None
    has_overflow: bool = False
    """Whether this call stored an overflow message."""
    is_unsure: bool = False
    """Whether the conflicting entry may be from this very call."""
    give_back: GiveBack = nothing_taken
    """Takes back what was charged."""


class DeadLetterWriter:
    """Writes the dead letters of one account. Deadlines are in the loop's time."""

    def __init__(self, connection: Connection, api: JetStream, store: DeadLetterStore, notes: Notes) -> None:
        self._connection = connection
        self._api = api
        self._store = store
        self._notes = notes
        self._slots = FairSemaphore(_AT_ONCE, max_waiting=_WAITING)

    async def write(
        self, failure: Failure, deadline: float, run: Run = ALWAYS, charge: Charge | None = None
    ) -> tuple[Written, DeadLetter | None]:
        """Store a copy of the event, unless one of this replay or a later one exists. Safe to repeat.

        The event is read from its stream or, after a replay, from its dead letter. The dead letter that is
        returned has no data. What was written in an earlier run of the consumer is replaced. Its bytes are
        charged before it is stored, and given back when it is certain that this call stored nothing.
        Raise `StreamFull`, `QuotaExceeded` or `BrokerUnavailable` when this call stored nothing;
        `OutcomeUnknown`.
        """
        asker = asking.get()
        try:
            await self._slots.take(asker, deadline)
        except Busy:
            raise BrokerUnavailable from None
        try:
            return await self._run(_Attempt(failure, secrets.token_hex(8), run, deadline, charge))
        finally:
            self._slots.give_back(asker)

    async def _run(self, attempt: _Attempt) -> tuple[Written, DeadLetter | None]:
        """Write, and map errors to what is known to be stored."""
        letter = None
        try:
            written, letter = await self._write(attempt)
        except UnreadableEntry:
            log.warning("the message in place of the dead letter %s cannot be read", attempt.failure.id)
            written = Written.ALREADY
        except StreamFull:
            await self._undo(attempt)
            raise
        except BrokerUnavailable:
            if attempt.is_unsure:
                raise OutcomeUnknown from None
            if not attempt.has_overflow:
                attempt.give_back()
            raise
        except NatsError as refusal:
            log.exception("the dead letter %s cannot be written", attempt.failure.id)
            raise BrokerUnavailable from refusal
        if written is not Written.WRITTEN:
            await self._undo(attempt)
        return written, letter

    async def _undo(self, attempt: _Attempt) -> None:
        """Take back what was charged for an entry that this call did not store, unless bytes of it stay."""
        overflow = overflow_subject(attempt.failure.id, attempt.writer)
        if not attempt.has_overflow or await self._discard(overflow, attempt.deadline):
            attempt.give_back()

    async def _write(self, attempt: _Attempt) -> tuple[Written, DeadLetter | None]:
        failure, deadline = attempt.failure, attempt.deadline
        await self._store.require_room(0, deadline, attempt.charge)  # before the event is read
        end = await self._store.end(failure.id, deadline) if failure.replay_count else RecordedEnd()
        async for _ in retry(deadline):
            known = end.entry
            if self._has_ended(end, attempt):
                if end.is_of_replay:  # whoever claimed that may not have removed the dead letter
                    await self._store.delete(failure.id, deadline, upto=end.position)
                return Written.ENDED, None
            if known is not None and self._is_present(end, attempt):
                return self._found(known, attempt)
            event = await self._event(known, failure, deadline)
            if event is not None:
                stored = await self._store_entry(event, end, attempt)
                if stored is not None:
                    return Written.WRITTEN, stored
            before, end = end, await self._store.end(failure.id, deadline)
            attempt.is_unsure = False
            if event is None and end == before:  # nothing else will turn up
                return (Written.GONE, None) if known is None else self._found(known, attempt)
        if end.entry is not None and end.entry.writer == attempt.writer:
            return self._found(end.entry, attempt)
        raise BrokerUnavailable

    @staticmethod
    def _has_ended(end: RecordedEnd, attempt: _Attempt) -> bool:
        """Whether the event, or the replay that failed, was acknowledged or dropped."""
        is_replay = attempt.failure.replay_count > 0
        return bool(end.claimant) and ((is_replay and end.is_of_replay) or end.is_of(attempt.run))

    @staticmethod
    def _is_present(end: RecordedEnd, attempt: _Attempt) -> bool:
        """Whether an entry is of this failure or a later one, and not of an earlier run."""
        if end.entry is None or end.entry.failure.replay_count < attempt.failure.replay_count:
            return False
        return attempt.failure.replay_count > 0 or end.is_of(attempt.run)

    async def _event(
        self, known: StoredDeadLetter | None, failure: Failure, deadline: float
    ) -> EventCopy | None:
        """Read the event from the entry of the previous replay, if there is one, or from its stream."""
        if known is not None:
            event = await self._store.event(known, deadline)
            if event is not None:
                return event
        source = await self._source(failure, deadline)
        if source is None and known is None and not failure.replay_count:
            # A server that is no longer the stream's leader may answer, and lack the event.
            await asyncio.sleep(min(_DOUBT, max(0.0, deadline - asyncio.get_running_loop().time())))
            source = await self._source(failure, deadline)
        if source is None or source.unix_ns != failure.id.stored_ns:
            return None
        return copy_event(source)

    async def _source(self, failure: Failure, deadline: float) -> StoredMessage | None:
        try:
            return await self._api.message(failure.id.stream, {"seq": failure.id.seq}, deadline)
        except NatsError as refusal:
            if refusal.err_code != codes.STREAM_NOT_FOUND:
                raise domain_error(refusal, stream=failure.id.stream) from refusal
            if failure.replay_count:
                return None
            raise BrokerUnavailable from refusal  # that ends the consume call: there is nothing to settle

    def _found(self, known: StoredDeadLetter, attempt: _Attempt) -> tuple[Written, DeadLetter]:
        """Return who wrote an entry that is as it should be."""
        written = dead_letter(known, known.event, with_data=False)
        if known.writer == attempt.writer:  # the answer to an earlier attempt was lost
            self._notify(attempt.failure)
            return Written.WRITTEN, written
        return Written.ALREADY, written

    async def _store_entry(self, event: EventCopy, end: RecordedEnd, attempt: _Attempt) -> DeadLetter | None:
        """Store the entry in place of what is known to be there; `None` when that is something else now."""
        failure, writer, deadline, known = attempt.failure, attempt.writer, attempt.deadline, end.entry
        ended = end.ended if failure.replay_count else None
        packed = pack(event, failure, writer, self._connection.max_payload, ended)
        size = stored_size(entry_subject(failure.id), packed.headers, packed.body)
        if packed.overflow is not None:
            size += stored_size(overflow_subject(failure.id, writer), (), packed.overflow)
        if attempt.charge is not None:  # once, however often it is tried
            attempt.give_back = await self._store.require_room(size, deadline, attempt.charge)
            attempt.charge = None
        async with self._store.room(size, deadline):
            ack = await self._put_both(packed, end, attempt)
        if ack is None:
            return None
        self._notify(failure)
        if known is not None and known.has_overflow:
            await self._discard(known.overflow_subject, deadline)
        now = from_unix_ns(time_ns())
        entry = StoredDeadLetter(
            failure, ack.sequence, now, writer, event, len(event.data), packed.overflow is not None
        )
        return dead_letter(entry, event, with_data=False)

    async def _put_both(self, packed: Packed, end: RecordedEnd, attempt: _Attempt) -> PubAck | None:
        """Store an entry, and its overflow message before it; `None` when something else is there now."""
        id_, deadline = attempt.failure.id, attempt.deadline
        if packed.overflow is not None:
            await self._put(overflow_subject(id_, attempt.writer), packed.overflow, (), deadline)
            attempt.has_overflow = True
        try:
            return await self._put(
                entry_subject(id_), packed.body, packed.headers, deadline, end.position, end_subjects(id_)
            )
        except Conflict:
            attempt.is_unsure = True
            return None

    async def _put(
        self,
        subject: str,
        body: bytes,
        headers: HeaderLines,
        deadline: float,
        expected: int | None = None,
        among: str = "",
    ) -> PubAck:
        if len(h.block(headers)) + ROOM_FOR_CONDITIONS + len(body) > self._connection.max_payload:
            raise StreamFull(
                "the broker takes no message large enough for a dead letter", "raise max_payload"
            )
        # A rollup's removals survive a crash of the broker. Those of a limit of one message per subject do
        # not, once the message that took the place is deleted.
        headers = headers if expected == 0 else (*headers, (h.ROLLUP, b"sub"))
        return await self._store.stream.put(subject, body, headers, deadline, expected, among)

    async def _discard(self, subject: str, deadline: float) -> bool:
        """Remove an overflow message that nothing refers to. False: it stays until it expires."""
        try:
            await self._store.stream.delete_last(subject, deadline)
        except (WindshiftError, NatsError) as error:
            log.debug("%s is left over: %s", subject, type(error).__name__)
            return False
        return True

    def _notify(self, failure: Failure) -> None:
        self._notes.send(DEAD, failure.id.stream, failure.id.consumer)
