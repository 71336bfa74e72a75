"""What a client says in a consume call, as plain values, and what a reject is to do."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, TypeAlias

from windshift.server.errors import InvalidField
from windshift.server.names import consumer_name, stream_name
from windshift.server.nats.deliveries import StreamSeq

DEFAULT_PROCESSING_EVENTS = 50
MOST_PROCESSING_EVENTS = 10_000

MOST_IDS = 10_000
"""Ids in one command."""

LONGEST_DELAY_NS = 1 << 62
"""146 years. The broker adds a delay to its clock, in 64 bits of nanoseconds; a longer one would not fit
there."""


class Subscribe(NamedTuple):
    """Attach this call to a consumer; see `checked` for what is allowed."""

    stream: str
    consumer: str
    max_processing_events: int


class Ack(NamedTuple):
    """These events are done."""

    ids: Sequence[StreamSeq]


class Reject(NamedTuple):
    """These events were not done. `delay_ns` is None when the client named no delay."""

    ids: Sequence[StreamSeq]
    permanently: bool
    delay_ns: int | None


class Ping(NamedTuple):
    """These events take longer: restart their timeout."""

    ids: Sequence[StreamSeq]


Command: TypeAlias = Subscribe | Ack | Reject | Ping


def check_subscribe(request: Subscribe) -> int:
    """Check a subscription and return the size of its window.

    Raises:
        InvalidField: a name is malformed, or the window is larger than allowed.
    """
    stream_name("subscribe.stream", request.stream)
    consumer_name("subscribe.consumer", request.consumer)
    if request.max_processing_events > MOST_PROCESSING_EVENTS:
        raise InvalidField(
            "subscribe.max_processing_events", f"must be at most {MOST_PROCESSING_EVENTS}; 0 is the default"
        )
    return request.max_processing_events or DEFAULT_PROCESSING_EVENTS


def check_ids(field: str, count: int) -> None:
    """Check the number of ids that a command names.

    Raises:
        InvalidField: there are too many.
    """
    if count > MOST_IDS:
        raise InvalidField(field, f"must be at most {MOST_IDS} ids; send several messages")


class Fate(Enum):
    """What becomes of a rejected delivery."""

    AGAIN = "delivered again, after the delay"
    NEVER = "not delivered to this consumer again"


class Verdict(NamedTuple):
    """The decision about a rejected delivery."""

    fate: Fate
    delay_ns: int = 0


def judge(reject: Reject) -> Verdict:
    """Decide what becomes of rejected deliveries.

    Raises:
        InvalidField: the reject is contradictory, or its delay out of range.
    """
    if reject.permanently:
        if reject.delay_ns is not None:
            raise InvalidField("reject.delay", "must not be set together with permanently; set one of them")
        return Verdict(Fate.NEVER)
    delay_ns = reject.delay_ns or 0
    if not 0 <= delay_ns <= LONGEST_DELAY_NS:
        raise InvalidField("reject.delay", f"must be from 0 to {LONGEST_DELAY_NS // 10**9} seconds")
    return Verdict(Fate.AGAIN, delay_ns)
