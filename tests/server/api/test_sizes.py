"""Requests are limited before they are decoded."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError, Message

from tests.hardening.target import delimited
from windshift._gen.windshift.events.v1alpha1.service_pb2 import PublishBatchRequest, PublishEventRequest
from windshift._gen.windshift.state.v1alpha1.service_pb2 import SetRequest, TransactRequest
from windshift.rpc import Method
from windshift.server.api.policies import MOST_EVENTS
from windshift.server.api.sizes import limit_requests
from windshift.server.domain.errors import InvalidField


async def _handler(*_: object) -> None:
    """Do nothing."""


def _parse(method: Method) -> Callable[[bytes], Message]:
    """Return what parses the large requests of a method."""
    limited = limit_requests(1, method)
    return (limited.large_type or limited.request_type).FromString


PATH = "/windshift.events.v1alpha1.EventsService/PublishBatch"
PLAIN = Method(PATH, _handler, PublishBatchRequest, False, False)
PARSE = _parse(PLAIN)

EMPTY = b"\x0a\x00"


@pytest.mark.parametrize(
    "data",
    [
        EMPTY * 1_000_000,
        b"\x8a\x00\x00" * 1_000_000,
        b"\x8a\x80\x80\x80\x00\x00" * 500_000,
        b"\x10\x01" + EMPTY * 100_000,
        b"\x3a\x00" * 100_000 + b"\x0a" * 20_000,
        b"\x3a\x00" * 20_000 + b"\x3a\xc0\xb8\x02" + b"\x0a" * 40_000,
    ],
    ids=[
        "shortest",
        "a longer tag",
        "an even longer tag",
        "behind another field",
        "fields without meaning",
        "more of these than are looked at",
    ],
)
def test_too_many_elements_are_not_decoded(data: bytes) -> None:
    """However they are written, more events than allowed are refused, and so is any number of fields."""
    with pytest.raises(InvalidField, match="events: must have at most 1000 elements"):
        PARSE(data)


@pytest.mark.parametrize(
    "data",
    [
        EMPTY * 40_000 + b"\x0b",
        b"\x0b\x0c" + EMPTY * 40_000,
        b"\x0a" * 80_000,
        b"\xb8\x80\x80\x80\x80\x00\x00" + EMPTY * 40_000,
    ],
    ids=["a group", "a group first", "one in another", "a tag that is too long"],
)
def test_what_is_no_message(data: bytes) -> None:
    """What cannot be counted cannot be decoded, or is too much."""
    with pytest.raises((DecodeError, InvalidField)):
        PARSE(data)


def test_as_many_as_allowed() -> None:
    """Large payloads of any bytes are no elements."""
    request = PublishBatchRequest(atomic=True)
    for _ in range(MOST_EVENTS):
        request.events.add(subject="a").data.value = b"\n" * 100 + random.randbytes(100)
    data = request.SerializeToString()
    assert data.count(b"\n") > 16 * MOST_EVENTS
    assert PARSE(data) == request


TRANSACT = Method("/windshift.state.v1alpha1.StateService/Transact", _handler, TransactRequest, False, False)
PARSE_TRANSACTION = _parse(TRANSACT)
CHECK, WRITE = b"\x12\x00", b"\x1a\x00"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (WRITE * 2_000_000, "writes"),
        (CHECK * 2_000_000, "checks"),
        (CHECK * 90 + WRITE * 2_000_000, "writes"),
        (b"\x9a\x00\x00" * 1_000_000, "writes"),
        (b"\x3a\x00" * 100_000 + b"\x1a" * 20_000, "checks"),
    ],
    ids=["writes", "checks", "both", "a longer tag", "fields without meaning"],
)
def test_too_many_elements_of_either_list_are_not_decoded(data: bytes, field: str) -> None:
    """The lists of a transaction are counted, whatever is behind what."""
    with pytest.raises(InvalidField, match=f"{field}: must have at most 100 elements"):
        PARSE_TRANSACTION(data)


def test_a_large_transaction() -> None:
    """Large values of any bytes are no elements."""
    request = TransactRequest(store="S", checks=[TransactRequest.Check(key="a", absent=True)] * 100)
    for number in range(100):
        request.writes.add(key=f"k.{number}").set.value.value = WRITE * 1000 + random.randbytes(100)
    assert PARSE_TRANSACTION(request.SerializeToString()) == request


MIB = 1024 * 1024
PUBLISH = Method(
    "/windshift.events.v1alpha1.EventsService/PublishEvent",
    _handler,
    PublishEventRequest,
    False,
    False,
)
PARSE_EVENT = _parse(PUBLISH)
SET = Method("/windshift.state.v1alpha1.StateService/Set", _handler, SetRequest, False, False)
PARSE_SET = _parse(SET)


@pytest.mark.parametrize(
    "event",
    [
        lambda n: b"\x1a\x00" * n,
        lambda n: b"\x0a\x01a" * n,
        lambda n: b"\x28\x01" * n,
        lambda n: b"\x78\x00" * n,
        lambda n: delimited(2, b"\x12\x00" * n),
        lambda n: delimited(2, delimited(1, bytes(100)) + b"\x78\x00" * n),
    ],
    ids=["messages", "texts", "numbers", "unknown", "in the data", "behind a long one"],
)
def test_fields_that_come_again_and_again_are_not_decoded(event: Callable[[int], bytes]) -> None:
    """They take no memory, but time: in an event, in one of a few, or in each of many."""
    for parse, data in (
        (PARSE_EVENT, event(MIB)),
        (PARSE, delimited(1, event(MIB))),
        (PARSE, delimited(1, event(MIB // 4)) * 4),
        (PARSE, delimited(1, event(600)) * 1000),
    ):
        with pytest.raises(InvalidField, match=r"^the request has too many fields"):
            parse(data)


def test_values_of_many_fields_are_not_decoded() -> None:
    """The same in stores."""
    with pytest.raises(InvalidField, match="too many fields"):
        PARSE_SET(delimited(3, b"\x12\x00" * MIB))
    with pytest.raises(InvalidField, match="too many fields"):
        PARSE_TRANSACTION(delimited(3, delimited(2, delimited(1, b"\x12\x00" * MIB))))


@pytest.mark.parametrize("size", [0, 31, 500, 8_000])
def test_events_with_all_that_they_may_have(size: int) -> None:
    """However large their payloads are."""
    event = PublishEventRequest(subject="s" * 31, idempotency_key="k" * 31, expected_last_id=2**63 - 1)
    event.timestamp.seconds, event.timestamp.nanos = 2**33, 999_999_999
    event.data.type_url, event.data.value = "t" * 31, random.randbytes(size)
    batch = PublishBatchRequest(events=[event] * MOST_EVENTS)
    assert PARSE(batch.SerializeToString()) == batch
    event.data.value = random.randbytes(4 * MIB)
    assert PARSE_EVENT(event.SerializeToString()) == event
    request = SetRequest(store="s", key="k", value=event.data)
    assert PARSE_SET(request.SerializeToString()) == request
