"""How a channel connects, reconnects, lets go, and what its callers see meanwhile."""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
import subprocess
import sys
from collections.abc import Awaitable
from contextlib import AsyncExitStack, closing
from typing import Any

import pytest

from tests._gen.grpc.testing import messages_pb2
from tests.support.certificates import Authority
from windshift.rpc import (
    Channel,
    ChannelState,
    ConnectionOptions,
    RpcError,
    ServerCall,
    StatusCode,
    client_tls,
    server_tls,
)

from .calling import calling, channel_options, duplex, failure, message, unary
from .frames import PREFACE, WAIT, goaway, headers, settings
from .raw_server import GRPC_HEADERS, OK, answer, raw_server
from .serving import Steps, echo, eventually, reflect, server_options, serving

PAYLOAD = messages_pb2.SimpleResponse(payload=messages_pb2.Payload(body=b"x")).SerializeToString()
MAX_CONCURRENT_STREAMS = 0x3


def unused_port() -> int:
    """Return a port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def task(call: Awaitable[Any]) -> asyncio.Future[Any]:
    """Run a call beside the test."""
    return asyncio.ensure_future(call)


# -- connecting ---------------------------------------------------------------------------------------------


async def test_nothing_is_connected_before_the_first_call() -> None:
    """A channel to nowhere can be made and closed."""
    async with calling(f"127.0.0.1:{unused_port()}") as channel:
        assert channel.connections == 0


async def test_an_unreachable_server_fails_calls_at_once() -> None:
    """UNAVAILABLE, and the message names the server and the reason."""
    target = f"127.0.0.1:{unused_port()}"
    async with calling(target) as channel:
        for error in (await failure(unary(channel)), await failure(duplex(channel).receive())):
            assert error.code is StatusCode.UNAVAILABLE
            assert error.message == f"the server {target} cannot be reached: connection refused"
            assert not error.sent


async def test_a_name_that_does_not_exist() -> None:
    """The message says that it is the name."""
    async with calling("no-such-host.invalid:1") as channel:
        assert "name cannot be resolved" in (await failure(unary(channel))).message


async def test_a_name_that_cannot_be_one() -> None:
    """Whatever an attempt stumbles over, its callers are told."""
    async with calling("a..b:1") as channel:
        assert (await failure(unary(channel))).code is StatusCode.UNAVAILABLE


async def test_calls_fail_without_an_attempt_until_the_next_is_due() -> None:
    """Between two attempts nobody waits: the next attempt comes when the backoff is over."""
    async with calling(f"127.0.0.1:{unused_port()}", channel_options(backoff_initial=60.0)) as channel:
        await failure(unary(channel))
        loop = asyncio.get_running_loop()
        started = loop.time()
        for _ in range(10):
            assert "connection refused" in (await failure(unary(channel))).message
        assert loop.time() - started < 30


async def test_a_waiting_call_ends_at_its_deadline_or_when_it_is_cancelled() -> None:
    """Although there is no connection, and the channel has then nothing left to wait for."""
    async with raw_server() as server, calling(server.target) as channel:  # it says nothing
        late = await failure(unary(channel, timeout=0.05))
        assert (late.code, late.sent) == (StatusCode.DEADLINE_EXCEEDED, False)
        assert "cannot be reached" in late.message
        waiting = task(unary(channel))
        call = duplex(channel)
        await asyncio.sleep(0)
        waiting.cancel()
        call.cancel()
        assert (await failure(call.receive())).code is StatusCode.CANCELLED
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_wait_ready_connects() -> None:
    """It tries again until there is a server, and returns at once when there is a connection."""
    port = unused_port()
    async with serving(unary_call=echo) as server, calling(f"127.0.0.1:{port}") as channel:
        waiting = task(channel.wait_ready())
        await failure(unary(channel))
        await server.server.listen("127.0.0.1", port)
        await waiting
        await channel.wait_ready(0.0)
        assert channel.connections == 1


async def test_wait_ready_gives_up() -> None:
    """After its time it raises what the last attempt met."""
    async with calling(f"127.0.0.1:{unused_port()}") as channel:
        error = await failure(channel.wait_ready(0.1))
        assert error.code is StatusCode.UNAVAILABLE
        assert "connection refused" in error.message


async def test_a_server_that_says_nothing_is_given_up() -> None:
    """An open port without HTTP/2 behind it fails the attempt after its time."""
    async with (
        raw_server() as server,
        calling(server.target, channel_options(connect_timeout=0.05)) as channel,
    ):
        error = await failure(unary(channel))
        assert error.code is StatusCode.UNAVAILABLE
        assert "does not answer" in error.message


async def test_a_server_that_does_not_speak_http2() -> None:
    """Its greeting ends the attempt, and the message says so."""
    async with raw_server() as server, calling(server.target) as channel:
        call = task(failure(unary(channel)))
        peer = await server.accept_silently()
        peer.send(b"220 mail.example.com ESMTP\r\n")
        assert "before HTTP/2 began" in (await call).message


@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
async def test_a_server_that_closes_after_its_answer() -> None:
    """Nothing is left to say goodbye to, and no callback fails: some other service's port does so."""
    failed: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    async with raw_server() as server, calling(server.target) as channel:
        call = task(failure(unary(channel)))
        peer = await server.accept_silently()
        async with asyncio.timeout(WAIT):
            assert await peer._reader.readexactly(len(PREFACE)) == PREFACE
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.close()  # our GOAWAY comes back as a reset
        assert "is it another service?" in (await call).message
    assert failed == []


