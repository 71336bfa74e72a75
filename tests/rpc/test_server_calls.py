"""What handlers may do, and what the client sees of it: read from the frames."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import RpcError, ServerCall, StatusCode
from windshift.rpc.server_connection import Opening
from windshift.rpc.status import decode_binary, percent_decode

from .frames import Response, headers, prefixed, rst_stream
from .serving import (
    DOWNLOAD,
    DUPLEX,
    UNARY,
    UPLOAD,
    ask,
    count,
    echo,
    eventually,
    output,
    piece,
    reflect,
    server_options,
    serving,
    simple,
)

SECRET = "a secret of the handler"


async def unary(handler: Any) -> Response:
    """Call a unary handler once and return the response."""
    async with serving(unary_call=handler) as running, await running.peer() as peer:
        return await peer.call(UNARY)


def failing(error: Exception) -> Any:
    """Return a unary handler that raises."""

    async def handler(request: Message, call: ServerCall) -> Message:
        raise error

    return handler


# -- the four kinds -----------------------------------------------------------------------------------------


@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
async def test_a_unary_call() -> None:
    """Headers, one message, trailers with status 0."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        response = await peer.call(UNARY, simple(b"hello"))
        assert response.initial[b":status"] == b"200"
        assert response.initial[b"content-type"] == b"application/grpc"
        assert [messages_pb2.SimpleResponse.FromString(m).payload.body for m in response.messages] == [
            b"hello"
        ]
        assert len(response.headers) == 2
        assert response.trailers == {b"grpc-status": b"0"}
        assert response.reset is None
        assert running.finished == [(UNARY, 0)]


@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
async def test_a_client_streaming_call() -> None:
    """The handler takes every message, whatever the frames they came in, and answers once."""
    async with serving(streaming_input_call=count) as running, await running.peer() as peer:
        body = piece(b"a") + piece(b"bb") + piece() + piece(b"c" * 40_000)
        stream_id = peer.request(UPLOAD, None, end=False)
        peer.send(*(peer.data(stream_id, body[i : i + 1000]) for i in range(0, len(body), 1000)))
        peer.send(peer.data(stream_id, b"", end=True))
        response = await peer.response(stream_id)
        answer = messages_pb2.StreamingInputCallResponse.FromString(response.messages[0])
        assert answer.aggregated_payload_size == 40_003
        assert response.status == 0


async def test_a_server_streaming_call() -> None:
    """The handler sends any number of messages, none as well, and returns."""

    async def produce(request: messages_pb2.StreamingOutputCallRequest, call: ServerCall) -> None:
        for parameters in request.response_parameters:
            call.send(output(parameters.size))
            await call.ready()

    async with serving(streaming_output_call=produce) as running, await running.peer() as peer:
        for sizes in ([], [0], [1, 100_000, 7]):
            request = messages_pb2.StreamingOutputCallRequest(
                response_parameters=[messages_pb2.ResponseParameters(size=size) for size in sizes]
            )
            response = await peer.call(DOWNLOAD, prefixed(request.SerializeToString()))
            answers = [messages_pb2.StreamingOutputCallResponse.FromString(m) for m in response.messages]
            assert [len(answer.payload.body) for answer in answers] == sizes
            assert response.status == 0


@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
async def test_a_bidirectional_call() -> None:
    """Messages go both ways at the same time; the client's half-close ends the call."""
    async with serving(full_duplex_call=reflect) as running, await running.peer() as peer:
        stream_id = peer.request(DUPLEX, None, end=False)
        for round_ in range(1, 4):
            peer.send(peer.data(stream_id, ask(bytes(round_))))
            await peer.until(lambda round_=round_: len(peer.responses[stream_id].messages) == round_)  # type: ignore[misc]
        peer.send(peer.data(stream_id, b"", end=True))
        assert (await peer.response(stream_id)).status == 0


async def test_receive_many_takes_what_has_arrived() -> None:
    """All messages of one batch of frames come together; an empty list is the client's end."""
    batches: list[int] = []

    async def handler(call: ServerCall) -> None:
        while requests := await call.receive_many():
            batches.append(len(requests))

    async with serving(full_duplex_call=handler) as running, await running.peer() as peer:
        stream_id = peer.request(DUPLEX, piece() * 3, end=False)
        await peer.pong()
        peer.send(peer.data(stream_id, piece() * 2), peer.data(stream_id, piece(), end=True))
        assert (await peer.response(stream_id)).status == 0
        assert batches == [3, 3]


