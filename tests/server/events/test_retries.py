"""Retry policies: when an event is tried again, when it is given up, and how a policy is stored."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windshift.nats.times import nanoseconds
from windshift.server.events.retries import (
    DEFAULT_JITTER,
    LARGEST_MULTIPLIER,
    LONGEST_BACKOFF,
    METADATA_KEY,
    MOST_ATTEMPTS,
    SHORTEST_BACKOFF,
    RetryPolicy,
    policy_metadata,
    stored_policy,
)

MS = 10**6
UNREADABLE = RetryPolicy(dead_letters=True)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    """Make any policy that a request can ask for."""
    initial = draw(st.timedeltas(SHORTEST_BACKOFF, LONGEST_BACKOFF))
    return RetryPolicy(
        draw(st.none() | st.integers(1, MOST_ATTEMPTS)),
        initial,
        draw(st.timedeltas(initial, LONGEST_BACKOFF)),
        draw(st.floats(1, LARGEST_MULTIPLIER)),
        draw(st.floats(0, 1)),
        draw(st.booleans()),
    )


def stored(**keys: Any) -> dict[str, Any]:
    """Make a consumer's configuration with a policy of these keys."""
    return {"metadata": {METADATA_KEY: json.dumps(keys)}}


@pytest.mark.parametrize(
    ("most", "attempt", "last", "beyond"),
    [
        (None, 1, False, False),
        (None, 2**63, False, False),
        (1, 1, True, False),
        (1, 2, True, True),
        (5, 4, False, False),
        (5, 5, True, False),
        (5, 6, True, True),
    ],
)
def test_attempts_are_counted_from_one(most: int | None, attempt: int, last: bool, beyond: bool) -> None:
    """The last attempt is still made, the one after it is not."""
    policy = RetryPolicy(most)
    assert (policy.is_last(attempt), policy.is_beyond(attempt)) == (last, beyond)


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (RetryPolicy(), [50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]),
        (RetryPolicy(multiplier=1.0), [50, 50, 50]),
        (RetryPolicy(multiplier=100.0), [50, 5000, 30000]),
        (RetryPolicy(None, timedelta(seconds=1), timedelta(seconds=1)), [1000, 1000]),
        (
            RetryPolicy(None, timedelta(seconds=2), timedelta(seconds=10), 1.5),
            [2000, 3000, 4500, 6750, 10000],
        ),
        (RetryPolicy(None, LONGEST_BACKOFF, LONGEST_BACKOFF), [365 * 86_400_000]),
    ],
)
def test_delays_grow_to_the_longest(policy: RetryPolicy, delays: list[int]) -> None:
    """Each is the multiple of the one before, to the nanosecond."""
    assert [policy.backoff_ns(attempt, 0) for attempt in range(1, len(delays) + 1)] == [
        delay * MS for delay in delays
    ]


def test_jitter_only_shortens() -> None:
    """By its share of the delay at most, the longest delay included."""
    policy = RetryPolicy(jitter=0.5)
    assert [policy.backoff_ns(2, luck) for luck in (0, 0.5, 1)] == [100 * MS, 75 * MS, 50 * MS]
    assert policy.backoff_ns(1000, 1) == 15_000 * MS
    assert RetryPolicy(jitter=0).backoff_ns(1, 1) == 50 * MS
    assert RetryPolicy(jitter=1).backoff_ns(1, 1) == 0


@given(st.floats(0, 1))
def test_the_first_retry_is_soon(luck: float) -> None:
    """By default an event is delivered again within 100 ms, and not at once."""
    assert 50 * MS * (1 - DEFAULT_JITTER) <= RetryPolicy().backoff_ns(1, luck) <= 100 * MS


@given(policies(), st.integers(1, 2**63), st.floats(0, 1))
def test_delays_stay_in_range(policy: RetryPolicy, attempt: int, luck: float) -> None:
    """Whatever the policy and however often: never negative, never longer than the longest."""
    delay = policy.backoff_ns(attempt, luck)
    assert 0 <= delay <= nanoseconds(policy.max_backoff)
    assert delay >= nanoseconds(policy.initial_backoff) * (1 - policy.jitter * luck) - 1
    assert policy.backoff_ns(attempt, luck) <= policy.backoff_ns(attempt + 1, luck)