async def test_a_server_that_ends_every_connection_at_once_is_not_hammered() -> None:
    """SETTINGS followed by GOAWAY count as a failed attempt, so that the backoff holds."""
    async with raw_server() as server, calling(server.target) as channel:
        call = task(failure(unary(channel)))
        peer = await server.accept_silently()
        peer.send(settings(), goaway())
        assert "ended the connection" in (await call).message


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, until one answers."""
    loop = asyncio.get_running_loop()
    asked: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        addresses = [("127.0.0.1", unused_port()), ("127.0.0.1", port)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    async with serving(unary_call=echo) as server:
        monkeypatch.setattr("windshift.rpc.dialing.resolve", getaddrinfo)
        async with calling(f"events.example.com:{server.address[1]}") as channel:
            assert await unary(channel, b"x") == b"x"
    assert asked == ["events.example.com"]
    assert loop is asyncio.get_running_loop()


async def test_ipv6() -> None:
    """An address in brackets."""
    async with serving(unary_call=echo) as server:
        try:
            _, port = await server.server.listen("::1", 0)
        except OSError:
            pytest.skip("this machine has no IPv6")
        async with calling(f"[::1]:{port}") as channel:
            assert await unary(channel, b"x") == b"x"


@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
@pytest.mark.skipif(sys.platform != "linux", reason="other systems call the interface otherwise")
async def test_the_scope_of_an_ipv6_address() -> None:
    """A link-local address means nothing without its interface: the kernel calls that an invalid argument."""
    async with calling("[fe80::1%lo]:9", channel_options(connect_timeout=0.5)) as channel:
        error = await failure(unary(channel))
        assert error.code is StatusCode.UNAVAILABLE
        assert "invalid argument" not in error.message


# -- losing the connection ----------------------------------------------------------------------------------


async def test_a_lost_connection_fails_its_calls_and_the_next_call_makes_another() -> None:
    """UNAVAILABLE: the server may have seen them, so that only the caller can decide to repeat them."""
    async with raw_server() as server, calling(server.target) as channel:
        calls = [task(failure(duplex(channel).receive())), task(failure(unary(channel)))]
        peer = await server.accept()
        await peer.until(lambda: bool(peer.responses[1].headers) and peer.responses[3].ended)
        peer.kill()
        for error in await asyncio.gather(*calls):
            assert (error.code, error.sent) == (StatusCode.UNAVAILABLE, True)
            assert server.target in error.message
        again = task(unary(channel))
        peer = await server.accept()
        await peer.until(lambda: peer.responses[1].ended)
        peer.send(answer(1, PAYLOAD))
        assert await again == b"x"


async def test_the_servers_last_word_is_waited_for_a_little_beyond_the_deadline() -> None:
    """What the server ends a call with tells more than that time is over; silence ends the call too."""
    status = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "14"),
        ("grpc-message", "no"),
    ]
    fields = [(name.encode(), value.encode()) for name, value in status]
    for grace, code in ((30.0, StatusCode.UNAVAILABLE), (0.01, StatusCode.DEADLINE_EXCEEDED)):
        options = channel_options(deadline_grace=grace)
        async with raw_server() as server, calling(server.target, options) as channel:
            await asyncio.gather(channel.wait_ready(30), accepted := task(server.accept()))
            peer = accepted.result()
            call = task(failure(unary(channel, timeout=0.1)))
            await peer.until(lambda: peer.responses[1].ended)  # noqa: B023 -- used at once
            if grace > 1:
                await asyncio.sleep(0.15)  # beyond the deadline
                peer.send(headers(1, fields, end=True))
            assert (await call).code is code


async def test_an_idle_connection_that_is_gone_is_replaced() -> None:
    """A server that restarts between two calls is not noticed."""
    async with raw_server() as server, calling(server.target) as channel:
        for kill in (True, False):
            call = task(unary(channel))
            peer = await server.accept()
            await peer.until(lambda: peer.responses[1].ended)  # noqa: B023 -- used at once
            peer.send(answer(1, PAYLOAD))
            assert await call == b"x"
            if kill:
                peer.kill()
            else:
                await peer.close()
            await eventually(lambda: channel.connections == 0)


async def test_a_call_that_was_never_written_moves_to_the_next_connection() -> None:
    """The server cannot have seen it."""
    async with raw_server() as server, calling(server.target) as channel:
        waiting = task(channel.wait_ready(5))
        peer = await server.accept()
        await waiting
        call = task(unary(channel))
        peer._writer.transport.abort()
        channel._usable[0].http2.connection_lost(None)  # before the call is flushed
        await asyncio.sleep(0)
        peer = await server.accept()
        await peer.until(lambda: peer.responses[1].ended)
        peer.send(answer(1, PAYLOAD))
        assert await call == b"x"


async def test_a_server_that_vanished_is_found_by_pings() -> None:
    """While calls run: one PING, and without its answer they fail."""
    connection = ConnectionOptions(keepalive_interval=0.05, keepalive_timeout=0.05)
    async with raw_server() as server, calling(server.target, channel_options(connection)) as channel:
        call = task(failure(unary(channel)))
        peer = await server.accept()
        peer.answer_pings, answered = False, len(peer.pings)
        assert (await call).code is StatusCode.UNAVAILABLE
        await peer.closed()
        assert len(peer.pings) == answered + 1


async def test_an_idle_connection_is_not_pinged_unless_asked() -> None:
    """Many servers end connections that are pinged without a call."""
    connection = ConnectionOptions(keepalive_interval=0.02)
    for option in (False, True):
        options = channel_options(connection, keepalive_without_calls=option)
        async with raw_server() as server, calling(server.target, options) as channel:
            waiting = task(channel.wait_ready(5))
            peer = await server.accept()
            await waiting
            reading = task(peer.until(lambda: bool(peer.pings)))  # noqa: B023 -- used at once
            done, _ = await asyncio.wait([reading], timeout=5.0 if option else 0.2)
            assert bool(done) is option
            reading.cancel()


# -- GOAWAY -------------------------------------------------------------------------------------------------


async def test_after_goaway_running_calls_finish_and_new_ones_go_elsewhere() -> None:
    """The first GOAWAY of a drain refuses nothing; the old connection is closed after its last call."""
    async with raw_server() as server, calling(server.target) as channel:
        first = task(unary(channel))
        old = await server.accept()
        await old.until(lambda: old.responses[1].ended)
        old.send(goaway(2**31 - 1))
        await old.pong()
        second = task(unary(channel))
        new = await server.accept()
        await new.until(lambda: new.responses[1].ended)
        new.send(answer(1, PAYLOAD))
        assert await second == b"x"
        assert channel.connections == 2
        old.send(answer(1, PAYLOAD))
        assert await first == b"x"
        await old.closed()
        await eventually(lambda: channel.connections == 1)


async def test_calls_above_the_last_stream_start_again() -> None:
    """What the final GOAWAY leaves out was not looked at; its callers do not notice."""
    async with raw_server() as server, calling(server.target) as channel:
        taken, left_out = task(unary(channel)), task(unary(channel))
        await asyncio.sleep(0)
        streaming = duplex(channel)
        streaming.send(message(b"a"))
        streaming.close_send()
        old = await server.accept()
        await old.until(lambda: old.responses[5].ended)
        old.send(goaway(1), answer(1, PAYLOAD))
        assert await taken == b"x"
        new = await server.accept()
        await new.until(lambda: new.responses[1].ended and new.responses[3].ended)
        assert sorted([new.responses[1].body, new.responses[3].body]) == sorted(
            [old.responses[3].body, old.responses[5].body]
        )
        new.send(answer(1, PAYLOAD), answer(3, PAYLOAD))
        assert await left_out == b"x"
        assert await streaming.receive() is not None


async def test_a_connection_without_stream_ids_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 2^30 calls a connection takes no more; the channel makes another without failing a call."""
    async with serving(unary_call=echo) as server, calling(server) as channel:
        assert await unary(channel, b"x") == b"x"
        used_up = channel._usable[0]

        def send_request(*_: object) -> int:
            raise ConnectionError("the connection takes no more calls")

        monkeypatch.setattr(used_up.http2, "send_request", send_request)
        assert await unary(channel, b"y") == b"y"
        assert channel._usable[0] is not used_up
        await eventually(lambda: channel.connections == 1)


