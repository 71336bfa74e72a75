"""Retry policies: how often and when an event that was not acknowledged is delivered again, and what then.

A policy belongs to a consumer and is stored in its JetStream metadata, so that every server applies the same
one. JetStream's own limit of deliveries stays unlimited: it would skip an event without a trace (a broker
that crashes on the last attempt loses the advisory about it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from windshift.nats.jetstream.api import metadata_of
from windshift.nats.times import nanoseconds

METADATA_KEY: Final = "windshift.retry_policy"
"""Where a consumer's policy lies in the ``metadata`` of its configuration, as a JSON object."""

MOST_ATTEMPTS: Final = 1_000_000
SHORTEST_BACKOFF: Final = timedelta(milliseconds=1)
LONGEST_BACKOFF: Final = timedelta(days=365)
LARGEST_MULTIPLIER: Final = 100.0

DEFAULT_INITIAL_BACKOFF: Final = timedelta(milliseconds=50)
DEFAULT_MAX_BACKOFF: Final = timedelta(seconds=30)
DEFAULT_MULTIPLIER: Final = 2.0
DEFAULT_JITTER: Final = 0.2


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A consumer's retry policy. Without arguments it is that of a consumer that has none.

    Attributes:
        max_attempts: how often an event is delivered at most; None is without end.
        initial_backoff: time before the second attempt, after a reject that names no delay.
        max_backoff: the longest such time.
        multiplier: what each such time is of the one before.
        jitter: by which share of it each such time may be shorter, from 0 to 1.
        dead_letters: whether an event that is given up on is kept as a dead letter.
    """

    max_attempts: int | None = None
    initial_backoff: timedelta = DEFAULT_INITIAL_BACKOFF
    max_backoff: timedelta = DEFAULT_MAX_BACKOFF
    multiplier: float = DEFAULT_MULTIPLIER
    jitter: float = DEFAULT_JITTER
    dead_letters: bool = False

    def is_last(self, attempt: int) -> bool:
        """Whether an event is given up on when this attempt fails."""
        return self.max_attempts is not None and attempt >= self.max_attempts

    def is_beyond(self, attempt: int) -> bool:
        """Whether this attempt is one more than are allowed, so that it must not be made."""
        return self.max_attempts is not None and attempt > self.max_attempts

    def backoff_ns(self, attempt: int, rand: float) -> int:
        """Return the time in nanoseconds after a failed attempt, counted from 1, until the next one.

        `rand` is a random number from 0 to 1: how much of the jitter is taken off.
        """
        initial, longest = nanoseconds(self.initial_backoff), nanoseconds(self.max_backoff)
        try:
            backoff = initial * self.multiplier ** (attempt - 1)
        except OverflowError:
            backoff = longest
        return round(min(backoff, longest) * (1 - self.jitter * rand))


def policy_metadata(policy: RetryPolicy) -> str:
    """Write a policy as it lies in a consumer's metadata."""
    return json.dumps(
        {
            "max_attempts": policy.max_attempts or 0,
            "initial_backoff": nanoseconds(policy.initial_backoff),
            "max_backoff": nanoseconds(policy.max_backoff),
            "multiplier": float(policy.multiplier),
            "jitter": float(policy.jitter),
            "dead_letters": policy.dead_letters,
        },
        separators=(",", ":"),
    )


def stored_policy(config: Mapping[str, Any]) -> RetryPolicy:
    """Read the policy of a consumer from its JetStream configuration.

    What a policy leaves out is as in a request: the default, dead letters among them. One that cannot be read
    (somebody else wrote it) counts as none, except that nothing is given up without a dead letter.
    """
    text = metadata_of(config).get(METADATA_KEY)
    if text is None:
        return RetryPolicy()
    try:
        return _read(json.loads(text))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return RetryPolicy(dead_letters=True)


def _read(stored: Mapping[str, Any]) -> RetryPolicy:
    """Read a stored policy; raise what a wrong type leads to, or ValueError for what is out of range."""
    initial = _duration(stored.get("initial_backoff", nanoseconds(DEFAULT_INITIAL_BACKOFF)))
    longest = stored.get("max_backoff")
    policy = RetryPolicy(
        int(stored.get("max_attempts", 0)) or None,
        initial,
        max(initial, DEFAULT_MAX_BACKOFF) if longest is None else _duration(longest),
        float(stored.get("multiplier", DEFAULT_MULTIPLIER)),
        float(stored.get("jitter", DEFAULT_JITTER)),
        stored.get("dead_letters", True) is not False,
    )
    if not _is_sound(policy):
        raise ValueError("out of range")
    return policy


def _duration(stored_ns: float) -> timedelta:
    return timedelta(microseconds=int(stored_ns) // 1000)


def _is_sound(policy: RetryPolicy) -> bool:
    """Whether delays can be computed by it: comparisons with what is not a number are false."""
    return (
        (policy.max_attempts is None or 0 < policy.max_attempts <= MOST_ATTEMPTS)
        and SHORTEST_BACKOFF <= policy.initial_backoff <= policy.max_backoff <= LONGEST_BACKOFF
        and 1 <= policy.multiplier <= LARGEST_MULTIPLIER
        and 0 <= policy.jitter <= 1
    )
