"""Counts of dead letters, without a broker."""

from __future__ import annotations

from typing import cast

import pytest

from windshift.server.admin import dead_letter_counts
from windshift.server.admin.dead_letter_counts import DeadLetterCounts
from windshift.server.events.dead_letters.store import DeadLetterStore


class Lagging:
    """A store with three dead letters, whose first count is of a replica that has yet to hear of one."""

    def __init__(self) -> None:
        self.counts = [2, 3]

    async def version(self, deadline: float) -> tuple[int, int]:
        return 3, 3

    async def count(self, stream: str, consumer: str, deadline: float) -> int:
        return self.counts.pop(0)


async def test_a_count_that_was_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is remembered for a while, also when nothing changes any more."""
    counts = DeadLetterCounts(cast("DeadLetterStore", Lagging()))
    monkeypatch.setattr(dead_letter_counts, "_KEPT", 1e9)
    for _ in range(2):
        assert await counts.of([("S", "c")], 1e9) == {("S", "c"): 2}
    monkeypatch.setattr(dead_letter_counts, "_KEPT", 0.0)
    assert await counts.of([("S", "c")], 1e9) == {("S", "c"): 3}