async def test_goaway_with_an_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A server that complains, for instance of too many pings, should be heard."""
    async with raw_server() as server, calling(server.target) as channel:
        call = task(unary(channel))
        peer = await server.accept()
        await peer.until(lambda: peer.responses[1].ended)
        peer.send(goaway(1, 0xB), answer(1, PAYLOAD))
        assert await call == b"x"
    assert "error 0xb" in caplog.text


@pytest.mark.parametrize("streams", [1, 40])
async def test_a_draining_server_loses_no_call(streams: int) -> None:
    """Callers that go on calling through a hand-over from one server to another see no error."""
    async with serving(unary_call=echo) as first, serving(unary_call=echo) as second:
        port = first.address[1]
        async with calling(first, channel_options(backoff_initial=0.001)) as channel:
            stop = False
            done = 0

            async def caller() -> None:
                nonlocal done
                while not stop:
                    await channel.wait_ready()
                    assert await unary(channel, b"x") == b"x"
                    done += 1

            callers = [task(caller()) for _ in range(streams)]
            await eventually(lambda: done > 200)
            draining = task(first.server.drain(5.0))
            await asyncio.sleep(0)  # it begins, and closes its listener
            await second.server.listen("127.0.0.1", port, reuse_port=False)
            assert await draining
            seen = done
            await eventually(lambda: done > seen + 200)
            stop = True
            await asyncio.gather(*callers)
            assert len(first.finished) + len(second.finished) == done


# -- the peer's limit ---------------------------------------------------------------------------------------


async def test_the_servers_limit_of_streams_is_kept() -> None:
    """Calls beyond it wait, and start in their order as others end."""
    async with raw_server() as server, calling(server.target) as channel:
        calls = [task(unary(channel)) for _ in range(5)]
        peer = await server.accept({MAX_CONCURRENT_STREAMS: 2})
        await peer.until(lambda: len(peer.responses) == 2)
        await peer.pong()
        assert len(peer.responses) == 2
        for stream_id in (1, 3, 5, 7, 9):
            await peer.until(lambda: peer.responses[stream_id].ended)  # noqa: B023 -- used at once
            peer.send(answer(stream_id, PAYLOAD))
        assert await asyncio.gather(*calls) == [b"x"] * 5


async def test_a_limit_of_none_that_is_raised_later() -> None:
    """A server may open up after a while."""
    async with raw_server() as server, calling(server.target) as channel:
        call = task(unary(channel))
        peer = await server.accept({MAX_CONCURRENT_STREAMS: 0})
        await peer.pong()
        assert not peer.responses
        peer.send(settings({MAX_CONCURRENT_STREAMS: 1}))
        await peer.until(lambda: peer.responses[1].ended)
        peer.send(answer(1, PAYLOAD))
        assert await call == b"x"


async def test_a_cancelled_call_gives_its_place_to_the_next() -> None:
    """Also one that still waits for a place."""
    async with raw_server() as server, calling(server.target) as channel:
        first, second, third = duplex(channel), duplex(channel), duplex(channel)
        peer = await server.accept({MAX_CONCURRENT_STREAMS: 1})
        await peer.until(lambda: bool(peer.responses[1].headers))
        second.cancel()
        first.cancel()
        await peer.until(lambda: bool(peer.responses[3].headers))
        peer.send(headers(3, [*GRPC_HEADERS, *OK], end=True))
        assert await third.receive() is None


# -- closing ------------------------------------------------------------------------------------------------


async def test_closing_cancels_what_runs() -> None:
    """CANCELLED for the callers, and the server sees its clients go."""
    steps = Steps()
    async with (
        serving(unary_call=steps.handler, full_duplex_call=steps.handler) as server,
        calling(server) as channel,
    ):
        calls = [task(failure(unary(channel))), task(failure(duplex(channel).receive()))]
        await eventually(lambda: steps.started == 2)
        with pytest.warns(ResourceWarning, match="neither finished nor cancelled"):
            await channel.close()
        assert [error.code for error in await asyncio.gather(*calls)] == [StatusCode.CANCELLED] * 2
        await eventually(lambda: steps.ended == 2)


async def test_an_attempt_that_takes_longer_than_a_tick() -> None:
    """The timers of connections begin when they are made."""
    connection = ConnectionOptions(handshake_timeout=5.0)
    async with raw_server() as server, calling(server.target, channel_options(connection)) as channel:
        call = duplex(channel)
        old = await server.accept()
        await old.until(lambda: bool(old.responses[1].headers))
        old.send(goaway(1))
        await old.pong()
        again = task(unary(channel))
        await asyncio.sleep(0)
        for _ in range(3):  # while the second connection is being made
            channel._tick()
        new = await server.accept()
        await new.until(lambda: new.responses[1].ended)
        new.send(answer(1, PAYLOAD))
        assert await again == b"x"
        call.cancel()


async def test_closing_with_grace_lets_calls_finish() -> None:
    """New calls are refused meanwhile."""
    steps = Steps()

    async def handler(request: Any, call: ServerCall) -> messages_pb2.SimpleResponse:
        await steps.handler()
        return messages_pb2.SimpleResponse()

    async with serving(unary_call=handler) as server, calling(server) as channel:
        call = task(unary(channel))
        await eventually(lambda: steps.started == 1)
        closing_channel = task(channel.close(grace=10.0))
        await asyncio.sleep(0)
        for error in (await failure(unary(channel)), await failure(channel.wait_ready())):
            assert (error.code, error.message) == (StatusCode.CANCELLED, "the channel is closed")
        steps.open.set()
        assert await call == b""
        await closing_channel


async def test_closing_that_is_cancelled_ends_what_runs() -> None:
    """Nobody could end it any more."""
    steps = Steps()
    async with serving(unary_call=steps.handler) as server, calling(server) as channel:
        call = task(failure(unary(channel)))
        await eventually(lambda: steps.started == 1)
        closing_channel = task(channel.close(grace=600.0))
        await asyncio.sleep(0)
        closing_channel.cancel()
        assert (await call).code is StatusCode.CANCELLED
        await eventually(lambda: not channel.connections)


async def test_closing_ends_what_waits() -> None:
    """Calls and ``wait_ready`` that have no connection yet."""
    async with calling(f"127.0.0.1:{unused_port()}") as channel:
        waiting = [task(failure(unary(channel))), task(failure(channel.wait_ready()))]
        await asyncio.sleep(0)
        await channel.close()
        assert [error.code for error in await asyncio.gather(*waiting)] == [StatusCode.CANCELLED] * 2


@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
async def test_closing_at_any_moment_of_connecting(
    secured: bool, authority: Authority, server_context: tls.SSLContext
) -> None:
    """It never takes long, whatever the attempt was about to do."""
    context = client_tls(authority.certificate) if secured else None
    async with serving(ssl=server_context if secured else None) as server:
        for turns in [*range(12)] * 8:
            async with calling(server, ssl=context) as channel:
                waiting = task(channel.wait_ready())
                for _ in range(turns):
                    await asyncio.sleep(0)
                async with asyncio.timeout(WAIT):
                    await channel.close()
                await asyncio.wait([waiting])
                assert waiting.exception() is None or "closed" in str(waiting.exception())


async def test_closing_does_not_wait_for_a_server_that_does_not_read() -> None:
    """What it has not taken by then is dropped."""
    async with raw_server() as server, calling(server.target) as channel:
        call = duplex(channel)
        await server.accept()
        for _ in range(100):
            call.send(message(bytes(100_000)))
        with pytest.warns(ResourceWarning, match="neither finished nor cancelled"):
            await channel.close()
        assert (await failure(call.receive())).code is StatusCode.CANCELLED


async def test_a_server_is_told_that_the_client_goes() -> None:
    """GOAWAY without an error, then the end of the connection."""
    async with raw_server() as server, calling(server.target) as channel:
        waiting = task(channel.wait_ready(5))
        peer = await server.accept()
        await waiting
        closing_channel = task(channel.close())
        assert await peer.closed() == 0
        await closing_channel


# -- TLS ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make an authority."""
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server_context(authority: Authority) -> tls.SSLContext:
    """Make the TLS context of a server with a certificate of that authority."""
    pair = authority.issue("server")
    return server_tls(pair.certificate, pair.key)


