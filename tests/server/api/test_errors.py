"""Every error of the domain has its place in the contract's table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo

from windshift.rpc import NoRoom, RpcError, StatusCode
from windshift.rpc.outcome import final_error
from windshift.rpc.status import status_trailers
from windshift.server.api.errors import CODES, translate
from windshift.server.domain.errors import (
    BrokerUnavailable,
    DeadLetterNotFound,
    EventTooLarge,
    InvalidField,
    KeyExists,
    OutcomeUnknown,
    RevisionMismatch,
    StorageFull,
    StoreNotFound,
    StreamFull,
    SubjectsOverlap,
    TooManyInFlight,
    UnboundSubject,
    ValueNotAny,
    WindshiftError,
    WrongLastId,
)

EVENTS = "/windshift.events.v1alpha1.EventsService"
DEAD_LETTERS = "/windshift.deadletters.v1alpha1.DeadLettersService"
STATE = "/windshift.state.v1alpha1.StateService"


def every_error(kind: type[WindshiftError] = WindshiftError) -> Iterator[type[WindshiftError]]:
    """List the leaves of the tree."""
    for child in kind.__subclasses__():
        yield from every_error(child)
        yield child


def test_every_reason_has_a_code() -> None:
    """No error of the domain can reach a client as an unknown one, and the table has nothing else."""
    assert {kind.reason for kind in every_error()} == set(CODES)


@pytest.mark.parametrize(
    ("error", "code", "reason", "metadata"),
    [
        (InvalidField("a.b", "is bad"), StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", {"field": "a.b"}),
        (EventTooLarge(7), StatusCode.INVALID_ARGUMENT, "EVENT_TOO_LARGE", {"limit": "7"}),
        (StoreNotFound("s"), StatusCode.NOT_FOUND, "STORE_NOT_FOUND", {"name": "s"}),
        (DeadLetterNotFound("s.c.1.2"), StatusCode.NOT_FOUND, "DEAD_LETTER_NOT_FOUND", {"name": "s.c.1.2"}),
        (UnboundSubject("a"), StatusCode.FAILED_PRECONDITION, "UNBOUND_SUBJECT", {"subject": "a"}),
        (WrongLastId(1, 2), StatusCode.ABORTED, "WRONG_LAST_ID", {"expected": "1", "actual": "2"}),
        (RevisionMismatch(1, 0), StatusCode.ABORTED, "REVISION_MISMATCH", {"expected": "1", "actual": "0"}),
        (KeyExists("k", 3), StatusCode.ALREADY_EXISTS, "KEY_EXISTS", {"name": "k", "actual": "3"}),
        (ValueNotAny("k"), StatusCode.FAILED_PRECONDITION, "VALUE_NOT_ANY", {}),
        (StreamFull(), StatusCode.RESOURCE_EXHAUSTED, "STREAM_FULL", {}),
        (StorageFull("full"), StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL", {}),
        (TooManyInFlight(), StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_IN_FLIGHT", {}),
        (BrokerUnavailable(), StatusCode.UNAVAILABLE, "BROKER_UNAVAILABLE", {}),
        (OutcomeUnknown(), StatusCode.DEADLINE_EXCEEDED, "OUTCOME_UNKNOWN", {}),
    ],
)
def test_what_a_client_sees(
    error: WindshiftError, code: StatusCode, reason: str, metadata: dict[str, str]
) -> None:
    """Code, reason, metadata and a message, whose end is the hint; an invalid field also as a violation."""
    seen = translate(f"{EVENTS}/PublishEvent", error, 1000)
    assert seen is not None
    info, *more = seen.details
    assert isinstance(info, ErrorInfo)
    told = {**metadata, "hint": error.hint} if error.hint else metadata
    assert (seen.code, info.domain, info.reason, dict(info.metadata)) == (code, "windshift", reason, told)
    assert seen.message.endswith(f"; {error.hint}" if error.hint else "")
    assert seen.message == error.message
    if isinstance(error, InvalidField):
        assert more == [
            BadRequest(field_violations=[BadRequest.FieldViolation(field="a.b", description="is bad")])
        ]
    else:
        assert more == []


@pytest.mark.parametrize(
    "error",
    [
        SubjectsOverlap([f"subject.{number}" for number in range(4096)], ["s" * 1_000]),
        SubjectsOverlap(["漢" * 20] * 50, ["字" * 20] * 20),
        SubjectsOverlap(["événements.reçus"] * 100, ["événements"] * 100),
        SubjectsOverlap(["%" * 30] * 100, ["😀" * 20] * 100),
        InvalidField("f", "x" * 10_000),
        InvalidField("f", "xxxxé" * 10_000),
    ],
)
def test_a_long_error_keeps_its_reason(error: WindshiftError) -> None:
    """What is too long for clients is cut."""
    translated = translate(f"{EVENTS}/EnsureStream", error, 1)
    assert translated is not None
    received = final_error(status_trailers(translated))
    assert received is not None
    assert len(received.details) == len(translated.details)
    assert all(received.detail(type(detail)) is not None for detail in translated.details)


def test_what_nobody_expected_is_not_translated() -> None:
    """An error of no known kind is left to the gRPC layer, which tells nothing of it."""
    assert translate("/x/Y", ValueError("secret"), 1000) is None


@pytest.mark.parametrize(
    ("path", "code", "seen_as", "reason", "metadata"),
    [
        (
            f"{EVENTS}/PublishEvent",
            "RESOURCE_EXHAUSTED",
            "INVALID_ARGUMENT",
            "EVENT_TOO_LARGE",
            {"limit": "1000"},
        ),
        (f"{EVENTS}/Publish", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "EVENT_TOO_LARGE", {"limit": "1000"}),
        (f"{STATE}/Set", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "EVENT_TOO_LARGE", {"limit": "1000"}),
        (f"{EVENTS}/Events", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", {}),
        (f"{EVENTS}/Publish", "INVALID_ARGUMENT", "INVALID_ARGUMENT", "INVALID_FIELD", {"field": ""}),
        (f"{EVENTS}/Publish", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN", {}),
        (f"{STATE}/EnsureStore", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN", {}),
        (f"{STATE}/Get", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", {}),
        (f"{EVENTS}/Consume", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", {}),
        (f"{EVENTS}/GetConsumer", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", {}),
        (f"{EVENTS}/GetConsumer", "UNAVAILABLE", "UNAVAILABLE", "SHUTTING_DOWN", {}),
        (f"{STATE}/Delete", "UNAVAILABLE", "DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN", {}),
        (f"{STATE}/Get", "UNAVAILABLE", "UNAVAILABLE", "SHUTTING_DOWN", {}),
        (f"{DEAD_LETTERS}/List", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", {}),
        (f"{DEAD_LETTERS}/Watch", "UNAVAILABLE", "UNAVAILABLE", "SHUTTING_DOWN", {}),
        (f"{DEAD_LETTERS}/Replay", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN", {}),
        (f"{DEAD_LETTERS}/Purge", "UNAVAILABLE", "DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN", {}),
        (f"{STATE}/Nope", "UNIMPLEMENTED", "UNIMPLEMENTED", "UNIMPLEMENTED", {}),
        (f"{STATE}/Get", "INTERNAL", "INTERNAL", "INTERNAL", {}),
    ],
)
def test_errors_of_the_wire(
    path: str, code: str, seen_as: str, reason: str, metadata: dict[str, str]
) -> None:
    """What the gRPC layer refuses has the reason of the contract that fits, or the name of its code."""
    seen = translate(path, RpcError(StatusCode[code], "a text"), 1000)
    assert seen is not None
    info, *more = seen.details
    assert isinstance(info, ErrorInfo)
    assert (seen.code.name, info.domain, info.reason) == (seen_as, "windshift", reason)
    told = dict(info.metadata)
    assert seen.message.endswith(told.pop("hint", ""))
    assert told == metadata
    assert [type(detail) for detail in more] == ([BadRequest] if reason == "INVALID_FIELD" else [])


@pytest.mark.parametrize("path", [f"{EVENTS}/Publish", f"{STATE}/Get"])
def test_no_room_for_a_request(path: str) -> None:
    """It is no matter of the request's size."""
    seen = translate(path, NoRoom(), 1000)
    assert seen is not None
    assert (seen.code, seen.message) == (StatusCode.RESOURCE_EXHAUSTED, NoRoom().message)
    assert [detail.reason for detail in seen.details if isinstance(detail, ErrorInfo)] == [
        "TOO_MANY_IN_FLIGHT"
    ]
