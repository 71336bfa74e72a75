"""Removing dead letters for good. A replay of one that is under way ends by itself when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from windshift.server.errors import BrokerUnavailable, InvalidField, OutcomeUnknown
from windshift.server.events.dead_letters.letters import LetterId
from windshift.server.events.dead_letters.listing import PAGE_BYTES
from windshift.server.events.dead_letters.pace import AT_ONCE, groups, together
from windshift.server.events.dead_letters.page_tokens import BEGINNING, Place
from windshift.server.events.dead_letters.store import DeadLetterStore, LetterFilter

_PAGE: Final = 500


@dataclass(slots=True)
class Purged:
    """What was done.

    Attributes:
        purged: how many were removed.
        missing: those that there are not.
        next: where to go on; the beginning = that was all.
    """

    purged: int = 0
    missing: list[LetterId] = field(default_factory=list)
    next: Place = BEGINNING


class Purging:
    """Removes dead letters. Deadlines are times of the running loop."""

    def __init__(self, store: DeadLetterStore) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._draining = False

    def drain(self) -> None:
        """Have calls by filter end soon; they say how to go on."""
        self._draining = True

    async def these(self, ids: Sequence[LetterId], deadline: float, *, dry_run: bool) -> Purged:
        """Remove some by their ids, or only see which there are."""
        outcome = Purged()
        remove = self._exists if dry_run else self._store.delete
        for group in groups(list(dict.fromkeys(ids)), AT_ONCE):
            done = await together(remove(each, deadline) for each in group)
            outcome.purged += sum(done)
            outcome.missing += [each for each, removed in zip(group, done, strict=True) if not removed]
        return outcome

    async def _exists(self, letter_id: LetterId, deadline: float) -> bool:
        return await self._store.get(letter_id, deadline) is not None

    async def matching(self, which: LetterFilter, begin: Place, deadline: float, *, dry_run: bool) -> Purged:
        """Remove those that a filter lets through, until all are or the deadline nears.

        An error ends it too, but is raised only when nothing was done before it.
        """
        if which == LetterFilter(which.stream, which.consumer):
            return await self._all(which, begin, deadline, dry_run=dry_run)
        outcome = Purged(next=begin)
        try:
            while await self._page(which, outcome, deadline, dry_run=dry_run):
                pass
        except (BrokerUnavailable, OutcomeUnknown):
            if outcome.next == begin:
                raise
        return outcome

    async def _all(self, which: LetterFilter, begin: Place, deadline: float, *, dry_run: bool) -> Purged:
        """Remove everything of a stream or a consumer: the broker does that in one go."""
        if begin.after:
            raise InvalidField("page_token", "is of no use with this filter, which needs one call only")
        remove = self._store.count if dry_run else self._store.purge
        return Purged(await remove(which.stream, which.consumer, deadline))

    async def _page(self, which: LetterFilter, outcome: Purged, deadline: float, *, dry_run: bool) -> bool:
        """Do a page; say whether to go on."""
        page = await self._store.page(which, outcome.next.after, _PAGE, PAGE_BYTES, deadline, with_data=False)
        for group in groups(page.letters, AT_ONCE):
            if self._draining or self._loop.time() >= deadline:
                return False
            if dry_run:
                outcome.purged += len(group)
            else:
                done = await together(self._store.delete(each.failure.id, deadline) for each in group)
                outcome.purged += sum(done)
            outcome.next = Place(group[-1].position)
        outcome.next = Place(page.after) if page.more else BEGINNING
        return page.more and not self._draining