@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
async def test_tls(authority: Authority, server_context: tls.SSLContext) -> None:
    """Verified by name; large messages both ways."""
    async with serving(ssl=server_context, unary_call=echo) as server:
        target = f"localhost:{server.address[1]}"
        async with calling(target, ssl=client_tls(authority.certificate)) as channel:
            assert await unary(channel, bytes(2_000_000)) == bytes(2_000_000)


async def test_tls_with_another_name(authority: Authority) -> None:
    """A certificate that is for other servers is not accepted."""
    pair = authority.issue("other", dns=("events.example.com",), ips=())
    async with (
        serving(ssl=server_tls(pair.certificate, pair.key)) as server,
        calling(server, ssl=client_tls(authority.certificate)) as channel,
    ):
        assert "certificate is not accepted" in (await failure(unary(channel))).message


async def test_tls_of_a_stranger(server_context: tls.SSLContext) -> None:
    """A certificate that no trusted authority signed ends the attempt, with the reason."""
    async with serving(ssl=server_context) as server, calling(server, ssl=client_tls()) as channel:
        error = await failure(unary(channel))
        assert error.code is StatusCode.UNAVAILABLE
        assert "certificate is not accepted" in error.message


async def test_tls_without_http2(authority: Authority) -> None:
    """A server that does not choose ``h2`` is refused."""
    pair = authority.issue("web")
    context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    async with serving(ssl=context) as server:
        target = f"localhost:{server.address[1]}"
        async with calling(target, ssl=client_tls(authority.certificate)) as channel:
            assert "ALPN" in (await failure(unary(channel))).message