async def test_many_messages_come_in_several_batches() -> None:
    """Compressed ones may become large, and many small ones take long."""
    batches: list[int] = []

    async def handler(call: ServerCall) -> None:
        while requests := await call.receive_many():
            batches.append(len(requests))

    packed = prefixed(gzip.compress(piece(bytes(100_000))[5:]), 1)
    async with serving(full_duplex_call=handler) as running, await running.peer() as peer:
        stream_id = peer.request(DUPLEX, packed * 10, [(b"grpc-encoding", b"gzip")])
        assert (await peer.response(stream_id)).status == 0
        assert batches == [1] * 10
        batches.clear()
        stream_id = peer.request(DUPLEX, prefixed(b"") * 3000)
        assert (await peer.response(stream_id)).status == 0
        assert sum(batches) == 3000
        assert max(batches) <= 1024


async def test_what_is_kept_after_the_end_counts_for_nothing() -> None:
    """A task of the handler may go on for a moment."""
    received, kept = asyncio.Event(), list[int]()

    async def handler(call: ServerCall) -> None:
        await call.receive()
        received.set()
        while not call.done:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        _, size = await call.receive_kept()
        kept.append(size)

    async with serving(full_duplex_call=handler) as running, await running.peer() as peer:
        stream_id = peer.request(DUPLEX, piece(bytes(1000)) * 2, end=False)
        await received.wait()
        peer.send(rst_stream(stream_id))
        await eventually(lambda: kept == [0])
        assert running.server.holding.requests == 0


async def test_what_is_kept_counts_until_it_is_let_go() -> None:
    """All clients together may have the server keep so much; where it is too much, a call fails."""
    sizes: list[int] = []

    async def handler(call: ServerCall) -> None:
        while (received := await call.receive_kept())[0]:
            sizes.append(call.size)
            call.let_go(received[1])

    options = server_options(max_held=1_000_000)
    async with serving(options, full_duplex_call=handler) as running, await running.peer() as peer:
        body = piece(bytes(30_000))
        assert (await peer.response(peer.request(DUPLEX, body))).status == 0
        assert sizes == [len(body) - 5]
        running.server.holding.requests += 32_400_000  # there is some room more for small ones
        assert (await peer.response(peer.request(DUPLEX, body))).status == StatusCode.RESOURCE_EXHAUSTED
        assert running.server.holding.requests == 32_400_000


async def test_the_end_of_a_call_needs_no_room() -> None:
    """Nothing more is kept for it, however much is kept for others."""

    async def handler(call: ServerCall) -> None:
        while (received := await call.receive_kept())[0]:
            call.let_go(received[1])

    options = server_options(max_held=1_000_000)
    async with serving(options, full_duplex_call=handler) as running, await running.peer() as peer:
        running.server.holding.requests += 33_000_000
        assert (await peer.response(peer.request(DUPLEX, b""))).status == 0
        assert not running.server.holding.refused


async def test_nothing_is_inflated_without_room() -> None:
    """A message that is compressed may become large: whatever it is, it has to wait for room to be kept."""
    inflated: list[int] = []

    async def handler(call: ServerCall) -> None:
        while (received := await call.receive_kept())[0]:
            inflated.append(received[1])

    options = server_options(max_held=1_000_000)
    async with serving(options, full_duplex_call=handler) as running, await running.peer() as peer:
        packed = prefixed(gzip.compress(piece(bytes(100_000))[5:]), 1)
        header = [(b"grpc-encoding", b"gzip")]
        running.server.holding.requests += 400_001
        response = await peer.response(peer.request(DUPLEX, packed, header))
        assert response.status == StatusCode.RESOURCE_EXHAUSTED
        assert inflated == []
        assert running.server.holding.requests == 400_001
        running.server.holding.requests -= 400_001
        assert (await peer.response(peer.request(DUPLEX, packed, header))).status == 0
        assert len(inflated) == 1


async def test_a_call_may_end_with_trailers() -> None:
    """Trailers of the client end its side like END_STREAM on DATA."""
    async with (
        serving(unary_call=echo, streaming_input_call=count) as running,
        await running.peer() as peer,
    ):
        for path, body in ((UNARY, simple(b"x")), (UPLOAD, piece(b"x"))):
            stream_id = peer.request(path, body, end=False)
            peer.send(headers(stream_id, [(b"x-checksum", b"1")], end=True))
            assert (await peer.response(stream_id)).status == 0


