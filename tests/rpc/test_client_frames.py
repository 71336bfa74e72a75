"""What servers, proxies and web servers may answer, frame by frame, and what the caller gets."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import Channel, ConnectionOptions, StatusCode

from .calling import calling, channel_options, duplex, failure, unary
from .frames import Peer, data, headers, prefixed, rst_stream
from .raw_server import GRPC_HEADERS, OK, RawServer, answer, raw_server

PAYLOAD = messages_pb2.SimpleResponse(payload=messages_pb2.Payload(body=b"x")).SerializeToString()
GZIP = [(b"grpc-encoding", b"gzip")]


async def respond(server: RawServer, call: Awaitable[Any], *frames: bytes) -> Any:
    """Start a call on stream 1 and answer it with frames; return what the caller got."""
    task = asyncio.ensure_future(call)
    peer = await server.accept()
    await peer.until(lambda: bool(peer.responses[1].headers))
    peer.send(*frames)
    try:
        return await task
    finally:
        await peer.pong()  # the client still keeps to HTTP/2


async def failing_unary(*frames: bytes) -> tuple[StatusCode, str]:
    """Answer a unary call with frames and return how it failed."""
    async with raw_server() as server, calling(server.target) as channel:
        error = await respond(server, failure(unary(channel)), *frames)
        return error.code, error.message


# -- the request --------------------------------------------------------------------------------------------


async def test_the_request() -> None:
    """What the protocol asks for, the body in one piece, and the end of it."""
    async with raw_server() as server, calling(server.target) as channel:
        call = asyncio.ensure_future(unary(channel, b"hello", timeout=5.0, metadata=[("x-a", "b")]))
        peer = await server.accept()
        await peer.until(lambda: peer.responses[1].ended)
        request = peer.responses[1]
        assert request.initial[b":method"] == b"POST"
        assert request.initial[b":scheme"] == b"http"
        assert request.initial[b":path"] == b"/grpc.testing.TestService/UnaryCall"
        assert request.initial[b":authority"] == server.target.encode()
        assert request.initial[b"te"] == b"trailers"
        assert request.initial[b"content-type"] == b"application/grpc"
        assert request.initial[b"grpc-accept-encoding"] == b"identity,gzip"
        assert request.initial[b"grpc-timeout"].endswith(b"u")
        assert request.initial[b"x-a"] == b"b"
        assert len(request.messages) == 1
        peer.send(answer(1, PAYLOAD))
        assert await call == b"x"


async def test_the_settings_forbid_pushes() -> None:
    """ENABLE_PUSH is 0: gRPC has no use for it."""
    async with raw_server() as server, calling(server.target) as channel:
        waiting = asyncio.ensure_future(channel.wait_ready(5))
        peer = await server.accept()
        await waiting
        assert peer.settings[0x2] == 0


# -- good answers -------------------------------------------------------------------------------------------


async def split_everywhere(peer: Peer, frames: bytes) -> None:
    """Send bytes one by one."""
    for position in range(len(frames)):
        await peer.send_slowly(frames[position : position + 1])


async def test_an_answer_cut_anywhere() -> None:
    """Neither frames nor messages arrive in one piece."""
    body = prefixed(PAYLOAD)
    frames = [headers(1, GRPC_HEADERS), *[data(1, body[i : i + 1]) for i in range(len(body))]]
    async with raw_server() as server, calling(server.target) as channel:
        call = asyncio.ensure_future(unary(channel))
        peer = await server.accept()
        await peer.until(lambda: peer.responses[1].ended)
        await split_everywhere(peer, b"".join([*frames, headers(1, OK, end=True)]))
        assert await call == b"x"


async def test_compressed_answers() -> None:
    """With grpc-encoding gzip each message says by itself whether it is compressed."""
    packed = prefixed(gzip.compress(PAYLOAD), 1)
    frames = [headers(1, GRPC_HEADERS + GZIP), data(1, packed), headers(1, OK, end=True)]
    async with raw_server() as server, calling(server.target) as channel:
        assert await respond(server, unary(channel), *frames) == b"x"

    async def all_messages(call: Any) -> list[Any]:
        return [message async for message in call]

    frames = [headers(1, GRPC_HEADERS + GZIP), data(1, packed + prefixed(PAYLOAD)), headers(1, OK, end=True)]
    async with raw_server() as server, calling(server.target) as channel:
        assert len(await respond(server, all_messages(duplex(channel)), *frames)) == 2


async def test_a_compressed_bomb_is_refused() -> None:
    """The limit holds for what comes out, and no more is inflated."""
    bomb = prefixed(gzip.compress(bytes(10_000_000)), 1)
    frames = [headers(1, GRPC_HEADERS + GZIP), data(1, bomb), headers(1, OK, end=True)]
    assert (await failing_unary(*frames))[0] is StatusCode.RESOURCE_EXHAUSTED


async def test_early_hints_are_passed_over() -> None:
    """A proxy may send 1xx responses first."""
    frames = [headers(1, [(b":status", b"103")]), answer(1, PAYLOAD)]
    async with raw_server() as server, calling(server.target) as channel:
        assert await respond(server, unary(channel), *frames) == b"x"


# -- bad answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "code", "text"),
    [
        pytest.param(
            [
                headers(1, [(b":status", b"503"), (b"content-type", b"text/html")]),
                data(1, b"<html>", end=True),
            ],
            StatusCode.UNAVAILABLE,
            "HTTP status 503",
            id="a proxy's page",
        ),
        pytest.param(
            [headers(1, [(b":status", b"404")], end=True)], StatusCode.UNIMPLEMENTED, "404", id="no such page"
        ),
        pytest.param(
            [
                headers(1, [(b":status", b"200"), (b"content-type", b"text/html")]),
                data(1, b"<html>", end=True),
            ],
            StatusCode.UNKNOWN,
            "text/html",
            id="another content type",
        ),
        pytest.param(
            [headers(1, GRPC_HEADERS), data(1, prefixed(PAYLOAD), end=True)],
            StatusCode.UNKNOWN,
            "without a status",
            id="no trailers",
        ),
        pytest.param(
            [answer(1, PAYLOAD, trailers=[(b"x-a", b"b")])],
            StatusCode.UNKNOWN,
            "without a status",
            id="no status",
        ),
        pytest.param(
            [answer(1, PAYLOAD, trailers=[(b"grpc-status", b"x")])], StatusCode.UNKNOWN, "", id="no number"
        ),
        pytest.param([answer(1)], StatusCode.INTERNAL, "no complete message", id="no message"),
        pytest.param(
            [headers(1, [*GRPC_HEADERS, *OK], end=True)],
            StatusCode.INTERNAL,
            "no complete message",
            id="OK and nothing else",
        ),
        pytest.param([answer(1, PAYLOAD, PAYLOAD)], StatusCode.INTERNAL, "more than one", id="two messages"),
        pytest.param([answer(1, b"\xff")], StatusCode.INTERNAL, "not a valid grpc.testing", id="no protobuf"),
        pytest.param(
            [headers(1, GRPC_HEADERS), data(1, prefixed(PAYLOAD)[:-1]), headers(1, OK, end=True)],
            StatusCode.INTERNAL,
            "no complete message",
            id="half a message",
        ),
        pytest.param(
            [headers(1, GRPC_HEADERS), data(1, prefixed(b"x", 1)), headers(1, OK, end=True)],
            StatusCode.INTERNAL,
            "grpc-encoding",
            id="compressed without saying how",
        ),
        pytest.param(
            [headers(1, GRPC_HEADERS), data(1, prefixed(b"x", 7)), headers(1, OK, end=True)],
            StatusCode.INTERNAL,
            "flag 0x07",
            id="a strange flag",
        ),
        pytest.param(
            [answer(1, PAYLOAD, initial=[(b"grpc-encoding", b"br")])],
            StatusCode.INTERNAL,
            "encoding br",
            id="an encoding nobody offered",
        ),
        pytest.param(
            [headers(1, [*GRPC_HEADERS, (b"grpc-status", b"5"), (b"grpc-message", b"n%C3%B6")], end=True)],
            StatusCode.NOT_FOUND,
            "nö",
            id="trailers only",
        ),
        pytest.param([rst_stream(1, 0x2)], StatusCode.INTERNAL, "INTERNAL_ERROR", id="a reset"),
        pytest.param(
            [headers(1, GRPC_HEADERS), rst_stream(1, 0x8)], StatusCode.CANCELLED, "CANCEL", id="a late reset"
        ),
        pytest.param([rst_stream(1, 0xB)], StatusCode.RESOURCE_EXHAUSTED, "CALM", id="enhance your calm"),
        pytest.param(
            [headers(1, GRPC_HEADERS), rst_stream(1, 0x7)],
            StatusCode.UNAVAILABLE,
            "REFUSED",
            id="refused late",
        ),
        pytest.param(
            [headers(1, [(b":status", b"200"), (b"Content-Type", b"application/grpc")])],
            StatusCode.INTERNAL,
            "PROTOCOL_ERROR",
            id="headers against HTTP/2",
        ),
    ],
)
async def test_bad_answers(frames: list[bytes], code: StatusCode, text: str) -> None:
    """Each ends the call with the status that fits, and says what was wrong."""
    found, message = await failing_unary(*frames)
    assert (found, text in message) == (code, True), message


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (
            [headers(1, GRPC_HEADERS), data(1, prefixed(PAYLOAD)[:-1]), headers(1, OK, end=True)],
            StatusCode.INTERNAL,
        ),
        ([answer(1, b"\xff")], StatusCode.INTERNAL),
        ([headers(1, GRPC_HEADERS), data(1, prefixed(b"x", 7))], StatusCode.INTERNAL),
        ([headers(1, GRPC_HEADERS), data(1, b"\0\x7f\xff\xff\xff")], StatusCode.RESOURCE_EXHAUSTED),
        ([headers(1, GRPC_HEADERS), rst_stream(1, 0x2)], StatusCode.INTERNAL),
        ([headers(1, GRPC_HEADERS), data(1, b"", end=True)], StatusCode.UNKNOWN),
    ],
    ids=["half a message", "no protobuf", "a strange flag", "too large", "a reset", "no status"],
)
async def test_bad_streams(frames: list[bytes], code: StatusCode) -> None:
    """A streaming call fails when its bad part is received, and again whenever it is asked."""
    async with raw_server() as server, calling(server.target) as channel:
        call = duplex(channel)
        error = await respond(server, failure(call.receive()), *frames)
        assert error.code is code
        assert (await failure(call.receive_many())).code is code


async def test_what_comes_after_a_local_end_is_given_back() -> None:
    """Data of a call that the client gave up fills neither the memory nor the connection's window."""
    async with raw_server() as server, calling(server.target) as channel:
        call = duplex(channel)
        peer = await server.accept()
        await peer.until(lambda: bool(peer.responses[1].headers))
        call.cancel()
        peer.send(headers(1, GRPC_HEADERS))
        for _ in range(100):
            peer.send(data(1, bytes(1_000)))
        await peer.until(lambda: peer.responses[1].reset == 0x8)
        await peer.pong()
        assert channel.connections == 1


