"""Peers that are slow, or gone without a word: every wait of the server has an end."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest
from google.protobuf.message import Message

import windshift.rpc.server as server_module
from windshift.rpc import ConnectionOptions, ServerCall, ServerOptions, StatusCode
from windshift.rpc.connection import SEND_QUEUE_MARK
from windshift.rpc.server_connection import ServerConnection

from .fakes import connected
from .frames import (
    PREFACE,
    Kind,
    Peer,
    data,
    encode,
    frame,
    goaway,
    headers,
    request_fields,
    settings,
    window_update,
)
from .serving import (
    DOWNLOAD,
    DUPLEX,
    UNARY,
    UPLOAD,
    Serving,
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

QUICK = server_options(
    ConnectionOptions(handshake_timeout=0.5), first_request_timeout=0.5, drain_ping_timeout=0.1
)


async def still_serves(running: Serving) -> None:
    """Check that another connection is served."""
    async with await running.peer() as peer:
        assert (await peer.call(UNARY, simple(b"x"))).status == 0


async def test_what_comes_of_a_call_leaves_at_once_where_others_wait() -> None:
    """Whoever sends it elsewhere is told so, when the caller uses little."""
    hurried = list[bool]()
    async with serving(unary_call=echo) as running:
        turns = running.server.turns
        turns.on_hurry = lambda: hurried.append(True)
        served, transport = connected(running.server)
        connection = served.http2
        call = data(1, simple(b"x"), end=True)
        transport.deliver(PREFACE + settings() + headers(1, request_fields(UNARY)) + call)
        assert not hurried
        turns.others_wait = lambda: True
        transport.deliver(headers(3, request_fields(UNARY)) + data(3, simple(b"x"), end=True))
        assert hurried == [True]
        connection.account.charge(1.0, time.perf_counter())
        transport.deliver(headers(5, request_fields(UNARY)) + data(5, simple(b"x"), end=True))
        assert hurried == [True]
        transport.lose()


@pytest.mark.parametrize("bulky", [False, True])
async def test_an_answer_leaves_at_once_beside_bulk_work(*, bulky: bool) -> None:
    """Also to somebody busy: it does not wait for what else the turn of the loop brings."""
    async with serving(unary_call=echo) as running:
        served, transport = connected(running.server)
        connection = served.http2
        transport.deliver(PREFACE + settings())
        await eventually(lambda: len(transport.written) > 0)
        connection.account.charge(1.0, time.perf_counter())
        turns = running.server.turns
        turns.others_wait = turns.is_bulky = lambda: bulky
        before = len(transport.written)
        transport.deliver(headers(1, request_fields(UNARY)) + data(1, simple(b"x"), end=True))
        await asyncio.sleep(0)  # the handler's task has run
        assert (len(transport.written) > before) == bulky
        await eventually(lambda: len(transport.written) > before)
        transport.lose()


async def test_a_large_answer_leaves_in_several_turns() -> None:
    """Two writes in each, so that others need not wait for all of it."""

    async def large(request: Message, call: ServerCall) -> None:
        call.send(output(1_000_000))

    async with serving(streaming_output_call=large) as running:
        _, transport = connected(running.server)
        transport.deliver(PREFACE + settings({0x4: 2**31 - 1}) + window_update(0, 2**30))
        transport.deliver(headers(1, request_fields(DOWNLOAD)) + data(1, ask(), end=True))
        written = [0]
        while len(transport.written) < 1_000_000:
            await asyncio.sleep(0)
            written.append(len(transport.written))
        assert max(after - before for before, after in pairwise(written)) <= 2 * 65_536
        transport.lose()


async def test_a_large_answer_leaves_whole_at_the_end() -> None:
    """A connection that is closed behind it writes all of it first."""

    async def large(request: Message, call: ServerCall) -> None:
        call.send(output(1_000_000))

    async with serving(streaming_output_call=large) as running:
        served, transport = connected(running.server)
        connection = served.http2
        transport.deliver(PREFACE + settings({0x4: 2**31 - 1}) + window_update(0, 2**30))
        transport.deliver(headers(1, request_fields(DOWNLOAD)) + data(1, ask(), end=True))
        await eventually(lambda: len(transport.written) > 100_000)
        connection.close_gracefully()
        assert len(transport.written) > 1_000_000
        transport.lose()


async def endless(request: Message, call: ServerCall) -> None:
    """Send without end, as fast as the client reads (StreamingOutputCall)."""
    while True:
        call.send(output(16_000))
        await call.ready()


# -- the beginning of a connection --------------------------------------------------------------------------

BEGINNINGS = {
    "nothing": b"",
    "half a preface": PREFACE[:10],
    "a preface without settings": PREFACE,
    "half a settings frame": PREFACE + settings({4: 1})[:-1],
    "no request": PREFACE + settings(),
    "half a header frame": PREFACE + settings() + headers(1, request_fields(UNARY))[:20],
    "headers without end": PREFACE + settings() + frame(Kind.HEADERS, 0, 1, encode(request_fields(UNARY))),
    "pings only": PREFACE + settings() + frame(Kind.PING, 0, 0, bytes(8)),
}


@pytest.mark.parametrize("name", BEGINNINGS)
async def test_a_connection_that_does_not_begin_is_closed(name: str) -> None:
    """The handshake and the first request each have a time, whatever else the peer sends."""
    async with serving(QUICK, unary_call=echo) as running:
        async with await running.peer(start=False) as peer:
            peer.send(BEGINNINGS[name])
            await peer.closed()
            await eventually(lambda: running.server.connections == 0)
        await still_serves(running)


async def test_a_slow_trickle_does_not_extend_the_time() -> None:
    """One byte now and then: the timers run from the connection's beginning."""
    async with serving(QUICK, unary_call=echo) as running:
        async with await running.peer(start=False) as peer:

            async def trickle() -> None:
                beginning = (
                    PREFACE + settings() + headers(1, request_fields(UNARY, [(b"x", bytes(b"y" * 9000))]))
                )
                for byte in beginning:
                    peer.send(bytes((byte,)))
                    await asyncio.sleep(0.005)

            slow = asyncio.create_task(trickle())
            await peer.closed()
            slow.cancel()
        await eventually(lambda: running.server.connections == 0)


