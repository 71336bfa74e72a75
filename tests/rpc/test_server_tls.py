"""The server behind TLS: the same frames through another kind of transport."""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from google.protobuf.message import Message

from tests._gen.grpc.testing import messages_pb2
from tests.support.certificates import Authority, Pair
from windshift.rpc import ConnectionOptions, ServerCall, StatusCode, client_tls, server_tls
from windshift.rpc.connection import SEND_QUEUE_MARK

from .floods import ENDING, pieces
from .frames import PREFACE, WAIT, Peer, data, ping, rst_stream, window_update
from .serving import (
    DOWNLOAD,
    DUPLEX,
    UNARY,
    UPLOAD,
    Steps,
    count,
    echo,
    eventually,
    output,
    piece,
    server_options,
    serving,
    simple,
)

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


@dataclass(frozen=True)
class Contexts:
    """Both sides' contexts; the mutual pair asks the client for its certificate and shows one."""

    server: tls.SSLContext
    client: tls.SSLContext
    mutual_server: tls.SSLContext
    mutual_client: tls.SSLContext


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """Make an authority and what it signs."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    server, client = authority.issue("server"), authority.issue("client")
    return Contexts(
        server_tls(server.certificate, server.key),
        client_tls(authority.certificate),
        server_tls(server.certificate, server.key, authority.certificate),
        client_tls(authority.certificate, client.certificate, client.key),
    )


async def test_calls_of_every_size(contexts: Contexts) -> None:
    """Both directions, within windows and beyond them."""
    async with (
        serving(ssl=contexts.server, unary_call=echo, streaming_input_call=count) as running,
        await running.peer(ssl=contexts.client) as peer,
    ):
        for size in (0, 100, 50_000):
            response = await peer.call(UNARY, simple(bytes(size)))
            answer = messages_pb2.SimpleResponse.FromString(response.messages[0])
            assert (response.status, len(answer.payload.body)) == (0, size)
        stream_id = peer.request(UPLOAD, None, end=False)
        assert await peer.upload(stream_id, piece(bytes(2_000_000)), end=True)
        assert (await peer.response(stream_id)).status == 0


async def test_the_clients_certificate_reaches_the_handler(contexts: Contexts) -> None:
    """Verified, as ``ssl`` gives it; a client without one is not let in."""
    seen: list[object] = []

    async def handler(request: Message, call: ServerCall) -> Message:
        seen.append(call.connection.peer_certificate)
        return messages_pb2.SimpleResponse()

    async with serving(ssl=contexts.mutual_server, unary_call=handler) as running:
        async with await running.peer(ssl=contexts.mutual_client) as peer:
            assert (await peer.call(UNARY)).status == 0
        with pytest.raises((tls.SSLError, ConnectionError, AssertionError)):
            async with await running.peer(ssl=contexts.client) as peer:
                assert (await peer.call(UNARY)).status == 0
        await eventually(lambda: running.server.connections == 0)
    (certificate,) = seen
    assert isinstance(certificate, dict)
    assert certificate["subject"] == ((("commonName", "client"),),)


async def test_a_client_that_does_not_speak_h2_is_closed(contexts: Contexts) -> None:
    """Without ALPN, or with another protocol, nobody knows what it would say."""
    for protocols in ([], ["http/1.1"]):
        context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = tls.CERT_NONE
        if protocols:
            context.set_alpn_protocols(protocols)
        async with serving(ssl=contexts.server, unary_call=echo) as running:
            peer = await running.peer(ssl=context, start=False)
            peer.send(PREFACE)
            await peer.closed()
            assert peer.settings == {}
            assert running.server.connections == 0


async def test_why_a_client_was_not_let_in_is_told(
    contexts: Contexts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client sees a closed connection alone, so that the log has to say it, with the client's address."""
    stranger = Authority(tmp_path, "stranger")
    other = stranger.issue("other")
    without_alpn = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    without_alpn.check_hostname, without_alpn.verify_mode = False, tls.CERT_NONE
    cases = (
        (contexts.mutual_server, contexts.client, "the client showed no certificate"),
        (contexts.mutual_server, _showing(other), "the client's certificate is not valid here: "),
        (contexts.server, without_alpn, "the client does not offer HTTP/2 (ALPN h2)"),
        (contexts.server, None, "what the client sent is not TLS"),
    )
    for server, client, why in cases:
        caplog.clear()
        async with serving(ssl=server, unary_call=echo) as running:
            with suppress(tls.SSLError, ConnectionError):
                peer = await running.peer(ssl=client, start=False)
                peer.send(PREFACE)
                await peer.closed()
            await eventually(lambda: bool(caplog.records))
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert why in record.getMessage()
        assert vars(record)["peer"].startswith("127.0.0.1")


