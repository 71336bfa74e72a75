"""Calls of the client, against the project's own server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import ChannelClosed, RpcError, ServerCall, StatusCode

from .calling import calling, channel_options, duplex, failure, message, simple_request, unary
from .serving import (
    DOWNLOAD,
    UNARY,
    UPLOAD,
    Steps,
    count,
    echo,
    eventually,
    output,
    reflect,
    serving,
)

BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


# -- the four kinds -----------------------------------------------------------------------------------------


@BOTH_LOOPS
@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
async def test_a_unary_call(size: int) -> None:
    """One message each way, also when they are larger than the windows."""
    body = bytes(range(256)) * (size // 256 + 1)
    async with serving(unary_call=echo) as server, calling(server) as channel:
        assert await unary(channel, body[:size]) == body[:size]


@BOTH_LOOPS
async def test_uploading() -> None:
    """Many messages, then one."""
    async with serving(streaming_input_call=count) as server, calling(server) as channel:
        call = channel.stream(UPLOAD, messages_pb2.StreamingInputCallResponse)
        for _ in range(100):
            payload = messages_pb2.Payload(body=bytes(10_000))
            call.send(messages_pb2.StreamingInputCallRequest(payload=payload))
            await call.ready()
        call.close_send()
        response = await call.receive()
        assert response is not None
        assert response.aggregated_payload_size == 1_000_000
        assert await call.receive() is None


@BOTH_LOOPS
async def test_downloading() -> None:
    """One message, then many, taken one by one."""
    async with serving(streaming_output_call=send_sizes) as server, calling(server) as channel:
        call = channel.stream(DOWNLOAD, messages_pb2.StreamingOutputCallResponse)
        call.send(ask(1, 100_000, 0, 7))
        call.close_send()
        assert [len(each.payload.body) async for each in call] == [1, 100_000, 0, 7]


@BOTH_LOOPS
async def test_a_conversation() -> None:
    """Each side speaks when it wants."""
    async with serving(full_duplex_call=reflect) as server, calling(server) as channel:
        call = duplex(channel)
        for number in range(20):
            call.send(message(b"%d" % number))
            answer = await call.receive()
            assert answer is not None
            assert answer.payload.body == b"%d" % number
        call.close_send()
        assert await call.receive() is None


async def test_receiving_all_that_has_arrived() -> None:
    """``receive_many`` takes what is there, and says the end with an empty list."""
    async with serving(full_duplex_call=reflect) as server, calling(server) as channel:
        call = duplex(channel)
        for _ in range(50):
            call.send(message())
        call.close_send()
        batches = []
        while batch := await call.receive_many():
            batches.append(len(batch))
        assert sum(batches) == 50
        assert len(batches) < 50


async def test_hundreds_of_calls_share_one_connection() -> None:
    """More than the server takes at once: the others wait their turn."""
    async with serving(unary_call=echo) as server, calling(server) as channel:
        bodies = [b"%d" % number for number in range(700)]
        assert await asyncio.gather(*[unary(channel, body) for body in bodies]) == bodies
        assert server.server.connections == 1


# -- metadata -----------------------------------------------------------------------------------------------


async def test_metadata_both_ways() -> None:
    """Text and binary, before the messages and after them; names may repeat."""
    pairs: list[tuple[str, str | bytes]] = [("x-text", "a"), ("x-text", "b"), ("x-data-bin", b"\x00\xff")]
    seen: list[tuple[str, str | bytes]] = []

    async def handler(request: Message, call: ServerCall) -> Message:
        seen.extend(call.metadata)
        call.set_initial_metadata(pairs)
        call.add_trailing_metadata("x-cost-bin", b"\x07")
        return messages_pb2.SimpleResponse()

    async with serving(unary_call=handler) as server, calling(server) as channel:
        call = channel.stream(UNARY, messages_pb2.SimpleResponse, metadata=pairs)
        call.send(simple_request())
        call.close_send()
        initial = await call.initial_metadata()
        assert list(initial)[-3:] == pairs
        assert [each async for each in call] == [messages_pb2.SimpleResponse()]
        assert list(call.trailing_metadata) == [("x-cost-bin", b"\x07")]
    assert seen == pairs


async def test_wrong_metadata_is_refused_before_anything_is_sent() -> None:
    """An error of the caller, not of the call."""
    async with serving(unary_call=echo) as server, calling(server) as channel:
        with pytest.raises(ValueError, match="grpc-x"):
            await unary(channel, metadata=[("grpc-x", "y")])
        assert channel.connections == 0


async def test_initial_metadata_of_a_call_that_ends_at_once() -> None:
    """A call that fails before its first message has the metadata of its only headers."""

    async def handler(call: ServerCall) -> None:
        call.set_initial_metadata([("x-text", "a")])
        raise RpcError(StatusCode.ABORTED, "no")

    async with serving(full_duplex_call=handler) as server, calling(server) as channel:
        call = duplex(channel)
        assert ("x-text", "a") in await call.initial_metadata()
        assert (await failure(call.receive())).code is StatusCode.ABORTED


async def test_whether_a_response_has_begun() -> None:
    """It has if there were headers before those of the end, and not when the connection was lost."""

    async def handler(call: ServerCall) -> None:
        if await call.receive() is not None:
            call.begin_response()
        raise RpcError(StatusCode.ABORTED, "no")

    async with serving(full_duplex_call=handler) as server, calling(server) as channel:
        refused, broken, lost = (duplex(channel) for _ in range(3))
        refused.close_send()
        assert not await refused.begun()
        broken.send(messages_pb2.StreamingOutputCallRequest())
        assert await broken.begun()
        assert (await failure(broken.receive())).code is StatusCode.ABORTED
        lost.cancel()
        assert not await lost.begun()


# -- errors -------------------------------------------------------------------------------------------------


async def test_an_error_comes_whole() -> None:
    """Code, message, details and metadata, from both kinds of calls."""
    detail = ErrorInfo(reason="GONE", domain="windshift")

    async def refuse(*_: Any) -> Message:
        raise RpcError(StatusCode.NOT_FOUND, "nö %", [detail], [("x-more", "m")])

    async with serving(unary_call=refuse, full_duplex_call=refuse) as server, calling(server) as channel:
        for error in (await failure(unary(channel)), await failure(duplex(channel).receive())):
            assert (error.code, error.message) == (StatusCode.NOT_FOUND, "nö %")
            assert dict(error.metadata)["x-more"] == "m"
            found = ErrorInfo()
            assert isinstance(error.details[0], AnyMessage)
            assert error.details[0].Unpack(found)
            assert found == detail


async def test_messages_before_an_error_are_received_first() -> None:
    """The status comes at its place in the stream."""

    async def handler(call: ServerCall) -> None:
        call.send(output(1))
        call.send(output(2))
        raise RpcError(StatusCode.DATA_LOSS, "broken")

    async with serving(full_duplex_call=handler) as server, calling(server) as channel:
        call = duplex(channel)
        await call.initial_metadata()
        first = await call.receive()
        assert first is not None
        assert len(await call.receive_many()) == 1
        assert (await failure(call.receive())).code is StatusCode.DATA_LOSS
        assert (await failure(call.receive_many())).code is StatusCode.DATA_LOSS


async def test_a_response_over_the_limit_is_refused() -> None:
    """By its announced size: RESOURCE_EXHAUSTED, and the server is told to stop."""
    steps = Steps()

    async def handler(request: Message, call: ServerCall) -> None:
        call.send(output(2_000))
        await steps.handler()

    async with (
        serving(unary_call=echo, streaming_output_call=handler) as server,
        calling(server, channel_options(max_message_size=1_000)) as channel,
    ):
        error = await failure(unary(channel, bytes(1_000)))
        assert error.code is StatusCode.RESOURCE_EXHAUSTED
        call = channel.stream(DOWNLOAD, messages_pb2.StreamingOutputCallResponse)
        call.send(ask())
        call.close_send()
        assert (await failure(call.receive())).code is StatusCode.RESOURCE_EXHAUSTED
        await eventually(lambda: steps.ended == 1)
        assert await unary(channel, bytes(900)) == bytes(900)


async def test_a_server_that_answers_early_ends_the_upload() -> None:
    """The status counts, what is unsent is dropped, later sends do nothing, and the connection lives on."""

    async def handler(call: ServerCall) -> Message:
        raise RpcError(StatusCode.FAILED_PRECONDITION, "not now")

    async with (
        serving(streaming_input_call=handler, unary_call=echo) as server,
        calling(server) as channel,
    ):
        for _ in range(50):
            call = channel.stream(UPLOAD, messages_pb2.StreamingInputCallResponse)
            payload = messages_pb2.Payload(body=bytes(1_000_000))
            call.send(messages_pb2.StreamingInputCallRequest(payload=payload))
            assert (await failure(call.receive())).code is StatusCode.FAILED_PRECONDITION
            call.send(messages_pb2.StreamingInputCallRequest())
            call.close_send()
        assert await unary(channel, b"x") == b"x"


async def test_sending_after_the_half_close_is_a_mistake() -> None:
    """It raises; a second ``close_send`` does nothing."""
    async with serving(full_duplex_call=reflect) as server, calling(server) as channel:
        call = duplex(channel)
        call.close_send()
        call.close_send()
        with pytest.raises(RuntimeError, match="close_send"):
            call.send(message())
        assert await call.receive() is None


# -- deadlines and cancelling -------------------------------------------------------------------------------


@BOTH_LOOPS
async def test_a_deadline_ends_the_call_here_and_there() -> None:
    """DEADLINE_EXCEEDED without waiting for the server, whose handler is cancelled."""
    steps = Steps()

    async def handler(*_: Any) -> Message:
        await steps.handler()
        return messages_pb2.SimpleResponse()

    async with serving(unary_call=handler, full_duplex_call=handler) as server, calling(server) as channel:
        await channel.wait_ready(30)
        assert (await failure(unary(channel, timeout=0.1))).code is StatusCode.DEADLINE_EXCEEDED
        call = duplex(channel, timeout=0.1)
        assert (await failure(call.receive())).code is StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: steps.ended == 2)
        assert steps.cancelled == 2


async def test_the_server_learns_the_deadline() -> None:
    """As the time that is left."""
    seen = []

    async def handler(request: Message, call: ServerCall) -> Message:
        assert call.deadline is not None
        seen.append(call.deadline - call.started)
        return messages_pb2.SimpleResponse()

    async with serving(unary_call=handler) as server, calling(server) as channel:
        await channel.wait_ready(30)
        await unary(channel, timeout=40.0)
    assert 35.0 < seen[0] < 40.001  # differences of times are rounded


async def test_a_deadline_in_the_past_sends_nothing() -> None:
    """Not even a connection is made."""
    async with serving(unary_call=echo) as server, calling(server) as channel:
        assert (await failure(unary(channel, timeout=0.0))).code is StatusCode.DEADLINE_EXCEEDED
        assert (await failure(duplex(channel, timeout=-1.0).receive())).code is StatusCode.DEADLINE_EXCEEDED
        assert channel.connections == 0


async def test_many_deadlines_each_at_its_time() -> None:
    """Short ones end before long ones, whatever order they came in."""
    steps = Steps()

    async def handler(*_: Any) -> Message:
        await steps.handler()
        return messages_pb2.SimpleResponse()

    ended: list[float] = []

    async def one(timeout: float) -> None:
        assert (
            await failure(duplex(channel, timeout=timeout).receive())
        ).code is StatusCode.DEADLINE_EXCEEDED
        ended.append(timeout)

    async with serving(full_duplex_call=handler) as server, calling(server) as channel:
        await channel.wait_ready(30)
        await asyncio.gather(*map(one, (0.12, 0.03, 0.09, 0.06)))
    assert ended == [0.03, 0.06, 0.09, 0.12]


@BOTH_LOOPS
async def test_cancelling_the_task_cancels_a_unary_call() -> None:
    """The server's handler is cancelled too."""
    steps = Steps()

    async def handler(*_: Any) -> Message:
        await steps.handler()
        return messages_pb2.SimpleResponse()

    async with serving(unary_call=handler) as server, calling(server) as channel:
        task = asyncio.create_task(unary(channel))
        await eventually(lambda: steps.started == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: steps.ended == 1)
        assert steps.cancelled == 1