async def test_a_connection_in_use_outlives_the_timers() -> None:
    """After the first request an idle connection may stay."""
    async with serving(QUICK, unary_call=echo) as running, await running.peer() as peer:
        assert (await peer.call(UNARY, simple())).status == 0
        await asyncio.sleep(0.8)
        assert (await peer.call(UNARY, simple())).status == 0
        assert not peer.goaways


async def test_slowloris_connections_are_closed_while_others_are_served() -> None:
    """Two hundred connections that begin and do not go on; a client is served the whole time."""
    async with serving(QUICK, unary_call=echo) as running, AsyncExitStack() as stack:
        for i in range(200):
            peer = await stack.enter_async_context(await running.peer(start=False))
            peer.send(list(BEGINNINGS.values())[i % len(BEGINNINGS)])
            if i % 20 == 0:
                await still_serves(running)
        await eventually(lambda: running.server.connections == 0)
        await still_serves(running)


# -- keepalive ----------------------------------------------------------------------------------------------

KEEPALIVE = server_options(ConnectionOptions(keepalive_interval=0.15, keepalive_timeout=0.15))


async def test_a_peer_that_does_not_answer_pings_is_dropped() -> None:
    """Its calls are cancelled, once."""
    steps = Steps()
    async with serving(KEEPALIVE, full_duplex_call=steps.handler) as running:
        peer = await running.peer()
        peer.answer_pings = False
        peer.request(DUPLEX, None, end=False)
        await peer.closed()
        assert peer.pings
        await eventually(lambda: running.server.connections == 0 and steps.ended == 1)
        assert steps.cancelled == 1


