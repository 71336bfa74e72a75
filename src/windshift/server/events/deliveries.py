"""Deliveries: messages of a JetStream consumer as events."""

from __future__ import annotations

from typing import Final, NamedTuple

from windshift.nats import Message
from windshift.nats.jetstream.api import StoredMessage
from windshift.nats.jetstream.pulling import split_ack_subject
from windshift.nats.times import Time, from_unix_ns
from windshift.server.events import headers
from windshift.server.events.model import StreamSeq

_new: Final = tuple.__new__  # as a named tuple's own __new__ does, in less than half of the time


class Delivery(NamedTuple):
    """One attempt to hand over an event.

    Attributes:
        id: the event's sequence in its stream.
        subject: the event's subject.
        type_name: full Protobuf name of the data, empty when the publisher named none.
        data: the serialized data.
        time: when it was published; the broker's time when the publisher named none.
        idempotency_key: the publisher's, if any.
        trace_parent: W3C trace context, if any.
        trace_state: W3C trace context, if any.
        attempt: 1 for the first delivery.
        reply: the subject that takes this delivery's acknowledgements.
        stored_ns: when the stream stored it, in nanoseconds since 1970.
    """

    id: StreamSeq
    subject: str
    type_name: str
    data: bytes
    time: Time
    idempotency_key: str | None
    trace_parent: str | None
    trace_state: str | None
    attempt: int
    reply: bytes
    stored_ns: int


def read_delivery(message: Message) -> Delivery:
    """Read a message that JetStream delivered; raise `ValueError` of any other."""
    _, subject, reply, block, body = message
    attempt, sequence, _, stored, _ = split_ack_subject(reply)
    stored_ns = int(stored)
    type_name, time, key, trace_parent, trace_state = headers.read(block)
    if time is None:
        time = from_unix_ns(stored_ns)
    text, number = subject.decode(errors="replace"), int(sequence)
    return _new(
        Delivery,
        (number, text, type_name, body, time, key, trace_parent, trace_state, int(attempt), reply, stored_ns),
    )


def read_stored(message: StoredMessage) -> Delivery:
    """Read a message as its stream holds it: it has no attempt and no reply."""
    subject, sequence, block, body, stored = message
    type_name, time, key, trace_parent, trace_state = headers.read(block)
    return _new(
        Delivery,
        (
            sequence,
            subject,
            type_name,
            body,
            stored if time is None else time,
            key,
            trace_parent,
            trace_state,
            0,
            b"",
            stored.unix_ns,
        ),
    )


_FRAMING: Final = 200
"""Bytes that an event has in a response beside its data and texts: numbers, times, and what frames it all."""


def message_size(delivery: Delivery) -> int:
    """Return the bytes of a response with an event and its token, or up to 300 more."""
    _, subject, type_name, data, _, key, parent, state, _, reply, _ = delivery
    text = "".join((subject, type_name, key or "", parent or "", state or ""))
    length = len(text) if text.isascii() else len(text.encode())
    return len(data) + length + len(reply) + _FRAMING


def stored_at(reply: bytes) -> int:
    """Return when the stream stored a message, in nanoseconds since 1970, from a delivery's reply subject."""
    return int(split_ack_subject(reply)[3])


class DeliveryName(NamedTuple):
    """What tells one delivery of a consumer from all others: the broker counts deliveries in `sequence`."""

    seq: StreamSeq
    attempt: int
    sequence: int


def name_of(reply: bytes) -> DeliveryName:
    """Return the name of a delivery, by its reply subject."""
    attempt, seq, sequence, *_ = split_ack_subject(reply)
    return DeliveryName(StreamSeq(int(seq)), int(attempt), int(sequence))


def consumer_sequence(reply: bytes) -> int:
    """Return the number of a delivery among all of its consumer since that was moved last."""
    return int(split_ack_subject(reply)[2])


def pending_after(reply: bytes) -> int:
    """Return how many messages the consumer had yet to hand over when it sent this delivery."""
    return int(split_ack_subject(reply)[4])
