"""The record of a call that failed: its level, its fields, and how often there is one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from tests._gen.grpc.testing import messages_pb2, test_pb2
from windshift.conventions import SpanKind
from windshift.rpc import Channel, Failure, RpcError, Server, ServerCall, ServerOptions, Service, StatusCode
from windshift.server.api.errors import CODES, translate
from windshift.server.api.failures import FailureLog
from windshift.server.telemetry.log_throttle import LogThrottle
from windshift.server.telemetry.propagation import Carrier, TraceContext, w3c
from windshift.server.telemetry.tracer import Span, current_span

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
METHOD = "/windshift.events.v1alpha1.EventsService/Publish"


def failure(code: StatusCode, reason: str = "", fault: Exception | None = None) -> Failure:
    """Make a failure of a call that has a trace context."""
    details = [ErrorInfo(reason=reason)] if reason else []
    error = RpcError(code, "it says why", details)
    error.fault = fault
    return Failure(METHOD, "10.0.0.1:5000", error, {b"traceparent": f"00-{TRACE}-{CALLER}-00".encode()})


@pytest.fixture(autouse=True)
def no_span() -> Iterator[None]:
    """Be in no call, whatever tests before this one left behind."""
    token = current_span.set(None)
    yield
    current_span.reset(token)


class Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """Keep the records of every level."""
    keeper, logger = Keeper(), logging.getLogger("windshift.server.api.failures")
    logger.addHandler(keeper)
    with caplog.at_level(logging.DEBUG, logger.name):
        yield keeper.records
    logger.removeHandler(keeper)


@pytest.mark.parametrize(
    "code", [code for code in StatusCode if code not in {StatusCode.OK, StatusCode.UNAVAILABLE}]
)
def test_what_clients_do_is_of_interest_while_debugging(
    code: StatusCode, records: list[logging.LogRecord]
) -> None:
    """Also INTERNAL without a fault: that is what gRPC calls a client that breaks the protocol."""
    FailureLog(w3c).failed(failure(code), 0)
    assert [record.levelname for record in records] == ["DEBUG"]


def test_no_reason_of_the_contract_is_a_fault() -> None:
    """Whatever the domain refuses, it does on purpose."""
    assert set(CODES.values()).isdisjoint({StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DATA_LOSS})


@pytest.mark.parametrize("code", [StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DATA_LOSS])
def test_mistakes_of_ours_are_errors(code: StatusCode, records: list[logging.LogRecord]) -> None:
    """With the exception and its traceback."""
    fault = ZeroDivisionError("secret")
    FailureLog(w3c).failed(failure(code, fault=fault), 0)
    (record,) = records
    assert record.levelname == "ERROR"
    assert record.getMessage() == "the handler failed: ZeroDivisionError"
    assert record.exc_info is not None
    assert record.exc_info[1] is fault


def test_fields(records: list[logging.LogRecord]) -> None:
    """Method, peer, code, reason, and the trace of the caller also when it is not recorded."""
    FailureLog(w3c).failed(failure(StatusCode.NOT_FOUND, "STREAM_NOT_FOUND"), 0)
    (record,) = records
    assert record.getMessage() == "it says why"
    fields = {"method": METHOD, "peer": "10.0.0.1:5000", "code": "NOT_FOUND", "reason": "STREAM_NOT_FOUND"}
    assert vars(record).items() >= (fields | {"trace_id": TRACE, "span_id": CALLER}).items()


def test_own_span_comes_before_the_callers(records: list[logging.LogRecord]) -> None:
    """A call that is recorded is found by the span that it has here."""
    span = Span(lambda _: None, SpanKind.SERVER, TRACE, "01", "", CALLER, remote=True)
    token = current_span.set(span)
    FailureLog(w3c).failed(failure(StatusCode.NOT_FOUND), 0)
    current_span.reset(token)
    assert vars(records[0]).items() >= {"trace_id": TRACE, "span_id": span.span_id}.items()


def test_without_a_trace(records: list[logging.LogRecord]) -> None:
    """There is no field then."""
    FailureLog(lambda _: None).failed(failure(StatusCode.NOT_FOUND), 0)
    assert not hasattr(records[0], "trace_id")


def test_nothing_is_done_for_a_level_that_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Not even the trace context is read."""

    def extract(_: Carrier) -> TraceContext | None:
        raise AssertionError

    with caplog.at_level(logging.INFO, "windshift"):
        FailureLog(extract).failed(failure(StatusCode.NOT_FOUND), 0)
    assert caplog.records == []