async def test_a_peer_that_is_gone_without_a_word_is_dropped() -> None:
    """Its kernel would take everything, but nobody reads or answers."""
    steps = Steps()
    async with serving(KEEPALIVE, full_duplex_call=steps.handler, streaming_output_call=endless) as running:
        peer = await running.peer()
        peer.request(DUPLEX, None, end=False)
        peer.request(DOWNLOAD)
        await eventually(lambda: running.server.connections == 0 and steps.ended == 1)
        assert steps.cancelled == 1
        assert sorted(code for _, code in running.finished) == [StatusCode.CANCELLED] * 2
        await peer.close()


async def test_a_held_up_server_does_not_take_it_out_on_its_clients() -> None:
    """When our own loop stood still for longer than the timeout, what came meanwhile is read first."""
    steps = Steps()
    async with serving(KEEPALIVE, full_duplex_call=steps.handler) as running, await running.peer() as peer:
        stream_id = peer.request(DUPLEX, None, end=False)
        for pings in range(3):
            await peer.until(lambda pings=pings: len(peer.pings) > pings)  # type: ignore[misc]
            time.sleep(0.4)  # noqa: ASYNC251 -- with the answer under way
        await peer.pong()
        assert not peer.responses[stream_id].over
        assert steps.cancelled == 0


async def test_a_peer_that_answers_pings_stays() -> None:
    """An idle stream lives as long as its client does."""
    steps = Steps()
    async with serving(KEEPALIVE, full_duplex_call=steps.handler) as running, await running.peer() as peer:
        stream_id = peer.request(DUPLEX, None, end=False)
        await peer.until(lambda: len(peer.pings) >= 4)
        assert not peer.responses[stream_id].over
        assert steps.cancelled == 0


async def test_a_peer_that_sends_is_not_pinged() -> None:
    """Whatever arrives is a sign of life."""
    options = server_options(ConnectionOptions(keepalive_interval=0.5, keepalive_timeout=30))
    async with serving(options, streaming_input_call=count) as running, await running.peer() as peer:
        peer.answer_pings = False
        stream_id = peer.request(UPLOAD, None, end=False)
        sent = []
        for _ in range(40):
            peer.send(peer.data(stream_id, piece(b"x")))
            sent.append(time.monotonic())
            await asyncio.sleep(0.02)
        peer.send(data(stream_id, end=True))
        assert (await peer.response(stream_id)).status == 0
        sent.append(time.monotonic())
        longest = max(after - before for before, after in pairwise(sent))
        assert not peer.pings or longest > 0.4  # on a busy machine it may not have sent for so long


async def test_keepalive_can_be_switched_off() -> None:
    """``keepalive_interval=0`` sends no PING."""
    options = server_options(ConnectionOptions(keepalive_interval=0, keepalive_timeout=0.01))
    async with serving(options, unary_call=echo) as running, await running.peer() as peer:
        await asyncio.sleep(0.2)
        assert (await peer.call(UNARY, simple())).status == 0
        assert not peer.pings


# -- peers that do not read ---------------------------------------------------------------------------------


async def test_a_handler_waits_for_a_client_that_does_not_read() -> None:
    """What is queued for it stays within the mark and a message, whether its window or its socket is full."""
    calls: list[ServerCall] = []

    async def produce(request: Message, call: ServerCall) -> None:
        calls.append(call)
        await endless(request, call)

    async with (
        serving(streaming_output_call=produce) as running,
        await running.peer() as windowless,
        await running.peer(settings={0x4: 1 << 30}) as deaf,
    ):
        deaf.send(window_update(0, 1 << 30))
        for peer in (windowless, deaf):
            peer.request(DOWNLOAD)
        await eventually(lambda: len(calls) == 2 and all(call.queued > SEND_QUEUE_MARK for call in calls))
        await asyncio.sleep(0.1)
        assert all(SEND_QUEUE_MARK < call.queued <= SEND_QUEUE_MARK + 17_000 for call in calls)
        await still_serves_download(running)


