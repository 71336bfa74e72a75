"""Calls that end before their handlers do: clients that cancel or go, and deadlines."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest
from google.protobuf.message import Message

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import ConnectionOptions, RpcError, ServerCall, StatusCode

from .frames import Peer, data, goaway, headers, request_fields, rst_stream
from .serving import (
    DOWNLOAD,
    DUPLEX,
    UNARY,
    UPLOAD,
    Steps,
    ask,
    echo,
    eventually,
    output,
    piece,
    server_options,
    serving,
    simple,
)

CANCELLED = int(StatusCode.CANCELLED)
DEADLINE_EXCEEDED = int(StatusCode.DEADLINE_EXCEEDED)


class Phases(Steps):
    """Handlers of all four kinds that stop in a phase of their call."""

    async def receiving(self, call: ServerCall) -> None:
        """Wait for messages that do not come."""
        await self.watched(self._receive(call))

    async def _receive(self, call: ServerCall) -> None:
        while await call.receive_many():
            pass

    async def sending(self, request: Message, call: ServerCall) -> None:
        """Send to a client that does not read."""
        await self.watched(self._send(call))

    async def _send(self, call: ServerCall) -> None:
        while True:
            call.send(output(20_000))
            await call.ready()

    async def streaming(self, call: ServerCall) -> None:
        """Wait after a message was sent."""
        call.send(output(10))
        await self.handler()

    def handlers(self) -> dict[str, Any]:
        """Return them under the names of their rpcs."""
        return {
            "unary_call": self.handler,
            "streaming_input_call": self.receiving,
            "streaming_output_call": self.sending,
            "full_duplex_call": self.streaming,
        }


def run_unary(peer: Peer) -> int:
    """Have the handler run."""
    return peer.request(UNARY, simple())


def receive_nothing(peer: Peer) -> int:
    """Let the handler wait for its first message."""
    return peer.request(UPLOAD, None, end=False)


def receive_a_part(peer: Peer) -> int:
    """Let the handler wait for the rest of a message."""
    return peer.request(UPLOAD, piece(b"x") + piece(bytes(1000))[:-5], end=False)


def receive_unread(peer: Peer) -> int:
    """Send messages that the handler does not take."""
    return peer.request(DUPLEX, ask(bytes(30_000)) + ask(bytes(30_000)), end=False)


def run_after_the_end(peer: Peer) -> int:
    """Have the handler run after the half-close of the client."""
    return peer.request(DUPLEX, ask(b"x"), end=True)


def send_unread(peer: Peer) -> int:
    """Let the handler wait until the client reads."""
    return peer.request(DOWNLOAD)


PHASES = {
    way.__name__: way
    for way in (run_unary, receive_nothing, receive_a_part, receive_unread, run_after_the_end, send_unread)
}


async def reset(peer: Peer, stream_id: int) -> None:
    """Cancel the call."""
    peer.send(rst_stream(stream_id))


async def kill(peer: Peer, stream_id: int) -> None:
    """Reset the connection."""
    peer.kill()


async def close(peer: Peer, stream_id: int) -> None:
    """Close the socket."""
    await peer.close()


async def half_close(peer: Peer, stream_id: int) -> None:
    """Close one side of the socket."""
    peer.half_close()


async def go_away_and_half_close(peer: Peer, stream_id: int) -> None:
    """Leave as HTTP/2 asks for."""
    peer.send(goaway())
    peer.half_close()


WAYS = {way.__name__: way for way in (reset, kill, close, half_close, go_away_and_half_close)}


# -- clients that cancel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("phase", PHASES)
async def test_a_client_that_goes_cancels_its_handler_once(phase: str, way: str) -> None:
    """In whatever phase the call is; the clean-up of the handler is not disturbed."""
    phases = Phases()
    async with serving(**phases.handlers()) as running:
        peer = await running.peer()
        peer.give_window = False
        stream_id = PHASES[phase](peer)
        await eventually(lambda: phases.started == 1)
        await peer.pong()
        await WAYS[way](peer, stream_id)
        await eventually(lambda: phases.ended == 1)
        assert phases.cancelled == 1
        assert [code for _, code in running.finished] == [CANCELLED]
        await peer.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("phase", PHASES)
async def test_a_client_that_goes_at_once_leaves_nothing(phase: str, way: str) -> None:
    """Request and cancel in one segment: the handler may never begin, and is cancelled if it does."""
    phases = Phases()
    async with serving(**phases.handlers()) as running:
        peer = await running.peer()
        peer.give_window = False
        await WAYS[way](peer, PHASES[phase](peer))
        await eventually(lambda: phases.ended == phases.started)
        assert phases.cancelled == phases.started <= 1
        await peer.close()
        await eventually(lambda: running.server.connections == 0)
        assert {code for _, code in running.finished} <= {CANCELLED}
        assert len(running.finished) <= 1


@pytest.mark.parametrize("sent", [0, 3, 8])
async def test_a_cancel_before_the_request_is_whole(sent: int) -> None:
    """No handler ever saw the call, and none does."""
    phases = Phases()
    async with serving(**phases.handlers()) as running, await running.peer() as peer:
        stream_id = peer.request(UNARY, simple(b"0123456789")[:sent] if sent else None, end=False)
        await peer.pong()
        peer.send(rst_stream(stream_id))
        await peer.pong()
        assert running.finished == [(UNARY, CANCELLED)]
        assert phases.started == 0


async def test_a_cancel_after_the_answer_changes_nothing() -> None:
    """A call that is done stays OK, also while its answer waits for window."""
    async with serving(unary_call=echo) as running, await running.peer(settings={0x4: 10}) as peer:
        peer.give_window = False
        stream_id = peer.request(UNARY, simple(bytes(1000)))
        await peer.until(lambda: len(peer.responses[stream_id].body) == 10)
        peer.send(rst_stream(stream_id))
        await peer.pong()
        assert running.finished == [(UNARY, 0)]


async def test_cancelled_uploads_give_their_window_back() -> None:
    """Bytes that no handler took when the client cancelled must not be missing to later calls."""
    phases = Phases()
    window = 1 << 20
    options = server_options(ConnectionOptions(connection_window=window))
    async with serving(options, full_duplex_call=phases.handler) as running, await running.peer() as peer:
        await peer.pong()
        for _ in range(50):  # 50 times 60 KB in a window of 1 MiB
            await peer.until(lambda: peer.window > 60_000)
            peer.send(rst_stream(peer.request(DUPLEX, bytes(60_000), end=False)))
        await peer.until(lambda: peer.window >= window // 2)  # the engine withholds up to the other half
        await eventually(lambda: phases.ended == phases.started)


async def test_a_thousand_cancels_in_a_row_are_an_honest_client() -> None:
    """The guard against rapid resets leaves room for clients with short deadlines."""
    phases = Phases()
    async with serving(unary_call=phases.handler) as running, await running.peer() as peer:
        for _ in range(20):
            ids = [peer.request(UNARY, simple()) for _ in range(100)]
            peer.send(*map(rst_stream, ids))
            await peer.pong()
        await eventually(lambda: phases.ended == phases.started)
        assert len(running.finished) == 2000
        assert phases.cancelled == phases.started
        assert not peer.goaways


# -- deadlines ----------------------------------------------------------------------------------------------


def with_deadline(peer: Peer, path: str, body: bytes | None, timeout: bytes, *, end: bool = True) -> int:
    """Send a request with a timeout."""
    return peer.request(path, body, [(b"grpc-timeout", timeout)], end=end)


@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        (UNARY, simple(), True),
        (UPLOAD, None, False),
        (UPLOAD, piece() + b"\0\0", False),
        (DUPLEX, ask(b"x"), True),
        (DUPLEX, ask(bytes(30_000)), False),
        (DOWNLOAD, b"\0\0\0\0\0", True),
    ],
)
async def test_a_deadline_cancels_the_handler_once_and_tells_the_client(
    path: str, body: bytes | None, end: bool
) -> None:
    """DEADLINE_EXCEEDED, in whatever phase the handler is."""
    phases = Phases()
    async with serving(**phases.handlers()) as running, await running.peer() as peer:
        started = time.monotonic()
        stream_id = with_deadline(peer, path, body, b"200m", end=end)
        response = await peer.response(stream_id)
        assert response.status == DEADLINE_EXCEEDED
        assert time.monotonic() - started >= 0.195
        await eventually(lambda: phases.ended == phases.started == 1)
        assert phases.cancelled == 1
        assert [code for _, code in running.finished] == [DEADLINE_EXCEEDED]


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_goes_at_its_deadline_cancels_the_handler_once(way: str) -> None:
    """Clients cancel when their own timer fires, just when the server's does; the clean-up goes on."""
    phases = Phases()
    async with serving(unary_call=phases.handler) as running:
        peer = await running.peer()
        stream_id = with_deadline(peer, UNARY, simple(), b"200m")
        await eventually(lambda: phases.cancelled == 1)
        await WAYS[way](peer, stream_id)
        await eventually(lambda: phases.ended == 1)
        assert phases.cancelled == 1
        assert len(running.finished) == 1
        await peer.close()


