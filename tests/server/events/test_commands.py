"""Commands: what is refused before it means anything, and what a reject leads to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windshift.server.domain.errors import InvalidField
from windshift.server.events.consuming.commands import (
    LONGEST_DELAY_NS,
    MOST_IDS,
    Action,
    Decision,
    Disposition,
    Reject,
    Subscribe,
    check_ids,
    check_reject,
    check_subscribe,
    decide,
)
from windshift.server.events.dead_letters.model import Cause
from windshift.server.events.retries import RetryPolicy

MS = 10**6
PLAIN = RetryPolicy()
FIVE = RetryPolicy(max_attempts=5)
KEPT = RetryPolicy(max_attempts=5, dead_letters=True)
KEPT_FOREVER = RetryPolicy(dead_letters=True)
REJECTED = Decision(Disposition.DEAD_LETTER, cause=Cause.REJECTED)
EXHAUSTED = Decision(Disposition.DEAD_LETTER, cause=Cause.MAX_ATTEMPTS)
DROPPED = Decision(Disposition.DROPPED)


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


def reject(
    action: Action = Action.UNSPECIFIED, *, permanently: bool = False, delay: int | None = None
) -> Reject:
    """Reject an event."""
    return Reject([], permanently, delay, "reason", "Kind", action)


@pytest.mark.parametrize("attempt", [1, 4, 5, 6, 10**6])
@pytest.mark.parametrize("policy", [PLAIN, FIVE, KEPT, KEPT_FOREVER])
@pytest.mark.parametrize("permanently", [False, True])
def test_what_a_client_asks_for_by_name_is_done(policy: RetryPolicy, attempt: int, permanently: bool) -> None:
    """Dead letter and drop mean the same under every policy and on every attempt."""
    assert decide(reject(Action.DEAD_LETTER, permanently=permanently), policy, attempt, 0) == REJECTED
    assert decide(reject(Action.DROP, permanently=permanently), policy, attempt, 0) == DROPPED


@pytest.mark.parametrize("attempt", [1, 5, 6])
@pytest.mark.parametrize(
    ("policy", "verdict"), [(PLAIN, DROPPED), (FIVE, DROPPED), (KEPT, REJECTED), (KEPT_FOREVER, REJECTED)]
)
def test_permanently_means_a_dead_letter_where_there_are_any(
    policy: RetryPolicy, attempt: int, verdict: Decision
) -> None:
    """Without dead letters a permanent reject removes the event; it is the client's doing either way."""
    assert decide(reject(permanently=True), policy, attempt, 0) == verdict


@pytest.mark.parametrize("action", [Action.UNSPECIFIED, Action.RETRY])
@pytest.mark.parametrize("delay", [None, 0, 7, LONGEST_DELAY_NS])
@pytest.mark.parametrize(
    ("policy", "attempt", "last"),
    [
        (PLAIN, 1, None),
        (PLAIN, 10**9, None),
        (KEPT_FOREVER, 10**9, None),
        (FIVE, 4, None),
        (KEPT, 4, None),
        (FIVE, 5, Decision(Disposition.DROPPED, cause=Cause.MAX_ATTEMPTS)),
        (FIVE, 6, Decision(Disposition.DROPPED, cause=Cause.MAX_ATTEMPTS)),
        (KEPT, 5, EXHAUSTED),
        (KEPT, 6, EXHAUSTED),
        (RetryPolicy(1, dead_letters=True), 1, EXHAUSTED),
    ],
)
def test_a_failed_attempt_is_followed_by_another_unless_it_was_the_last(
    action: Action, delay: int | None, policy: RetryPolicy, attempt: int, last: Decision | None
) -> None:
    """The client's delay counts if it named one, the backoff if not; nothing adds an attempt."""
    again = Decision(Disposition.AGAIN, policy.backoff_ns(attempt, 0.5) if delay is None else delay)
    assert decide(reject(action, delay=delay), policy, attempt, 0.5) == (last or again)


def test_an_undelayed_reject_backs_off() -> None:
    """Without a policy too, an event is not delivered again at once, over and over."""
    delays = [decide(reject(), PLAIN, attempt, 0).delay_ns for attempt in range(1, 13)]
    assert delays == [50 * MS * 2**n for n in range(10)] + [30_000 * MS] * 2
    assert decide(reject(delay=0), PLAIN, 1, 0) == Decision(Disposition.AGAIN, 0)


@given(
    st.sampled_from(list(Action)),
    st.booleans(),
    st.none() | st.integers(-(2**63), 2**63),
    st.builds(RetryPolicy, st.none() | st.integers(1, 10), dead_letters=st.booleans()),
    st.integers(1, 20),
    st.floats(0, 1),
)
def test_every_reject_that_is_let_through_has_a_sound_verdict(
    action: Action, permanently: bool, delay: int | None, policy: RetryPolicy, attempt: int, luck: float
) -> None:
    """Delays are in range, an event goes on only before its last attempt, and never after a final word."""
    asked = reject(action, permanently=permanently, delay=delay)
    try:
        check_reject(asked)
    except InvalidField:
        return
    verdict = decide(asked, policy, attempt, luck)
    assert 0 <= verdict.delay_ns <= LONGEST_DELAY_NS
    if verdict.disposition is Disposition.AGAIN:
        assert not permanently
        assert not policy.is_last(attempt)
        assert action in (Action.UNSPECIFIED, Action.RETRY)
    if verdict.disposition is Disposition.DEAD_LETTER:
        assert policy.dead_letters or action is Action.DEAD_LETTER


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (reject(permanently=True, delay=0), "reject.delay"),
        (reject(permanently=True, delay=1), "reject.delay"),
        (reject(Action.DEAD_LETTER, delay=0), "reject.delay"),
        (reject(Action.DROP, delay=1), "reject.delay"),
        (reject(Action.DROP, permanently=True, delay=-1), "reject.delay"),
        (reject(delay=-1), "reject.delay"),
        (reject(Action.RETRY, delay=LONGEST_DELAY_NS + 1), "reject.delay"),
        (reject(Action.RETRY, permanently=True), "reject.action"),
        (reject(Action.RETRY, permanently=True, delay=1), "reject.action"),
    ],
)
def test_contradictions_are_refused(asked: Reject, field: str) -> None:
    """What is final excludes a delay, another attempt excludes permanently, and a delay has a range."""
    with pytest.raises(InvalidField) as caught:
        check_reject(asked)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "asked",
    [
        reject(),
        reject(delay=0),
        reject(delay=LONGEST_DELAY_NS),
        reject(permanently=True),
        reject(Action.RETRY),
        reject(Action.RETRY, delay=5),
        reject(Action.DEAD_LETTER),
        reject(Action.DEAD_LETTER, permanently=True),
        reject(Action.DROP),
        reject(Action.DROP, permanently=True),
    ],
)
def test_what_fits_together_is_let_through(asked: Reject) -> None:
    """Saying the same thing twice is no contradiction."""
    check_reject(asked)
