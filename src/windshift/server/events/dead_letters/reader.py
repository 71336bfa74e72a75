"""Reading and removing entries of the stream of dead letters, by way of its leader."""

from __future__ import annotations

from typing import Final

from windshift.server.events.dead_letters.codec import Entry, Event, entry_subject, join_rest, read_entry
from windshift.server.events.dead_letters.letters import LetterId
from windshift.server.nats.jetstream import STREAM_NOT_FOUND, JetStreamApi, RefusedByBroker, domain_error
from windshift.server.nats.stored import Stored, read_exactly


class UnreadableEntry(Exception):
    """In place of a dead letter lies something that this version did not write."""


class LetterReader:
    """Reads entries from the leader of the stream of dead letters, so that every completed write is seen."""

    def __init__(self, api: JetStreamApi, stream: str) -> None:
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

    async def last(self, subject: str, deadline: float) -> Stored | None:
        """Read the last message of a subject; `None` if there is none, or no stream."""
        try:
            return await read_exactly(self._api, self._stream, {"last_by_subj": subject}, deadline)
        except RefusedByBroker as refusal:
            if refusal.err_code == STREAM_NOT_FOUND:
                return None
            raise domain_error(refusal) from refusal

    async def remove(self, subject: str, deadline: float) -> None:
        """Remove what lies on a subject, if anything does. Raise `OutcomeUnknown`, too."""
        found = await self.last(subject, deadline)
        if found is not None:
            await self.remove_at(found.sequence, deadline)

    async def remove_at(self, sequence: int, deadline: float) -> bool:
        """Remove one message; false when it is not there any more. Raise `OutcomeUnknown`, too."""
        request = {"seq": sequence, "no_erase": True}
        try:
            await self._api.change(f"STREAM.MSG.DELETE.{self._stream}", request, deadline)
        except RefusedByBroker as refusal:
            if refusal.err_code not in _NOT_THERE:
                raise domain_error(refusal) from refusal
            return False
        return True


_NOT_THERE: Final = frozenset({10037, 10057, STREAM_NOT_FOUND})
"""An earlier request of ours was not answered, or somebody else was faster. (10057 is any failure to delete.)
"""
