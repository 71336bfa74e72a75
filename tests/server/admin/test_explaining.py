"""What is made of what is known of an event: the answers of servers, and the limits of its stream."""

from __future__ import annotations

from typing import Any

import pytest

from windshift.nats.jetstream.api import ConsumerState, StoredMessage
from windshift.nats.times import Time
from windshift.server.admin.explaining import (
    Facts,
    Failed,
    Hindrance,
    Removal,
    Standing,
    known_failure,
    known_holders,
    removals,
    standing_of,
)
from windshift.server.admin.subscriptions import Holder, SubscriptionView
from windshift.server.events.model import StreamSeq

NOW = 10**18


def message(seq: int) -> StoredMessage:
    """Return an event."""
    return StoredMessage("a.b", seq, b"", b"", Time(1_000, 0))


def state(config: dict[str, Any] | None = None, unsettled: int = 2) -> ConsumerState:
    """Return a consumer that settled 3 events, and delivered 5."""
    return ConsumerState(config or {}, "2026-01-01T00:00:00Z", 0, unsettled, 3, 5)


CALL = SubscriptionView(size=2, unsettled=1)
FULL = SubscriptionView(size=1, unsettled=1)
LATER, EARLIER = Failed(1, NOW + 1), Failed(1, NOW - 1)


@pytest.mark.parametrize(
    ("seq", "facts", "told"),
    [
        (3, Facts(state()), (Standing.SETTLED, ())),
        (4, Facts(state(), calls=(CALL,)), (Standing.DELIVERED, ())),
        (4, Facts(state(), calls=(CALL,), failed=LATER), (Standing.WAITING, ())),
        (4, Facts(state(), calls=(CALL,), failed=EARLIER), (Standing.DELIVERED, ())),  # settled elsewhere
        (4, Facts(state(), failed=EARLIER), (Standing.WAITING, (Hindrance.NO_SUBSCRIBER,))),
        (4, Facts(state(), holders=(Holder(server="s"),)), (Standing.HELD, ())),
        (6, Facts(state(), calls=(CALL,)), (Standing.PENDING, ())),
        (6, Facts(state(), calls=(CALL, FULL)), (Standing.PENDING, ())),
        (6, Facts(state(), calls=(FULL,)), (Standing.PENDING, (Hindrance.WINDOWS_FULL,))),
        (
            6,
            Facts(state({"max_ack_pending": 2}), calls=(CALL,)),
            (Standing.PENDING, (Hindrance.TOO_MANY_UNSETTLED,)),
        ),
        (6, Facts(state({"filter_subject": "a.c"})), (Standing.FILTERED_OUT, ())),
        (6, Facts(state({"filter_subjects": ["a.c", "a.*"]}), calls=(CALL,)), (Standing.PENDING, ())),
        (
            2,
            Facts(state({"deliver_policy": "by_start_sequence", "opt_start_seq": 3})),
            (Standing.BEFORE_START, ()),
        ),
        (
            2,
            Facts(state({"deliver_policy": "by_start_time", "opt_start_time": "2026-01-01T00:00:00Z"})),
            (Standing.BEFORE_START, ()),
        ),
    ],
)
def test_standings(seq: int, facts: Facts, told: object) -> None:
    """How an event that the stream holds stands at a consumer."""
    assert standing_of(StreamSeq(seq), message(seq), facts, NOW) == told


@pytest.mark.parametrize(
    ("seq", "standing"), [(3, Standing.SETTLED), (5, Standing.DELIVERED), (6, Standing.REMOVED)]
)
def test_removed(seq: int, standing: Standing) -> None:
    """How one stands that the stream does not hold any more."""
    assert standing_of(StreamSeq(seq), None, Facts(state()), NOW) == (standing, ())


def test_removed_before_the_consumer_began() -> None:
    """One that went before a consumer was made, from the end or an id, was never for it, and not settled."""
    from_id = Facts(state({"deliver_policy": "by_start_sequence", "opt_start_seq": 3}))
    assert standing_of(StreamSeq(2), None, from_id, NOW) == (Standing.BEFORE_START, ())
    assert standing_of(StreamSeq(3), None, from_id, NOW) == (Standing.SETTLED, ())
    from_time = Facts(state({"deliver_policy": "by_start_time", "opt_start_time": "2026-01-01T00:00:00Z"}))
    assert standing_of(StreamSeq(2), None, from_time, NOW) == (Standing.SETTLED, ())  # when, is not known


def test_odd_answers() -> None:
    """What another server says that cannot be is left out: anybody in the account may answer."""
    told: list[tuple[str, dict[str, Any]]] = [
        ("s1", {"consumer": "c", "until_ns": 2**70, "attempt": "x", "peer": 7}),
        ("s2", {"consumer": "d", "until_ns": 1}),
        ("s3", {"consumer": "c", "next_ns": -1, "attempt": True, "reason": None}),
        ("s4", {"consumer": "c", "next_ns": 5, "attempt": 2, "reason": "r", "more": 1}),
        ("s5", {}),
    ]
    assert list(known_holders(told, "c")) == [Holder(consumer="c", server="s1")]
    assert known_failure(told, "c") == Failed(2, 5, "r")
    assert known_failure(told, "d") is None


def test_limits() -> None:
    """Limits on all of a stream take the oldest first; one that refuses new events removes none."""
    config = {"max_age": 1, "max_msgs": 1, "max_bytes": 1, "max_msgs_per_subject": 1}
    whole = (Removal.MAX_AGE, Removal.MAX_EVENTS, Removal.MAX_BYTES)
    assert removals(config, is_oldest=True) == (Removal.BY_HAND, *whole, Removal.MAX_EVENTS_PER_SUBJECT)
    assert removals(config, is_oldest=False) == (Removal.BY_HAND, Removal.MAX_EVENTS_PER_SUBJECT)
    assert removals(config | {"discard": "new"}, is_oldest=True) == (
        Removal.BY_HAND,
        Removal.MAX_AGE,
        Removal.MAX_EVENTS_PER_SUBJECT,
    )
    none = {"max_msgs": -1, "max_bytes": -1, "max_msgs_per_subject": -1, "retention": "workqueue"}
    assert removals(none, is_oldest=True) == (Removal.BY_HAND, Removal.SETTLED)