# -- never looked at ----------------------------------------------------------------------------------------


CallFactory = Callable[[Any], Awaitable[Any]]


async def one_message(channel: Any) -> bytes:
    """Send two messages on a stream and return the answer."""
    call = duplex(channel)
    call.send(messages_pb2.StreamingOutputCallRequest())
    call.send(messages_pb2.StreamingOutputCallRequest())
    call.close_send()
    response = await call.receive()
    return b"" if response is None else bytes(response.payload.body)


@pytest.mark.parametrize("call", [unary, one_message], ids=["unary", "stream"])
async def test_a_refused_call_starts_again(call: CallFactory) -> None:
    """REFUSED_STREAM means that nothing happened; the caller does not notice."""
    async with raw_server() as server, calling(server.target) as channel:
        task = asyncio.ensure_future(call(channel))
        peer = await server.accept()
        await peer.until(lambda: peer.responses[1].ended)
        peer.send(rst_stream(1, 0x7))
        await peer.until(lambda: peer.responses[3].ended)
        assert peer.responses[3].body == peer.responses[1].body
        peer.send(answer(3, PAYLOAD))
        assert await task == b"x"


async def test_a_call_refused_twice_fails() -> None:
    """Once is enough: the server has a reason."""
    async with raw_server() as server, calling(server.target) as channel:
        task = asyncio.ensure_future(failure(unary(channel)))
        peer = await server.accept()
        for stream_id in (1, 3):
            await peer.until(lambda: peer.responses[stream_id].ended)  # noqa: B023 -- used at once
            peer.send(rst_stream(stream_id, 0x7))
        assert (await task).code is StatusCode.UNAVAILABLE


