"""Reading and removing entries of the stream of dead letters, by way of its leader."""

from __future__ import annotations

from windshift.nats import NatsError
from windshift.nats.jetstream import JetStream, JsonObject, StoredMessage, codes
from windshift.server.broker_errors import broker_errors, domain_error
from windshift.server.events.dead_letters.codec import Entry, Event, entry_subject, join_rest, read_entry
from windshift.server.events.dead_letters.letters import LetterId


class UnreadableEntry(Exception):
    """In place of a dead letter lies something that this version did not write."""


class LetterReader:
    """Reads entries from the leader of the stream of dead letters, so that every completed write is seen."""

    def __init__(self, api: JetStream, stream: str) -> None:
        self._api = api
        self._stream = stream

    async def entry(self, id: LetterId, deadline: float) -> Entry | None:  # noqa: A002
        """Read an entry; `None` if there is none. Raise `UnreadableEntry`, `BrokerUnavailable`."""
        stored = await self.last(entry_subject(id), deadline)
        if stored is None:
            return None
        try:
            return read_entry(stored)
        except ValueError as error:
            raise UnreadableEntry from error

    async def event(self, entry: Entry, deadline: float) -> Event | None:
        """Put an entry's event together; `None` if its rest is gone, as the entry itself should be now."""
        if entry.rest_size is None:
            return entry.event
        rest = await self.last(entry.rest_subject, deadline)
        return None if rest is None else join_rest(entry.event, rest.body)

    async def last(self, subject: str, deadline: float) -> StoredMessage | None:
        """Read the last message of a subject; `None` if there is none, or no stream."""
        return await self.message({"last_by_subj": subject}, deadline)

    async def message(self, query: JsonObject, deadline: float) -> StoredMessage | None:
        """Read one message; `None` if there is none, or no stream."""
        try:
            return await self._api.message(self._stream, query, deadline)
        except NatsError as refusal:
            if refusal.err_code == codes.STREAM_NOT_FOUND:
                return None
            raise domain_error(refusal) from refusal

    async def remove(self, subject: str, deadline: float) -> None:
        """Remove what lies on a subject, if anything does. Raise `OutcomeUnknown`, too."""
        found = await self.last(subject, deadline)
        if found is not None:
            await self.remove_at(found.sequence, deadline)

    async def remove_at(self, sequence: int, deadline: float) -> bool:
        """Remove one message; false when it is not there any more. Raise `OutcomeUnknown`, too."""
        with broker_errors():
            return await self._api.delete_message(self._stream, sequence, deadline)
