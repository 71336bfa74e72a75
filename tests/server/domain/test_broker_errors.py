"""What the errors of the NATS library mean in the domain's terms."""

from __future__ import annotations

import pytest

from tests.support.freed import alive, without_collector
from windshift import nats
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import read_answer
from windshift.server.domain import errors
from windshift.server.domain.broker_errors import _BY_CODE, broker_errors, domain_error, is_invalid

NO_ROOM = "the broker has no room left; give it more, or remove events"
NO_JETSTREAM = "the broker keeps nothing for this server; enable JetStream for its account, then try again"
NO_REPLICAS = "the broker has not enough servers for this many replicas; ask for fewer"
BUSY = "more is being read from the broker than it can answer in time", "try again, with fewer calls at once"
UNANSWERED = "the broker does not answer, or has no leader for what was asked"
CANNOT_STORE = "the broker cannot store anything now; try again"
FILTERS_OVERLAP = "subjects of the same source or consumer must not overlap"


def refused(err_code: int, description: str = "why", code: int = 400) -> nats.JetStreamError:
    """Let JetStream refuse something."""
    return nats.JetStreamError(err_code, code, description, "S")


def meaning(error: nats.NatsError) -> tuple[type[Exception], str]:
    """Return the kind and the text of what an error means."""
    told = domain_error(error, stream="ORDERS", consumer="billing")
    return type(told), str(told)


BY_KIND = [
    (nats.Unavailable(), errors.BrokerUnavailable()),
    (nats.Busy(), errors.BrokerUnavailable(*BUSY)),
    (nats.Unanswered(), errors.BrokerUnavailable(UNANSWERED)),
    (nats.Forbidden(), errors.ForbiddenByBroker()),
    (nats.NotConnected(), errors.BrokerUnavailable()),
    (nats.NoDirectGet(), errors.BrokerUnavailable()),
    (nats.OutcomeUnknown(), errors.OutcomeUnknown()),
    (nats.OutcomeUnknown("it does not answer"), errors.OutcomeUnknown("it does not answer")),
    (nats.TooManyInFlight(), errors.TooManyInFlight()),
    (nats.StorageFull("no disk"), errors.StorageFull("no disk", "")),
    (nats.NoStream("orders.new"), errors.UnboundSubject("orders.new")),
    (nats.NoBucket("settings"), errors.StoreNotFound("settings")),
    (nats.NoTtl("settings"), errors.TtlNotSupported("settings")),
    (nats.NoBatches("settings"), errors.TransactionsNotSupported("settings")),
    (nats.MessageTooLarge(1024), errors.EventTooLarge(1024)),
]


@pytest.mark.parametrize(("error", "told"), BY_KIND, ids=repr)
def test_errors_of_the_library(error: nats.NatsError, told: errors.WindshiftError) -> None:
    """Each has its counterpart, with the same subject, name or limit."""
    found = domain_error(error)
    assert type(found) is type(told)
    assert isinstance(found, errors.WindshiftError)
    assert (found.message, found.hint, found.metadata) == (told.message, told.hint, told.metadata)


def test_every_error_of_the_library_is_considered() -> None:
    """What has no counterpart is met by the operation itself, or when the server starts."""
    known = {type(error) for error, _ in BY_KIND} | {nats.JetStreamError}
    others = {nats.ConnectFailed("x"), nats.Superseded()}
    every = {
        each for each in vars(nats).values() if isinstance(each, type) and issubclass(each, nats.NatsError)
    }
    assert every == known | {type(error) for error in others} | {nats.NatsError}
    for error in others:
        assert domain_error(error) is error


BY_CODE = {
    10002: (errors.StorageFull, NO_ROOM),
    10004: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
    10005: (errors.ReplicasUnavailable, NO_REPLICAS),
    10007: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
    10008: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
    10009: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
    10014: (errors.ConsumerNotFound, errors.ConsumerNotFound("billing").message),
    10023: (errors.StorageFull, NO_ROOM),
    10026: (errors.ConsumerLimit, errors.ConsumerLimit("ORDERS").message),
    10027: (errors.StreamLimit, errors.StreamLimit().message),
    10028: (errors.StorageFull, NO_ROOM),
    10035: (errors.BrokerUnavailable, NO_JETSTREAM),
    10039: (errors.BrokerUnavailable, NO_JETSTREAM),
    10047: (errors.StorageFull, NO_ROOM),
    10055: (
        errors.MirrorChange,
        "a mirror cannot become anything else, nor change what it mirrors; make another stream",
    ),
    10059: (errors.StreamNotFound, errors.StreamNotFound("ORDERS").message),
    10065: (
        errors.SubjectsOverlap,
        "another stream takes some of these subjects already; choose others, or publish to that one",
    ),
    10074: (errors.ReplicasUnavailable, NO_REPLICAS),
    10076: (errors.BrokerUnavailable, NO_JETSTREAM),
    10077: (errors.BrokerUnavailable, CANNOT_STORE),
    10113: (
        errors.UnsupportedCombination,
        "the broker's account requires max_bytes of every stream; make this with NATS's own tools, with it",
    ),
    10118: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
    10119: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
    10120: (errors.ReplicasUnavailable, NO_REPLICAS),
    10124: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
    10138: (errors.UnsupportedCombination, FILTERS_OVERLAP),
    10147: (errors.UnsupportedCombination, FILTERS_OVERLAP),
    10149: (errors.ConsumerNotFound, errors.ConsumerNotFound("billing").message),
    10152: (errors.UnsupportedCombination, FILTERS_OVERLAP),
    10163: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
    10167: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
    10194: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
    10195: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
    10199: (
        errors.UnsupportedCombination,
        "the broker's operator allows fewer writes at once (max_batch_size); make several transactions of it",
    ),
    10202: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
    10226: (errors.BrokerUnavailable, errors.BrokerUnavailable().message),
}


