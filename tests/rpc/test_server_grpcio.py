"""The server against clients of grpcio, the one on asyncio and the one on threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from tests._gen.grpc.testing import empty_pb2, messages_pb2
from tests.conformance.service import INITIAL_ECHO, TRAILING_ECHO, InteropService
from tests.support.certificates import Authority
from windshift.rpc import RpcError, Server, ServerCall, Service, StatusCode, server_tls

from .serving import SERVICE, eventually, strict_loop

PREFIX = "/grpc.testing.TestService/"
Request = messages_pb2.SimpleRequest
Payload = messages_pb2.Payload


class Handlers(InteropService):
    """The interoperability service, and methods that fail and that wait.

    Attributes:
        waiting: handlers that have begun to wait.
        cancelled: handlers that were cancelled while they waited.
    """

    def __init__(self) -> None:
        self.waiting = self.cancelled = 0

    async def cacheable_unary_call(
        self, request: messages_pb2.SimpleRequest, call: ServerCall
    ) -> messages_pb2.SimpleResponse:
        """Fail with details."""
        raise RpcError(StatusCode.ABORTED, "nö %", [ErrorInfo(reason="GONE", domain="windshift")])

    async def half_duplex_call(self, call: ServerCall) -> None:
        """Wait for ever."""
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@asynccontextmanager
async def handling(ssl: Any = None) -> AsyncIterator[tuple[Handlers, str]]:
    """Serve and yield the handlers and the target."""
    handlers = Handlers()
    with strict_loop():
        server = Server([Service(SERVICE, handlers)])
        _, port = await server.listen("127.0.0.1", 0, ssl=ssl)
        try:
            yield handlers, f"localhost:{port}"
        finally:
            server.close()


def multicallables(channel: Any) -> dict[str, Any]:
    """Return what a generated stub would have, by the names of the methods."""

    def serialize(request: Message) -> bytes:
        return request.SerializeToString()

    simple, output = messages_pb2.SimpleResponse, messages_pb2.StreamingOutputCallResponse
    upload = messages_pb2.StreamingInputCallResponse
    kinds: dict[str, tuple[Any, type[Message]]] = {
        "EmptyCall": (channel.unary_unary, empty_pb2.Empty),
        "UnaryCall": (channel.unary_unary, simple),
        "CacheableUnaryCall": (channel.unary_unary, simple),
        "StreamingOutputCall": (channel.unary_stream, output),
        "StreamingInputCall": (channel.stream_unary, upload),
        "FullDuplexCall": (channel.stream_stream, output),
        "HalfDuplexCall": (channel.stream_stream, output),
        "UnimplementedCall": (channel.unary_unary, empty_pb2.Empty),
    }
    return {
        name: make(PREFIX + name, request_serializer=serialize, response_deserializer=response.FromString)
        for name, (make, response) in kinds.items()
    }


def ask(*sizes: int) -> messages_pb2.StreamingOutputCallRequest:
    """Return a request for messages of these sizes."""
    parameters = [messages_pb2.ResponseParameters(size=size) for size in sizes]
    return messages_pb2.StreamingOutputCallRequest(response_parameters=parameters)


def pieces(*sizes: int) -> Iterator[messages_pb2.StreamingInputCallRequest]:
    """Yield messages of these sizes."""
    for size in sizes:
        yield messages_pb2.StreamingInputCallRequest(payload=Payload(body=bytes(size)))


async def test_calls_of_every_kind() -> None:
    """Small and large messages, all four kinds, on one channel."""
    async with handling() as (_, target), grpc.aio.insecure_channel(target) as channel:
        stub = multicallables(channel)
        assert await stub["EmptyCall"](empty_pb2.Empty()) == empty_pb2.Empty()
        for size in (0, 1, 70_000, 3_000_000):
            response = await stub["UnaryCall"](Request(response_size=size, payload=Payload(body=bytes(size))))
            assert len(response.payload.body) == size
        downloaded = [
            len(each.payload.body) async for each in stub["StreamingOutputCall"](ask(1, 200_000, 0))
        ]
        assert downloaded == [1, 200_000, 0]
        uploaded = await stub["StreamingInputCall"](pieces(1, 200_000, 3_000_000))
        assert uploaded.aggregated_payload_size == 3_200_001
        conversation = stub["FullDuplexCall"]()
        for size in (5, 100_000):
            await conversation.write(ask(size))
            assert len((await conversation.read()).payload.body) == size
        await conversation.done_writing()
        assert await conversation.read() is grpc.aio.EOF
        assert await conversation.code() is grpc.StatusCode.OK


async def test_many_calls_at_once() -> None:
    """More than the server takes on one connection."""
    async with handling() as (_, target), grpc.aio.insecure_channel(target) as channel:
        call = multicallables(channel)["UnaryCall"]
        responses = await asyncio.gather(*[call(Request(response_size=size)) for size in range(700)])
        assert [len(response.payload.body) for response in responses] == list(range(700))


async def test_metadata() -> None:
    """Text and binary come back, ahead of the message and behind it."""
    pairs = ((INITIAL_ECHO, "a b"), (TRAILING_ECHO, b"\x00\xff"))
    async with handling() as (_, target), grpc.aio.insecure_channel(target) as channel:
        call = multicallables(channel)["UnaryCall"](Request(), metadata=pairs)
        await call
        assert (INITIAL_ECHO, "a b") in tuple(await call.initial_metadata())
        assert (TRAILING_ECHO, b"\x00\xff") in tuple(await call.trailing_metadata())


async def test_an_error_with_details() -> None:
    """Code, message and ``grpc-status-details-bin``."""
    async with handling() as (_, target), grpc.aio.insecure_channel(target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await multicallables(channel)["CacheableUnaryCall"](Request())
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ABORTED, "nö %")
        status = Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
        found = ErrorInfo()
        assert status.details[0].Unpack(found)
        assert (found.reason, found.domain) == ("GONE", "windshift")


async def test_an_unknown_method() -> None:
    """UNIMPLEMENTED."""
    async with handling() as (_, target), grpc.aio.insecure_channel(target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await multicallables(channel)["UnimplementedCall"](empty_pb2.Empty())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_deadlines_and_cancels() -> None:
    """Either way the handler is cancelled."""
    async with handling() as (handlers, target), grpc.aio.insecure_channel(target) as channel:
        wait = multicallables(channel)["HalfDuplexCall"]
        timeout = 0.1
        while not handlers.waiting:  # on a busy machine its time may be over before it is there
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await wait(timeout=timeout).read()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            timeout *= 2
        await eventually(lambda: handlers.cancelled == handlers.waiting)
        before = handlers.waiting
        call = wait()
        await call.write(ask())
        await eventually(lambda: handlers.waiting == before + 1)
        call.cancel()
        await eventually(lambda: handlers.cancelled == before + 1)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.NoCompression])
async def test_compressed_requests(compression: grpc.Compression) -> None:
    """Gzip is inflated."""
    async with (
        handling() as (_, target),
        grpc.aio.insecure_channel(target, compression=compression) as channel,
    ):
        uploaded = await multicallables(channel)["StreamingInputCall"](pieces(100_000, 100_000))
        assert uploaded.aggregated_payload_size == 200_000


async def test_tls(tmp_path: Any) -> None:
    """With a verified certificate."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    async with (
        handling(server_tls(pair.certificate, pair.key)) as (_, target),
        grpc.aio.secure_channel(target, credentials) as channel,
    ):
        response = await multicallables(channel)["UnaryCall"](Request(response_size=1_000_000))
        assert len(response.payload.body) == 1_000_000


async def test_the_client_on_threads() -> None:
    """The same calls from the other client, which has its own ways with streams."""

    def play(target: str) -> None:
        with grpc.insecure_channel(target) as channel:
            stub = multicallables(channel)
            assert len(stub["UnaryCall"](Request(response_size=500_000)).payload.body) == 500_000
            downloaded = [len(each.payload.body) for each in stub["StreamingOutputCall"](ask(1, 200_000))]
            assert downloaded == [1, 200_000]
            assert stub["StreamingInputCall"](pieces(5, 200_000)).aggregated_payload_size == 200_005
            conversation = stub["FullDuplexCall"](iter([ask(5), ask(100_000)]))
            assert [len(each.payload.body) for each in conversation] == [5, 100_000]
            futures = [stub["UnaryCall"].future(Request(response_size=size)) for size in range(300)]
            assert [len(future.result().payload.body) for future in futures] == list(range(300))

    async with handling() as (_, target):
        await asyncio.to_thread(play, target)
