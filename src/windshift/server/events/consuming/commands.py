"""The commands of a client in a consume call, and the decision about events that it rejects."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import Enum
from typing import NamedTuple, TypeAlias

from windshift.server.domain.errors import InvalidField
from windshift.server.domain.names import consumer_name, stream_name
from windshift.server.events.consuming.tokens import check_token
from windshift.server.events.dead_letters.model import Cause
from windshift.server.events.model import StreamSeq
from windshift.server.events.retries import RetryPolicy

DEFAULT_PROCESSING_EVENTS = 50
MOST_PROCESSING_EVENTS = 10_000

LONGEST_REASON = 1024
LONGEST_ERROR_TYPE = 256

MOST_IN_BATCH = 1_000
"""Events in one response."""

MOST_RESUMED = 5_000
"""Tokens in one subscription: so many fit into a request."""

SMALLEST_MESSAGE = 16 * 1024
"""Bytes that every client takes in one response."""

LONGEST_LINGER = timedelta(seconds=60)

MOST_IDS = 10_000
"""Ids in one command."""

LONGEST_DELAY_NS = 1 << 62
"""146 years. The broker adds the delay to its clock in 64-bit nanoseconds; a longer one would overflow."""


class Subscribe(NamedTuple):
    """Attach this call to a consumer; see `check_subscribe`.

    `resume` are tokens of deliveries that the client goes on with. `linger` is None if it wants no tokens.
    `max_batch` is how many events one response may carry; 0 counts as 1. `max_message_size` is how many bytes
    it may have; 0 = any number.
    """

    stream: str
    consumer: str
    max_processing_events: int
    resume: Sequence[bytes] = ()
    linger: timedelta | None = None
    max_batch: int = 0
    max_message_size: int = 0


class Ack(NamedTuple):
    """These events are done."""

    ids: Sequence[StreamSeq]


class Action(Enum):
    """What a client wants to happen to rejected events."""

    UNSPECIFIED = "what the retry policy says"
    RETRY = "another attempt"
    DEAD_LETTER = "a dead letter"
    DROP = "nothing more"


class Reject(NamedTuple):
    """These events failed. `delay_ns` is None if the client set no delay.

    `reason` and `error_type` are cut to `LONGEST_REASON` and `LONGEST_ERROR_TYPE`.
    """

    ids: Sequence[StreamSeq]
    permanently: bool
    delay_ns: int | None
    reason: str = ""
    error_type: str = ""
    action: Action = Action.UNSPECIFIED

    @property
    def is_final(self) -> bool:
        """Whether it gives up on the events, whatever the retry policy."""
        return self.permanently or self.action in (Action.DEAD_LETTER, Action.DROP)


class Ping(NamedTuple):
    """These events take longer: restart their timeouts."""

    ids: Sequence[StreamSeq]


class Limit(NamedTuple):
    """So many events may be unsettled from now on; 0 = deliver nothing more. See `check_limit`."""

    max_processing_events: int


Command: TypeAlias = Subscribe | Ack | Reject | Ping | Limit


def check_subscribe(request: Subscribe) -> int:
    """Return the size of a subscription's window; raise `InvalidField`.

    That is when a name or token is malformed, the window or a batch is larger than allowed, a response
    smaller, more is resumed than there is room for, or what is held would linger for longer than allowed.
    """
    stream_name("subscribe.stream", request.stream)
    consumer_name("subscribe.consumer", request.consumer)
    if request.max_processing_events > MOST_PROCESSING_EVENTS:
        raise InvalidField(
            "subscribe.max_processing_events", f"must be at most {MOST_PROCESSING_EVENTS}; 0 is the default"
        )
    size = request.max_processing_events or DEFAULT_PROCESSING_EVENTS
    most = min(size, MOST_RESUMED)
    if len(request.resume) > most:
        raise InvalidField(
            "subscribe.resume",
            f"must have at most {most} tokens: no more than max_processing_events, nor than {MOST_RESUMED}",
        )
    for token in request.resume:
        check_token("subscribe.resume", token)
    if request.linger is not None and not timedelta() <= request.linger <= LONGEST_LINGER:
        longest = LONGEST_LINGER // timedelta(seconds=1)
        raise InvalidField("subscribe.linger", f"must be from 0 to {longest} seconds")
    if request.max_batch > MOST_IN_BATCH:
        raise InvalidField("subscribe.max_batch", f"must be at most {MOST_IN_BATCH}; 0 or 1 is one at a time")
    if 0 < request.max_message_size < SMALLEST_MESSAGE:
        raise InvalidField(
            "subscribe.max_message_size", f"must be at least {SMALLEST_MESSAGE} bytes; 0 is any number"
        )
    return size


def check_limit(request: Limit) -> int:
    """Return the size that a window is to have; raise `InvalidField` if it is larger than allowed."""
    if request.max_processing_events > MOST_PROCESSING_EVENTS:
        raise InvalidField(
            "limit.max_processing_events", f"must be at most {MOST_PROCESSING_EVENTS}; 0 is none"
        )
    return request.max_processing_events


def check_ids(field: str, count: int) -> None:
    """Raise `InvalidField` if a command has too many ids."""
    if count > MOST_IDS:
        raise InvalidField(field, f"must have at most {MOST_IDS} ids; send several messages")


class Disposition(Enum):
    """What happens to a failed delivery."""

    AGAIN = "delivered again, after the delay"
    DEAD_LETTER = "kept as a dead letter, then not delivered to this consumer again"
    DROPPED = "not delivered to this consumer again"


class Decision(NamedTuple):
    """The decision about a failed delivery. `cause` is why it is given up on, if it is."""

    disposition: Disposition
    delay_ns: int = 0
    cause: Cause = Cause.REJECTED


def check_reject(reject: Reject) -> None:
    """Raise `InvalidField` if a reject is contradictory, or its delay out of range."""
    if reject.permanently and reject.action is Action.RETRY:
        raise InvalidField("reject.action", "must not be RETRY together with permanently; set one of them")
    if reject.delay_ns is None:
        return
    if reject.is_final:
        other = "permanently" if reject.permanently else f"action {reject.action.name}"
        raise InvalidField("reject.delay", f"must not be set together with {other}; set one of them")
    if not 0 <= reject.delay_ns <= LONGEST_DELAY_NS:
        raise InvalidField("reject.delay", f"must be from 0 to {LONGEST_DELAY_NS // 10**9} seconds")


def decide(reject: Reject, policy: RetryPolicy, attempt: int, rand: float) -> Decision:
    """Decide what happens to a delivery that was rejected, as `check_reject` allows.

    Attempts are counted from 1; `rand` is a random number from 0 to 1, for the jitter.
    """
    match reject.action:
        case Action.DEAD_LETTER:
            return Decision(Disposition.DEAD_LETTER)
        case Action.DROP:
            return Decision(Disposition.DROPPED)
    given_up = Disposition.DEAD_LETTER if policy.dead_letters else Disposition.DROPPED
    if reject.permanently:
        return Decision(given_up)
    if policy.is_last(attempt):
        return Decision(given_up, cause=Cause.MAX_ATTEMPTS)
    delay_ns = policy.backoff_ns(attempt, rand) if reject.delay_ns is None else reject.delay_ns
    return Decision(Disposition.AGAIN, delay_ns)
