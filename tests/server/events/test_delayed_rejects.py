from __future__ import annotations

from math import inf

import pytest

from windshift.nats.jetstream.api import ConsumerState
from windshift.server.events.consuming.consumer_state import (
    INTERVAL,
    LARGEST_ACK_PENDING,
    LONG_NS,
    OFTEN,
    DelayedRejects,
    raised_limit,
)


@pytest.mark.parametrize(
    ("most", "unsettled", "raised"),
    [
        (20_000, 9_999, None),
        (20_000, 10_000, 80_000),
        (20_000, 20_000, 80_000),
        (800_000, 700_000, LARGEST_ACK_PENDING),
        (LARGEST_ACK_PENDING, LARGEST_ACK_PENDING, None),
        (-1, 10**9, None),
        (0, 0, None),
        (None, 5, None),
        (1, 1, None),
        (19_999, 19_999, None),
    ],
)
def test_places_are_raised_at_half(most: int | None, unsettled: int, raised: int | None) -> None:
    """A consumer whose places are half used gets four times as many, within the bound."""
    state = ConsumerState({"max_ack_pending": most}, "", 0, unsettled, 0, 0)
    assert raised_limit(state) == raised


def test_short_delays_are_not_watched() -> None:
    """Rejects whose events come back within a second need no look at the consumer."""
    slots = DelayedRejects()
    for _ in range(2 * OFTEN):
        slots.add(LONG_NS - 1, 0.0)
    assert slots.due == inf


def test_long_delays_are_watched_until_they_are_over() -> None:
    """While events wait long the consumer is looked at every few seconds, and once after."""
    slots = DelayedRejects()
    slots.add(8 * 10**9, 0.0)
    assert slots.due == INTERVAL
    assert not slots.look(INTERVAL - 0.1)
    assert slots.look(INTERVAL)
    assert slots.due == 2 * INTERVAL
    assert slots.look(2 * INTERVAL)
    assert slots.due == inf


def test_many_delays_are_looked_at_at_once() -> None:
    """After many delayed rejects nobody waits for the interval."""
    slots = DelayedRejects()
    for _ in range(OFTEN):
        slots.add(3600 * 10**9, 1.0)
    assert slots.due == 1.0
