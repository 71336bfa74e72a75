from __future__ import annotations

from windshift.server.events.consuming.redelivery import FailedAttempts
from windshift.server.events.model import ConsumerKey, StreamSeq

RUN = ConsumerKey("S", "c"), "2026-11-24T00:00:00Z"
STORED_NS = 1_700_000_000_000_000_000
EVENT = StreamSeq(1), STORED_NS


def event(number: int) -> tuple[StreamSeq, int]:
    """Return what names an event."""
    return StreamSeq(number), STORED_NS


def test_remembers_first_and_last() -> None:
    """The first and the last failed attempt of an event are known."""
    attempts = FailedAttempts()
    for began in (100, 200, 300):
        attempts.failed(RUN, EVENT, began)
    known = attempts.get(RUN, EVENT)
    assert known is not None
    assert (known.first_ns, known.last_ns) == (100, 300)


def test_remembers_the_last_reason() -> None:
    """A timeout after a reject does not hide what the reject said; another reject does."""
    attempts = FailedAttempts()
    attempts.failed(RUN, EVENT, 100, "no stock", "OutOfStock")
    attempts.failed(RUN, EVENT, 200)
    known = attempts.get(RUN, EVENT)
    assert known is not None
    assert (known.reason, known.error_type) == ("no stock", "OutOfStock")
    attempts.failed(RUN, EVENT, 300, "", "Timeout")
    known = attempts.get(RUN, EVENT)
    assert known is not None
    assert (known.reason, known.error_type) == ("", "Timeout")


def test_forgets_what_is_settled() -> None:
    """Nothing is known of an event that is settled, nor of one that never failed."""
    attempts = FailedAttempts()
    attempts.failed(RUN, EVENT, 100)
    attempts.forget(RUN, EVENT)
    attempts.forget(RUN, EVENT)
    assert attempts.get(RUN, EVENT) is None


def test_is_bounded() -> None:
    """Beyond the bound, the events that failed longest ago are forgotten."""
    attempts = FailedAttempts(limit=3)
    for number in (1, 2, 3, 1, 4):
        attempts.failed(RUN, event(number), 1)
    assert len(attempts) == 3
    assert attempts.get(RUN, event(2)) is None
    assert attempts.get(RUN, event(1)) is not None


def test_one_consumer_does_not_crowd_out_others() -> None:
    """Beyond the bound, who has more than a quarter of it forgets, and else who failed longest ago."""
    attempts = FailedAttempts(limit=8)
    other, third = (ConsumerKey("S", "d"), ""), (ConsumerKey("S", "e"), "")
    attempts.failed(other, event(1), 1)
    for number in range(100):
        attempts.failed(RUN, event(number), 1)
    assert attempts.get(other, event(1)) is not None
    assert [attempts.get(RUN, event(number)) is None for number in (92, 93)] == [True, False]
    for run, number in ((other, 2), (third, 1), (third, 2)):
        attempts.failed(run, event(number), 1)
    for run in (other, third):
        assert [attempts.get(run, event(number)) is None for number in (1, 2)] == [False, False]
    assert [attempts.get(RUN, event(number)) is None for number in (95, 96)] == [True, False]
    assert len(attempts) == 8


def test_consumers_that_are_gone_make_room() -> None:
    """What is left of those in which nothing has failed for an hour goes first, however many they are."""
    attempts, later = FailedAttempts(limit=40), 2 * 3600 * 10**9
    gone = [(ConsumerKey("S", f"gone{number}"), "") for number in range(10)]
    for run in gone:
        for number in range(4):
            attempts.failed(run, event(number), 1)
    for number in range(60):
        attempts.failed(RUN, event(number), later)
    assert not any(attempts.get(run, event(number)) for run in gone for number in range(4))
    assert [attempts.get(RUN, event(number)) is None for number in (19, 20)] == [True, False]


def test_more_consumers_than_room() -> None:
    """Those of which something failed first are forgotten; what is settled makes room."""
    attempts = FailedAttempts(limit=3)
    runs = [(ConsumerKey("S", f"c{number}"), "") for number in range(10)]
    for run in runs:
        attempts.failed(run, EVENT, 1)
    assert [attempts.get(run, EVENT) is None for run in runs] == [True] * 7 + [False] * 3
    assert len(attempts) == 3
    for run in runs:
        attempts.forget(run, EVENT)
    assert len(attempts) == 0


def test_a_run_is_over() -> None:
    """What failed in one run says nothing of another, and is forgotten with it."""
    attempts = FailedAttempts()
    again = RUN[0], "2026-11-25T00:00:00Z"
    attempts.failed(RUN, EVENT, 1)
    assert attempts.get(again, EVENT) is None
    attempts.failed(again, EVENT, 2)
    attempts.forget_all(RUN)
    attempts.forget_all(RUN)
    assert attempts.get(RUN, EVENT) is None
    assert attempts.get(again, EVENT) is not None
    assert len(attempts) == 1
