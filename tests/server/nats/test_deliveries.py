"""Messages that JetStream delivers, as events."""

from __future__ import annotations

import pytest

from windshift.nats import Message
from windshift.nats import headers as h
from windshift.nats.times import Time
from windshift.server.events.deliveries import Delivery, read_delivery
from windshift.server.events.model import StreamSeq

PLAIN = b"$JS.ACK.ORDERS.billing.3.17.42.1795532049123456789.5"
WITH_DOMAIN = b"$JS.ACK.hub.ACCHASH.ORDERS.billing.3.17.42.1795532049123456789.5.x1"
LATER = WITH_DOMAIN + b".more.tokens"
STORED_AT = Time(1_795_532_049, 123_456_789)


def message(reply: bytes = PLAIN, **headers: str) -> Message:
    """Make a message as it arrives."""
    named = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    return Message(1, b"orders.placed", reply, h.block(named), b"data")


@pytest.mark.parametrize("reply", [PLAIN, WITH_DOMAIN, LATER])
def test_the_reply_subject_tells_which_delivery_it_is(reply: bytes) -> None:
    """Sequence in the stream, attempt and the broker's time come from the subject, old form or new."""
    assert read_delivery(message(reply)) == Delivery(
        StreamSeq(17), "orders.placed", "", b"data", STORED_AT, None, None, None, 3, reply
    )


@pytest.mark.parametrize(
    "reply", [b"$JS.ACK.a", b"$JS.ACK.a.b.c.d.e.f.g.h", b"x", PLAIN.replace(b"17", b"y")]
)
def test_other_reply_subjects_are_no_delivery(reply: bytes) -> None:
    """What JetStream did not send is not taken for an event."""
    with pytest.raises(ValueError):
        read_delivery(message(reply))


def test_headers_of_the_publisher_are_read() -> None:
    """Type, time, key and trace come from the headers."""
    delivery = read_delivery(
        message(
            WS_Data_Type="acme.Placed",
            WS_Published_Time="2026-11-24T16:54:09.5+02:00",
            Nats_Msg_Id="key-1",
            WS_Trace_Parent="00-a-b-01",
            WS_Trace_State="v=1",
        )
    )
    assert delivery.type_name == "acme.Placed"
    assert delivery.time == Time(1_795_532_049, 500_000_000)
    assert delivery.idempotency_key == "key-1"
    assert (delivery.trace_parent, delivery.trace_state) == ("00-a-b-01", "v=1")


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-11-24T14:54:09.1234567890Z", "0001-01-01T00:00:00+01:00"]
)
def test_an_unreadable_time_is_the_brokers(text: str) -> None:
    """A time that is none, or that Protobuf could not hold, gives way to when the message was stored."""
    assert read_delivery(message(WS_Published_Time=text)).time == STORED_AT


def test_a_header_named_status_makes_no_status() -> None:
    """A stored message may carry any header; only what has no reply subject is a status."""
    assert read_delivery(message(Status="408", Description="Request Timeout")).data == b"data"
