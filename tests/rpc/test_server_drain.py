"""The end of a server: nothing that a client asked for is lost, handled twice, or left hanging."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl as tls
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from tests._gen.grpc.testing import messages_pb2
from tests.support.certificates import Authority
from windshift.rpc import (
    ConnectionOptions,
    RpcError,
    Server,
    ServerCall,
    Service,
    StatusCode,
    client_tls,
    server_tls,
)

from .frames import WAIT, Peer, headers, ping, request_fields
from .serving import (
    DOWNLOAD,
    DUPLEX,
    SERVICE,
    UNARY,
    UPLOAD,
    Steps,
    ask,
    echo,
    eventually,
    output,
    server_options,
    serving,
    simple,
    strict_loop,
)

DRAINS = int(os.environ.get("WINDSHIFT_TEST_DRAINS", "2"))
"""Hand-overs in one test under load."""

IN_FLIGHT = 200
OPTIONS = server_options(drain_ping_timeout=1.0)
PATIENT = server_options(drain_ping_timeout=WAIT)
"""For clients that answer the ping, however busy the machine is."""
SHUTTING_DOWN = "the server is shutting down"


# -- under load, with real clients --------------------------------------------------------------------------


@dataclass
class Relay:
    """Servers that follow one another on one port.

    Attributes:
        address: ``host:port``.
        handled: ids of the requests that handlers finished.
        begun: ids of the requests that handlers began.
    """

    ssl: tls.SSLContext | None = None
    address: str = ""
    begun: Counter[str] = field(default_factory=Counter)
    handled: Counter[str] = field(default_factory=Counter)
    _server: Server | None = None

    async def unary_call(self, request: messages_pb2.SimpleRequest, call: ServerCall) -> Message:
        """Take a moment, and keep count."""
        name = request.payload.body.decode()
        self.begun[name] += 1
        await asyncio.sleep(0.01)
        self.handled[name] += 1
        return messages_pb2.SimpleResponse(username=name)

    async def full_duplex_call(self, call: ServerCall) -> None:
        """Answer the first message, then wait."""
        await call.receive()
        call.send(output(1))
        await asyncio.Event().wait()

    async def start(self) -> None:
        """Start the next server on the port, beside the one that runs."""
        port = int(self.address.rsplit(":", 1)[1]) if self.address else 0
        server = Server([Service(SERVICE, self)], OPTIONS)
        host, port = await server.listen("127.0.0.1", port, ssl=self.ssl, reuse_port=True)
        self.address = f"{host}:{port}"
        self._server = server

    async def hand_over(self) -> bool:
        """Start the next server and drain the one before; return whether all of it ended by itself."""
        before = self._server
        assert before is not None
        await self.start()
        ended = await before.drain(WAIT)
        assert before.connections == 0
        return ended

    def close(self) -> None:
        """Stop the last server."""
        assert self._server is not None
        self._server.close()


@asynccontextmanager
async def relay(ssl: tls.SSLContext | None = None) -> AsyncIterator[Relay]:
    """Run a relay; nothing may be left of it."""
    tasks = asyncio.all_tasks()
    with strict_loop():
        servers = Relay(ssl)
        await servers.start()
        try:
            yield servers
        finally:
            servers.close()
        await eventually(lambda: asyncio.all_tasks() <= tasks)


def _credentials(authority: bytes | None) -> grpc.ChannelCredentials | None:
    return None if authority is None else grpc.ssl_channel_credentials(authority)


async def load_of_grpc_aio(
    address: str, authority: bytes | None, stop: threading.Event, called: Callable[[str], None]
) -> None:
    """Keep calls in flight on a default ``grpc.aio`` channel."""
    credentials = _credentials(authority)
    make = grpc.aio.insecure_channel if credentials is None else grpc.aio.secure_channel
    arguments = (address,) if credentials is None else (address, credentials)
    async with make(*arguments) as channel:
        method = channel.unary_unary(
            UNARY,
            request_serializer=messages_pb2.SimpleRequest.SerializeToString,
            response_deserializer=messages_pb2.SimpleResponse.FromString,
        )

        async def worker(number: int) -> None:
            i = 0
            while not stop.is_set():
                name = f"{number}-{i}"
                payload = messages_pb2.Payload(body=name.encode())
                try:
                    response = await method(messages_pb2.SimpleRequest(payload=payload), timeout=WAIT)
                    called(response.username)
                except grpc.aio.AioRpcError as error:
                    called(f"failed: {error.code().name} {error.details()}")
                i += 1

        await asyncio.gather(*map(worker, range(IN_FLIGHT)))


async def load_of_grpc_sync(
    address: str, authority: bytes | None, stop: threading.Event, called: Callable[[str], None]
) -> None:
    """Keep calls in flight on a default channel of the blocking API, from one thread."""
    await asyncio.to_thread(_block_with_load, address, authority, stop, called)


def _block_with_load(
    address: str, authority: bytes | None, stop: threading.Event, called: Callable[[str], None]
) -> None:
    credentials = _credentials(authority)
    channel = (
        grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    )
    with channel:
        method = channel.unary_unary(
            UNARY,
            request_serializer=messages_pb2.SimpleRequest.SerializeToString,
            response_deserializer=messages_pb2.SimpleResponse.FromString,
        )
        slots = threading.Semaphore(IN_FLIGHT)

        def done(future: grpc.Future[messages_pb2.SimpleResponse]) -> None:
            error = future.exception()
            called(f"failed: {error}" if error is not None else future.result().username)
            slots.release()

        i = 0
        while not stop.is_set():
            slots.acquire()
            payload = messages_pb2.Payload(body=str(i).encode())
            method.future(messages_pb2.SimpleRequest(payload=payload), timeout=WAIT).add_done_callback(done)
            i += 1
        for _ in range(IN_FLIGHT):
            slots.acquire()


LOADS = {"aio": load_of_grpc_aio, "sync": load_of_grpc_sync}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make a certificate authority."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server_context(authority: Authority) -> tls.SSLContext:
    """Make a server's TLS context."""
    pair = authority.issue("server")
    return server_tls(pair.certificate, pair.key)


