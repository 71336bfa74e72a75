"""The window of an open call, as clients change it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support.client import Client
from tests.wire.consuming import calling, ensure_consumer, subscribed

Unique = Callable[[], str]


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream with a consumer ``c``."""
    name = client.ensure_stream(unique())
    ensure_consumer(client, name)
    return name


def publish(client: Client, stream: str, count: int) -> None:
    """Publish events."""
    for _ in range(count):
        client.publish(f"{stream}.x", "text")


def test_nothing_more(client: Client, stream: str) -> None:
    """A limit of 0 ends deliveries, what is held can be settled, and nothing lost an attempt."""
    publish(client, stream, 5)
    with subscribed(client, stream, 3) as call:
        held = [event.id for event in call.events(3)]
        call.limit(0)
        call.ping()
        assert call.told() == ("ping", [], [], [])
        call.ack(*held)
        assert call.told() == ("ack", held, [], [])
        call.nothing()
        call.half_close()
        assert call.end() is None
    with subscribed(client, stream) as call:
        assert [(event.id, event.delivery_attempt) for event in call.events(2)] == [(4, 1), (5, 1)]


def test_what_is_on_its_way(client: Client, stream: str) -> None:
    """It arrives before a later command is confirmed, and nothing after that; the server wastes no attempt.

    NATS itself spends one on what it is sending just as its request is taken back: 3 times in 3,000.
    """
    expected = 1
    wasted = 0
    for number in range(20):
        publish(client, stream, 3)
        with subscribed(client, stream, 50) as call:
            begun = time.monotonic()
            call.limit(0)
            call.ping()
            assert call.told() == ("ping", [], [], [])
            if time.monotonic() - begun > 1:
                pytest.skip("so busy that the server may not have waited for what was on its way")
            came = []
            while not call._events.empty():
                came.append(call.event())
            publish(client, stream, 1)
            call.nothing(0.05 if number else 0.3)
            assert [each.id for each in came] == list(range(expected, expected + len(came)))
            expected += len(came)
            wasted += any(each.delivery_attempt > 1 for each in came)
            call.ack(*(each.id for each in came))
            call.told()
            call.half_close()
            assert call.end() is None
    assert wasted <= 4, "of 20 rounds"


def test_less_and_more(client: Client, stream: str) -> None:
    """What is held stays when the window gets smaller, and counts; a larger one is filled."""
    publish(client, stream, 12)
    with subscribed(client, stream, 4) as call:
        assert [event.id for event in call.events(4)] == [1, 2, 3, 4]
        call.limit(2)
        call.ack(1, 2)
        assert call.told() == ("ack", [1, 2], [], [])
        call.nothing()
        call.ack(3)
        assert call.event().id == 5
        call.nothing()
        call.limit(6)
        assert [event.id for event in call.events(4)] == [6, 7, 8, 9]
        call.nothing()
        call.limit(0)
        call.limit(7)
        assert call.event().id == 10


def test_too_many(client: Client, stream: str) -> None:
    """A window may have 10,000 events at most."""
    with subscribed(client, stream) as call:
        call.limit(10_001)
        refusal = call.end()
    assert refusal is not None
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": "limit.max_processing_events"}


def test_before_the_subscription(client: Client) -> None:
    """The first message has to subscribe."""
    with calling(client) as call:
        call.limit(1)
        refusal = call.end()
    assert refusal is not None
    assert refusal.reason == "SUBSCRIBE_EXPECTED"
