"""Pull requests: how many, how large, and when again."""

from __future__ import annotations

from math import inf

import pytest

from windshift.nats.jetstream.pulling import PullEnded
from windshift.nats.times import Time
from windshift.server.events.consuming.flow import (
    BUFFERED,
    LARGEST_LIMIT,
    PAUSE,
    SLACK,
    SMALLEST_LIMIT,
    STUCK,
    Pull,
    PullPacer,
    Window,
)
from windshift.server.events.deliveries import Delivery
from windshift.server.events.model import StreamSeq

SILENCE = 10.0
SMALL = int(SMALLEST_LIMIT * SLACK) - 1
LARGE = int(LARGEST_LIMIT * SLACK) - 1


def pulls(size: int = 8) -> tuple[PullPacer, Window]:
    """Make an empty window and what asks for it."""
    window = Window(size, 30.0)
    return PullPacer(window, SILENCE), window


def delivery(size: int, pending: int = 0) -> Delivery:
    """Make a delivery of so many bytes, after which the consumer has so many left."""
    reply = b"$JS.ACK.S.c.1.1.1.1.%d" % pending
    return Delivery(StreamSeq(1), "s", "", bytes(size), Time(0, 0), None, None, None, 1, reply, 0)


def take(some: PullPacer, window: Window, *deliveries: Delivery, now: float = 0.0) -> None:
    """Let deliveries arrive, and the client settle them at once."""
    some.arrived(deliveries, now)
    for each in deliveries:
        window.forget_requested(1)
        some.delivered([each])


def test_the_first_request_is_for_the_whole_window() -> None:
    """It is limited in bytes, as long as nothing is known of the client."""
    some, _ = pulls(8)
    assert some.next(0.0, busy=False) == Pull(8, SMALL)
    assert some.next(0.0, busy=False) is None


def test_a_client_that_takes_much_is_sent_more_at_once() -> None:
    """The limit grows with what the client settled, up to a bound."""
    some, window = pulls(2)
    for _ in range(500):
        some.next(0.0, busy=False)
        take(some, window, delivery(1000))
    pull = some.next(0.0, busy=False)
    assert pull is not None
    assert pull.max_bytes == LARGE


def hand(some: PullPacer, window: Window, number: int, size: int) -> None:
    """Let so many deliveries arrive, which the client is handed and does not settle."""
    for seq in range(len(window) + 1, len(window) + number + 1):
        some.next(0.0, busy=False)
        some.arrived([delivery(size)], 0.0)
        window.forget_requested(1)
        held = window.admit(StreamSeq(seq), b"reply", 1, 0.0)
        assert held is not None
        some.delivered([delivery(size)])
    window.lose_requests()


def test_a_client_that_settles_nothing_is_sent_little() -> None:
    """What it was handed may lie in buffers on the way to it."""
    some, window = pulls(1000)
    hand(some, window, 500, 1000)
    pull = some.next(0.0, busy=False)
    assert pull is not None
    assert pull.max_bytes == SMALL
    window.clear()
    some.delivered([delivery(1000)])
    pull = some.next(0.0, busy=False)
    assert pull is not None
    assert pull.max_bytes == LARGE