@pytest.mark.parametrize("transport", ["plain", "tls"])
@pytest.mark.parametrize("client", LOADS)
async def test_a_drain_under_load_loses_no_call_and_handles_none_twice(
    client: str, transport: str, authority: Authority, server_context: tls.SSLContext
) -> None:
    """200 calls in flight all the time, while one server after another takes the port over."""
    secure = transport == "tls"
    results: Counter[str] = Counter()
    stop = threading.Event()
    async with relay(server_context if secure else None) as servers:
        root = authority.certificate.read_bytes() if secure else None
        load = LOADS[client](servers.address, root, stop, lambda name: results.update([name]))
        running = asyncio.create_task(load)
        for _ in range(DRAINS):
            seen = results.total()
            await eventually(lambda seen=seen: results.total() > seen + 3 * IN_FLIGHT)  # type: ignore[misc]
            assert await servers.hand_over()
        seen = results.total()
        await eventually(lambda: results.total() > seen + IN_FLIGHT)
        stop.set()
        await running
    assert [name for name in results if name.startswith("failed")] == []
    assert servers.handled == results
    assert servers.begun == servers.handled
    assert set(results.values()) == {1}


async def test_streams_of_real_clients_end_with_our_message(tmp_path: Path) -> None:
    """UNAVAILABLE, which every client takes for a reason to come back, and what the server said."""
    async with relay() as servers, grpc.aio.insecure_channel(servers.address) as channel:
        method = channel.stream_stream(
            DUPLEX,
            request_serializer=messages_pb2.StreamingOutputCallRequest.SerializeToString,
            response_deserializer=messages_pb2.StreamingOutputCallResponse.FromString,
        )
        calls = [method(timeout=WAIT) for _ in range(20)]
        for call in calls:
            await call.write(messages_pb2.StreamingOutputCallRequest())
            assert await call.read() is not grpc.aio.EOF
        assert await servers.hand_over()
        for call in calls:
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert await call.details() == SHUTTING_DOWN


