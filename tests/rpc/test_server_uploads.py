"""Bodies of requests against flow control: uploads that are refused, stalled, huge or unfair."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from google.protobuf.message import Message

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import ConnectionOptions, RpcError, ServerCall, StatusCode
from windshift.rpc.connection import SEND_QUEUE_MARK

from .frames import Peer, data, prefixed, rst_stream, window_update
from .serving import (
    DOWNLOAD,
    DUPLEX,
    UNARY,
    UPLOAD,
    Steps,
    ask,
    count,
    echo,
    eventually,
    output,
    piece,
    server_options,
    serving,
    simple,
)

WINDOW = 1 << 20
SMALL = ConnectionOptions(connection_window=WINDOW)
"""A connection window that some tens of forgotten uploads would use up."""

REFUSALS: dict[str, tuple[str, list[tuple[bytes, bytes]], bytes, int]] = {
    "unknown method": ("/no/Method", [], b"", StatusCode.UNIMPLEMENTED),
    "unknown encoding": (UNARY, [(b"grpc-encoding", b"br")], b"", StatusCode.UNIMPLEMENTED),
    "malformed timeout": (UNARY, [(b"grpc-timeout", b"x")], b"", StatusCode.INVALID_ARGUMENT),
    "message too large": (UNARY, [], b"\0\xff\xff\xff\xff", StatusCode.RESOURCE_EXHAUSTED),
    "bad flag": (UNARY, [], b"\xff\0\0\0\1", StatusCode.INTERNAL),
    "stream: message too large": (UPLOAD, [], b"\0\xff\xff\xff\xff", StatusCode.RESOURCE_EXHAUSTED),
    "stream: no protobuf": (UPLOAD, [], prefixed(b"\xff"), StatusCode.INVALID_ARGUMENT),
    "stream: refused by the handler": (DUPLEX, [], b"", StatusCode.PERMISSION_DENIED),
}


async def refuse(call: ServerCall) -> None:
    """End the call without taking any message (FullDuplexCall)."""
    raise RpcError(StatusCode.PERMISSION_DENIED, "no")


async def full_window(peer: Peer, window: int = WINDOW) -> None:
    """Check that nothing of the connection's window is lost: the engine withholds up to half of it."""
    await peer.pong()
    await peer.until(lambda: peer.window >= window // 2)
    room = peer.window
    stream_id = peer.request(UPLOAD, None, end=False)
    body = piece(bytes(window))
    await peer.upload(stream_id, body, end=True)
    assert (await peer.response(stream_id)).status == 0
    assert room >= window // 2


async def test_what_comes_after_a_handler_stopped_receiving_is_discarded() -> None:
    """It receives nothing more, whether it waits for that or not, and no window is lost."""
    received: list[int] = []

    async def handler(call: ServerCall) -> None:
        received.append(len(await call.receive_many()))
        asyncio.get_running_loop().call_soon(call.stop_receiving)
        received.append(len(await call.receive_many()))
        await eventually(lambda: call.unacknowledged > 0)
        received.append(len(await call.receive_many()))

    options = server_options(SMALL)
    async with (
        serving(options, full_duplex_call=handler, streaming_input_call=count) as running,
        await running.peer() as peer,
    ):
        stream_id = peer.request(DUPLEX, piece(b"x"), end=False)
        await eventually(lambda: received == [1, 0])
        peer.send(data(stream_id, piece(bytes(1000))))
        assert (await peer.response(stream_id)).status == 0
        assert received == [1, 0, 0]
        await full_window(peer)


@pytest.mark.parametrize("name", REFUSALS)
async def test_refused_uploads_are_answered_drained_and_never_reset(name: str) -> None:
    """300 on one connection: each gets its status at once, none a reset, and no window is lost."""
    path, extra, first, status = REFUSALS[name]
    async with (
        serving(
            server_options(SMALL), unary_call=echo, streaming_input_call=count, full_duplex_call=refuse
        ) as running,
        await running.peer() as peer,
    ):
        await peer.pong()
        for _ in range(300):
            await peer.until(lambda: peer.window > 30_000)
            stream_id = peer.request(path, first, extra, end=False)
            peer.send(peer.data(stream_id, bytes(10_000)))
            response = await peer.response(stream_id)
            assert response.status == status
            peer.send(peer.data(stream_id, bytes(10_000)), peer.data(stream_id, b"", end=True))
        await full_window(peer)
        assert all(response.reset is None for response in peer.responses.values())
        assert not peer.goaways


async def test_uploads_for_which_there_is_no_room_cost_no_window() -> None:
    """300 on one connection while others make the server hold too much, and then all is well again."""
    others = 50_000_000
    options = server_options(SMALL, max_held=10_000_000, tick_interval=60.0)  # nothing is put back meanwhile
    async with (
        serving(options, unary_call=echo, streaming_input_call=count) as running,
        await running.peer() as peer,
    ):
        await peer.pong()
        running.server.holding.requests += others
        for _ in range(300):
            await peer.until(lambda: peer.window > 30_000)
            stream_id = peer.request(UNARY, simple(bytes(20_000)), end=False)
            assert (await peer.response(stream_id)).status == StatusCode.RESOURCE_EXHAUSTED
            peer.send(data(stream_id, end=True))
        running.server.holding.requests -= others
        await full_window(peer)


async def test_uploads_that_are_reset_cost_no_window() -> None:
    """What a reset in the middle of a frame takes from the connection's window is put back."""
    window = 1 << 18
    options = server_options(ConnectionOptions(connection_window=window), discard_timeout=0.01)
    async with (
        serving(options, full_duplex_call=refuse, streaming_input_call=count) as running,
        await running.peer() as peer,
    ):
        await peer.pong()
        for _ in range(50):  # 50 times 16 KB
            await peer.until(lambda: peer.window > 30_000)
            await lose_window(peer)
        await full_window(peer, window)


async def test_a_connection_whose_window_cannot_be_put_back_is_drained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client makes another one, rather than wait for ever."""
    window = 1 << 18
    monkeypatch.setattr("windshift.rpc.connection.MAX_WINDOW", window)
    connection = ConnectionOptions(connection_window=window)
    options = server_options(connection, discard_timeout=0.01, drain_ping_timeout=0.1)
    async with serving(options, full_duplex_call=refuse) as running, await running.peer() as peer:
        await peer.pong()
        peer.answer_pings = False  # the answer would get into the middle of a frame
        while not peer.goaways and peer.window > 30_000:
            await lose_window(peer)
        assert await peer.closed() == 0


async def lose_window(peer: Peer) -> None:
    """Have a stream reset in the middle of a frame."""
    stream_id = peer.request(DUPLEX, None, end=False)
    frame = peer.data(stream_id, bytes(16_000), end=True)
    peer.send(frame[:-1])
    await peer.until(lambda: peer.responses[stream_id].reset is not None)
    peer.send(frame[-1:])


async def test_refused_uploads_may_be_cancelled_by_the_client() -> None:
    """Grpc clients send RST_STREAM when an answer comes early; that loses no window either."""
    async with (
        serving(server_options(SMALL), streaming_input_call=count) as running,
        await running.peer() as peer,
    ):
        await peer.pong()
        for _ in range(300):
            await peer.until(lambda: peer.window > 30_000)
            stream_id = peer.request(UPLOAD, b"\xff" + bytes(20_000), end=False)
            assert (await peer.response(stream_id)).status == StatusCode.INTERNAL
            peer.send(peer.data(stream_id, bytes(10_000)), rst_stream(stream_id))
        await full_window(peer)


async def test_a_message_over_the_limit_is_refused_from_its_prefix() -> None:
    """The answer comes before the message, of which nothing is kept."""
    async with (
        serving(
            server_options(max_message_size=1000), unary_call=echo, streaming_input_call=count
        ) as running,
        await running.peer() as peer,
    ):
        for path in (UNARY, UPLOAD):
            stream_id = peer.request(path, b"\0\0\0\x03\xe9", end=False)
            assert (await peer.response(stream_id)).status == StatusCode.RESOURCE_EXHAUSTED
            assert not await peer.upload(stream_id, bytes(1_000_000))


async def test_a_client_that_does_not_end_after_its_answer_is_reset() -> None:
    """After ``discard_timeout``, so that nothing is held for ever."""
    options = server_options(discard_timeout=0.1)
    async with (
        serving(options, unary_call=echo, full_duplex_call=refuse) as running,
        await running.peer() as peer,
    ):
        for path in (DUPLEX, "/no/Method"):
            stream_id = peer.request(path, None, end=False)
            response = await peer.response(stream_id)
            assert response.reset is None
            await peer.until(lambda response=response: response.reset is not None)  # type: ignore[misc]
            assert response.reset == 0
        assert (await peer.call(UNARY, simple())).status == 0


async def test_a_status_that_waits_behind_a_stalled_transport_is_not_lost() -> None:
    """A client that reads nothing for longer than ``discard_timeout`` still finds the status in the end."""

    async def flood(request: Message, call: ServerCall) -> None:
        while call.queued < 100_000:
            call.send(output(16_000))
            await asyncio.sleep(0)

    options = server_options(discard_timeout=0.05)
    async with (
        serving(options, streaming_output_call=flood, full_duplex_call=refuse) as running,
        await running.peer(settings={0x4: 0x7FFF_FFFF}) as peer,
    ):
        peer.send(window_update(0, 0x7F00_0000))
        peer.request(DOWNLOAD)  # fills the socket, since nobody reads
        (connection,) = running.server._connections
        await eventually(lambda: connection.http2.unwritten and connection.http2.queued(1) > SEND_QUEUE_MARK)
        refused = peer.request(DUPLEX, None, end=False)
        await asyncio.sleep(0.2)  # many ticks of the server, and more than the timeout
        assert (await peer.response(refused)).status == StatusCode.PERMISSION_DENIED


async def test_one_stalled_upload_does_not_block_others() -> None:
    """Its stream's window is full; the connection's is not."""
    steps = Steps()
    async with (
        serving(unary_call=echo, streaming_input_call=count, full_duplex_call=steps.handler) as running,
        await running.peer() as peer,
    ):
        await peer.pong()
        stalled = [peer.request(DUPLEX, bytes(peer.stream_window(0)), end=False) for _ in range(200)]
        await peer.pong()
        stream_id = peer.request(UPLOAD, None, end=False)
        assert await peer.upload(stream_id, piece(bytes(3_000_000)), end=True)
        assert (await peer.response(stream_id)).status == 0
        assert (await peer.call(UNARY, simple(bytes(10_000)))).status == 0
        assert all(peer.stream_window(stream_id) == 0 for stream_id in stalled)


async def test_a_handler_that_does_not_read_stalls_its_client() -> None:
    """The client may send one window's worth, then waits; reading lets it go on."""
    begin = asyncio.Event()

    async def slow(call: ServerCall) -> Message:
        await begin.wait()
        return await count(call)

    async with serving(streaming_input_call=slow) as running, await running.peer() as peer:
        await peer.pong()
        stream_id = peer.request(UPLOAD, None, end=False)
        window = peer.stream_window(stream_id)
        body = piece(bytes(500_000))
        peer.send(peer.data(stream_id, body[:window]))
        await peer.pong()
        assert peer.stream_window(stream_id) == 0
        begin.set()
        assert await peer.upload(stream_id, body[window:], end=True)
        response = await peer.response(stream_id)
        answer = messages_pb2.StreamingInputCallResponse.FromString(response.messages[0])
        assert answer.aggregated_payload_size == 500_000


@pytest.mark.parametrize("path", [UNARY, UPLOAD])
async def test_a_message_larger_than_the_window_arrives(path: str) -> None:
    """Window is given back as bytes move to the decoder, not with whole messages: no deadlock."""
    body = bytes(3_000_000)
    async with (
        serving(unary_call=echo, streaming_input_call=count) as running,
        await running.peer() as peer,
    ):
        stream_id = peer.request(path, None, end=False)
        assert await peer.upload(stream_id, simple(body) if path == UNARY else piece(body), end=True)
        assert (await peer.response(stream_id)).status == 0


async def test_many_small_compressed_messages() -> None:
    """Each message is inflated on its own."""
    request = messages_pb2.StreamingInputCallRequest(payload=messages_pb2.Payload(body=bytes(100)))
    body = prefixed(gzip.compress(request.SerializeToString()), 1) * 1000
    async with serving(streaming_input_call=count) as running, await running.peer() as peer:
        stream_id = peer.request(UPLOAD, None, [(b"grpc-encoding", b"gzip")], end=False)
        assert await peer.upload(stream_id, body, end=True)
        response = await peer.response(stream_id)
        answer = messages_pb2.StreamingInputCallResponse.FromString(response.messages[0])
        assert answer.aggregated_payload_size == 100_000


# -- fairness -----------------------------------------------------------------------------------------------


async def test_producers_on_one_connection_take_turns() -> None:
    """Three endless streams, one connection, a client that reads all: none starves."""

    async def produce(request: Message, call: ServerCall) -> None:
        while True:
            call.send(output(10_000))
            await call.ready()

    async with serving(streaming_output_call=produce) as running, await running.peer() as peer:
        ids = [peer.request(DOWNLOAD) for _ in range(3)]
        await peer.until(lambda: sum(len(peer.responses[stream_id].body) for stream_id in ids) > 9_000_000)
        sizes = [len(peer.responses[stream_id].body) for stream_id in ids]
        assert min(sizes) > 2_000_000


async def test_a_short_call_passes_a_long_stream() -> None:
    """A unary answer does not wait for the end of a stream on the same connection."""

    async def produce(request: Message, call: ServerCall) -> None:
        while True:
            call.send(output(10_000))
            await call.ready()

    async with (
        serving(unary_call=echo, streaming_output_call=produce) as running,
        await running.peer() as peer,
    ):
        stream = peer.request(DOWNLOAD)
        await peer.until(lambda: len(peer.responses[stream].body) > 1_000_000)
        for _ in range(20):
            before = len(peer.responses[stream].body)
            assert (await peer.call(UNARY, simple(b"x"))).status == 0
            assert len(peer.responses[stream].body) - before < 5_000_000


async def test_a_stalled_stream_does_not_stall_its_neighbours() -> None:
    """A stream without window waits alone."""

    async def produce(request: Message, call: ServerCall) -> None:
        while True:
            call.send(output(10_000))
            await call.ready()

    async with (
        serving(streaming_output_call=produce, unary_call=echo) as running,
        await running.peer() as peer,
    ):
        peer.give_window = False
        peer.send(window_update(0, 0x7F00_0000))  # the connection's window to 2 GiB, not the streams'
        stalled = [peer.request(DOWNLOAD) for _ in range(5)]
        await peer.until(lambda: all(len(peer.responses[s].body) == 65_535 for s in stalled))
        for _ in range(50):
            assert (await peer.call(UNARY, simple(bytes(30_000)))).status == 0
        assert all(len(peer.responses[s].body) == 65_535 for s in stalled)


async def test_an_upload_and_a_download_share_a_stream() -> None:
    """Both directions of one call move at once, each with its own windows."""
    sent = 0

    async def handler(call: ServerCall) -> None:
        nonlocal sent
        while (request := await call.receive()) is not None:
            call.send(messages_pb2.StreamingOutputCallResponse(payload=request.payload))
            sent += 1
            await call.ready()

    async with serving(full_duplex_call=handler) as running, await running.peer() as peer:
        stream_id = peer.request(DUPLEX, None, end=False)
        assert await peer.upload(stream_id, ask(bytes(50_000)) * 40)
        peer.send(data(stream_id, end=True))
        response = await peer.response(stream_id)
        assert (response.status, len(response.messages), sent) == (0, 40, 40)
