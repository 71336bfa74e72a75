"""What happened to events, counted."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.events.test_window import admit, window
from windshift.server.domain import errors
from windshift.server.events.consuming.flow import Window
from windshift.server.events.counts import CANCELLED, PUBLISH_FAILURES, UNEXPECTED, Counts
from windshift.server.events.model import ConsumerKey, StreamSeq


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.StreamFull(), "STREAM_FULL"),
        (errors.InvalidField("subject", "is empty"), "INVALID_FIELD"),
        (asyncio.CancelledError(), CANCELLED),
        (RuntimeError(), UNEXPECTED),
    ],
)
def test_failures(error: BaseException, reason: str) -> None:
    """A publish that failed is counted by its reason; all reasons are there from the start."""
    counts = Counts()
    assert counts.failures == dict.fromkeys(PUBLISH_FAILURES, 0)
    counts.publish_failed(error)
    assert counts.failures == {**dict.fromkeys(PUBLISH_FAILURES, 0), reason: 1}


@pytest.mark.parametrize(
    "error",
    [errors.PermissionDenied("ann", "publish", "publish", "a", "none"), errors.QuotaExceeded("max_rps", 1)],
)
def test_denials(error: BaseException) -> None:
    """A publish that was denied is counted there, as it is where it never gets here."""
    counts = Counts()
    counts.publish_failed(error)
    assert counts.failures == dict.fromkeys(PUBLISH_FAILURES, 0)


def test_holdings() -> None:
    """What clients hold is added up; what expired is that of all consumers."""
    counts, first, second = Counts(), window(timeout=1), window(timeout=1)
    counts.holdings |= {first, second}
    admit(first, 1)
    admit(first, 2)
    admit(second, 1)
    assert (counts.in_flight, counts.expired) == (3, 0)
    counts.latencies.of(ConsumerKey("S", "c"), durable=True, owner="").expired = 2
    counts.latencies.of(ConsumerKey("S", "d"), durable=True, owner="").expired = 1
    counts.holdings.discard(first)
    assert (counts.in_flight, counts.expired) == (1, 3)


def test_a_delivery_expires_once() -> None:
    """By time, by its answer coming late, or when the event is delivered again."""
    expired: list[int] = []
    held = Window(10, 1, lambda seq, _: expired.append(seq))
    by_time, late, again = admit(held, 1), admit(held, 2), admit(held, 3)
    late.unanswered = 1
    held.admit(StreamSeq(3), b"reply", 2, 0.5)
    assert expired == [3]
    held.expire(1.2)
    assert expired == [3, 1]
    late.unanswered = 0
    held.drop(StreamSeq(2), late)
    held.drop(StreamSeq(2), late)
    held.drop(StreamSeq(3), again)
    held.drop(StreamSeq(1), by_time)
    assert expired == [3, 1, 2]
    held.clear()
    assert expired == [3, 1, 2]