async def test_tls_against_plaintext_and_the_other_way_round(
    authority: Authority, server_context: tls.SSLContext
) -> None:
    """Neither hangs; the message points at the connection."""
    async with serving() as server, calling(server, ssl=client_tls(authority.certificate)) as channel:
        error = await failure(unary(channel))
        assert error.code is StatusCode.UNAVAILABLE
        assert "does it speak plain text" in error.message, error.message
    async with serving(ssl=server_context) as server, calling(server) as channel:
        assert "does it want TLS" in (await failure(unary(channel))).message


async def test_mutual_tls(authority: Authority) -> None:
    """The server knows the client by its certificate, and refuses one without."""
    pair, own = authority.issue("server"), authority.issue("client")
    context = server_tls(pair.certificate, pair.key, authority.certificate)
    names: list[object] = []

    async def handler(request: Any, call: ServerCall) -> messages_pb2.SimpleResponse:
        assert call.connection.peer_certificate is not None
        names.append(call.connection.peer_certificate["subject"])
        return messages_pb2.SimpleResponse()

    async with serving(ssl=context, unary_call=handler) as server:
        target = f"localhost:{server.address[1]}"
        known = client_tls(authority.certificate, own.certificate, own.key)
        async with calling(target, ssl=known) as channel:
            await unary(channel)
        async with calling(target, ssl=client_tls(authority.certificate)) as channel:
            error = await failure(unary(channel))
            assert error.code is StatusCode.UNAVAILABLE
    assert names == [((("commonName", "client"),),)]


