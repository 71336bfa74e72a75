from __future__ import annotations

from windshift.server.events.consuming.redelivery import FailedAttempts
from windshift.server.events.model import ConsumerKey, StreamSeq

KEY = ConsumerKey("S", "c"), StreamSeq(1), 1_700_000_000_000_000_000


def test_remembers_first_and_last() -> None:
    """The first and the last failed attempt of an event are known."""
    attempts = FailedAttempts()
    for began in (100, 200, 300):
        attempts.failed(KEY, began)
    known = attempts.get(KEY)
    assert known is not None
    assert (known.first_ns, known.last_ns) == (100, 300)


def test_remembers_the_last_reason() -> None:
    """A timeout after a reject does not hide what the reject said; another reject does."""
    attempts = FailedAttempts()
    attempts.failed(KEY, 100, "no stock", "OutOfStock")
    attempts.failed(KEY, 200)
    known = attempts.get(KEY)
    assert known is not None
    assert (known.reason, known.error_type) == ("no stock", "OutOfStock")
    attempts.failed(KEY, 300, "", "Timeout")
    known = attempts.get(KEY)
    assert known is not None
    assert (known.reason, known.error_type) == ("", "Timeout")


def test_forgets_what_is_settled() -> None:
    """Nothing is known of an event that is settled, nor of one that never failed."""
    attempts = FailedAttempts()
    attempts.failed(KEY, 100)
    attempts.forget(KEY)
    attempts.forget(KEY)
    assert attempts.get(KEY) is None


def test_is_bounded() -> None:
    """Beyond the bound, the events that failed longest ago are forgotten."""
    attempts = FailedAttempts(limit=3)
    keys = [(KEY[0], StreamSeq(seq), KEY[2]) for seq in range(1, 5)]
    for key in (*keys[:3], keys[0], keys[3]):
        attempts.failed(key, 1)
    assert len(attempts) == 3
    assert attempts.get(keys[1]) is None
    assert attempts.get(keys[0]) is not None
