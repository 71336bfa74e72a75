"""What is told of events that were given up on: one record for each, and counts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from windshift.nats.times import Time
from windshift.server.domain.errors import StreamFull
from windshift.server.events.dead_letters.model import Cause, DeadLetter, DeadLetterId, Failure
from windshift.server.events.dead_letters.stats import DeadLetterStats
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.telemetry.log_text import fields_of
from windshift.server.telemetry.tracer import current_span

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FAILURE = Failure(
    DeadLetterId("ORDERS", "billing", StreamSeq(7), 1), 3, 1, 2, Cause.MAX_ATTEMPTS, "no stock", "OutOfStock"
)
TOLD = {
    "stream": "ORDERS",
    "consumer": "billing",
    "event_id": 7,
    "attempts": 3,
    "cause": "MAX_ATTEMPTS",
    "reason": "no stock",
    "error_type": "OutOfStock",
}
EVENT = {"subject": "ORDERS.new", "type": "acme.v1.Order", "trace_id": TRACE, "span_id": SPAN}


@pytest.fixture(autouse=True)
def no_span() -> Iterator[None]:
    """Be in no call, whatever tests before this one left behind."""
    token = current_span.set(None)
    yield
    current_span.reset(token)


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, dict[str, Any]]]:
    """Return level, message and fields of what was written."""
    return [(each.levelname, each.getMessage(), fields_of(each)) for each in caplog.records]


def letter(trace_parent: str | None) -> DeadLetter:
    """Make a dead letter."""
    return DeadLetter(
        FAILURE, Time(1, 0), 1, "ORDERS.new", "acme.v1.Order", b"secret", 6, Time(1, 0), "key", trace_parent
    )


def test_a_dead_letter(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted by its cause; the record says which event it was, and nothing of its data."""
    stats = DeadLetterStats()
    stats.kept(letter(f"00-{TRACE}-{SPAN}-01"))
    assert stats.written == {"MAX_ATTEMPTS": 1, "REJECTED": 0}
    assert records(caplog) == [("WARNING", "an event became a dead letter", TOLD | EVENT)]
    assert "secret" not in str(vars(caplog.records[0]))


def test_a_malformed_trace_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """Other programs may write anything into the header."""
    DeadLetterStats().kept(letter("00-nonsense"))
    assert "trace_id" not in fields_of(caplog.records[0])


def test_an_event_that_was_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """It is told of as a dead letter is: that is all that is left of it."""
    stats = DeadLetterStats()
    stats.dropped(FAILURE, letter(f"00-{TRACE}-{SPAN}-01").delivery(3))
    stats.dropped(FAILURE._replace(cause=Cause.REJECTED, reason="", error_type=""))
    assert stats.drops == {"MAX_ATTEMPTS": 1, "REJECTED": 1, "GONE": 0}
    bare = {name: TOLD[name] for name in ("stream", "consumer", "event_id", "attempts")}
    assert records(caplog) == [
        ("WARNING", "an event was dropped without a dead letter", TOLD | EVENT),
        ("WARNING", "an event was dropped without a dead letter", bare | {"cause": "REJECTED"}),
    ]


def test_an_event_that_was_gone(caplog: pytest.LogCaptureFixture) -> None:
    """The stream's limits had removed it."""
    stats = DeadLetterStats()
    stats.gone(FAILURE)
    assert stats.drops["GONE"] == 1
    message = "an event was removed by its stream before it became a dead letter"
    assert records(caplog) == [("WARNING", message, TOLD)]


def test_thousands_of_one_stream(caplog: pytest.LogCaptureFixture) -> None:
    """Each is counted. Not each is logged, and no other stream's or other kind is hidden."""
    stats = DeadLetterStats()
    for _ in range(1_000):
        stats.dropped(FAILURE)
    assert (stats.drops["MAX_ATTEMPTS"], len(caplog.records)) == (1_000, 300)
    caplog.clear()
    other = FAILURE._replace(id=FAILURE.id._replace(stream="INVOICES"))
    stats.dropped(other)
    stats.gone(FAILURE)
    assert [fields_of(each)["stream"] for each in caplog.records] == ["INVOICES", "ORDERS"]


def test_what_counts_records_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """However many streams there are, each has its first records."""
    stats = DeadLetterStats()
    for number in range(2_500):
        stats.gone(FAILURE._replace(id=FAILURE.id._replace(stream=f"S{number}")))
    assert len(caplog.records) == 2_500


def test_dead_letters_that_cannot_be_written(caplog: pytest.LogCaptureFixture) -> None:
    """Each is counted; a full stream does not fill the log as well."""
    stats = DeadLetterStats(interval=0)
    stats.not_kept(FAILURE, StreamFull())
    stats.not_kept(FAILURE, ZeroDivisionError("secret"))
    seldom = DeadLetterStats()
    for _ in range(100):
        seldom.not_kept(FAILURE, StreamFull())
    assert (stats.failures, seldom.failures) == (2, 100)
    errors = [fields_of(record)["error"] for record in caplog.records]
    assert errors == ["STREAM_FULL", "ZeroDivisionError", "STREAM_FULL"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_replays() -> None:
    """They are counted."""
    stats = DeadLetterStats()
    stats.replayed(ConsumerKey("s", "c"))
    assert stats.replays == 1