async def still_serves_download(running: Serving) -> None:
    """Check that a client that reads gets as much as it wants."""
    async with await running.peer() as peer:
        stream_id = peer.request(DOWNLOAD)
        await peer.until(lambda: len(peer.responses[stream_id].body) > 3_000_000)


async def test_a_client_that_begins_to_read_again_gets_everything() -> None:
    """Nothing is lost or doubled by the wait."""
    total = 400

    async def produce(request: Message, call: ServerCall) -> None:
        for i in range(total):
            call.send(output(16_000 + i))
            await call.ready()

    async with (
        serving(streaming_output_call=produce) as running,
        await running.peer(settings={0x4: 1 << 30}) as peer,
    ):
        peer.send(window_update(0, 1 << 30))
        stream_id = peer.request(DOWNLOAD)
        (connection,) = running.server._connections
        http2 = connection.http2
        await eventually(lambda: http2.unwritten and http2.queued(stream_id) > SEND_QUEUE_MARK)
        response = await peer.response(stream_id)
        assert response.status == 0
        sizes = [len(message) for message in response.messages]
        assert sizes == sorted(sizes)
        assert len(sizes) == len(set(sizes)) == total


async def test_a_stalled_client_that_resets_frees_its_handler() -> None:
    """The wait for its window ends with the stream."""
    steps = Steps()

    async def produce(request: Message, call: ServerCall) -> None:
        await steps.watched(endless(request, call))

    async with serving(streaming_output_call=produce) as running, await running.peer() as peer:
        stream_id = peer.request(DOWNLOAD)
        (connection,) = running.server._connections
        await eventually(lambda: connection.http2.queued(stream_id) > SEND_QUEUE_MARK)
        peer.send(frame(Kind.RST_STREAM, 0, stream_id, struct.pack(">I", 8)))
        await eventually(lambda: steps.ended == 1)
        assert steps.cancelled == 1
        assert connection.http2.queued(stream_id) == 0


