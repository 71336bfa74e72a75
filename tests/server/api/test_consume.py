"""The messages of consume calls: commands read from them, deliveries and confirmations written to them."""

from __future__ import annotations

import pytest

from windshift._gen.windshift.events.v1alpha1.service_pb2 import EventsRequest, EventsResponse
from windshift.nats.times import Time
from windshift.server.api.consume import (
    MOST_BATCH_BYTES,
    confirmation_response,
    event_responses,
    read_command,
)
from windshift.server.domain.errors import InvalidField
from windshift.server.events.consuming.commands import Ack, Action, Command, Ping, Reject, Subscribe
from windshift.server.events.consuming.pending_acks import CommandKind, Confirmation
from windshift.server.events.consuming.tokens import Tokens
from windshift.server.events.deliveries import Delivery, message_size
from windshift.server.events.model import ConsumerKey, StreamSeq

LARGEST = StreamSeq(2**64 - 1)


@pytest.mark.parametrize(
    ("request_", "command"),
    [
        ({"subscribe": {"stream": "s", "consumer": "c"}}, Subscribe("s", "c", 0)),
        ({"subscribe": {"max_processing_events": 7}}, Subscribe("", "", 7)),
        ({"ack": {}}, Ack([])),
        ({"ack": {"ids": [3, 3, LARGEST]}}, Ack([StreamSeq(3), StreamSeq(3), LARGEST])),
        ({"ping": {"ids": [1]}}, Ping([StreamSeq(1)])),
        ({"reject": {"ids": [1]}}, Reject([StreamSeq(1)], False, None)),
        ({"reject": {"ids": [1], "permanently": True}}, Reject([StreamSeq(1)], True, None)),
        ({"reject": {"delay": {}}}, Reject([], False, 0)),
        ({"reject": {"delay": {"seconds": 1, "nanos": 5}}}, Reject([], False, 1_000_000_005)),
        ({"reject": {"delay": {"seconds": -1, "nanos": -5}}}, Reject([], False, -1_000_000_005)),
        (
            {"reject": {"reason": "no such customer", "error_type": "KeyError"}},
            Reject([], False, None, "no such customer", "KeyError"),
        ),
        *[
            ({"reject": {"action": number}}, Reject([], False, None, action=action))
            for number, action in enumerate(
                (Action.UNSPECIFIED, Action.RETRY, Action.DEAD_LETTER, Action.DROP)
            )
        ],
    ],
)
def test_commands_are_read(request_: dict[str, object], command: Command) -> None:
    """What a client says becomes a command; whether a delay was named matters."""
    assert read_command(EventsRequest(**request_)) == command  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({}, "request"),
        ({"ack": {"ids": range(10_001)}}, "ack.ids"),
        ({"reject": {"delay": {"seconds": 1, "nanos": -1}}}, "reject.delay"),
        ({"reject": {"delay": {"seconds": 2**63 - 1}}}, "reject.delay"),
        ({"reject": {"action": 4}}, "reject.action"),
        ({"reject": {"action": -1}}, "reject.action"),
        ({"reject": {"action": 2**31 - 1}}, "reject.action"),
    ],
)
def test_malformed_commands_are_refused(request_: dict[str, object], field: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidField) as caught:
        read_command(EventsRequest(**request_))  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize("letter", ["a", "ä", "語", "\U0001f980", "\0"])
def test_reasons_are_cut(letter: str) -> None:
    """To 1,024 characters and 256 of the kind of failure, however many bytes these are."""
    for reason, error_type in ((1024, 256), (1025, 257), (100_000, 10_000)):
        request = EventsRequest(reject={"reason": letter * reason, "error_type": letter * error_type})
        assert read_command(request) == Reject([], False, None, letter * 1024, letter * 256)


def test_a_delivery_is_written_with_all_it_has() -> None:
    """Each field of the event has its place."""
    delivery = Delivery(LARGEST, "a.b", "x.Y", b"\xff", Time(-1, 7), "key", "parent", "state", 3, b"reply", 0)
    (response,) = event_responses([delivery], (), 1)
    assert response == EventsResponse(
        event={
            "id": LARGEST,
            "subject": "a.b",
            "headers": {
                "timestamp": {"seconds": -1, "nanos": 7},
                "idempotency_key": "key",
                "trace_parent": "parent",
                "trace_state": "state",
            },
            "data": {"type_url": "type.googleapis.com/x.Y", "value": b"\xff"},
            "delivery_attempt": 3,
        }
    )


def test_what_a_delivery_has_not_is_absent() -> None:
    """Optional headers are not written as empty ones; the time and the data are always there."""
    delivery = Delivery(StreamSeq(1), "a", "", b"", Time(0, 0), None, None, None, 1, b"reply", 0)
    (response,) = event_responses([delivery], (), 1)
    event = response.event
    assert event.HasField("data")
    assert event.headers.HasField("timestamp")
    for field in ("idempotency_key", "trace_parent", "trace_state"):
        assert not event.headers.HasField(field)


