"""Reading events from a leader, one at a time, without a broker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

import windshift.server.admin.events as events_module
from windshift.nats.jetstream.api import JetStream, StoredMessage
from windshift.nats.times import Time
from windshift.server.admin.events import EventReader, Selection
from windshift.server.admin.look import Look
from windshift.server.events.specs import AtEnd, AtStart

EVENTS = 100
SUBJECTS = tuple(f"s.{number}" for number in range(16))
ROUND_TRIP = 0.005


class Leader:
    """The leader of a stream without direct gets, and its clock. Event `n` has the subject `n` modulo 16."""

    def __init__(self, round_trip: float = ROUND_TRIP) -> None:
        self.asked = 0
        self._round_trip = round_trip
        self._now = 0.0

    def time(self) -> float:
        """Return the time: it goes on while questions are under way."""
        return self._now

    async def stream_info(self, _stream: str, _deadline: float) -> dict[str, Any]:
        return {"state": {"first_seq": 1, "last_seq": EVENTS}, "config": {}}

    async def message(self, _stream: str, query: dict[str, Any], _deadline: float) -> StoredMessage | None:
        self.asked += 1
        answered = self._now + self._round_trip
        await asyncio.sleep(0)
        self._now = max(self._now, answered)
        for sequence in range(query["seq"], EVENTS + 1):
            subject = SUBJECTS[sequence % 16]
            if query["next_by_subj"] in (">", subject):
                return StoredMessage(subject, sequence, b"", b"", Time(0, 0))
        return None


async def seen(_deadline: float) -> Any:
    """Look at no stream."""
    return SimpleNamespace(named={}, mirrored=frozenset())


def reading(leader: Leader) -> EventReader:
    """Have events read from a leader, by its clock."""
    reader = EventReader(cast("JetStream", leader), cast("Look", SimpleNamespace(seen=seen)))
    reader._loop = cast("asyncio.AbstractEventLoop", leader)
    return reader


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("subjects", [(), SUBJECTS])
async def test_a_page_ends_in_time(subjects: tuple[str, ...], *, backwards: bool) -> None:
    """However far the leader is, a page looks no longer than it should, and each one goes on."""
    leader = Leader()
    reader = reading(leader)
    begin: Any = AtEnd() if backwards else AtStart()
    found: list[int] = []
    while begin is not None:
        leader.asked = 0
        page = await reader.read(Selection("S", subjects), begin, 500, 1e9, backwards=backwards)
        assert page.events or page.next is None
        assert leader.asked <= 0.2 / ROUND_TRIP + 2 * max(1, len(subjects))
        found += [message.sequence for message in page.events]
        begin = page.next
    assert found == list(range(1, EVENTS + 1))[:: -1 if backwards else 1]


FAR_AWAY = 0.02
"""Seconds that a question takes, so that one for each subject takes a page's time."""


async def test_a_page_from_far_away_has_more_than_one_event() -> None:
    """Also where the first event of each subject takes all of its time."""
    reader = reading(Leader(FAR_AWAY))
    begin: Any = AtStart()
    page = await reader.read(Selection("S", SUBJECTS), begin, 500, 1e9, backwards=False)
    assert len(page.events) > 1


async def test_a_page_backwards_from_far_away_gets_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it looks for may lie far behind, and each page begins with few ids."""
    reader = reading(Leader(FAR_AWAY))
    monkeypatch.setattr(events_module, "_LOOK", 0.0)
    end: Any = AtEnd()
    page = await reader.read(Selection("S", ("s.none",)), end, 500, 1e9, backwards=True)
    assert (page.events, page.next) == ([], None)