# -- peers that vanish in the middle ------------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(1, 80, 6))
async def test_a_socket_that_closes_anywhere_leaves_nothing(cut: int) -> None:
    """In the preface, in a frame's head, in a header block, in a message: FIN and RST."""
    stream = PREFACE + settings() + headers(1, request_fields(DUPLEX)) + data(1, ask(bytes(100)))
    steps = Steps()
    async with serving(full_duplex_call=steps.handler) as running:
        for kill in (False, True):
            peer = await running.peer(start=False)
            peer.send(stream[: len(stream) * cut // 80])
            await eventually(lambda: running.server.connections == 1)
            if kill:
                peer.kill()
            else:
                peer.half_close()
            await eventually(lambda: running.server.connections == 0)
            await peer.close()
        await eventually(lambda: steps.ended == steps.started)
        assert steps.cancelled == steps.started


async def test_a_peer_killed_while_it_is_sent_to_leaves_nothing() -> None:
    """Writes into a dead socket end the connection and its calls without a word."""
    async with serving(streaming_output_call=endless) as running:
        for _ in range(20):
            peer = await running.peer()
            ids = [peer.request(DOWNLOAD) for _ in range(5)]
            await peer.until(lambda peer=peer, ids=ids: len(peer.responses[ids[-1]].body) > 20_000)  # type: ignore[misc]
            peer.kill()
        await eventually(lambda: running.server.connections == 0)
        await eventually(lambda: len(running.finished) == 100)


async def test_a_socket_half_closed_by_its_peer_is_closed() -> None:
    """HTTP/2 has no half-closed connections: nobody would be there to steer the flow."""
    async with serving(streaming_output_call=endless) as running:
        peer = await running.peer()
        peer.request(DOWNLOAD)
        await peer.pong()
        peer.half_close()
        await eventually(lambda: running.server.connections == 0)
        await peer.closed()


# -- peers that ignore what they are told -------------------------------------------------------------------


async def test_a_peer_that_ignores_goaway_is_cut_off() -> None:
    """It sends on and never closes; the server closes its side, reads on a moment, then drops it."""
    async with serving(server_options(drain_ping_timeout=0.05), unary_call=echo) as running:
        peer = await running.peer()
        assert (await peer.call(UNARY, simple())).status == 0
        drained = asyncio.create_task(running.server.drain(10))
        await peer.until(lambda: len(peer.goaways) == 2)
        for _ in range(50):
            peer.request(UNARY, simple())
            await asyncio.sleep(0.005)
        assert await drained
        await eventually(lambda: _is_dead(peer))
        await peer.close()


def _is_dead(peer: Peer) -> bool:
    try:
        peer.send(frame(Kind.PING, 0, 0, bytes(8)))
    except (ConnectionError, RuntimeError):
        return True
    sock: socket.socket = peer._writer.get_extra_info("socket")
    return peer._writer.transport.is_closing() or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


async def test_a_peer_that_leaves_with_an_impossible_goaway_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """grpc-go closes so: "invalid last_stream_id". It is not worth a line in the log."""
    async with serving(unary_call=echo) as running:
        peer = await running.peer()
        assert (await peer.call(UNARY, simple())).status == 0
        peer.send(goaway(2**31 - 1))
        await peer.close()
        await eventually(lambda: running.server.connections == 0)
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


def test_the_timers_of_production() -> None:
    """What these tests shorten: slowloris within 15 seconds, vanished peers within 45."""
    options = ServerOptions()
    connection = options.connection
    assert max(connection.handshake_timeout, options.first_request_timeout) + options.tick_interval <= 15
    assert connection.keepalive_interval + connection.keepalive_timeout + 3 * options.tick_interval <= 45
    assert options.request_timeout + options.tick_interval <= 35


async def test_connections_are_looked_at_in_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of calls would take too long for one; those that are too slow are ended all the same."""
    monkeypatch.setattr(server_module, "_LOOK_SLICE", 0.0)
    tick, turn, looks = ServerConnection.tick, 0, list[int]()
    seen = set[ServerConnection]()

    def look(connection: ServerConnection, now: float) -> None:
        looks.append(turn)
        seen.add(connection)
        tick(connection, now)

    async def count_turns() -> None:
        nonlocal turn
        while len(seen) < 5 or running.server.connections:
            await asyncio.sleep(0)
            turn += 1

    async with serving(server_options(first_request_timeout=0.1), unary_call=echo) as running:
        monkeypatch.setattr(ServerConnection, "tick", look)
        counting = asyncio.create_task(count_turns())
        peers = [await running.peer() for _ in range(5)]
        await counting
        for peer in peers:
            await peer.closed()
    assert len(set(looks)) == len(looks)


async def test_quiet_calls_hold_nothing_for_nothing() -> None:
    """What they take counts, and they end when it is too much, but not before those who waste some."""
    begun = asyncio.Event()

    async def wait(call: ServerCall) -> None:
        call.overhead = 16_384
        begun.set()
        await asyncio.Event().wait()

    async with serving(full_duplex_call=wait) as running, await running.peer() as peer:
        stream_id = peer.request(DUPLEX, None, end=False)
        await begun.wait()
        (connection,) = running.server.open_connections
        later = asyncio.get_running_loop().time() + 60
        assert connection.holds(later)[1:] == (16_384, 16_384, 0.0)
        peer.send(peer.data(stream_id, b"\0\0\0\1\0" + bytes(100)))
        await eventually(lambda: connection.holds(later).stuck > 16_384)
        assert connection.holds(later + 20).idle == 20
