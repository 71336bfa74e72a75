"""The client against a server of grpcio: what another implementation makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import Channel, RpcError, StatusCode

from .calling import calling, channel_options, duplex, failure, message, unary
from .serving import UNARY, eventually, strict_loop

CALLS = 300


def serialize(response: Message) -> bytes:
    """Return the bytes of a message."""
    return response.SerializeToString()


class Handlers(grpc.GenericRpcHandler):
    """`UnaryCall` and `FullDuplexCall`, as the test's own functions."""

    def __init__(self, unary_call: Any, full_duplex_call: Any) -> None:
        self._handlers = {
            UNARY: grpc.unary_unary_rpc_method_handler(
                unary_call,
                request_deserializer=messages_pb2.SimpleRequest.FromString,
                response_serializer=serialize,
            ),
            UNARY.replace("UnaryCall", "FullDuplexCall"): grpc.stream_stream_rpc_method_handler(
                full_duplex_call,
                request_deserializer=messages_pb2.StreamingOutputCallRequest.FromString,
                response_serializer=serialize,
            ),
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


async def echo(request: messages_pb2.SimpleRequest, context: Any) -> messages_pb2.SimpleResponse:
    """Answer with the request's payload."""
    return messages_pb2.SimpleResponse(payload=request.payload)


async def reflect(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
    """Answer each message with its payload."""
    async for request in requests:
        yield messages_pb2.StreamingOutputCallResponse(payload=request.payload)


@asynccontextmanager
async def grpcio(
    unary_call: Any = echo, full_duplex_call: Any = reflect, *, port: int = 0, **options: Any
) -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    """Run a server of grpcio and yield it with its target."""
    pairs = [(f"grpc.{name}", value) for name, value in ({"so_reuseport": 0} | options).items()]
    server = grpc.aio.server(options=pairs)
    server.add_generic_rpc_handlers([Handlers(unary_call, full_duplex_call)])
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.fixture(autouse=True)
async def nothing_unhandled() -> AsyncIterator[None]:
    """Fail when something reached the event loop's handler of last resort."""
    with strict_loop():
        yield


async def test_calls_of_both_kinds() -> None:
    """Small and large, one after the other and all at once."""
    async with grpcio() as (_, target), calling(target) as channel:
        bodies = [bytes([number % 256]) * (number * 100) for number in range(200)]
        assert await asyncio.gather(*[unary(channel, body) for body in bodies]) == bodies
        call = duplex(channel)
        for number in (0, 1, 70_000, 3_000_000):
            call.send(message(bytes(number)))
            response = await call.receive()
            assert response is not None
            assert len(response.payload.body) == number
        call.close_send()
        assert await call.receive() is None


async def test_metadata_and_errors() -> None:
    """Text and binary both ways, and a status with its message and trailers."""

    async def handler(request: Any, context: Any) -> Any:
        received = dict(context.invocation_metadata())
        await context.send_initial_metadata([("x-first", received["x-text"])])
        context.set_trailing_metadata([("x-last-bin", received["x-data-bin"])])
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nö %\n")

    pairs: list[tuple[str, str | bytes]] = [("x-text", "a"), ("x-data-bin", b"\x00\xff\x01")]
    async with grpcio(handler) as (_, target), calling(target) as channel:
        call = channel.stream(UNARY, messages_pb2.SimpleResponse, metadata=pairs)
        call.send(messages_pb2.SimpleRequest())
        call.close_send()
        assert ("x-first", "a") in await call.initial_metadata()
        error = await failure(call.receive())
        assert (error.code, error.message) == (StatusCode.FAILED_PRECONDITION, "nö %\n")
        assert error.metadata == (("x-last-bin", b"\x00\xff\x01"),)


async def test_deadlines_and_cancels_reach_the_handler() -> None:
    """A server of grpcio cancels the coroutine of a call whose client gave up."""
    begun = ended = 0

    async def handler(request: Any, context: Any) -> Any:
        nonlocal begun, ended
        begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1

    async with grpcio(handler) as (_, target), calling(target) as channel:
        timeout = 0.2
        while not begun:  # on a busy machine its time may be over before it is there
            assert (await failure(unary(channel, timeout=timeout))).code is StatusCode.DEADLINE_EXCEEDED
            timeout *= 2
        await eventually(lambda: ended == begun)
        call = asyncio.ensure_future(unary(channel))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await failure(channel.unary("/x.Y/Z", message(), messages_pb2.SimpleResponse))).code is (
            StatusCode.UNIMPLEMENTED
        )


@pytest.mark.parametrize("encoding", [grpc.Compression.Gzip, grpc.Compression.NoCompression])
async def test_compressed_responses(encoding: grpc.Compression) -> None:
    """The client offers gzip, so that servers may use it."""

    async def handler(request: Any, context: Any) -> Any:
        context.set_compression(encoding)
        return messages_pb2.SimpleResponse(payload=request.payload)

    async with grpcio(handler) as (_, target), calling(target) as channel:
        assert await unary(channel, bytes(100_000)) == bytes(100_000)


async def test_a_large_request_to_a_server_that_refuses_it() -> None:
    """The status arrives although the request is still being sent, and the connection works on."""
    async with grpcio(max_receive_message_length=10_000) as (_, target), calling(target) as channel:
        for _ in range(5):
            error = await failure(unary(channel, bytes(3_000_000)))
            assert error.code is StatusCode.RESOURCE_EXHAUSTED
        assert await unary(channel, b"x") == b"x"


async def test_more_calls_than_the_server_takes_at_once() -> None:
    """SETTINGS_MAX_CONCURRENT_STREAMS holds them back here."""
    running = most = 0

    async def handler(request: Any, context: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return messages_pb2.SimpleResponse()

    async def insist(channel: Channel) -> None:
        while True:
            try:
                await unary(channel)
            except RpcError as error:
                # Twice in a row, grpcio still counted a call that it had answered.
                if "REFUSED_STREAM" not in error.message:
                    raise
            else:
                return

    async with grpcio(handler, max_concurrent_streams=1) as (_, target), calling(target) as channel:
        await asyncio.gather(*[insist(channel) for _ in range(100)])
    assert most == 1


async def test_connections_that_the_server_ages_out() -> None:
    """The server sends GOAWAY, waits, and closes; no call is lost however often it does."""
    ages = {"max_connection_age_ms": 40, "max_connection_age_grace_ms": 5_000}
    async with grpcio(**ages) as (_, target), calling(target) as channel:
        connections: set[int] = set()
        for number in range(CALLS):
            await channel.wait_ready()
            assert await unary(channel, b"%d" % number) == b"%d" % number
            connections.update(map(id, channel._usable))
            await asyncio.sleep(0.001)
        assert len(connections) > 1


async def test_a_server_that_stops_and_comes_back() -> None:
    """Calls fail at once meanwhile and work again afterwards, on the same channel."""
    options = channel_options(backoff_initial=0.01)
    async with grpcio() as (server, target), calling(target, options) as channel:
        assert await unary(channel, b"x") == b"x"
        stream = duplex(channel)
        await server.stop(None)
        assert (await failure(stream.receive())).code is StatusCode.UNAVAILABLE
        assert (await failure(unary(channel))).code is StatusCode.UNAVAILABLE
        async with grpcio(port=int(target.rpartition(":")[2])):
            await channel.wait_ready(10.0)
            assert await unary(channel, b"y") == b"y"
