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
    """The leader of a stream without direct gets. Event `n` has the subject `n` modulo 16."""

    def __init__(self) -> None:
        self.asked = 0

    async def stream_info(self, _stream: str, _deadline: float) -> dict[str, Any]:
        return {"state": {"first_seq": 1, "last_seq": EVENTS}, "config": {}}

    async def message(self, _stream: str, query: dict[str, Any], _deadline: float) -> StoredMessage | None:
        self.asked += 1
        await asyncio.sleep(ROUND_TRIP)
        for sequence in range(query["seq"], EVENTS + 1):
            subject = SUBJECTS[sequence % 16]
            if query["next_by_subj"] in (">", subject):
                return StoredMessage(subject, sequence, b"", b"", Time(0, 0))
        return None


async def seen(_deadline: float) -> Any:
    """Look at no stream."""
    return SimpleNamespace(named={}, mirrored=frozenset())


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("subjects", [(), SUBJECTS])
async def test_a_page_ends_in_time(subjects: tuple[str, ...], *, backwards: bool) -> None:
    """However far the leader is, a page looks no longer than it should, and each one goes on."""
    leader = Leader()
    reader = EventReader(cast("JetStream", leader), cast("Look", SimpleNamespace(seen=seen)))
    begin: Any = AtEnd() if backwards else AtStart()
    found: list[int] = []
    while begin is not None:
        leader.asked = 0
        page = await reader.read(Selection("S", subjects), begin, 500, 1e9, backwards=backwards)
        assert page.events
        assert leader.asked <= 0.2 / ROUND_TRIP + 2 * max(1, len(subjects))
        found += [message.sequence for message in page.events]
        begin = page.next
    assert found == list(range(1, EVENTS + 1))[:: -1 if backwards else 1]


def far_away(monkeypatch: pytest.MonkeyPatch) -> EventReader:
    """Have a leader to which a question takes so long that one for each subject takes a page's time."""
    monkeypatch.setattr(__name__ + ".ROUND_TRIP", 0.02)
    return EventReader(cast("JetStream", Leader()), cast("Look", SimpleNamespace(seen=seen)))


async def test_a_page_from_far_away_has_more_than_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the first event of each subject takes all of its time."""
    reader = far_away(monkeypatch)
    begin: Any = AtStart()
    page = await reader.read(Selection("S", SUBJECTS), begin, 500, 1e9, backwards=False)
    assert len(page.events) > 1


async def test_a_page_backwards_from_far_away_gets_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it looks for may lie far behind, and each page begins with few ids."""
    reader = far_away(monkeypatch)
    monkeypatch.setattr(events_module, "_LOOK", 0.0)
    end: Any = AtEnd()
    page = await reader.read(Selection("S", ("s.none",)), end, 500, 1e9, backwards=True)
    assert (page.events, page.next) == ([], None)