async def test_cancelling_before_anything_was_written() -> None:
    """The server never hears of the call, and the connection works on."""
    steps = Steps()

    async def handler(call: ServerCall) -> None:
        await steps.handler()

    async with serving(full_duplex_call=handler, unary_call=echo) as server, calling(server) as channel:
        duplex(channel).cancel()
        await channel.wait_ready(5)
        duplex(channel).cancel()
        assert await unary(channel, b"x") == b"x"
        assert steps.started == 0


async def test_a_call_left_with_async_with_is_cancelled() -> None:
    """Whoever leaves in the middle need not think of it."""
    steps = Steps()

    async def handler(call: ServerCall) -> None:
        call.send(output(1))
        await steps.handler()

    async with serving(full_duplex_call=handler) as server, calling(server) as channel:
        async with duplex(channel) as call:
            assert await call.receive() is not None
        assert (await failure(call.receive())).code is StatusCode.CANCELLED
        await eventually(lambda: steps.ended == 1)


async def test_cancelling_a_receive_keeps_the_call() -> None:
    """A caller may wait for a while, do something else, and wait again; nothing is lost."""
    async with serving(full_duplex_call=reflect) as server, calling(server) as channel:
        call = duplex(channel)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call.receive(), 0.01)
        call.send(message(b"x"))
        answer = await call.receive()
        assert answer is not None
        assert answer.payload.body == b"x"
        call.cancel()


