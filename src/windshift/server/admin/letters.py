"""Counts of dead letters by consumer and by stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from windshift.server.background.batches import for_each
from windshift.server.events.dead_letters.store import DeadLetterStore

_AT_ONCE: Final = 32
_MOST: Final = 20_000
"""Counts that are remembered."""

Whose = tuple[str, str]
"""A stream and a consumer; an empty consumer is all of the stream's."""


class LetterCounts:
    """Counts dead letters, and remembers the counts until one is added or removed anywhere."""

    def __init__(self, store: DeadLetterStore) -> None:
        self._store = store
        self._version: tuple[int, int] | None = None
        self._known: dict[Whose, int] = {}

    async def of(self, whose: Sequence[Whose], deadline: float) -> dict[Whose, int]:
        """Count those of some consumers or streams; raise `BrokerUnavailable`."""
        version = await self._store.version(deadline)
        if version is None:
            return dict.fromkeys(whose, 0)
        if version != self._version or len(self._known) > _MOST:
            self._version, self._known = version, {}
        known = self._known  # another one, once something changes
        new = [each for each in whose if each not in known]
        counts = await for_each(new, lambda each: self._store.count(*each, deadline), at_once=_AT_ONCE)
        known.update(zip(new, counts, strict=True))
        return {each: known[each] for each in whose}
