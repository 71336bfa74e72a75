"""What happened to events, counted."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.events.test_window import admit, window
from windshift.server.domain import errors
from windshift.server.events.counts import CANCELLED, PUBLISH_FAILURES, UNEXPECTED, Counts
from windshift.server.events.model import StreamSeq


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
    """What clients hold is added up; what expired stays counted when they are gone."""
    counts, first, second = Counts(), window(timeout=1), window(timeout=1)
    counts.attach(first)
    counts.attach(second)
    admit(first, 1)
    admit(first, 2)
    admit(second, 1)
    assert (counts.in_flight, counts.expired) == (3, 0)
    first.expire(2)
    assert (counts.in_flight, counts.expired) == (1, 2)
    counts.detach(first)
    assert (counts.in_flight, counts.expired) == (1, 2)


def test_expiry_is_counted_once() -> None:
    """A delivery expires by time, by its answer coming late, or when the event is delivered again."""
    held = window(timeout=1)
    by_time, late, again = admit(held, 1), admit(held, 2), admit(held, 3)
    late.unanswered = 1
    held.admit(StreamSeq(3), b"reply", 2, 0.5)
    assert held.expired == 1
    held.expire(1.2)
    assert held.expired == 2
    late.unanswered = 0
    held.drop(StreamSeq(2), late)
    held.drop(StreamSeq(2), late)
    held.drop(StreamSeq(3), again)
    held.drop(StreamSeq(1), by_time)
    assert held.expired == 3
    held.clear()
    assert held.expired == 3