async def test_a_client_that_does_not_trust_the_server_is_told(
    contexts: Contexts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when an intermediate certificate is missing: it says so, if in few words, before it leaves."""
    context = client_tls(Authority(tmp_path, "stranger").certificate)

    def connect(port: int) -> None:
        with (
            pytest.raises(tls.SSLCertVerificationError),
            socket.create_connection(("127.0.0.1", port), 30) as plain,
        ):
            context.wrap_socket(plain, server_hostname="localhost")

    async with serving(ssl=contexts.server, unary_call=echo) as running:
        await asyncio.to_thread(connect, running.address[1])
        await eventually(lambda: bool(caplog.records))
    (record,) = caplog.records
    assert "does not trust the server's certificate" in record.getMessage()


def _showing(pair: Pair) -> tls.SSLContext:
    """Return a client's context that trusts anybody and shows this certificate."""
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, tls.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(pair.certificate, pair.key)
    return context


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\n\r\n", PREFACE, b"\x16\x03\x01\x02\x00"])
async def test_what_is_no_tls_is_closed(contexts: Contexts, first: bytes) -> None:
    """At once, or when the time of the handshake is over; a plaintext HTTP/2 client as well."""
    options = server_options(ConnectionOptions(handshake_timeout=0.8))
    async with serving(options, ssl=contexts.server, unary_call=echo) as running:
        peer = await running.peer(start=False)
        peer.send(first)
        await peer.closed()
        assert running.server.connections == 0
        async with await running.peer(ssl=contexts.client) as good:
            assert (await good.call(UNARY, simple())).status == 0


@pytest.mark.parametrize("name", ["empty CONTINUATION", "PING", "empty DATA"])  # none ends by its rate
async def test_a_flood_ends_its_connection(contexts: Contexts, name: str) -> None:
    """As without TLS."""
    steps = Steps()
    async with serving(ssl=contexts.server, unary_call=echo, full_duplex_call=steps.handler) as running:
        async with await running.peer(ssl=contexts.client) as peer:
            for part in pieces(ENDING[name]):
                if peer._writer.transport.is_closing():
                    break
                try:
                    await peer.send_slowly(part)
                except (ConnectionError, tls.SSLError):
                    break
            await eventually(lambda: running.server.connections == 0)
        await eventually(lambda: steps.ended == steps.started)
        async with await running.peer(ssl=contexts.client) as good:
            assert (await good.call(UNARY, simple())).status == 0


async def test_a_breach_is_answered_and_closed(contexts: Contexts) -> None:
    """GOAWAY arrives through TLS as well."""
    async with serving(ssl=contexts.server) as running, await running.peer(ssl=contexts.client) as peer:
        peer.send(data(0, b"x"))
        assert await peer.closed() == 1
        await eventually(lambda: running.server.connections == 0)


async def test_a_client_that_begins_to_read_again_gets_everything(contexts: Contexts) -> None:
    """Backpressure through TLS: the handler waits, and goes on."""
    total = 300

    async def produce(request: Message, call: ServerCall) -> None:
        for i in range(total):
            call.send(output(16_000 + i))
            await call.ready()

    async with (
        serving(ssl=contexts.server, streaming_output_call=produce, unary_call=echo) as running,
        await running.peer(ssl=contexts.client, settings={0x4: 1 << 30}) as peer,
    ):
        peer.send(window_update(0, 1 << 30))
        stream_id = peer.request(DOWNLOAD)
        (connection,) = running.server._connections
        await eventually(lambda: connection.http2.queued(stream_id) > SEND_QUEUE_MARK)
        response = await peer.response(stream_id)
        sizes = [len(message) for message in response.messages]
        assert (response.status, len(sizes), sizes) == (0, total, sorted(sizes))
        assert (await peer.call(UNARY, simple(b"x"))).status == 0


@pytest.mark.parametrize("way", ["reset", "kill", "close"])
async def test_a_client_that_goes_cancels_its_handler_once(contexts: Contexts, way: str) -> None:
    """RST_STREAM, a TCP reset, and the end of TLS."""
    steps = Steps()
    async with serving(ssl=contexts.server, full_duplex_call=steps.handler) as running:
        peer = await running.peer(ssl=contexts.client)
        stream_id = peer.request(DUPLEX, None, end=False)
        await eventually(lambda: steps.started == 1)
        if way == "reset":
            peer.send(rst_stream(stream_id))
        elif way == "kill":
            peer.kill()
        else:
            peer._writer.close()
        await eventually(lambda: steps.ended == 1)
        assert steps.cancelled == 1
        await peer.close()
        await eventually(lambda: running.server.connections == 0)


async def test_a_drain(contexts: Contexts) -> None:
    """Calls in flight finish, streams end with UNAVAILABLE, and the sockets are closed in the end."""
    release = asyncio.Event()
    steps = Steps()

    async def handler(request: messages_pb2.SimpleRequest, call: ServerCall) -> Message:
        await release.wait()
        return await echo(request, call)

    async with serving(ssl=contexts.server, unary_call=handler, full_duplex_call=steps.handler) as running:
        peers = [await running.peer(ssl=contexts.client) for _ in range(5)]
        unary = [peer.request(UNARY, simple(bytes(10_000))) for peer in peers]
        streams = [peer.request(DUPLEX, b"", end=True) for peer in peers]
        await eventually(lambda: steps.started == 5)
        drained = asyncio.create_task(running.server.drain(WAIT))
        for peer, stream_id in zip(peers, streams, strict=True):
            assert (await peer.response(stream_id)).status == StatusCode.UNAVAILABLE
        release.set()
        for peer, stream_id in zip(peers, unary, strict=True):
            assert (await peer.response(stream_id)).status == 0
            await peer.closed()
        assert await drained
        assert not running.server._sockets


async def test_a_peer_that_never_closes_does_not_hold_a_drain(contexts: Contexts) -> None:
    """Some clients never send close_notify: after ``close_timeout`` the socket is dropped."""
    options = server_options(ConnectionOptions(close_timeout=0.2), drain_ping_timeout=0.1)
    async with serving(options, ssl=contexts.server, unary_call=echo) as running:
        peer = await running.peer(ssl=contexts.client)
        assert (await peer.call(UNARY, simple())).status == 0
        cast("asyncio.Transport", peer._writer.transport).pause_reading()
        async with asyncio.timeout(WAIT):
            assert await running.server.drain(WAIT)
        assert not running.server._sockets
        await peer.close()


async def test_pings_through_tls(contexts: Contexts) -> None:
    """Keepalive notices a peer that is silent behind TLS."""
    options = server_options(ConnectionOptions(keepalive_interval=0.15, keepalive_timeout=0.15))
    async with serving(options, ssl=contexts.server) as running:
        peer: Peer = await running.peer(ssl=contexts.client)
        peer.answer_pings = False
        peer.send(ping())
        await peer.closed()
        assert peer.pings
        await eventually(lambda: running.server.connections == 0)