# -- frame by frame -----------------------------------------------------------------------------------------


async def test_an_idle_connection_drains_at_once() -> None:
    """Two GOAWAYs, the first for all streams there could be, then the end of the socket."""
    async with serving(OPTIONS, unary_call=echo) as running, await running.peer() as peer:
        assert (await peer.call(UNARY, simple())).status == 0
        drained = asyncio.create_task(running.server.drain(WAIT))
        assert await peer.closed() == 0
        assert await drained
        assert [last for last, _ in peer.goaways] == [2**31 - 1, 1]


async def test_a_connection_without_requests_drains() -> None:
    """Also one whose peer has not even begun."""
    async with serving(server_options(drain_ping_timeout=0.1), unary_call=echo) as running:
        silent, idle = await running.peer(start=False), await running.peer()
        await eventually(lambda: running.server.connections == 2)
        drained = asyncio.create_task(running.server.drain(WAIT))
        await asyncio.gather(silent.closed(), idle.closed())
        assert await drained


async def test_calls_that_arrive_between_the_goaways_are_served() -> None:
    """The peer has not seen the first GOAWAY yet: what it sent meanwhile counts."""
    async with serving(PATIENT, unary_call=echo) as running, await running.peer() as peer:
        peer.answer_pings = False
        assert (await peer.call(UNARY, simple())).status == 0
        drained = asyncio.create_task(running.server.drain(WAIT))
        await peer.until(lambda: len(peer.goaways) == 1 and bool(peer.pings))
        late = [peer.request(UNARY, simple(b"late")) for _ in range(100)]
        peer.send(ping(peer.pings[0], ack=True))
        for stream_id in late:
            assert (await peer.response(stream_id)).status == 0
        assert await peer.closed() == 0
        assert peer.goaways[-1] == (late[-1], 0)
        assert await drained


async def test_calls_that_arrive_right_behind_the_answer_are_served() -> None:
    """A client may have begun calls before it saw the first GOAWAY, and send its answer ahead of them."""
    async with serving(PATIENT, unary_call=echo) as running, await running.peer() as peer:
        peer.answer_pings = False
        assert (await peer.call(UNARY, simple())).status == 0
        drained = asyncio.create_task(running.server.drain(WAIT))
        await peer.until(lambda: len(peer.goaways) == 1 and bool(peer.pings))
        late = [peer.stream_id() for _ in range(10)]
        requests = [
            headers(stream_id, request_fields(UNARY)) + peer.data(stream_id, simple(b"late"), end=True)
            for stream_id in late
        ]
        peer.send(ping(peer.pings[0], ack=True), *requests)  # one write: the server reads all this at once
        for stream_id in late:
            assert (await peer.response(stream_id)).status == 0
        assert await peer.closed() == 0
        assert peer.goaways[-1] == (late[-1], 0)
        assert await drained


async def test_a_peer_that_does_not_answer_the_ping_is_not_waited_for() -> None:
    """After ``drain_ping_timeout`` the second GOAWAY follows."""
    options = server_options(drain_ping_timeout=0.1)
    async with serving(options, unary_call=echo) as running, await running.peer() as peer:
        peer.answer_pings = False
        drained = asyncio.create_task(running.server.drain(WAIT))
        assert await peer.closed() == 0
        assert await drained


async def test_unary_calls_finish() -> None:
    """However long they take within the drain's time; new connections are refused meanwhile."""
    release = asyncio.Event()

    async def handler(request: messages_pb2.SimpleRequest, call: ServerCall) -> Message:
        await release.wait()
        return await echo(request, call)

    async with serving(OPTIONS, unary_call=handler) as running, await running.peer() as peer:
        ids = [peer.request(UNARY, simple(bytes(30_000))) for _ in range(10)]
        await peer.pong()
        drained = asyncio.create_task(running.server.drain(WAIT))
        await peer.until(lambda: len(peer.goaways) == 2)
        with pytest.raises(OSError, match="refused"):
            await running.peer(start=False)
        release.set()
        for stream_id in ids:
            assert (await peer.response(stream_id)).status == 0
        await peer.closed()
        assert await drained


