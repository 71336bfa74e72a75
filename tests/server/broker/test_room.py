"""What all consume calls together may have on its way from the broker."""

from __future__ import annotations

import random
from contextvars import copy_context

import pytest

from windshift.nats.budget import MIB
from windshift.nats.jetstream.pulling import PullEnded
from windshift.server.broker.asking import asking
from windshift.server.broker.room import LEAST, MOST, SHARED, WHOLE, Part, PullRoom
from windshift.server.events.consuming.flow import LARGEST_LIMIT, SLACK, SMALLEST_LIMIT, PullPacer, Window

TOLERATED = 64 * MIB
LARGE = int(LARGEST_LIMIT * SLACK) - 1
SMALL = int(SMALLEST_LIMIT * SLACK) - 1


def part(room: PullRoom, asker: str) -> Part:
    """Return the part of another call of somebody."""
    return copy_context().run(_part, room, asker)


def _part(room: PullRoom, asker: str) -> Part:
    asking.set(asker)
    return room.part()


def test_there_is_enough_for_a_few() -> None:
    """Each asks for what it wants, and gives back what came."""
    room = PullRoom()
    some = [part(room, "a") for _ in range(30)]
    assert {each.ask(LARGE) for each in some} == {LARGE}
    for each in some:
        each.came(LARGE)
    assert room.used == 0


@pytest.mark.parametrize("askers", [1, 2, 5, 1000])
def test_the_broker_tolerates_what_comes_at_once(askers: int) -> None:
    """However many calls there are, whose, and however much they want; none is left with nothing."""
    room, rand = PullRoom(), random.Random(1)
    some = [part(room, f"{rand.randrange(askers)}") for _ in range(10_000)]
    for each in some:
        assert each.ask(rand.choice((SMALL, LARGE))) >= LEAST
        for _ in range(3):
            each.ask(rand.choice((SMALL, LARGE)))
    assert room.used + WHOLE < TOLERATED
    for each in some:
        each.leave()
    assert room.used == 0


def test_who_has_few_calls_is_not_held_up_by_who_has_many() -> None:
    """It gets what it wants when others have taken all there is."""
    room = PullRoom()
    for asker in ("a", "b", "c"):
        for _ in range(3_000):
            part(room, asker).ask(LARGE)
    assert room.used > MOST - LARGE
    honest = [part(room, "honest") for _ in range(4)]
    assert [each.ask(LARGE) for each in honest] == [LARGE] * 4


def test_many_calls_of_one_share_what_is_his() -> None:
    """When all are there each may have its part, not only those that came first."""
    room = PullRoom()
    some = [part(room, "a") for _ in range(2_000)]
    for each in some:
        each.ask(LARGE)
    for each in some:
        each.clear()
    granted = [each.ask(LARGE) for each in some]
    assert min(granted) >= SHARED // 2_000


def test_large_events_come_one_after_the_other() -> None:
    """A call that gets no room for one waits for it; what comes for one that is stalled goes to others."""
    room = PullRoom(lambda: WHOLE // 4)
    pacers = [_beyond_its_limit(room) for _ in range(4)]
    pulls = [pacer.next(0.0, busy=False) for pacer, _ in pacers]
    assert [pull is not None and pull.no_wait for pull in pulls] == [True, True, False, False]  # half of all
    assert [pacer.wants_room for pacer, _ in pacers] == [False, False, True, True]
    first, window = pacers[0]
    window.forget_requested(1)
    first.pause()
    share = room.whole.take_now(room.largest)
    assert share is not None
    third = pacers[2][0]
    third.take_room(share)
    assert third.next(0.0, busy=False) is not None
    for pacer, _ in pacers:
        pacer.leave()
    assert (room.used, room.whole.used) == (0, 0)


def _beyond_its_limit(room: PullRoom) -> tuple[PullPacer, Window]:
    window = Window(8, 30.0)
    pacer = PullPacer(window, 10.0, room)
    pacer.next(0.0, busy=False)
    pacer.ended(PullEnded(8, SMALL, too_large=True))
    return pacer, window