@pytest.mark.parametrize("sent", [0, 3, 8])
async def test_a_deadline_before_the_request_is_whole(sent: int) -> None:
    """The client is told, without any handler."""
    phases = Phases()
    async with serving(unary_call=phases.handler) as running, await running.peer() as peer:
        body = simple(b"0123456789")[:sent] if sent else None
        stream_id = with_deadline(peer, UNARY, body, b"20m", end=False)
        assert (await peer.response(stream_id)).status == DEADLINE_EXCEEDED
        peer.send(peer.data(stream_id, simple(), end=True))
        await peer.pong()
        assert phases.started == 0


@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
@pytest.mark.parametrize("timeout", [b"0S", b"1n", b"1u", b"1m"])
@pytest.mark.parametrize("path", [UNARY, UPLOAD, DOWNLOAD, DUPLEX])
async def test_a_deadline_that_passes_before_the_handler_began(path: str, timeout: bytes) -> None:
    """However busy the loop is, the client is told."""
    phases = Phases()
    async with serving(**phases.handlers()) as running, await running.peer() as peer:
        stream_id = with_deadline(peer, path, b"\0\0\0\0\0", timeout, end=path != UPLOAD)
        for _ in range(5):
            await asyncio.sleep(0)
            time.sleep(0.002)  # noqa: ASYNC251 -- a loop that is busy with something else
        assert (await peer.response(stream_id)).status == DEADLINE_EXCEEDED
        await eventually(lambda: phases.ended == phases.started)
        assert phases.cancelled == phases.started