async def test_a_unary_call_whose_message_is_still_arriving_finishes() -> None:
    """It was accepted, so it is served."""
    async with serving(OPTIONS, unary_call=echo) as running, await running.peer() as peer:
        body = simple(b"x" * 100)
        stream_id = peer.request(UNARY, body[:50], end=False)
        drained = asyncio.create_task(running.server.drain(WAIT))
        await peer.until(lambda: len(peer.goaways) == 2)
        peer.send(peer.data(stream_id, body[50:], end=True))
        assert (await peer.response(stream_id)).status == 0
        await peer.closed()
        assert await drained


@pytest.mark.parametrize("path", [UPLOAD, DOWNLOAD, DUPLEX])
async def test_streaming_calls_end_with_unavailable(path: str) -> None:
    """Their handlers are cancelled, once, and what they sent before is delivered."""
    steps = Steps()

    async def produce(request: Message, call: ServerCall) -> None:
        call.send(output(1000))
        await steps.handler()

    async with (
        serving(
            OPTIONS,
            streaming_input_call=steps.handler,
            streaming_output_call=produce,
            full_duplex_call=steps.handler,
        ) as running,
        await running.peer() as peer,
    ):
        stream_id = peer.request(path, end=path == DOWNLOAD)
        await eventually(lambda: steps.started == 1)
        drained = asyncio.create_task(running.server.drain(WAIT))
        response = await peer.response(stream_id)
        assert (response.status, response.message) == (StatusCode.UNAVAILABLE, SHUTTING_DOWN)
        assert len(response.messages) == (path == DOWNLOAD)
        if path != DOWNLOAD:
            peer.send(peer.data(stream_id, b"", end=True))
        await peer.closed()
        assert await drained
        await eventually(lambda: steps.ended == 1)
        assert steps.cancelled == 1


async def test_a_streaming_handler_may_end_itself() -> None:
    """``on_drain`` is called once, and the call ends as the handler wants: with its last confirmations."""
    drains: list[int] = []

    async def handler(call: ServerCall) -> None:
        over = asyncio.Event()

        def on_drain() -> None:
            drains.append(1)
            over.set()

        call.on_drain = on_drain
        await over.wait()
        call.send(output(7))
        raise RpcError(StatusCode.UNAVAILABLE, "come back")

    async with serving(OPTIONS, full_duplex_call=handler) as running, await running.peer() as peer:
        stream_id = peer.request(DUPLEX, ask(), end=False)
        await peer.pong()
        drained = asyncio.create_task(running.server.drain(WAIT))
        response = await peer.response(stream_id)
        assert (response.status, response.message) == (StatusCode.UNAVAILABLE, "come back")
        assert len(response.messages) == 1
        peer.send(peer.data(stream_id, b"", end=True))
        await peer.closed()
        assert await drained
        assert drains == [1]


async def test_what_does_not_end_is_ended_at_the_limit() -> None:
    """The drain says so, the client is told, and the handler is cancelled once."""
    steps = Steps()
    async with serving(OPTIONS, unary_call=steps.handler) as running, await running.peer() as peer:
        stream_id = peer.request(UNARY, simple())
        await eventually(lambda: steps.started == 1)
        drained = asyncio.create_task(running.server.drain(0.2))
        response = await peer.response(stream_id)
        assert (response.status, response.message) == (StatusCode.UNAVAILABLE, SHUTTING_DOWN)
        await peer.closed()
        assert not await drained
        await eventually(lambda: steps.ended == 1)
        assert steps.cancelled == 1


@pytest.mark.parametrize("stalled", ["window", "socket"])
async def test_a_client_that_does_not_read_is_dropped_at_the_limit(stalled: str) -> None:
    """It would never take its answer, and the server does not wait for ever."""

    async def handler(request: Message, call: ServerCall) -> Message:
        return messages_pb2.SimpleResponse(payload=messages_pb2.Payload(body=bytes(8_000_000)))

    window = 100 if stalled == "window" else 1 << 30
    async with serving(OPTIONS, unary_call=handler) as running:
        peer = await running.peer(settings={0x4: window})
        peer.send(b"\0\0\4\x08\0\0\0\0\0" + window.to_bytes(4, "big"))
        peer.give_window = False
        peer.request(UNARY, simple())
        (connection,) = running.server._connections
        await eventually(lambda: len(running.finished) == 1)
        assert not await running.server.drain(0.2)
        assert running.server.connections == 0
        assert connection.http2._transport is None
        await peer.close()