# -- flow control -------------------------------------------------------------------------------------------


async def test_a_caller_that_does_not_receive_stops_the_server() -> None:
    """The server may send one stream window ahead, and goes on as messages are taken."""
    sent = 0

    async def handler(request: Message, call: ServerCall) -> None:
        nonlocal sent
        for _ in range(400):
            call.send(output(10_000))
            sent += 1
            await call.ready()

    async with (
        serving(streaming_output_call=handler, unary_call=echo) as server,
        calling(server) as channel,
    ):
        call = channel.stream(DOWNLOAD, messages_pb2.StreamingOutputCallResponse)
        call.send(ask())
        call.close_send()
        await call.initial_metadata()
        for _ in range(20):  # other calls pass it by
            assert await unary(channel, bytes(100_000)) == bytes(100_000)
        ahead = sent
        assert ahead < 60
        assert await unary(channel) == b""
        assert sent == ahead
        assert len([each async for each in call]) == 400


async def test_a_server_that_does_not_read_stops_the_caller() -> None:
    """``ready`` waits until the server has taken nearly all that was sent."""
    steps = Steps()

    async def handler(call: ServerCall) -> Message:
        await steps.handler()
        return await count(call)

    async with serving(streaming_input_call=handler) as server, calling(server) as channel:
        call = channel.stream(UPLOAD, messages_pb2.StreamingInputCallResponse)
        sent = 0

        async def pump() -> None:
            nonlocal sent
            while sent < 200:
                payload = messages_pb2.Payload(body=bytes(10_000))
                call.send(messages_pb2.StreamingInputCallRequest(payload=payload))
                sent += 1
                await call.ready()
            call.close_send()

        task = asyncio.create_task(pump())
        await eventually(lambda: steps.started == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 0.05)
        assert sent < 40
        steps.open.set()
        await task
        response = await call.receive()
        assert response is not None
        assert response.aggregated_payload_size == 2_000_000


