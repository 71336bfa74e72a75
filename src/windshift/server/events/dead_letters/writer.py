"""Writing dead letters: each exactly once, whatever ends in between and however many try.

The subject of an entry names event and consumer, and every write says what must lie there: nothing, or the
entry of an earlier replay. So no entry is ever written over by what was written before it, and a repeat finds
what it would have written. None of this depends on how much time passes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from enum import Enum
from time import time_ns
from typing import Final

from windshift.nats import Connection, NatsError, retry
from windshift.nats import headers as h
from windshift.nats.headers import HeaderLines
from windshift.nats.jetstream import JetStream, PubAck, Slots, StoredMessage, codes
from windshift.nats.times import from_unix_ns
from windshift.server.broker_errors import domain_error
from windshift.server.errors import (
    BrokerUnavailable,
    OutcomeUnknown,
    StreamFull,
    TooManyInFlight,
    WindshiftError,
)
from windshift.server.events.dead_letters.codec import (
    ROOM_FOR_CONDITIONS,
    Entry,
    Event,
    entry_subject,
    kept_event,
    letter,
    pack,
    rest_subject,
)
from windshift.server.events.dead_letters.letters import DeadLetter, Failure, id_text
from windshift.server.events.dead_letters.own_streams import Conflict, OwnStream
from windshift.server.events.dead_letters.reader import LetterReader, UnreadableEntry
from windshift.server.events.notes import DEAD, send_note

log = logging.getLogger(__name__)

_AT_ONCE: Final = 32
"""Writes that are made at once: each holds an event, in several forms."""
_DOUBT: Final = 0.2
"""Seconds after which it is asked once more for an event that is not there."""
_WAITING: Final = 100_000
"""Writes that may wait for their turn: they hold no event."""


class Written(Enum):
    """What became of a dead letter that was to be written."""

    WRITTEN = "it is stored, by this call"
    ALREADY = "it was stored before, or by another server"
    GONE = "there is no such event any more, nor a dead letter of it"


@dataclass(slots=True)
class _Attempt:
    """One call to write, and what is known of it."""

    failure: Failure
    writer: str
    deadline: float
    has_rest: bool = False
    is_unsure: bool = False
    """Whether the entry that stood in the way may be that of this very call."""


class LetterWriter:
    """Writes the entries of one broker. Deadlines are in the loop's time."""

    def __init__(
        self, connection: Connection, api: JetStream, stream: OwnStream, reader: LetterReader
    ) -> None:
        self._connection = connection
        self._api = api
        self._stream = stream
        self._reader = reader
        self._slots = Slots(_AT_ONCE, _WAITING)

    async def write(self, failure: Failure, deadline: float) -> tuple[Written, DeadLetter | None]:
        """Store a copy of the event, unless there is one of this replay or a later one.

        The dead letter that is returned has no data. Raise `StreamFull`; `BrokerUnavailable`: nothing was
        stored by this call; `OutcomeUnknown`.
        """
        if not self._slots.take_now():
            try:
                await self._slots.take(deadline)
            except TooManyInFlight:
                raise BrokerUnavailable from None
        try:
            return await self._attempt(_Attempt(failure, secrets.token_hex(8), deadline))
        finally:
            self._slots.give_back()

    async def _attempt(self, attempt: _Attempt) -> tuple[Written, DeadLetter | None]:
        """Write, and say what went wrong in terms of what is kept."""
        try:
            return await self._write(attempt)
        except UnreadableEntry:
            log.warning(
                "what lies in place of the dead letter %s cannot be read", id_text(attempt.failure.id)
            )
            return Written.ALREADY, None
        except BrokerUnavailable:
            if attempt.is_unsure:
                raise OutcomeUnknown from None
            raise
        except NatsError as refusal:
            log.exception("the dead letter %s cannot be written", id_text(attempt.failure.id))
            raise BrokerUnavailable from refusal

    async def _write(self, attempt: _Attempt) -> tuple[Written, DeadLetter | None]:
        failure, deadline = attempt.failure, attempt.deadline
        known = await self._reader.entry(failure.id, deadline) if failure.replay_count else None
        async for _ in retry(deadline):
            if known is not None and known.failure.replay_count >= failure.replay_count:
                return await self._found(known, attempt)
            event = await self._event(known, failure, deadline)
            if event is not None:
                stored = await self._store(event, known, attempt)
                if stored is not None:
                    return Written.WRITTEN, stored
            before, known = known, await self._reader.entry(failure.id, deadline)
            attempt.is_unsure = False
            if event is None and known == before:  # nothing else is coming
                return (Written.GONE, None) if known is None else await self._found(known, attempt)
        raise BrokerUnavailable

    async def _event(self, known: Entry | None, failure: Failure, deadline: float) -> Event | None:
        """Read the event, from the entry of the replay before if there is one, or where it was published."""
        if known is not None:
            event = await self._reader.event(known, deadline)
            if event is not None:
                return event
        source = await self._source(failure, deadline)
        if source is None and known is None and not failure.replay_count:
            # A server that led the stream until a moment ago may not have the event yet and still answer.
            await asyncio.sleep(min(_DOUBT, max(0.0, deadline - asyncio.get_running_loop().time())))
            source = await self._source(failure, deadline)
        if source is None or source.unix_ns != failure.id.stored_ns:
            return None
        return kept_event(source)

    async def _source(self, failure: Failure, deadline: float) -> StoredMessage | None:
        """Read the event where it was published."""
        try:
            return await self._api.message(failure.id.stream, {"seq": failure.id.seq}, deadline)
        except NatsError as refusal:
            if refusal.err_code == codes.STREAM_NOT_FOUND and failure.replay_count:
                return None
            if (
                refusal.err_code == codes.STREAM_NOT_FOUND
            ):  # it ends the call that asks: nothing is to be settled
                raise BrokerUnavailable from refusal
            raise domain_error(refusal, stream=failure.id.stream) from refusal

    async def _found(self, known: Entry, attempt: _Attempt) -> tuple[Written, DeadLetter]:
        """Say of an entry that is as it should be who wrote it."""
        written = letter(known, known.event, with_data=False)
        if known.writer == attempt.writer:  # the answer to an earlier attempt was lost
            self._tell(attempt.failure)
            return Written.WRITTEN, written
        if attempt.has_rest:
            await self._discard(rest_subject(known.failure.id, attempt.writer), attempt.deadline)
        return Written.ALREADY, written

    async def _store(self, event: Event, known: Entry | None, attempt: _Attempt) -> DeadLetter | None:
        """Store the entry; `None` when another one lies there than was thought."""
        failure, writer, deadline = attempt.failure, attempt.writer, attempt.deadline
        packed = pack(event, failure, writer, self._connection.max_payload)
        if packed.rest is not None:
            await self._put(rest_subject(failure.id, writer), packed.rest, (), deadline, None)
            attempt.has_rest = True
        expected = 0 if known is None else known.position
        try:
            ack = await self._put(entry_subject(failure.id), packed.body, packed.headers, deadline, expected)
        except Conflict:
            attempt.is_unsure = True
            return None
        self._tell(failure)
        if known is not None and known.rest_size is not None:
            await self._discard(known.rest_subject, deadline)
        rest_size = None if packed.rest is None else len(event.data)
        entry = Entry(failure, ack.sequence, from_unix_ns(time_ns()), writer, event, rest_size)
        return letter(entry, event, with_data=False)

    async def _put(
        self, subject: str, body: bytes, headers: HeaderLines, deadline: float, expected: int | None
    ) -> PubAck:
        if len(h.block(headers)) + ROOM_FOR_CONDITIONS + len(body) > self._connection.max_payload:
            raise StreamFull("the broker takes no message large enough for a dead letter; raise max_payload")
        # A killed broker remembers what a rollup has removed. What a limit of one message per subject removes
        # comes back with it when what took its place was deleted.
        headers = headers if expected == 0 else (*headers, (h.ROLLUP, b"sub"))
        return await self._stream.put(subject, body, headers, deadline, expected)

    async def _discard(self, subject: str, deadline: float) -> None:
        """Remove what nobody refers to. If that fails it stays for as long as dead letters may."""
        try:
            await self._reader.remove(subject, deadline)
        except (WindshiftError, NatsError) as error:
            log.debug("%s stays: %s", subject, type(error).__name__)

    def _tell(self, failure: Failure) -> None:
        send_note(self._connection, DEAD, failure.id.stream, failure.id.consumer)