async def test_a_drain_ends_when_the_sockets_have() -> None:
    """A process that exits behind the drain must not cut off what its clients still have to read."""
    async with serving(OPTIONS, unary_call=echo) as running, await running.peer() as peer:
        assert (await peer.call(UNARY, simple())).status == 0
        (connection,) = running.server._connections
        drained = asyncio.create_task(running.server.drain(WAIT))
        await peer.until(lambda: False)  # the server's side is closed
        await asyncio.sleep(0.1)
        assert not drained.done()
        assert connection.http2._transport is not None
        await peer.close()
        assert await drained
        assert connection.http2._transport is None


@pytest.mark.parametrize("secure", [False, True], ids=["plaintext", "tls"])
async def test_a_connection_that_is_being_made_belongs_to_the_drain(
    authority: Authority, server_context: tls.SSLContext, secure: bool
) -> None:
    """It was accepted: it is told that the server goes away, and is closed when the drain is over."""
    client = client_tls(authority.certificate) if secure else None
    async with serving(PATIENT, ssl=server_context if secure else None, unary_call=echo) as running:
        sock = socket.create_connection(running.address)
        while not running.server._beginning:  # noqa: ASYNC110 -- it lasts for a turn of the loop or two
            await asyncio.sleep(0)
        drained = asyncio.create_task(running.server.drain(WAIT))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not drained.done()
        name = "localhost" if secure else None
        peer = Peer(*await asyncio.open_connection(sock=sock, ssl=client, server_hostname=name))
        await peer.start()
        await peer.until(lambda: bool(peer.goaways))
        await peer.close()
        assert await drained


async def test_a_handshake_that_does_not_go_on_does_not_hold_a_drain(server_context: tls.SSLContext) -> None:
    """Who has not finished it has no calls; the socket is closed."""
    options = server_options(drain_ping_timeout=0.1)
    async with serving(options, ssl=server_context) as running:
        with socket.create_connection(running.address) as silent:
            await eventually(lambda: bool(running.server._beginning))
            assert await running.server.drain(WAIT)
            assert not running.server._beginning
            silent.setblocking(False)
            async with asyncio.timeout(WAIT):
                assert await asyncio.get_running_loop().sock_recv(silent, 1) == b""


async def test_a_drain_of_a_server_without_connections_is_immediate() -> None:
    """Nothing to wait for; a second drain is harmless, and so is a close."""
    async with serving(OPTIONS, unary_call=echo) as running:
        assert await running.server.drain(WAIT)
        assert await running.server.drain(WAIT)


async def test_close_drops_everything_at_once() -> None:
    """Handlers are cancelled once and the sockets are gone."""
    steps = Steps()
    async with serving(OPTIONS, unary_call=steps.handler, full_duplex_call=steps.handler) as running:
        peers = [await running.peer() for _ in range(5)]
        for peer in peers:
            peer.request(UNARY, simple())
            peer.request(DUPLEX, None, end=False)
        await eventually(lambda: steps.started == 10)
        running.server.close()
        assert running.server.connections == 0
        for peer in peers:
            await peer.closed()
        await eventually(lambda: steps.ended == 10)
        assert steps.cancelled == 10


# -- connections that are too old ---------------------------------------------------------------------------


