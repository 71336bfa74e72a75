"""Messages that JetStream delivers, as events."""

from __future__ import annotations

import pytest

from windshift.nats import Message
from windshift.nats import headers as h
from windshift.nats.times import Time
from windshift.server.events.deliveries import Delivery, pending_after, read_delivery, stored_at
from windshift.server.events.model import PublishRequest, StreamSeq
from windshift.server.events.publish import write_of
from windshift.server.telemetry.propagation import TraceContext

PLAIN = b"$JS.ACK.ORDERS.billing.3.17.42.1795532049123456789.5"
WITH_DOMAIN = b"$JS.ACK.hub.ACCHASH.ORDERS.billing.3.17.42.1795532049123456789.5.x1"
LATER = b"$JS.ACK.hub.ACCHASH.ORDERS.billing.3.17.42.1795532049123456789.5.x1.more.tokens"
STORED_AT = Time(1_795_532_049, 123_456_789)
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def message(*lines: tuple[bytes, bytes], reply: bytes = PLAIN, subject: bytes = b"orders.placed") -> Message:
    """Make a message as the library hands it on."""
    return Message(7, subject, reply, h.block(lines), b"data")


@pytest.mark.parametrize("reply", [PLAIN, WITH_DOMAIN, LATER])
def test_the_reply_subject_tells_which_delivery_it_is(reply: bytes) -> None:
    """Sequence in the stream, attempt and the broker's time come from the subject, old form or new."""
    delivery = read_delivery(message(reply=reply))
    assert delivery == Delivery(
        StreamSeq(17), "orders.placed", "", b"data", STORED_AT, None, None, None, 3, reply, stored_at(reply)
    )
    assert type(delivery) is Delivery
    assert type(delivery.time) is Time
    assert stored_at(reply) == 1_795_532_049_123_456_789
    assert pending_after(reply) == 5


@pytest.mark.parametrize(
    "reply",
    [
        *(b"", b"x", b"$JS.ACK.a", b"$JS.ACK.a.b.c.d.e.f.g.h", b"$JS.ACK.a.b.1.1.1.1.1.1"),
        *(PLAIN.replace(b"17", b"y"), PLAIN.replace(b".3.", b"..")),
    ],
)
def test_other_reply_subjects_are_no_delivery(reply: bytes) -> None:
    """What JetStream did not send is not taken for an event."""
    with pytest.raises(ValueError):
        read_delivery(message(reply=reply))


def test_headers_of_the_publisher_are_read() -> None:
    """Type, time, key and trace come from the headers."""
    delivery = read_delivery(
        message(
            (b"WS-Data-Type", b"acme.Placed"),
            (b"WS-Published-Time", b"2026-11-24T16:54:09.5+02:00"),
            (b"Nats-Msg-Id", b"key-1"),
            (b"WS-Trace-Parent", b"00-a-b-01"),
            (b"WS-Trace-State", b"v=1"),
        )
    )
    assert delivery.type_name == "acme.Placed"
    assert delivery.time == Time(1_795_532_049, 500_000_000)
    assert delivery.idempotency_key == "key-1"
    assert (delivery.trace_parent, delivery.trace_state) == ("00-a-b-01", "v=1")


def test_what_was_published_is_delivered() -> None:
    """An event of a Windshift comes with all that its publisher said."""
    request = PublishRequest(
        *("orders.placed", "x/acme.Placed", b"data", Time(-1, 7), "key 1", 9), TraceContext(PARENT, "a=1,b=2")
    )
    assert read_delivery(
        Message(1, b"orders.placed", PLAIN, write_of(request, 0, b"").headers, b"data")
    ) == Delivery(
        StreamSeq(17),
        *(
            "orders.placed",
            "acme.Placed",
            b"data",
            Time(-1, 7),
            "key 1",
            PARENT,
            "a=1,b=2",
            3,
            PLAIN,
            stored_at(PLAIN),
        ),
    )


@pytest.mark.parametrize(
    "text", [b"", b"yesterday", b"2026-11-24T14:54:09.1234567890Z", b"0001-01-01T00:00:00+01:00", b"\xff"]
)
def test_an_unreadable_time_is_the_brokers(text: bytes) -> None:
    """A time that is none, or that Protobuf could not hold, gives way to when the message was stored."""
    assert read_delivery(message((b"WS-Published-Time", text))).time == STORED_AT


def test_a_header_named_status_makes_no_status() -> None:
    """A stored message may carry any header; only what has no reply subject is a status."""
    lines = ((b"Status", b"408"), (b"Description", b"Request Timeout"))
    assert read_delivery(message(*lines)).data == b"data"


def test_a_subject_that_is_no_text() -> None:
    """It is told as well as can be; what acknowledges the delivery stays what it is."""
    delivery = read_delivery(message(subject=b"orders.\xff", reply=PLAIN.replace(b"ORDERS", b"\xff")))
    assert delivery.subject == "orders.\ufffd"
    assert delivery.reply == PLAIN.replace(b"ORDERS", b"\xff")


@pytest.mark.parametrize("reply", [b"x", b"", b"$JS.ACK.a.b.1.2.3.x.x"])
def test_what_no_reply_subject_tells(reply: bytes) -> None:
    """Only a delivery's reply says when its message was stored, and how many there are to come."""
    for ask in (stored_at, pending_after):
        with pytest.raises(ValueError):
            ask(reply)
