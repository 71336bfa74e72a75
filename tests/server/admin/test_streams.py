"""Lists of streams, without a broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from windshift.nats import JetStreamError
from windshift.nats.jetstream import codes
from windshift.server.admin.letters import LetterCounts, Whose
from windshift.server.admin.look import Look, StreamRow, StreamsSeen
from windshift.server.admin.streams import StreamAdmin, StreamOrder, StreamQuery

ROWS = [StreamRow(f"s{n:03}", (), "", n, n, n, n, 0, True, 0.0, 0.0) for n in range(600)]
SEEN = StreamsSeen(0.0, ROWS, {row.name: row for row in ROWS}, frozenset())


class Gone:
    """A broker whose streams were deleted meanwhile."""

    async def stream_info(self, name: str, deadline: float) -> dict[str, Any]:
        raise JetStreamError(codes.STREAM_NOT_FOUND, 404, "gone", name)


class Counting:
    """Notes what is counted."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def of(self, whose: list[Whose], deadline: float) -> dict[Whose, int]:
        self.asked.append([stream for stream, _ in whose])
        return dict.fromkeys(whose, 0)


async def seen(deadline: float) -> StreamsSeen:
    """Return all streams, as a look does."""
    return SEEN


@pytest.mark.parametrize(
    ("order", "looks"), [(StreamOrder.NAME, 1), (StreamOrder.EVENTS, 1), (StreamOrder.DEAD_LETTERS, 2)]
)
async def test_a_page_looks_at_each_row_once(order: StreamOrder, looks: int) -> None:
    """Only to count dead letters it is known beforehand which streams are listed."""
    views: list[str] = []

    def may_view(name: str) -> bool:
        views.append(name)
        return name != "s100"

    letters = Counting()
    admin = StreamAdmin(
        cast("Any", Gone()), cast("Look", SimpleNamespace(seen=seen)), cast("LetterCounts", letters)
    )
    page = await admin.page(StreamQuery(find="s1", order=order), may_view, 10, None, 1e9)
    assert (page.total, page.after) == (99, (110 if order is StreamOrder.EVENTS else 0, "s110"))
    assert len(views) == 100 * looks
    assert ("s100" in letters.asked[0]) is False