async def test_ready_returns_when_the_call_ends() -> None:
    """Nobody waits for a window that will not come."""

    async def handler(call: ServerCall) -> Message:
        await call.receive()
        raise RpcError(StatusCode.ABORTED, "enough")

    async with serving(streaming_input_call=handler) as server, calling(server) as channel:
        call = channel.stream(UPLOAD, messages_pb2.StreamingInputCallResponse)
        async with asyncio.timeout(30):
            for _ in range(1_000):
                payload = messages_pb2.Payload(body=bytes(10_000))
                call.send(messages_pb2.StreamingInputCallRequest(payload=payload))
                await call.ready()
        assert (await failure(call.receive())).code is StatusCode.ABORTED


async def test_unread_messages_of_finished_calls_cost_no_window() -> None:
    """Callers that take the first message and forget the rest do not use up the connection."""

    async def handler(request: Message, call: ServerCall) -> None:
        call.send(output(1))
        for _ in range(10):
            call.send(output(20_000))

    async with (
        serving(streaming_output_call=handler, unary_call=echo) as server,
        calling(server) as channel,
    ):
        calls = []
        for _ in range(300):  # 60 MB, twice the connection's window
            call = channel.stream(DOWNLOAD, messages_pb2.StreamingOutputCallResponse)
            call.send(ask())
            call.close_send()
            assert await call.receive() is not None
            calls.append(call)
        assert await unary(channel, bytes(100_000)) == bytes(100_000)


async def test_cancelled_downloads_cost_no_window() -> None:
    """What a reset takes from the connection's window is put back, or thousands of them would stop it."""

    async def handler(request: Message, call: ServerCall) -> None:
        while True:
            call.send(output(50_000))
            await call.ready()

    options = channel_options()
    async with serving(streaming_output_call=handler, unary_call=echo) as server:
        small = type(options.connection)(connection_window=1 << 19, stream_window=1 << 18)
        async with calling(server, channel_options(small)) as channel:
            for _ in range(300):
                async with channel.stream(DOWNLOAD, messages_pb2.StreamingOutputCallResponse) as call:
                    call.send(ask())
                    call.close_send()
                    await call.receive()
            assert await unary(channel, bytes(200_000)) == bytes(200_000)