async def test_a_connection_that_is_old_is_drained_and_the_server_goes_on() -> None:
    """Its unary call finishes, its stream ends as at a stop, and another connection is taken."""
    release, begun = asyncio.Event(), []

    async def slow(request: messages_pb2.SimpleRequest, call: ServerCall) -> Message:
        begun.append(call)
        await release.wait()
        return await echo(request, call)

    async def silent(request: Message, call: ServerCall) -> None:
        begun.append(call)
        await asyncio.Event().wait()

    options = server_options(connection_age=0.6)
    async with serving(options, unary_call=slow, streaming_output_call=silent) as running:
        async with await running.peer() as peer:
            unary, stream = peer.request(UNARY, simple(b"x")), peer.request(DOWNLOAD, ask())
            await eventually(lambda: len(begun) == 2)
            response = await peer.response(stream)
            assert (response.status, response.message) == (14, SHUTTING_DOWN)
            release.set()
            assert (await peer.response(unary)).status == 0
            assert await peer.closed() == 0
        async with await running.peer():
            await eventually(lambda: running.server.connections == 1)


async def test_calls_of_an_old_connection_end_after_the_grace() -> None:
    """What has not finished by then is UNAVAILABLE, which clients repeat on another connection."""

    async def endless(request: Message, call: ServerCall) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    options = server_options(connection_age=0.5, connection_age_grace=0.1)
    async with serving(options, unary_call=endless) as running, await running.peer() as peer:
        response = await peer.call(UNARY, simple())
        assert (response.status, response.message) == (14, "the connection is too old; connect anew")
        assert await peer.closed() == 0


# -- connections that are ended -----------------------------------------------------------------------------

ENDED = RpcError(StatusCode.UNAVAILABLE, "ended by somebody")


async def test_real_clients_of_a_connection_that_is_ended_see_why() -> None:
    """The status comes before the end of the socket, also behind what is still to be read."""

    async def produce(call: ServerCall) -> None:
        while True:
            await call.ready()
            call.send(output(60_000))
            await asyncio.sleep(0)

    async with serving(full_duplex_call=produce) as running:
        channel = grpc.aio.insecure_channel("{}:{}".format(*running.address))
        method = channel.stream_stream(
            DUPLEX,
            request_serializer=messages_pb2.StreamingOutputCallRequest.SerializeToString,
            response_deserializer=messages_pb2.StreamingOutputCallResponse.FromString,
        )
        async with channel:
            calls = [method(timeout=WAIT) for _ in range(20)]
            for call in calls:
                await call.read()
            for connection in running.server.open_connections:
                connection.end(ENDED)
            for call in calls:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    while await call.read() is not grpc.aio.EOF:
                        pass
                assert await call.details() == ENDED.message


async def test_the_end_of_a_connection_waits_for_what_a_client_reads_slowly() -> None:
    """A client whose window was shut opens it, and gets what was sent, the status, and the end."""

    async def produce(call: ServerCall) -> None:
        call.send(output(1000))
        await asyncio.Event().wait()

    async with serving(full_duplex_call=produce) as running:
        peer = await running.peer(settings={0x4: 100})
        peer.give_window = False
        stream_id = peer.request(DUPLEX, end=False)
        await peer.until(lambda: peer.responses[stream_id].body != b"")
        (connection,) = running.server.open_connections
        connection.end(ENDED)
        await peer.until(lambda: len(peer.goaways) == 1)
        peer.send(b"\0\0\4\x08\0" + stream_id.to_bytes(4, "big") + (10_000).to_bytes(4, "big"))
        response = await peer.response(stream_id)
        assert (response.status, response.message) == (StatusCode.UNAVAILABLE, ENDED.message)
        assert len(response.messages) == 1
        peer.send(peer.data(stream_id, b"", end=True))
        assert await peer.closed() == 0
        await peer.close()


async def test_the_end_of_a_connection_does_not_wait_for_a_client_for_ever() -> None:
    """A client that does not end its side of a stream is cut off all the same."""
    steps = Steps()
    options = server_options(ConnectionOptions(close_timeout=0.1))
    async with serving(options, full_duplex_call=steps.handler) as running, await running.peer() as peer:
        stream_id = peer.request(DUPLEX, end=False)
        await eventually(lambda: steps.started == 1)
        (connection,) = running.server.open_connections
        connection.end(ENDED)
        assert (await peer.response(stream_id)).message == ENDED.message
        await peer.closed()
        await eventually(lambda: running.server.connections == 0)