def test_a_client_that_holds_more_than_buffers_take_is_sent_more_at_once() -> None:
    """It settles nothing before it has many, and has read most of them; after a stall it is sent little."""
    some, window = pulls(10_000)
    hand(some, window, (BUFFERED + 4 * LARGEST_LIMIT) // 1000, 1000)
    pull = some.next(0.0, busy=False)
    assert pull is not None
    assert pull.max_bytes == LARGE
    some.stalled()
    hand(some, window, BUFFERED // 2000, 1000)
    pull = some.next(0.0, busy=False)
    assert pull is not None
    assert pull.max_bytes == SMALL


def test_a_client_that_stops_reading_is_sent_little() -> None:
    """After a stall the limit is small again."""
    some, window = pulls(2)
    for _ in range(200):
        some.next(0.0, busy=False)
        take(some, window, delivery(1000))
    some.stalled()
    pull = some.next(0.0, busy=False)
    assert pull is not None
    assert pull.max_bytes == SMALL


@pytest.mark.parametrize("size", [1, 100, 1000, 5000])
def test_so_many_are_asked_for_as_fit_the_limit(size: int) -> None:
    """By the size of what came before, a request ends by its number, well before its limit in bytes."""
    some, window = pulls(10_000)
    some.next(0.0, busy=False)
    window.lose_requests()
    for _ in range(20):
        some.arrived([delivery(size)], 0.0)
    pull = some.next(0.0, busy=False)
    assert pull is not None
    assert SMALLEST_LIMIT / 2 < pull.batch * (size + 200) <= SMALLEST_LIMIT * 1.1
    assert pull.batch * size < pull.max_bytes / 1.2
    assert some.next(0.0, busy=False) is None


def test_growing_events_are_asked_for_more_carefully() -> None:
    """What comes is taken for what will come, large events above all."""
    some, window = pulls(1000)
    batches = []
    for size in (100, 4000, 100, 100):
        window.lose_requests()
        some.arrived([delivery(size)], 0.0)
        pull = some.next(0.0, busy=False)
        assert pull is not None
        batches.append(pull.batch)
    assert batches[0] > batches[3] > batches[2] > batches[1] == 3


def test_a_request_of_which_nothing_comes_is_made_anew() -> None:
    """The broker has more, was asked for it, and sends nothing: that is seen to once after each delivery."""
    some, window = pulls(8)
    some.next(0.0, busy=False)
    take(some, window, delivery(10, pending=5), now=1.0)
    assert some.due == 1.0 + STUCK
    assert not some.stuck(1.0 + STUCK / 2)
    assert some.stuck(1.0 + STUCK)
    assert not some.stuck(2.0)


def test_nothing_more_is_nothing_to_wait_for() -> None:
    """A consumer without further events, or a window without room, is no reason to ask anew."""
    some, window = pulls(8)
    some.next(0.0, busy=False)
    take(some, window, delivery(10, pending=0), now=1.0)
    assert not some.stuck(1.0 + STUCK)
    full, window = pulls(1)
    full.next(0.0, busy=False)
    full.arrived([delivery(10, pending=5)], 1.0)
    window.forget_requested(1)
    window.admit(StreamSeq(1), b"reply", 1, 1.0)
    assert not full.stuck(1.0 + STUCK)


ALONE = Pull(1, 0, no_wait=True)


def test_an_event_beyond_the_limit_is_asked_for_alone() -> None:
    """A request that could not bring even one event is followed by some without a limit."""
    some, window = pulls()
    some.next(0.0, busy=False)
    some.ended(PullEnded(8, SMALLEST_LIMIT, True))
    assert some.next(0.0, busy=False) == ALONE
    assert some.next(0.0, busy=False) is None
    take(some, window, delivery(50_000, pending=2))
    assert some.next(0.0, busy=True) == ALONE
    take(some, window, delivery(100, pending=1))
    pull = some.next(0.0, busy=False)
    assert pull is not None
    assert not pull.no_wait


@pytest.mark.parametrize("is_gone", [False, True])
def test_after_the_last_large_event_a_request_waits_again(is_gone: bool) -> None:
    """Also when somebody else got it: what is asked for alone does not wait for others to come."""
    some, window = pulls()
    some.next(0.0, busy=False)
    some.ended(PullEnded(8, SMALLEST_LIMIT, True))
    assert some.next(0.0, busy=False) == ALONE
    if is_gone:
        some.ended(PullEnded(1, 0, False))
    else:
        take(some, window, delivery(50_000))
    pull = some.next(0.0, busy=False)
    assert pull is not None
    assert not pull.no_wait


def test_an_ended_request_gives_back_what_it_had_left() -> None:
    """After the broker ended a request, the rest is asked for anew."""
    some, window = pulls()
    some.next(0.0, busy=False)
    some.ended(PullEnded(8, 0, False))
    assert window.requested == 0
    assert some.next(0.0, busy=False) == Pull(8, SMALL)


def test_a_request_that_was_not_sent_is_taken_back() -> None:
    """Without a connection nothing is outstanding."""
    some, window = pulls()
    pull = some.next(0.0, busy=False)
    assert pull is not None
    some.unsent(pull)
    assert window.requested == 0


def test_silence_means_that_requests_were_lost() -> None:
    """A sign of life restarts the wait; without one everything is asked for again."""
    some, window = pulls()
    assert some.due == inf
    some.next(0.0, busy=False)
    assert some.due == SILENCE
    some.heard(5.0)
    assert not some.tick(SILENCE)
    assert some.due == 5.0 + SILENCE
    assert some.tick(5.0 + SILENCE)
    assert window.requested == 0


def test_silence_is_told_without_a_request_too() -> None:
    """With a full window nothing is asked for, and only a look at the consumer tells whether it is there."""
    some, window = pulls(1)
    some.next(0.0, busy=False)
    window.forget_requested(1)
    window.admit(StreamSeq(1), b"reply", 1, 0.0)
    assert some.due == SILENCE
    assert some.tick(SILENCE)
    assert some.due == 2 * SILENCE
    assert not some.tick(1.5 * SILENCE)


def test_a_refused_request_is_repeated_after_a_pause() -> None:
    """A broker that takes no requests is not asked all the time."""
    some, _ = pulls()
    some.next(0.0, busy=False)
    some.refused(1.0)
    assert some.next(1.5, busy=False) is None
    assert some.due == 1.0 + PAUSE
    some.tick(1.0 + PAUSE)
    assert some.next(1.0 + PAUSE, busy=False) == Pull(8, SMALL)


def test_a_broker_that_ends_every_request_at_once() -> None:
    """It is asked less and less often, and as usual again when there was something."""
    some, window = pulls()
    now, asked = 0.0, 0
    while now < 60:
        pull = some.next(now, busy=False)
        if pull is not None:
            asked += 1
            some.heard(now)
            some.ended(PullEnded(pull.batch, pull.max_bytes, False))
        now += 0.001
        some.tick(now)
    assert asked < 100
    while some.next(now, busy=False) is None:
        now += 0.1
        some.tick(now)
    take(some, window, *(delivery(10) for _ in range(8)), now=now)
    assert some.next(now, busy=False) is not None