async def test_a_handler_may_answer_before_the_client_has_ended() -> None:
    """The answer leaves at once; what the client sends on is discarded, not refused."""

    async def handler(call: ServerCall) -> Message:
        return messages_pb2.StreamingInputCallResponse()

    async with serving(streaming_input_call=handler) as running, await running.peer() as peer:
        stream_id = peer.request(UPLOAD, None, end=False)
        assert (await peer.response(stream_id)).status == 0
        peer.send(peer.data(stream_id, piece(bytes(1000))), peer.data(stream_id, b"", end=True))
        await peer.pong()
        assert peer.responses[stream_id].reset is None
        assert not peer.goaways


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [code for code in StatusCode if code])
async def test_an_error_of_the_handler_is_the_status(code: StatusCode) -> None:
    """Nothing but headers goes out: trailers-only."""
    response = await unary(failing(RpcError(code, "no")))
    assert len(response.headers) == 1
    assert response.ended
    assert response.body == b""
    assert (response.status, response.message) == (code, "no")
    assert response.initial[b":status"] == b"200"


async def test_an_error_carries_details_and_metadata() -> None:
    """Details travel as google.rpc.Status, metadata as further trailers."""
    error = RpcError(
        StatusCode.ABORTED,
        "grün\nund 100 %",
        [ErrorInfo(reason="WRONG_ID", domain="windshift")],
        [("retry-after", "1"), ("trace-bin", b"\0\xff")],
    )
    response = await unary(failing(error))
    assert percent_decode(response.trailers[b"grpc-message"]) == "grün\nund 100 %"
    status = Status.FromString(decode_binary(response.trailers[b"grpc-status-details-bin"]))
    assert (status.code, status.message) == (StatusCode.ABORTED, "grün\nund 100 %")
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "WRONG_ID"
    assert response.trailers[b"retry-after"] == b"1"
    assert decode_binary(response.trailers[b"trace-bin"]) == b"\0\xff"


async def test_an_error_after_messages_keeps_them() -> None:
    """What was sent before the error arrives before it."""

    async def handler(request: Message, call: ServerCall) -> None:
        call.send(output(3))
        raise RpcError(StatusCode.DATA_LOSS, "the rest is gone")

    async with serving(streaming_output_call=handler) as running, await running.peer() as peer:
        response = await peer.call(DOWNLOAD)
        assert len(response.messages) == 1
        assert (response.status, response.message) == (StatusCode.DATA_LOSS, "the rest is gone")


