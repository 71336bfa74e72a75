"""Reading dead letters: page by page, or one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from windshift.server.errors import DeadLetterNotFound
from windshift.server.events.dead_letters.letters import DeadLetter, LetterId, id_text
from windshift.server.events.dead_letters.page_tokens import BEGINNING, Place
from windshift.server.events.dead_letters.replays import Replays
from windshift.server.events.dead_letters.store import DeadLetterStore, LetterFilter

PAGE_BYTES: Final = 1024 * 1024
"""A page of dead letters ends at about so many bytes of data."""


class Entry(NamedTuple):
    """A dead letter, and whether a replay of it is under way."""

    letter: DeadLetter
    replaying: bool


class Entries(NamedTuple):
    """A page.

    Attributes:
        entries: what is on it.
        next: where to go on; the beginning = it was the last page.
    """

    entries: list[Entry]
    next: Place


class LetterPages:
    """Reads dead letters. Deadlines are times of the running loop."""

    def __init__(self, store: DeadLetterStore, replays: Replays) -> None:
        self._store = store
        self._replays = replays

    async def page(
        self, which: LetterFilter, begin: Place, size: int, deadline: float, *, with_data: bool
    ) -> Entries:
        """Read up to `size` dead letters from a place on."""
        page = await self._store.page(which, begin.after, size, PAGE_BYTES, deadline, with_data=with_data)
        replaying = await outstanding(self._replays, (each.failure.id for each in page.letters), deadline)
        entries = [Entry(each, each.failure.id in replaying) for each in page.letters]
        return Entries(entries, Place(page.after) if page.more else BEGINNING)

    async def get(self, letter_id: LetterId, deadline: float) -> Entry:
        """Read one; raise `DeadLetterNotFound` when there is none."""
        letter = await self._store.get(letter_id, deadline)
        if letter is None:
            raise DeadLetterNotFound(id_text(letter_id))
        return Entry(letter, letter_id in await outstanding(self._replays, [letter_id], deadline))


async def outstanding(replays: Replays, letters: Iterable[LetterId], deadline: float) -> frozenset[LetterId]:
    """Say which of these, and perhaps of others, are being replayed: one request at most."""
    consumers = {(each.stream, each.consumer) for each in letters}
    if not consumers:
        return frozenset()
    streams = {stream for stream, _ in consumers}
    stream = streams.pop() if len(streams) == 1 else ""
    consumer = consumers.pop()[1] if len(consumers) == 1 else ""
    return await replays.outstanding(stream, consumer, deadline)