@pytest.mark.parametrize("kind", list(CommandKind))
def test_a_confirmation_answers_its_kind_of_command(kind: CommandKind) -> None:
    """Also when it is about no id at all."""
    empty = Confirmation(kind, 0.0)
    assert confirmation_response(empty).WhichOneof("response") == f"{kind.value}_confirmation"
    full = Confirmation(kind, 0.0)
    for number, ids in enumerate(full.lists()):
        ids += [StreamSeq(number), LARGEST]
    written = getattr(confirmation_response(full), f"{kind.value}_confirmation")
    assert (list(written.ids), list(written.invalid_ids)) == ([0, LARGEST], [1, LARGEST])
    assert list(written.temporary_failed_ids) == [2, LARGEST]


def test_batches_are_bounded() -> None:
    """By the number of events and by their bytes; one event alone is no batch."""

    def delivery(seq: int, size: int, state: str | None = None) -> Delivery:
        return Delivery(StreamSeq(seq), "a", "x.Y", b"x" * size, Time(1, 2), None, None, state, 1, b"r", 0)

    def sizes(deliveries: list[Delivery], max_batch: int) -> list[int]:
        responses = list(event_responses(deliveries, (), max_batch))
        assert all(response.ByteSize() < 3 * MOST_BATCH_BYTES for response in responses)
        ids = [event.id for each in responses for event in each.batch.events or [each.event]]
        assert ids == [each.id for each in deliveries]
        return [len(each.batch.events) for each in responses]

    small = [delivery(seq, 10) for seq in range(1, 8)]
    assert sizes(small, 1) == [0] * 7
    assert sizes(small, 3) == [3, 3, 0]
    assert sizes(small, 7) == [7]
    large = [delivery(seq, size) for seq, size in enumerate((1, 2 * MOST_BATCH_BYTES, 1, 1), 1)]
    assert sizes(large, 100) == [0, 0, 2]
    stated = [delivery(seq, 0, "x" * (MOST_BATCH_BYTES // 2 - 300)) for seq in range(1, 6)]
    assert sizes(stated, 100) == [2, 2, 0]


def test_tokens_go_with_their_events() -> None:
    """In batches as alone."""
    deliveries = [
        Delivery(StreamSeq(seq), "a", "x", b"", Time(1, 2), None, None, None, 1, b"r", 0) for seq in (1, 2, 3)
    ]
    (batch,) = event_responses(deliveries, [b"1", b"2", b""], 5)
    assert [event.token for event in batch.batch.events] == [b"1", b"2", b""]
    alone = event_responses(deliveries, [b"1", b"2", b""], 1)
    assert [response.event.token for response in alone] == [b"1", b"2", b""]


@pytest.mark.parametrize("max_bytes", [16 * 1024, MOST_BATCH_BYTES])
def test_batches_have_no_more_bytes_than_the_client_takes(max_bytes: int) -> None:
    """However long their texts are, and with their tokens."""
    reply = b"$JS.ACK.domain.account." + b"s" * 255 + b"." + b"c" * 255 + b".1.1.1.1.1.x"
    state = "s" * 512
    deliveries = [
        Delivery(StreamSeq(LARGEST), text * 255, "x.Y", b"d" * 99, Time(-1, 7), "k", "p", state, 9, reply, 0)
        for text in ("a", "ä", "\u20ac", "\U0001f600") * 30
    ]
    responses = list(event_responses(deliveries, [b"t" * 600] * len(deliveries), 1_000, max_bytes))
    assert sum(len(each.batch.events) or 1 for each in responses) == len(deliveries)
    assert all(response.ByteSize() <= max_bytes for response in responses)


@pytest.mark.parametrize("text", ["", "a", "ä" * 100])
@pytest.mark.parametrize("size", [0, 1, 200, 70_000, 5_000_000])
def test_a_size_is_told_closely_enough(text: str, size: int) -> None:
    """What is told of a response is never less than it has, and 300 bytes more at most."""
    reply = b"$JS.ACK.s.c.1.%d.%d.%d.%d" % (LARGEST, LARGEST, 2**63, LARGEST)
    tokens = Tokens(ConsumerKey("s", "c"), b"k" * 32, "p", "broker")
    for key in (None, text or None):
        delivery = Delivery(
            LARGEST, text, text, b"d" * size, Time(-(10**11), 999), key, key, key, 2**40, reply, 0
        )
        (response,) = event_responses([delivery], [tokens.write(reply)], 1)
        assert response.ByteSize() <= message_size(delivery) <= response.ByteSize() + 300