async def test_a_deadline_after_the_answer_changes_nothing() -> None:
    """The timer of a call that is done does not fire."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        stream_id = with_deadline(peer, UNARY, simple(), b"300m")
        assert (await peer.response(stream_id)).status == 0
        await asyncio.sleep(0.35)
        await peer.pong()
        assert running.finished == [(UNARY, 0)]


async def test_a_handler_may_answer_its_deadline_itself() -> None:
    """An RpcError raised in answer to the cancel is what the client sees."""

    async def handler(request: Message, call: ServerCall) -> Message:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, "3 of 5 were stored") from None
        return messages_pb2.SimpleResponse()

    async with serving(unary_call=handler) as running, await running.peer() as peer:
        response = await peer.response(with_deadline(peer, UNARY, simple(), b"200m"))
        assert (response.status, response.message) == (DEADLINE_EXCEEDED, "3 of 5 were stored")


async def test_a_handler_sees_its_deadline() -> None:
    """``call.deadline`` is on the clock of the loop; without one it is None."""
    seen: list[float | None] = []

    async def handler(request: Message, call: ServerCall) -> Message:
        now = asyncio.get_running_loop().time()
        seen.append(None if call.deadline is None else call.deadline - now)
        return messages_pb2.SimpleResponse()

    async with serving(unary_call=handler) as running, await running.peer() as peer:
        await peer.call(UNARY)
        await peer.response(with_deadline(peer, UNARY, simple(), b"100S"))
    assert seen[0] is None
    assert seen[1] is not None
    assert 95 < seen[1] <= 100


async def test_a_message_that_never_becomes_whole_times_out() -> None:
    """``request_timeout`` bounds the time for the message of a call that takes one."""
    phases = Phases()
    options = server_options(request_timeout=0.1)
    async with serving(options, **phases.handlers()) as running, await running.peer() as peer:
        for path in (UNARY, DOWNLOAD):
            for body in (None, simple(b"x")[:4], simple(b"x")):
                response = await peer.response(peer.request(path, body, end=False))
                assert response.status == DEADLINE_EXCEEDED
        stream = peer.request(UPLOAD, None, end=False)
        assert (await peer.response(peer.request(UNARY, None, end=False))).status == DEADLINE_EXCEEDED
        assert not peer.responses[stream].over
    assert phases.started == 1


@pytest.mark.parametrize(("path", "body"), [(UNARY, simple(b"x")), (DUPLEX, ask(b"x"))])
async def test_calls_that_are_cancelled_before_they_begin_leave_no_garbage(path: str, body: bytes) -> None:
    """A flood of them would fill memory until the collector comes, which is seldom."""
    steps = Steps()
    async with (
        serving(unary_call=echo, full_duplex_call=steps.handler) as running,
        await running.peer() as peer,
    ):
        await peer.call(UNARY, simple(b"x"))
        gc.collect()
        others = calls_in_memory()
        gc.disable()
        try:
            for _ in range(20):
                ids = [peer.stream_id() for _ in range(10)]
                peer.send(
                    *(headers(i, request_fields(path)) + data(i, body, end=True) + rst_stream(i) for i in ids)
                )
                await peer.pong()
            assert len(running.finished) == 201
            calls = calls_in_memory()
        finally:
            gc.enable()
        assert calls - others < 10


def calls_in_memory() -> int:
    """Count the calls of this process, which may be those of other tests as well."""
    return sum(isinstance(each, ServerCall) for each in gc.get_objects())
