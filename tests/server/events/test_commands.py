"""Commands: what is refused before it means anything, and what a reject leads to."""

from __future__ import annotations

import pytest

from windshift.server.errors import InvalidField
from windshift.server.events.commands import (
    LONGEST_DELAY_NS,
    MOST_IDS,
    Fate,
    Reject,
    Subscribe,
    Verdict,
    check_ids,
    check_subscribe,
    judge,
)


@pytest.mark.parametrize(("asked", "size"), [(0, 50), (1, 1), (10_000, 10_000)])
def test_the_window_has_a_default(asked: int, size: int) -> None:
    """0 stands for 50."""
    assert check_subscribe(Subscribe("orders", "billing", asked)) == size


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Subscribe("", "billing", 0), "subscribe.stream"),
        (Subscribe("a.b", "billing", 0), "subscribe.stream"),
        (Subscribe("KV_a", "billing", 0), "subscribe.stream"),
        (Subscribe("orders", "", 0), "subscribe.consumer"),
        (Subscribe("orders", "bill>", 0), "subscribe.consumer"),
        (Subscribe("orders", "billing", 10_001), "subscribe.max_processing_events"),
        (Subscribe("orders", "billing", 2**64 - 1), "subscribe.max_processing_events"),
    ],
)
def test_subscriptions_are_checked(request_: Subscribe, field: str) -> None:
    """Names and the window have rules."""
    with pytest.raises(InvalidField) as caught:
        check_subscribe(request_)
    assert caught.value.field == field


def test_ids_are_bounded() -> None:
    """One command names so many events and no more."""
    check_ids("ack.ids", MOST_IDS)
    with pytest.raises(InvalidField):
        check_ids("ack.ids", MOST_IDS + 1)


@pytest.mark.parametrize(
    ("permanently", "delay_ns", "verdict"),
    [
        (False, None, Verdict(Fate.AGAIN, 0)),
        (False, 0, Verdict(Fate.AGAIN, 0)),
        (False, 1, Verdict(Fate.AGAIN, 1)),
        (False, LONGEST_DELAY_NS, Verdict(Fate.AGAIN, LONGEST_DELAY_NS)),
        (True, None, Verdict(Fate.NEVER)),
    ],
)
def test_a_reject_is_judged(permanently: bool, delay_ns: int | None, verdict: Verdict) -> None:
    """A reject has the event delivered again, at once or later, or never."""
    assert judge(Reject([], permanently, delay_ns)) == verdict


@pytest.mark.parametrize(
    ("permanently", "delay_ns"), [(True, 0), (True, 1), (False, -1), (False, LONGEST_DELAY_NS + 1)]
)
def test_contradictions_are_refused(permanently: bool, delay_ns: int | None) -> None:
    """Permanently excludes a delay, and a delay has a range."""
    with pytest.raises(InvalidField) as caught:
        judge(Reject([], permanently, delay_ns))
    assert caught.value.field == "reject.delay"
