"""The window: what is held, what times out, and what there is room to ask for."""

from __future__ import annotations

from math import inf

import pytest

from windshift.server.events.consuming.flow import InFlight, Window
from windshift.server.events.model import StreamSeq


def window(size: int = 8, timeout: float = 30.0) -> Window:
    """Make a window."""
    return Window(size, timeout)


MANY = 10_000


def test_a_timeout_that_is_shortened() -> None:
    """What is held by the shorter one is let go in time, though what is held by the longer one stays."""
    two = window(2, 60.0)
    admit(two, 1, now=0.0)
    two.set_timeout(5.0)
    admit(two, 2, now=1.0)
    assert two.due < 7.0
    two.expire(20.0)
    assert two.get(StreamSeq(2)) is None
    assert two.due == two.get(StreamSeq(1)).deadline  # type: ignore[union-attr]  # it is held
    two.expire(70.0)
    assert len(two) == 0


def admit(window: Window, seq: int, now: float = 0.0, attempt: int = 1) -> InFlight:
    """Let a delivery in."""
    window.forget_requested(1)
    held = window.admit(StreamSeq(seq), b"reply.%d.%d" % (seq, attempt), attempt, now)
    assert held is not None
    return held


@pytest.mark.parametrize("size", [1, 2, 3, 50, 10_000])
def test_opens_at_once(size: int) -> None:
    """An empty window asks for all that it can hold, without a ramp."""
    assert window(size).wanted(MANY, busy=False) == size


def test_asks_for_nothing_while_full() -> None:
    """What is asked for and what is held share the window."""
    full = window(4)
    full.requested += 2
    admit(full, 1)
    full.requested += 1
    assert full.requested + len(full) == 3
    full.requested += 1
    assert full.wanted(MANY, busy=False) == 0


def test_waits_for_a_quarter() -> None:
    """With requests at the broker, a new one goes out when a quarter of the window is free."""
    eight = window(8)
    eight.requested += 7
    assert eight.wanted(MANY, busy=False) == 0
    eight.forget_requested(1)
    assert eight.wanted(MANY, busy=False) == 2


def test_asks_for_little_when_the_broker_has_no_request() -> None:
    """Free room is never left unused for good."""
    eight = window(8)
    eight.requested += 7
    for seq in range(1, 8):
        admit(eight, seq)
    assert eight.wanted(MANY, busy=False) == 1


def test_asks_for_little_only_when_no_more_room_is_about_to_come() -> None:
    """While settlements are under way, a small request waits for their room."""
    eight = window(8)
    eight.requested += 7
    for seq in range(1, 8):
        admit(eight, seq)
    assert eight.wanted(MANY, busy=True) == 0


def test_refuses_what_was_not_asked_for_and_has_no_room() -> None:
    """A delivery beyond the window is not held."""
    one = window(1)
    one.requested += 1
    admit(one, 1)
    assert not one.has_room
    assert one.admit(StreamSeq(2), b"reply", 1, 0.0) is None
    assert len(one) == 1


def test_a_later_delivery_takes_the_place_of_an_earlier_one() -> None:
    """An id means its latest delivery, and takes one place."""
    one = window(1)
    first = admit(one, 1)
    second = admit(one, 1, attempt=2)
    assert one.get(StreamSeq(1)) is second
    one.remove(StreamSeq(1), first)
    assert one.get(StreamSeq(1)) is second


def test_times_out_a_little_before_the_broker_does() -> None:
    """A delivery is nobody's for the last moment: client and broker must not see it differently."""
    some = window(timeout=30)
    held = admit(some, 1, now=100.0)
    assert held.deadline == pytest.approx(129.95)
    assert held.is_valid(129.9)
    assert not held.is_valid(129.95)


def test_short_timeouts_give_away_little() -> None:
    """The margin is at most a tenth of the timeout."""
    assert admit(window(timeout=0.1), 1).deadline == pytest.approx(0.09)


def test_expired_deliveries_make_room() -> None:
    """What timed out is let go, and what has time left is not."""
    some = window(timeout=10)
    admit(some, 1, now=0)
    admit(some, 2, now=5)
    assert some.due == pytest.approx(9.95)
    some.expire(10)
    assert len(some) == 1
    assert some.due == pytest.approx(14.95)
    some.expire(20)
    assert len(some) == 0
    assert some.due == inf


def test_what_waits_for_an_answer_does_not_expire() -> None:
    """A message under way decides about its delivery when it is answered."""
    some = window(timeout=10)
    held = admit(some, 1)
    held.unanswered = 1
    some.expire(11)
    assert some.get(StreamSeq(1)) is held
    assert held.is_valid(11)


def test_prolonging_restarts_the_timeout() -> None:
    """A ping counts from when it was sent, and never shortens."""
    some = window(timeout=10)
    held = admit(some, 1, now=0)
    admit(some, 2, now=1)
    some.prolong(StreamSeq(1), held, 8)
    assert held.deadline == pytest.approx(17.95)
    some.prolong(StreamSeq(1), held, 2)
    assert held.deadline == pytest.approx(17.95)
    some.expire(12)
    assert len(some) == 1


def test_lost_requests_are_asked_for_again() -> None:
    """What the broker no longer has counts no more."""
    some = window(4)
    some.requested += 4
    some.lose_requests()
    assert some.wanted(MANY, busy=False) == 4


def test_clearing_returns_what_was_held() -> None:
    """An emptied window holds and awaits nothing."""
    some = window(4)
    some.requested += 3
    held = admit(some, 1)
    assert some.clear() == [(1, held)]
    assert (len(some), some.requested, some.due) == (0, 0, inf)
