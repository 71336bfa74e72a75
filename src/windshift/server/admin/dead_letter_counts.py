"""Counts of dead letters by consumer and by stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from windshift.server.background.batches import for_each
from windshift.server.events.dead_letters.store import DeadLetterStore

_AT_ONCE: Final = 32
_MOST: Final = 20_000
"""Counts that are remembered."""
_KEPT: Final = 30.0
"""Seconds after which they are counted anew: a replica that lags behind may have given an old count."""

Whose = tuple[str, str]
"""A stream and a consumer; an empty consumer is all of the stream's."""


class DeadLetterCounts:
    """Counts dead letters, and remembers the counts for a while, or until there are others."""

    def __init__(self, store: DeadLetterStore) -> None:
        self._store = store
        self._version: tuple[int, int] | None = None
        self._known: dict[Whose, int] = {}
        self._since = 0.0

    async def of(self, whose: Sequence[Whose], deadline: float) -> dict[Whose, int]:
        """Count those of some consumers or streams; raise `BrokerUnavailable`."""
        version = await self._store.version(deadline)
        if version is None:
            return dict.fromkeys(whose, 0)
        now = asyncio.get_running_loop().time()
        if version != self._version or len(self._known) > _MOST or now - self._since >= _KEPT:
            self._version, self._known, self._since = version, {}, now
        known = self._known  # another one, once they are counted anew
        new = [each for each in whose if each not in known]
        counts = await for_each(new, lambda each: self._store.count(*each, deadline), at_once=_AT_ONCE)
        known.update(zip(new, counts, strict=True))
        return {each: known[each] for each in whose}
