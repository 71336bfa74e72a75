"""What a server tells its observer of calls that did not end well."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import pytest
from google.protobuf.message import Message

from windshift.rpc import AdmissionOptions, Failure, RpcError, ServerCall, StatusCode

from .frames import rst_stream
from .serving import DOWNLOAD, DUPLEX, UNARY, UPLOAD, echo, eventually, server_options, serving, simple

Handler = Callable[[Message, ServerCall], object]


async def failing(request: Message, call: ServerCall) -> Message:
    """Make a mistake."""
    raise ZeroDivisionError


async def waiting(request: Message, call: ServerCall) -> Message:
    """Wait to be cancelled."""
    await asyncio.Event().wait()
    raise AssertionError


async def failing_late(request: Message, call: ServerCall) -> Message:
    """Make a mistake on being cancelled."""
    try:
        await asyncio.Event().wait()
    finally:
        raise ZeroDivisionError


async def refusing(request: Message, call: ServerCall) -> Message:
    """Refuse on purpose."""
    raise RpcError(StatusCode.ABORTED, "no")


@pytest.fixture
def failures() -> list[Failure]:
    """Keep what is told."""
    return []


async def test_a_call_that_succeeds_is_no_failure(failures: list[Failure]) -> None:
    """OK is told to nobody."""
    options = server_options(on_call_failed=failures.append)
    async with serving(options, unary_call=echo) as running, await running.peer() as peer:
        assert (await peer.call(UNARY, simple())).status == StatusCode.OK
    assert failures == []


@pytest.mark.parametrize(
    ("path", "code", "fault"),
    [
        (UNARY, StatusCode.INTERNAL, ZeroDivisionError),
        (DOWNLOAD, StatusCode.ABORTED, type(None)),
        (UPLOAD, StatusCode.UNIMPLEMENTED, type(None)),
        ("/no.Such/Method", StatusCode.UNIMPLEMENTED, type(None)),
    ],
)
async def test_a_failed_call_is_told_once(
    path: str,
    code: StatusCode,
    fault: type,
    failures: list[Failure],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With method, peer and headers, what the client was told and what nobody expected; nothing is logged."""
    options = server_options(on_call_failed=failures.append)
    async with (
        serving(options, unary_call=failing, streaming_output_call=refusing) as running,
        await running.peer() as peer,
    ):
        assert (await peer.call(path, simple(), extra=[(b"traceparent", b"00-x")])).status == code
    (failure,) = failures
    assert (failure.method, failure.error.code) == (path, code)
    assert isinstance(failure.error.fault, fault)
    assert failure.peer.startswith("127.0.0.1:")
    assert (failure.header(b"traceparent"), failure.header(b"absent")) == ("00-x", "")
    assert "traceparent" not in repr(failure)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_refused_call_is_told(failures: list[Failure]) -> None:
    """A call that is refused before it begins is a failure too."""
    options = server_options(on_call_failed=failures.append)
    async with serving(options, unary_call=echo) as running, await running.peer() as peer:
        await peer.call(UNARY, simple(), extra=[(b"grpc-encoding", b"zstd")])
    assert [(each.method, each.error.code) for each in failures] == [(UNARY, StatusCode.UNIMPLEMENTED)]
    assert failures[0].error.fault is None


async def test_a_deadline_is_told_once(failures: list[Failure]) -> None:
    """So is one that passes while the handler runs."""
    options = server_options(on_call_failed=failures.append)
    async with serving(options, unary_call=waiting) as running, await running.peer() as peer:
        await peer.call(UNARY, simple(), extra=[(b"grpc-timeout", b"10m")])
    assert [each.error.code for each in failures] == [StatusCode.DEADLINE_EXCEEDED]


async def test_a_client_that_goes_is_told_once(failures: list[Failure]) -> None:
    """A call that its client cancelled is one failure, not another for its handler."""
    options = server_options(on_call_failed=failures.append)
    async with serving(options, unary_call=waiting) as running, await running.peer() as peer:
        stream_id = peer.request(UNARY, simple())
        await peer.pong()
        peer.send(rst_stream(stream_id))
        await eventually(lambda: bool(failures))
        await peer.pong()
    assert [(each.error.code, each.error.fault) for each in failures] == [(StatusCode.CANCELLED, None)]


async def test_a_handler_that_fails_too_late_is_told(failures: list[Failure]) -> None:
    """A mistake of ours is not lost because the client has gone."""
    options = server_options(on_call_failed=failures.append)
    async with serving(options, unary_call=failing_late) as running, await running.peer() as peer:
        stream_id = peer.request(UNARY, simple())
        await peer.pong()
        peer.send(rst_stream(stream_id))
        await eventually(lambda: len(failures) == 2)
    assert [type(each.error.fault) for each in failures] == [type(None), ZeroDivisionError]


async def test_without_an_observer_a_late_mistake_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """So that it is lost in no case."""
    async with serving(full_duplex_call=_failing_stream) as running, await running.peer() as peer:
        stream_id = peer.request(DUPLEX, None, end=False)
        await peer.pong()
        peer.send(rst_stream(stream_id))
        await eventually(lambda: "the handler of" in caplog.text)
    assert len(caplog.records) == 1


async def _failing_stream(call: ServerCall) -> None:
    try:
        await call.receive()
    finally:
        raise ZeroDivisionError


@pytest.mark.parametrize("take", [ServerCall.receive, ServerCall.receive_many])
async def test_a_handler_that_asks_for_more_than_its_request_fails(
    failures: list[Failure], take: Callable[[ServerCall], Awaitable[object]]
) -> None:
    """Nothing will ever come: the handler made a mistake, and does not wait for it until the deadline."""

    async def greedy(request: Message, call: ServerCall) -> Message:
        await take(call)
        raise AssertionError

    options = server_options(on_call_failed=failures.append)
    async with serving(options, unary_call=greedy) as running, await running.peer() as peer:
        assert (await peer.call(UNARY, simple())).status == StatusCode.INTERNAL
    assert isinstance(failures[0].error.fault, RuntimeError)


async def test_connections_that_are_too_many_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """One warning for many in a row."""
    async with serving(server_options(admission=AdmissionOptions(places=0)), unary_call=echo) as running:
        for _ in range(5):
            reader, writer = await asyncio.open_connection(*running.address)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