async def test_a_call_that_sent_much_is_not_kept_for_a_second_try() -> None:
    """What was sent is kept up to a limit; beyond it a refusal is the caller's to handle."""
    async with raw_server() as server, calling(server.target, channel_options(retry_buffer=100)) as channel:
        call = duplex(channel)
        call.send(messages_pb2.StreamingOutputCallRequest(payload=messages_pb2.Payload(body=bytes(200))))
        peer = await server.accept()
        await peer.until(lambda: bool(peer.responses[1].body))
        peer.send(rst_stream(1, 0x7))
        assert (await failure(call.receive())).code is StatusCode.UNAVAILABLE


# -- the window ---------------------------------------------------------------------------------------------


async def lose_window(channel: Channel, peer: Peer, stream_id: int) -> None:
    """Have the next call cancelled in the middle of a frame; do nothing if it is not on this connection."""
    async with duplex(channel) as call:
        await peer.until(lambda: bool(peer.responses[stream_id].headers))
        if peer.ended:
            return
        frames = headers(stream_id, GRPC_HEADERS) + peer.data(stream_id, bytes(16_000), end=True)
        peer.send(frames[:-1])
        await call.initial_metadata()
    await peer.until(lambda: peer.responses[stream_id].reset is not None)
    peer.send(frames[-1:])


