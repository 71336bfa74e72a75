"""Dead letters as plain values: what a consumer gave up on, and how that lies in JetStream.

A dead letter is one message of the stream ``WS_DEAD_LETTERS``: the event's body and headers, those that
control NATS left out, and beside them ``WS-DL-…`` headers that say what happened. Its subject ends in its id,
so there is one per event and consumer, whoever writes it and however often.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from windshift.nats.times import Time
from windshift.server.events.deliveries import Delivery
from windshift.server.events.model import StreamSeq

STREAM: Final = "WS_DEAD_LETTERS"


class Cause(Enum):
    """Why a consumer gave up on an event; the values are what lies in JetStream."""

    MAX_ATTEMPTS = "MAX_ATTEMPTS"
    REJECTED = "REJECTED"


class LetterId(NamedTuple):
    """What names a dead letter.

    Attributes:
        stream: the event's stream.
        consumer: the consumer that gave up.
        seq: the event's id.
        stored_ns: when the stream stored it, in nanoseconds since 1970. It tells events apart that had the
            same id in streams of the same name, one deleted before the other.
    """

    stream: str
    consumer: str
    seq: StreamSeq
    stored_ns: int


def id_text(id: LetterId) -> str:  # noqa: A002 - as the field of the API is called
    """Write an id as clients see it and as subjects end in it."""
    return f"{id.stream}.{id.consumer}.{id.seq}.{id.stored_ns}"


def read_id(text: str) -> LetterId:
    """Read what `id_text` wrote; raise `ValueError` for anything else, other spellings included."""
    found = _ID.fullmatch(text)
    if found is None:
        raise ValueError("no id of a dead letter")
    return LetterId(found[1], found[2], StreamSeq(int(found[3])), int(found[4]))


_NAME: Final = "([A-Za-z0-9_-]{1,255})"
_ID: Final = re.compile(rf"{_NAME}\.{_NAME}\.([1-9][0-9]{{0,19}})\.(0|[1-9][0-9]{{0,19}})", re.ASCII)


class Failure(NamedTuple):
    """That a consumer gave up on an event. Times are nanoseconds since 1970."""

    id: LetterId
    attempts: int
    first_delivery_ns: int
    last_delivery_ns: int
    cause: Cause
    reason: str = ""
    error_type: str = ""
    replay_count: int = 0
    """Which replay of the event this was; 0 for none."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as it is stored, with the event whole.

    Attributes:
        failure: what happened.
        time: when it was written.
        position: its sequence in the stream of dead letters; one that is written anew gets a higher one.
        subject: the event's.
        type_name: full Protobuf name of the data, empty when the publisher named none.
        data: the serialized data; empty where it was not asked for.
        data_size: its bytes.
        published: when the event was published; the broker's time when the publisher named none.
        idempotency_key: the publisher's, if any.
        trace_parent: W3C trace context, if any.
        trace_state: W3C trace context, if any.
        other_headers: headers of other programs.
    """

    failure: Failure
    time: Time
    position: int
    subject: str
    type_name: str
    data: bytes
    data_size: int
    published: Time
    idempotency_key: str | None = None
    trace_parent: str | None = None
    trace_state: str | None = None
    other_headers: dict[str, str] = field(default_factory=dict)

    def delivery(self, attempt: int, reply: bytes = b"") -> Delivery:
        """Return the event as a delivery: which attempt it is, and what takes its acknowledgements."""
        return Delivery(
            self.failure.id.seq,
            self.subject,
            self.type_name,
            self.data,
            self.published,
            self.idempotency_key,
            self.trace_parent,
            self.trace_state,
            attempt,
            reply,
        )