@pytest.mark.parametrize("reason", ["SHUTTING_DOWN", "CONNECTION_ENDED"])
def test_what_an_operator_asked_for_is_no_warning(reason: str, records: list[logging.LogRecord]) -> None:
    """Nor does it keep one from being logged."""
    log = FailureLog(w3c)
    log.failed(failure(StatusCode.UNAVAILABLE, reason), 0)
    log.failed(failure(StatusCode.UNAVAILABLE, "BROKER_UNAVAILABLE"), 1)
    assert [record.levelname for record in records] == ["DEBUG", "WARNING"]


def test_a_broker_that_is_away_is_a_warning_now_and_then(records: list[logging.LogRecord]) -> None:
    """One at once, then one in ten seconds, which says how many there were between."""
    log = FailureLog(w3c, interval=10)
    for now in (0, 1, 2, 9.9, 10, 11, 25):
        log.failed(failure(StatusCode.UNAVAILABLE, "BROKER_UNAVAILABLE"), now)
    assert [record.levelname for record in records] == [
        "WARNING",
        *["DEBUG"] * 3,
        "WARNING",
        "DEBUG",
        "WARNING",
    ]
    more = [getattr(record, "more", 0) for record in records if record.levelname == "WARNING"]
    assert more == [0, 3, 1]


def test_a_drain_is_nothing_to_warn_of(records: list[logging.LogRecord]) -> None:
    """Calls that it ends are UNAVAILABLE because somebody wanted it."""
    FailureLog(w3c).failed(failure(StatusCode.UNAVAILABLE, "SHUTTING_DOWN"), 0)
    assert [record.levelname for record in records] == ["DEBUG"]


def test_throttle_counts_what_it_skips() -> None:
    """What was skipped is told once."""
    throttle = LogThrottle(1)
    assert [throttle.passes(now) for now in (0, 0.5, 1, 1.5)] == [True, False, True, False]
    assert [throttle.more(), throttle.more()] == [{"more": 2}, {}]


async def test_an_unknown_exception_is_one_record(caplog: pytest.LogCaptureFixture) -> None:
    """Through a server: one record at error, with the call's fields, and nothing beside it."""

    class Implementation:
        async def unary_call(self, request: object, call: ServerCall) -> object:
            raise ZeroDivisionError

    current_span.set(None)
    log = FailureLog(w3c)
    descriptor = test_pb2.DESCRIPTOR.services_by_name["TestService"]
    options = ServerOptions(
        translate=lambda path, error: translate(path, error, 1024),
        on_call_failed=lambda failure: log.failed(failure, 0),
    )
    server = Server([Service(descriptor, Implementation())], options)
    host, port = await server.listen("127.0.0.1", 0)
    path = "/grpc.testing.TestService/UnaryCall"
    metadata = [("traceparent", f"00-{TRACE}-{CALLER}-00")]
    async with Channel(f"{host}:{port}") as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary(
                path,
                messages_pb2.SimpleRequest(),
                messages_pb2.SimpleResponse,
                timeout=10,
                metadata=metadata,
            )
    server.close()
    assert caught.value.code is StatusCode.INTERNAL
    (record,) = (record for record in caplog.records if record.levelno >= logging.INFO)
    assert vars(record).items() >= {"code": "INTERNAL", "method": path, "trace_id": TRACE}.items()
    assert "ZeroDivisionError" in caplog.text