async def first_peer(server: RawServer, channel: Channel) -> Peer:
    """Have the channel connect."""
    waiting = asyncio.ensure_future(channel.wait_ready(5))
    peer = await server.accept()
    await waiting
    return peer


SMALL = channel_options(ConnectionOptions(connection_window=1 << 18))


async def test_what_resets_take_from_the_window_is_put_back() -> None:
    """Or some hundred cancelled downloads would stop the connection."""
    async with raw_server() as server, calling(server.target, SMALL) as channel:
        peer = await first_peer(server, channel)
        for number in range(50):  # 50 times 16 KB
            await peer.until(lambda: peer.window > 30_000)
            await lose_window(channel, peer, 2 * number + 1)
        await peer.until(lambda: peer.window > 1 << 17)
        assert server.accepted == 1


async def test_a_connection_whose_window_cannot_be_put_back_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The channel makes another one, rather than have calls wait for ever."""
    monkeypatch.setattr("windshift.rpc.connection.MAX_WINDOW", 1 << 18)
    async with raw_server() as server, calling(server.target, SMALL) as channel:
        peer = await first_peer(server, channel)
        stream_id = 1
        while not peer.goaways and peer.window > 30_000:
            await lose_window(channel, peer, stream_id)
            stream_id += 2
        assert await peer.closed() == 0
        call = asyncio.ensure_future(unary(channel))
        peer = await server.accept()
        await peer.until(lambda: any(request.ended for request in peer.responses.values()))
        (stream_id,) = (each for each, request in peer.responses.items() if request.ended)
        peer.send(answer(stream_id, PAYLOAD))
        assert await call == b"x"