@given(policies())
def test_a_stored_policy_reads_as_written(policy: RetryPolicy) -> None:
    """Nothing of it changes on the way through a consumer's metadata."""
    text = policy_metadata(policy)
    assert stored_policy({"metadata": {METADATA_KEY: text, "owner": "billing"}}) == policy
    assert policy_metadata(stored_policy({"metadata": {METADATA_KEY: text}})) == text


@pytest.mark.parametrize("config", [{}, {"metadata": None}, {"metadata": {}}, {"metadata": {"owner": "x"}}])
def test_a_consumer_without_a_policy(config: dict[str, Any]) -> None:
    """It is retried for ever, and has no dead letters."""
    assert stored_policy(config) == RetryPolicy()


@pytest.mark.parametrize(
    ("keys", "policy"),
    [
        ({}, RetryPolicy(dead_letters=True)),
        ({"max_attempts": 5}, RetryPolicy(5, dead_letters=True)),
        ({"max_attempts": 0, "dead_letters": False}, RetryPolicy()),
        (
            {"initial_backoff": 60_000 * MS},
            RetryPolicy(None, timedelta(minutes=1), timedelta(minutes=1), dead_letters=True),
        ),
        ({"max_attempts": 5, "from_the_future": {"a": 1}}, RetryPolicy(5, dead_letters=True)),
    ],
)
def test_what_a_stored_policy_leaves_out_is_a_default(keys: dict[str, Any], policy: RetryPolicy) -> None:
    """As in a request; what this version does not know harms nothing."""
    assert stored_policy(stored(**keys)) == policy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "five",
        "5",
        "null",
        "[]",
        "[" * 100_000,
        '{"max_attempts": "many"}',
        '{"max_attempts": null}',
        '{"max_attempts": -1}',
        '{"max_attempts": 1e999}',
        '{"max_attempts": 1e308}',
        '{"max_attempts": 1000001}',
        '{"max_attempts": 5, "initial_backoff": 0}',
        '{"max_attempts": 5, "initial_backoff": -1000000}',
        '{"max_attempts": 5, "initial_backoff": 1e30}',
        '{"max_attempts": 5, "max_backoff": 1000000}',
        '{"max_attempts": 5, "max_backoff": 9223372036854775807}',
        '{"max_attempts": 5, "multiplier": 0.5}',
        '{"max_attempts": 5, "multiplier": -1}',
        '{"max_attempts": 5, "multiplier": NaN}',
        '{"max_attempts": 5, "multiplier": Infinity}',
        '{"max_attempts": 5, "multiplier": []}',
        '{"max_attempts": 5, "jitter": 1.5}',
        '{"max_attempts": 5, "jitter": -0.1}',
        '{"max_attempts": 5, "jitter": NaN}',
    ],
)
def test_a_policy_that_cannot_be_read_gives_nothing_up(text: str) -> None:
    """Events go on, and what a client rejects for good is kept: none is lost by somebody's slip."""
    policy = stored_policy({"metadata": {METADATA_KEY: text}})
    assert policy == UNREADABLE
    assert policy.backoff_ns(1, 0) == 50 * MS


@given(
    st.text()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.dictionaries(
            st.sampled_from(["max_attempts", "initial_backoff", "max_backoff", "multiplier", "jitter", "x"]),
            inner,
        ),
    ).map(json.dumps),
    st.integers(1, 2000),
    st.floats(0, 1),
)
def test_no_stored_text_breaks_a_call(text: str, attempt: int, luck: float) -> None:
    """Whatever lies there, a policy comes of it by which a delay can be computed."""
    policy = stored_policy({"metadata": {METADATA_KEY: text}})
    assert 0 <= policy.backoff_ns(attempt, luck) <= nanoseconds(LONGEST_BACKOFF)