@pytest.mark.parametrize("path", [UNARY, UPLOAD, DOWNLOAD, DUPLEX])
async def test_an_unknown_exception_is_internal_and_logged_once(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client reads a fixed text and nothing of the exception; the log has all of it, once."""

    async def fail(*_: object) -> Message:
        raise KeyError(SECRET)

    names = ("unary_call", "streaming_input_call", "streaming_output_call", "full_duplex_call")
    handlers: dict[str, Any] = dict.fromkeys(names, fail)
    async with serving(**handlers) as running, await running.peer() as peer:
        response = await peer.call(path)
        assert response.status == StatusCode.INTERNAL
        assert SECRET not in repr(response)
        assert response.message == "the server failed on this call; its log says why"
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(records) == 1
    assert records[0].exc_info is not None
    assert path in records[0].getMessage()
    assert SECRET in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("answer", [None, "text", 7])
async def test_an_answer_that_is_no_message_is_internal(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that forgets to return is a mistake of ours, told to the log."""

    async def handler(request: Message, call: ServerCall) -> object:
        return answer

    assert (await unary(handler)).status == StatusCode.INTERNAL
    assert sum(record.levelno >= logging.ERROR for record in caplog.records) == 1


@pytest.mark.parametrize("pair", [("Upper", "x"), ("x", "ä"), ("grpc-status", "0"), ("x", "a\nb")])
@pytest.mark.parametrize("way", ["initial", "trailing", "error"])
async def test_metadata_that_cannot_be_sent_is_internal(
    pair: tuple[str, str], way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The call ends, its client does not wait for ever, and the log says why."""

    async def handler(request: Message, call: ServerCall) -> Message:
        if way == "initial":
            call.set_initial_metadata([pair])
        if way == "trailing":
            call.add_trailing_metadata(*pair)
        if way == "error":
            raise RpcError(StatusCode.NOT_FOUND, "no", metadata=[pair])
        return messages_pb2.SimpleResponse()

    assert (await unary(handler)).status == StatusCode.INTERNAL
    assert sum(record.levelno >= logging.ERROR for record in caplog.records) == 1


async def test_an_error_with_too_much_to_say_still_ends_the_call() -> None:
    """Trailers beyond what HTTP/2 peers take do not leave the client waiting."""
    details = [ErrorInfo(reason="x" * 100_000)]
    response = await unary(failing(RpcError(StatusCode.ABORTED, "no", details)))
    assert response.over
    assert response.status in (StatusCode.ABORTED, None)


async def test_errors_can_be_translated(caplog: pytest.LogCaptureFixture) -> None:
    """``translate`` sees what handlers and the gRPC layer raise, with the path; None leaves it as it is."""
    seen: list[tuple[str, str]] = []

    def translate(path: str, error: Exception) -> RpcError | None:
        seen.append((path, type(error).__name__))
        if isinstance(error, LookupError):
            return RpcError(StatusCode.NOT_FOUND, "translated", [ErrorInfo(reason="TRANSLATED")])
        return None

    async def stream(call: ServerCall) -> Message:
        raise ZeroDivisionError

    options = server_options(translate=translate)
    async with (
        serving(options, unary_call=failing(KeyError()), streaming_input_call=stream) as running,
        await running.peer() as peer,
    ):
        response = await peer.call(UNARY)
        assert (response.status, response.message) == (StatusCode.NOT_FOUND, "translated")
        assert b"TRANSLATED" in decode_binary(response.trailers[b"grpc-status-details-bin"])
        assert not caplog.records
        assert (await peer.call(UPLOAD)).status == StatusCode.INTERNAL
        assert (await peer.call("/no.Such/Method")).status == StatusCode.UNIMPLEMENTED
    assert (UNARY, "KeyError") in seen
    assert (UPLOAD, "ZeroDivisionError") in seen
    assert ("/no.Such/Method", "RpcError") in seen


async def test_a_handler_that_cancels_itself_ends_its_call() -> None:
    """CancelledError without a reason of ours is CANCELLED, not silence."""

    async def handler(request: Message, call: ServerCall) -> Message:
        raise asyncio.CancelledError

    assert (await unary(handler)).status == StatusCode.CANCELLED


# -- metadata -----------------------------------------------------------------------------------------------


async def test_metadata_reaches_the_handler() -> None:
    """Text and bytes, repeated names in order, without the headers of HTTP and gRPC."""
    seen: list[object] = []

    async def handler(request: Message, call: ServerCall) -> Message:
        seen.extend(
            (call.method, list(call.metadata), call.peer.rsplit(":", 1)[0], call.connection.peer_certificate)
        )
        seen.extend(map(call.header, (b"x", b"user-agent", b"absent")))
        return messages_pb2.SimpleResponse()

    extra = [(b"x", b"1"), (b"y-bin", b"AP8"), (b"x", b"2"), (b"user-agent", b"test"), (b"grpc-x", b"3")]
    async with serving(unary_call=handler) as running, await running.peer() as peer:
        await peer.call(UNARY, extra=extra)
    assert seen == [
        UNARY,
        [("x", "1"), ("y-bin", b"\0\xff"), ("x", "2")],
        "127.0.0.1",
        None,
        "1,2",
        "test",
        "",
    ]


async def test_metadata_reaches_the_client() -> None:
    """Initial metadata comes with the headers, trailing metadata with the status."""

    async def handler(request: Message, call: ServerCall) -> Message:
        call.set_initial_metadata([("a", "1"), ("b-bin", b"\0")])
        call.add_trailing_metadata("c", "2")
        call.add_trailing_metadata("d-bin", b"\xff")
        return messages_pb2.SimpleResponse()

    response = await unary(handler)
    assert (response.initial[b"a"], response.initial[b"b-bin"]) == (b"1", b"AA")
    assert (response.trailers[b"c"], response.trailers[b"d-bin"]) == (b"2", b"/w")
    assert response.trailers[b"grpc-status"] == b"0"


async def test_an_error_without_messages_carries_both_kinds_of_metadata() -> None:
    """Trailers-only: one block holds the initial and the trailing metadata."""

    async def handler(request: Message, call: ServerCall) -> Message:
        call.set_initial_metadata([("a", "1")])
        call.add_trailing_metadata("c", "2")
        raise RpcError(StatusCode.NOT_FOUND, metadata=[("e", "3")])

    response = await unary(handler)
    assert len(response.headers) == 1
    assert [response.trailers[name] for name in (b"a", b"c", b"e")] == [b"1", b"2", b"3"]


async def test_initial_metadata_cannot_follow_a_message() -> None:
    """The headers are gone by then; the handler is told so."""
    raised: list[str] = []

    async def handler(request: Message, call: ServerCall) -> None:
        call.send(output(1))
        try:
            call.set_initial_metadata([("a", "1")])
        except RuntimeError as error:
            raised.append(str(error))

    async with serving(streaming_output_call=handler) as running, await running.peer() as peer:
        assert (await peer.call(DOWNLOAD)).status == 0
    assert raised == ["the initial metadata has been sent already"]


async def test_sending_after_the_end_does_nothing() -> None:
    """A handler's helper that outlives its call cannot break the connection."""
    calls: list[ServerCall] = []

    async def handler(request: Message, call: ServerCall) -> None:
        calls.append(call)

    async with serving(streaming_output_call=handler) as running, await running.peer() as peer:
        assert (await peer.call(DOWNLOAD)).messages == []
        await eventually(lambda: calls[0].done)
        calls[0].send(output(10))
        await calls[0].ready()
        assert calls[0].queued == 0
        assert (await peer.call(DOWNLOAD)).status == 0


# -- plain handlers -----------------------------------------------------------------------------------------


class Later:
    """A plain handler whose calls a test answers."""

    def __init__(self) -> None:
        self.calls: list[ServerCall] = []
        self.cancelled = 0

    def handler(self, request: messages_pb2.SimpleRequest, call: ServerCall) -> None:
        """Keep the call."""
        self.calls.append(call)
        call.on_cancel = self._cancel

    def _cancel(self) -> None:
        self.cancelled += 1


async def test_a_plain_handler_answers_when_it_can() -> None:
    """There is no task until then, and an answer that comes too late does no harm."""
    later, before = Later(), len(asyncio.all_tasks())
    async with serving(unary_call=later.handler) as running, await running.peer() as peer:
        streams = [peer.request(UNARY, simple(b"x")) for _ in range(2)]
        await eventually(lambda: len(later.calls) == 2)
        assert len(asyncio.all_tasks()) <= before + 2  # the peer's
        for call in later.calls:
            call.answer(messages_pb2.SimpleResponse(username="somebody"))
            call.answer(messages_pb2.SimpleResponse(username="nobody"))
        await peer.until(lambda: all(peer.responses[each].ended for each in streams))
        assert all(b"somebody" in peer.responses[each].body for each in streams)
        assert [code for _, code in running.finished] == [0, 0]
        assert later.cancelled == 0


async def test_a_plain_handler_goes_on_in_a_task() -> None:
    """What the task returns or raises is the outcome; None leaves the call to be answered."""

    async def answer() -> messages_pb2.SimpleResponse:
        await asyncio.sleep(0)
        return messages_pb2.SimpleResponse(username="somebody")

    async def fail() -> None:
        raise RpcError(StatusCode.ABORTED, "no")

    async def leave() -> None:
        pass

    later = Later()
    async with serving(unary_call=later.handler) as running, await running.peer() as peer:
        for work in (answer, fail, leave):
            stream_id = peer.request(UNARY, simple())
            await eventually(lambda: bool(later.calls))
            call = later.calls.pop()
            call.go_on(work)
            if work is leave:
                await peer.pong()
                assert not call.done
                call.answer(messages_pb2.SimpleResponse())
            await peer.until(lambda: peer.responses[stream_id].ended)  # noqa: B023 - awaited at once
        assert [code for _, code in running.finished] == [0, int(StatusCode.ABORTED), 0]


async def test_headers_are_those_of_the_call_itself() -> None:
    """Also where the calls before and behind it on the connection have the same headers, or nearly so."""
    calls: list[ServerCall] = []

    def handler(request: Message, call: ServerCall) -> None:
        calls.append(call)
        call.answer(messages_pb2.SimpleResponse())

    kinds: list[list[tuple[bytes, bytes]]] = [
        [],
        [(b"x-one", b"a")],
        [(b"x-one", b"b")],
        [(b"grpc-timeout", b"5S")],
        [(b"grpc-timeout", b"7S"), (b"grpc-encoding", b"gzip")],
        [(b"grpc-encoding", b"zstd")],
        [(b"x-one", b"a"), (b"x-one", b"b")],
    ]
    async with serving(unary_call=handler) as running, await running.peer() as peer:
        for extra in kinds:
            for _ in range(2):
                refused = (b"grpc-encoding", b"zstd") in extra
                status = StatusCode.UNIMPLEMENTED if refused else StatusCode.OK
                assert (await peer.call(UNARY, simple(), extra=extra)).status == status
            assert (await peer.call("/none", simple(), extra=extra)).status == StatusCode.UNIMPLEMENTED
    of_both = [
        (
            call.header(b"x-one"),
            call.deadline and round(call.deadline - call.started),
            call.header(b"grpc-encoding"),
        )
        for call in calls
    ]
    assert of_both[::2] == of_both[1::2]
    assert of_both[::2] == [
        ("", None, ""),
        ("a", None, ""),
        ("b", None, ""),
        ("", 5, ""),
        ("", 7, "gzip"),
        ("a,b", None, ""),
    ]
    assert [pair for pair in calls[-1].metadata if pair[0] == "x-one"] == [("x-one", "a"), ("x-one", "b")]


async def test_an_idle_connection_keeps_no_headers() -> None:
    """They are kept to be compared with the next ones, for a second or so."""

    def kept() -> int:
        return sum(isinstance(each, Opening) and extra in each.headers for each in gc.get_objects())

    extra = (b"x-one", b"of this test alone")
    options = server_options(tick_interval=3600)
    async with serving(options, unary_call=echo) as running, await running.peer() as peer:
        await peer.call(UNARY, simple(), extra=[extra])
        assert kept() == 1
        (connection,) = running.server.open_connections
        connection.tick(asyncio.get_running_loop().time())
        assert kept() == 0


async def test_a_deadline_after_a_task_that_left_the_call_to_be_answered() -> None:
    """The client hears of it, and the handler is told."""
    later = Later()
    async with serving(unary_call=later.handler) as running, await running.peer() as peer:
        stream_id = peer.request(UNARY, simple(), extra=[(b"grpc-timeout", b"200m")])
        await eventually(lambda: bool(later.calls))
        call = later.calls[0]
        on_cancel = call.on_cancel

        async def leave() -> None:
            call.on_cancel = on_cancel

        call.go_on(leave)
        await peer.until(lambda: peer.responses[stream_id].ended)
        assert [code for _, code in running.finished] == [int(StatusCode.DEADLINE_EXCEEDED)]
        assert later.cancelled == 1


async def test_a_plain_handler_that_fails() -> None:
    """It ends the call as one that is a coroutine function does; one that returns something is a mistake."""

    def fail(request: messages_pb2.SimpleRequest, call: ServerCall) -> None:
        raise RpcError(StatusCode.ABORTED, "no")

    def mistake(request: messages_pb2.SimpleRequest, call: ServerCall) -> object:
        return messages_pb2.SimpleResponse()

    for handler, code in ((fail, StatusCode.ABORTED), (mistake, StatusCode.INTERNAL)):
        async with serving(unary_call=handler) as running, await running.peer() as peer:
            stream_id = peer.request(UNARY, simple())
            await peer.until(lambda: peer.responses[stream_id].ended)  # noqa: B023 - awaited at once
            assert [each for _, each in running.finished] == [int(code)]


@pytest.mark.parametrize("in_task", [False, True])
async def test_a_plain_handler_is_told_of_the_end(in_task: bool) -> None:
    """Once, whether the client cancels or the deadline passes, and also while its task has not begun."""
    later, begun = Later(), 0

    async def work() -> None:
        nonlocal begun
        begun += 1

    async with serving(unary_call=later.handler) as running, await running.peer() as peer:
        stream_id = peer.request(UNARY, simple())
        await eventually(lambda: len(later.calls) == 1)
        if in_task:
            call = later.calls[0]
            call.go_on(work)
            call.abort(RpcError(StatusCode.ABORTED, "no"))
            assert later.cancelled == 1
        peer.send(rst_stream(stream_id))
        await eventually(lambda: later.cancelled == 1)
        peer.request(UNARY, simple(), extra=[(b"grpc-timeout", b"20m")])
        await eventually(lambda: later.cancelled == 2)
        late = int(StatusCode.DEADLINE_EXCEEDED)
        assert [code for _, code in running.finished][-1] == late
        assert begun == 0