async def test_a_second_connection_when_the_first_is_full() -> None:
    """With `max_connections` calls beyond what the server takes on one connection go to another."""
    options = server_options(ConnectionOptions(max_concurrent_streams=2))
    async with (
        serving(options, full_duplex_call=reflect, unary_call=echo) as server,
        calling(server, channel_options(max_connections=2)) as channel,
    ):
        async with AsyncExitStack() as open_calls:
            for _ in range(3):
                await open_calls.enter_async_context(duplex(channel))
            assert await unary(channel, b"x", timeout=10.0) == b"x"
            assert channel.connections == 2
            await open_calls.enter_async_context(duplex(channel))
            error = await failure(unary(channel, timeout=0.2))
            assert (error.code, error.sent) == (StatusCode.DEADLINE_EXCEEDED, False)
            assert "takes no more calls at once" in error.message
            assert channel.connections == 2
        assert await unary(channel, b"y", timeout=10.0) == b"y"


async def test_states_are_told() -> None:
    """Attempts, failures with their reason, connections and their ends, in order."""
    states: list[tuple[ChannelState, str]] = []

    def note(state: ChannelState) -> None:
        states.append((state, channel.last_failure))

    async with calling(f"127.0.0.1:{unused_port()}", on_state=note) as channel:
        await failure(unary(channel))
    assert [state for state, _ in states] == [ChannelState.CONNECTING, ChannelState.FAILED]
    assert "refused" in states[1][1]
    states.clear()
    async with serving(unary_call=echo) as server, calling(server, on_state=note) as channel:
        assert await unary(channel, b"x") == b"x"
    assert states == [(ChannelState.CONNECTING, ""), (ChannelState.READY, ""), (ChannelState.LEAVING, "")]


def test_another_loop_or_process_is_refused() -> None:
    """A channel may be made anywhere, and belongs to the loop and process of its first call."""

    async def call(channel: Channel) -> None:
        with pytest.raises(RpcError):
            await unary(channel)

    channel = Channel("127.0.0.1:1")
    asyncio.run(call(channel))
    with pytest.raises(RuntimeError, match="first call"):
        asyncio.run(call(channel))

    program = """
import asyncio, os
from windshift.rpc import Channel, RpcError
from windshift._gen.windshift.test.v1.test_pb2 import StringValue

async def main(channel):
    try:
        await channel.unary("/a/b", StringValue(), StringValue)
    except RpcError:
        child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        await channel.close()
        return
    try:
        channel.stream("/a/b", StringValue)
    except RuntimeError as error:
        os._exit(3 if "first call" in str(error) else 4)

asyncio.run(main(Channel("127.0.0.1:1")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"
