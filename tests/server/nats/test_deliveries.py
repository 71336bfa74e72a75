"""What JetStream sends to a pull inbox: messages as deliveries, statuses as what they mean."""

from __future__ import annotations

from typing import cast

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from windshift.server.nats.deliveries import (
    Delivery,
    Ended,
    Notice,
    StreamSeq,
    nak,
    read_delivery,
    read_status,
)
from windshift.server.nats.timestamps import Time

PLAIN = "$JS.ACK.ORDERS.billing.3.17.42.1795532049123456789.5"
WITH_DOMAIN = "$JS.ACK.hub.ACCHASH.ORDERS.billing.3.17.42.1795532049123456789.5.x1"
LATER = "$JS.ACK.hub.ACCHASH.ORDERS.billing.3.17.42.1795532049123456789.5.x1.more.tokens"
STORED_AT = Time(1_795_532_049, 123_456_789)


def message(reply: str = PLAIN, **headers: str) -> Msg:
    """Make a message as nats-py hands it on."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Msg(cast("Client", None), "orders.placed", reply, b"data", named or None)


@pytest.mark.parametrize("reply", [PLAIN, WITH_DOMAIN, LATER])
def test_the_reply_subject_tells_which_delivery_it_is(reply: str) -> None:
    """Sequence in the stream, attempt and the broker's time come from the subject, old form or new."""
    assert read_delivery(message(reply)) == Delivery(
        StreamSeq(17), "orders.placed", "", b"data", STORED_AT, None, None, None, 3, reply
    )


@pytest.mark.parametrize("reply", ["$JS.ACK.a", "$JS.ACK.a.b.c.d.e.f.g.h", "x", PLAIN.replace("17", "y")])
def test_other_reply_subjects_are_no_delivery(reply: str) -> None:
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


@pytest.mark.parametrize(
    ("status", "description", "pending", "meaning"),
    [
        ("100", "Idle Heartbeat", {}, Notice.ALIVE),
        ("404", "No Messages", {}, Notice.REFUSED),
        (
            "408",
            "Request Timeout",
            {"Nats-Pending-Messages": "7", "Nats-Pending-Bytes": "9"},
            Ended(7, 9, False),
        ),
        ("408", "Interest Expired", {"Nats-Pending-Messages": "7"}, Ended(7, 0, False)),
        ("408", "Request Timeout", {}, Notice.LOST),
        (
            "409",
            "Batch Completed",
            {"Nats-Pending-Messages": "0", "Nats-Pending-Bytes": "9"},
            Ended(0, 9, False),
        ),
        (
            "409",
            "Message Size Exceeds MaxBytes",
            {"Nats-Pending-Messages": "3", "Nats-Pending-Bytes": "9"},
            Ended(3, 9, True),
        ),
        ("409", "Leadership Change", {}, Notice.LOST),
        ("409", "Consumer Deleted", {}, Notice.DELETED),
        ("409", "Consumer is push based", {}, Notice.REFUSED),
        ("409", "Exceeded MaxRequestBatch of 10", {}, Notice.REFUSED),
        ("400", "Bad Request - heartbeat value too large", {}, Notice.REFUSED),
        ("423", "Nats-Wrong-Pin-Id", {"Nats-Pending-Messages": "3"}, Ended(3, 0, False)),
        ("503", "", {}, Notice.UNHEARD),
        ("503", "garbled by the client", {}, Notice.UNHEARD),
        ("999", "of a later broker", {}, Notice.REFUSED),
    ],
)
def test_statuses(status: str, description: str, pending: dict[str, str], meaning: Ended | Notice) -> None:
    """Each status of the broker is the end of a request, of all requests, a sign of life, or doubt."""
    assert read_status({"Status": status, "Description": description, **pending}) == meaning


def test_a_delay_is_written_in_nanoseconds() -> None:
    """Without a delay the plain form is used: the broker takes 0 as none anyway."""
    assert nak(0) == b"-NAK"
    assert nak(1_500_000_000) == b'-NAK {"delay": 1500000000}'