def ask(*sizes: int) -> messages_pb2.StreamingOutputCallRequest:
    """Return a request for messages of these sizes."""
    parameters = [messages_pb2.ResponseParameters(size=size) for size in sizes]
    return messages_pb2.StreamingOutputCallRequest(response_parameters=parameters)


async def send_sizes(request: messages_pb2.StreamingOutputCallRequest, call: ServerCall) -> None:
    """Answer with messages of the sizes that were asked for (StreamingOutputCall)."""
    for parameters in request.response_parameters:
        call.send(output(parameters.size))
        await call.ready()


# -- small conveniences -------------------------------------------------------------------------------------


async def test_sending_tells_whether_it_was_taken() -> None:
    """After the end of a call nothing is taken, and nothing waits."""
    async with (
        serving(full_duplex_call=reflect) as server,
        calling(server) as channel,
        duplex(channel) as call,
    ):
        assert call.send(message(b"x"))
        assert call.queued > 0
        assert await call.receive() is not None
        assert call.queued == 0
        call.cancel()
        assert not call.send(message(b"y"))
        assert call.queued == 0


async def test_some_of_what_arrived() -> None:
    """`receive_many` with a limit leaves the rest for later, in order."""
    async with (
        serving(full_duplex_call=reflect) as server,
        calling(server) as channel,
        duplex(channel) as call,
    ):
        for size in range(1, 11):
            call.send(message(bytes(size)))
        call.close_send()
        sizes: list[int] = []
        while batch := await call.receive_many(3):
            assert len(batch) <= 3
            sizes += [len(response.payload.body) for response in batch]
        assert sizes == list(range(1, 11))


async def test_only_one_task_receives() -> None:
    """A second one is told at once, and the first goes on."""
    async with (
        serving(full_duplex_call=reflect) as server,
        calling(server) as channel,
        duplex(channel) as call,
    ):
        first = asyncio.ensure_future(call.receive())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await call.receive()
        call.send(message(b"x"))
        assert await first is not None


async def test_a_call_that_was_forgotten_is_told_of() -> None:
    """Closing a channel warns of calls that nobody finished or cancelled, outside of `async with`."""
    async with serving(full_duplex_call=reflect) as server:
        async with calling(server) as channel:
            forgotten = duplex(channel)
            duplex(channel).cancel()
            with pytest.warns(ResourceWarning, match="1 calls"):
                await channel.close()
        async with calling(server) as channel, duplex(channel):
            await channel.close()
        with pytest.raises(ChannelClosed):
            await forgotten.receive()
        with pytest.raises(ChannelClosed):
            await unary(channel)


async def test_details_by_their_type() -> None:
    """A detail is found and unpacked; others, and broken ones, are passed over."""
    info = ErrorInfo(reason="WHY")
    packed = AnyMessage()
    packed.Pack(info)
    broken = AnyMessage(type_url=packed.type_url, value=b"\xff")
    error = RpcError(
        StatusCode.ABORTED, details=[AnyMessage(type_url="type.googleapis.com/x.Y"), broken, packed]
    )
    assert error.detail(ErrorInfo) == info
    assert RpcError(StatusCode.ABORTED, details=[info]).detail(ErrorInfo) is info
    assert RpcError(StatusCode.ABORTED).detail(ErrorInfo) is None


async def test_the_same_metadata_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tuple that is used again is not encoded again; a list may have changed."""
    seen: list[str] = []

    async def handler(request: messages_pb2.SimpleRequest, call: ServerCall) -> Message:
        seen.append(str(dict(call.metadata).get("a")))
        return messages_pb2.SimpleResponse()

    async with serving(unary_call=handler) as server, calling(server) as channel:
        pairs: Any = (("a", "1"),)
        await unary(channel, metadata=pairs)
        with monkeypatch.context() as patched:
            patched.setattr("windshift.rpc.channel.encode_metadata", None)
            await unary(channel, metadata=pairs)
        changing = [("a", "2")]
        await unary(channel, metadata=changing)
        changing[0] = ("a", "3")
        await unary(channel, metadata=changing)
    assert seen == ["1", "1", "2", "3"]