@pytest.mark.parametrize("code", BY_CODE)
def test_codes_of_jetstream(code: int) -> None:
    """Each code that means something here means this, whatever the server's text says; that is not shown."""
    assert meaning(refused(code, "a secret, and creating store, of S")) == BY_CODE[code]


def test_every_code_of_the_table_is_tested() -> None:
    """The table has these codes and no others."""
    assert set(_BY_CODE) == set(BY_CODE)


@pytest.mark.parametrize(
    "description",
    ["maximum messages exceeded", "maximum bytes exceeded", "maximum messages per subject exceeded"],
)
def test_a_limit_that_is_reached(description: str) -> None:
    """Only the text tells a full stream from a broken disk."""
    assert meaning(refused(codes.STORE_FAILED, description, 503)) == (
        errors.StreamFull,
        errors.StreamFull(stream="ORDERS").message,
    )


def test_a_sealed_stream() -> None:
    """It takes nothing any more, as if it were full."""
    assert meaning(refused(codes.SEALED)) == (errors.StreamFull, errors.StreamFull(stream="ORDERS").message)


@pytest.mark.parametrize("code", [10012, 10049, 10104])
def test_files_that_cannot_be_made(code: int) -> None:
    """A broken disk is told by the text alone: of anything else these codes say nothing that is known."""
    broken = refused(code, "error creating store for stream: permission denied", 500)
    assert meaning(broken) == (errors.BrokerUnavailable, CANNOT_STORE)
    other = refused(code, "something else", 500)
    assert domain_error(other) is other


@pytest.mark.parametrize("code", [0, 10003, 10025, 10037, 10052, 10054, 10058, 10071, 10148, 99999])
def test_codes_that_mean_nothing_here(code: int) -> None:
    """An operation that knows them looks at them first; for anybody else they stay what they are."""
    error = refused(code)
    assert domain_error(error) is error


def test_names_that_are_not_known() -> None:
    """Who names no stream or consumer is told of none."""
    missing = domain_error(refused(codes.STREAM_NOT_FOUND))
    assert isinstance(missing, errors.StreamNotFound)
    assert missing.metadata == {"name": ""}


@pytest.mark.parametrize(
    ("error", "invalid"),
    [
        (refused(10025), True),
        (refused(0), True),
        (refused(codes.INVALID_CONFIG, code=500), True),
        (refused(10025, code=500), False),
        (refused(codes.STREAM_NOT_FOUND, code=400), False),
        (refused(codes.OVERLAPPING_FILTERS, code=400), False),
        (nats.Unavailable(), False),
        (ValueError("400"), False),
    ],
)
def test_what_is_invalid(error: Exception, invalid: bool) -> None:
    """A request is invalid where JetStream says so and nothing better is known."""
    assert is_invalid(error) is invalid


def test_errors_that_leave_a_block() -> None:
    """They are the domain's outside; the library's own is their cause, for the log."""
    cause = refused(codes.STREAM_NOT_FOUND)
    with pytest.raises(errors.StreamNotFound) as caught, broker_errors(stream="ORDERS"):
        raise cause
    assert caught.value.metadata["name"] == "ORDERS"
    assert caught.value.__cause__ is cause
    with pytest.raises(errors.ConsumerNotFound, match="billing"), broker_errors(consumer="billing"):
        raise refused(codes.CONSUMER_NOT_FOUND)


def test_errors_are_freed_at_once() -> None:
    """Nothing holds itself by them: they would hold the frames of the whole call."""
    with without_collector():
        try:
            with broker_errors(stream="ORDERS"):
                read_answer(b'{"error": {"err_code": 10059, "code": 404}, "stream": "ORDERS"}')
        except errors.StreamNotFound:
            assert alive(errors.StreamNotFound, nats.JetStreamError) == ["JetStreamError", "StreamNotFound"]
        assert alive(errors.StreamNotFound, nats.JetStreamError) == []


@pytest.mark.parametrize("error", [nats.Superseded(), refused(10025), ValueError(), errors.StreamFull()])
def test_errors_that_leave_a_block_as_they_are(error: Exception) -> None:
    """What has no other meaning stays itself, and is not its own cause; so does what is not the library's."""
    with pytest.raises(type(error)) as caught, broker_errors():
        raise error
    assert caught.value is error
    assert caught.value.__cause__ is None
