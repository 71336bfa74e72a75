"""Clients that nobody knows yet, and those that only make work: what they get, and when they go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from tests.support.certificates import Authority
from windshift.rpc import (
    LOOPBACK,
    AdmissionOptions,
    ConnectionOptions,
    Method,
    RpcError,
    ServerCall,
    ServerOptions,
    StatusCode,
    client_tls,
    server_tls,
)
from windshift.rpc.turns import CROWD, Account, Turns

from .frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PREFACE,
    WAIT,
    Kind,
    Peer,
    data,
    encode,
    frame,
    headers,
    ping,
    request_fields,
    settings,
    window_update,
)
from .serving import (
    DOWNLOAD,
    DUPLEX,
    UNARY,
    Serving,
    Steps,
    ask,
    echo,
    eventually,
    output,
    server_options,
    serving,
    simple,
)

ENHANCE_YOUR_CALM = 0xB
TOKEN = [(b"authorization", b"Bearer known")]


class Authenticate:
    """An interceptor that wants a token for unary calls, and nothing for others."""

    def __init__(self, *, slowly: bool = False) -> None:
        self._slowly = slowly

    def __call__(self, method: Method) -> Method:
        """Ask for the token."""
        return replace(method, on_headers=self.on_headers) if method.path == UNARY else method

    def on_headers(self, call: ServerCall) -> Coroutine[Any, Any, None] | None:
        """Refuse a call without the token, at once or after a while."""
        if self._slowly:
            return self._later(call)
        if call.header(b"authorization") != "Bearer known":
            raise RpcError(StatusCode.UNAUTHENTICATED, "no token")
        return None

    async def _later(self, call: ServerCall) -> None:
        await asyncio.sleep(0)
        if call.header(b"authorization") != "Bearer known":
            raise RpcError(StatusCode.UNAUTHENTICATED, "no token")


def strict(timeout: float = 60.0, **changes: Any) -> ServerOptions:
    """Return options of a server that wants to know who calls."""
    return server_options(authenticate_timeout=timeout, **changes)


def strangers(running: Serving) -> int:
    """Count the connections on which nobody has authenticated."""
    return sum(connection.http2.stranger for connection in running.server._connections)


# -- who is known -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slowly", [False, True])
async def test_a_call_makes_its_connection_known(slowly: bool) -> None:
    """One that was let through; one that was not, and one that anybody may make, do not."""
    steps = Steps()
    interceptors = [Authenticate(slowly=slowly)]
    async with (
        serving(
            strict(), interceptors=interceptors, unary_call=echo, full_duplex_call=steps.handler
        ) as running,
        await running.peer() as peer,
    ):
        peer.request(DUPLEX)
        assert (await peer.call(UNARY, simple(b"x"))).status == StatusCode.UNAUTHENTICATED
        assert strangers(running) == 1
        assert (await peer.call(UNARY, simple(b"x"), extra=TOKEN)).status == 0
        assert strangers(running) == 0


async def test_a_certificate_makes_its_connection_known(tmp_path: Path) -> None:
    """Before there is any call."""
    authority = Authority(tmp_path)
    own, clients = authority.issue("api"), authority.issue("client")
    tls = server_tls(own.certificate, own.key, client_ca=authority.certificate, client_required=False)
    async with serving(strict(), ssl=tls, unary_call=echo) as running:
        known = client_tls(authority.certificate, clients.certificate, clients.key)
        async with await running.peer(ssl=known) as peer:
            await peer.pong()
            assert strangers(running) == 0
        async with await running.peer(ssl=client_tls(authority.certificate)) as peer:
            await peer.pong()
            assert strangers(running) == 1


async def test_a_certificate_that_does_not_suffice(tmp_path: Path) -> None:
    """Its connection is no stranger's, but has an anonymous place until a call is let through."""
    authority = Authority(tmp_path)
    own, clients = authority.issue("api"), authority.issue("client")
    tls = server_tls(own.certificate, own.key, client_ca=authority.certificate)
    shown = client_tls(authority.certificate, clients.certificate, clients.key)
    admission = AdmissionOptions(places=10, anonymous_places=2, unlimited=LOOPBACK)
    options = strict(certificate_suffices=False, admission=admission)
    async with (
        serving(options, ssl=tls, interceptors=[Authenticate()], unary_call=echo) as running,
        AsyncExitStack() as closing,
    ):
        first, known, *others = [
            await closing.enter_async_context(await running.peer(ssl=shown)) for _ in range(2)
        ]
        assert strangers(running) == 0
        assert (await known.call(UNARY, simple(b"x"), extra=TOKEN)).status == 0
        for _ in range(3):
            others.append(await closing.enter_async_context(await running.peer(ssl=shown)))
        assert await first.closed() is None
        assert await others[0].closed() is None
        assert running.server.connection_limiter.refused["anonymous"] == 2
        for peer in (known, *others[1:]):
            assert (await peer.call(UNARY, simple(b"x"), extra=TOKEN)).status == 0


async def test_where_nobody_is_asked_nobody_is_a_stranger() -> None:
    """Nor has anybody to authenticate."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        assert (await peer.call(UNARY, simple(b"x"))).status == 0
        assert strangers(running) == 0


async def test_who_does_not_authenticate_has_to_go() -> None:
    """With GOAWAY; calls that anybody may make end with UNAVAILABLE; who is known stays, however idle."""
    steps = Steps()
    async with (
        serving(
            strict(0.8), interceptors=[Authenticate()], unary_call=echo, full_duplex_call=steps.handler
        ) as running,
        await running.peer() as known,
        await running.peer() as peer,
    ):
        assert (await known.call(UNARY, simple(b"x"), extra=TOKEN)).status == 0
        stream = peer.request(DUPLEX)
        assert (await peer.response(stream)).status == StatusCode.UNAVAILABLE
        assert await peer.closed() == 0
        assert running.server.connection_limiter.refused["unauthenticated"] == 1
        await known.pong()
        assert running.server.connections == 1


async def test_strangers_that_wait_hold_little_memory() -> None:
    """However many they are: those that send much have to go, those that only want to begin need not."""
    async with serving(strict(), unary_call=echo) as running, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(await running.peer(start=False)) for _ in range(CROWD + 51)]
        await eventually(lambda: running.server.connections == len(peers))
        running.server.turns.charge_strangers(1000)  # so all of them wait
        modest = peers.pop()
        for peer in peers:
            peer.send(PREFACE, settings(), *[ping()] * 3000)
        await eventually(lambda: running.server.connections == CROWD + 1)
        modest.send(PREFACE, settings())
        await eventually(lambda: all(each.http2._rest for each in running.server._connections))
        assert running.server.connection_limiter.refused["anonymous"] == 50
        waiting = [each.http2._rest for each in running.server._connections]
        assert PREFACE + settings() in waiting
        assert sum(map(len, waiting)) <= CROWD * 262_144
        running.server.turns.charge_strangers(-1000)


async def test_what_waits_to_be_parsed_is_held() -> None:
    """Those who make the server hold more than it may have to go."""
    async with serving(strict(max_held=2_000_000), unary_call=echo) as running, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(await running.peer(start=False)) for _ in range(100)]
        await eventually(lambda: running.server.connections == len(peers))
        running.server.turns.charge_strangers(1000)  # so all of them wait
        for peer in peers:
            peer.send(PREFACE, settings(), *[ping()] * 3000)
        await eventually(lambda: running.server.connections < 40)
        await eventually(lambda: sum(each.http2.unread for each in running.server._connections) > 1_000_000)
        assert running.server.connection_limiter.refused["held"] == 100 - running.server.connections
        running.server.turns.charge_strangers(-1000)


async def test_known_callers_find_a_place_at_any_time() -> None:
    """However many connections others hold: the oldest of them go."""
    admission = AdmissionOptions(places=20, anonymous_places=10, unlimited=LOOPBACK)
    steps = Steps()
    async with (
        serving(
            strict(admission=admission),
            interceptors=[Authenticate()],
            unary_call=echo,
            full_duplex_call=steps.handler,
        ) as running,
        AsyncExitStack() as stack,
    ):

        async def attack() -> None:
            for _ in range(30):
                peer = await stack.enter_async_context(await running.peer(start=False))
                with suppress(ConnectionError):
                    await peer.start()
                    peer.request(DUPLEX)

        known = []
        for _ in range(3):
            await attack()
            known.append(await stack.enter_async_context(await running.peer()))
            assert (await known[-1].call(UNARY, simple(b"x"), extra=TOKEN)).status == 0
        await attack()
        for peer in known:
            assert (await peer.call(UNARY, simple(b"x"), extra=TOKEN)).status == 0
        await eventually(lambda: running.server.connection_limiter.taken == 13)


async def hung_up(connection: socket.socket) -> bool:
    """Wait until the server ends a connection without a word, and close it."""
    connection.setblocking(False)
    with connection, suppress(ConnectionError):
        return await asyncio.get_running_loop().sock_recv(connection, 1) == b""
    return True


async def test_a_handshake_may_lose_its_place(tmp_path: Path) -> None:
    """Who does not go on with TLS makes room, and is hung up on, however early that is."""
    authority = Authority(tmp_path)
    own = authority.issue("api")
    admission = AdmissionOptions(places=5, anonymous_places=2, unlimited=LOOPBACK)
    patient = ConnectionOptions(handshake_timeout=600)
    options = server_options(patient, authenticate_timeout=600.0, admission=admission)
    async with serving(options, ssl=server_tls(own.certificate, own.key), unary_call=echo) as running:
        silent = [socket.create_connection(running.address) for _ in range(4)]
        async with await running.peer(ssl=client_tls(authority.certificate)) as peer:
            assert (await peer.call(UNARY, simple(b"x"))).status == 0
            assert running.server.connection_limiter.refused["anonymous"] == 3
            async with asyncio.timeout(WAIT):
                assert await asyncio.gather(*map(hung_up, silent[:3])) == [True] * 3
        silent[3].close()
        await eventually(lambda: running.server.connection_limiter.taken == 0)


# -- useless work -------------------------------------------------------------------------------------------


def few(**changes: Any) -> AdmissionOptions:
    """Return options that let an address make 100 failing calls at once, and 20 a second."""
    defaults: dict[str, Any] = {"failing_calls": 20, "unlimited": LOOPBACK}
    return AdmissionOptions(**defaults | changes)


def failing(peer: Peer, amount: int, path: str = "/no/Method") -> None:
    """Make calls that have no method."""
    for _ in range(amount):
        peer.request(path)


async def test_many_failing_calls_end_a_connection() -> None:
    """With GOAWAY and ENHANCE_YOUR_CALM; what others did with the same address is left alone."""
    async with serving(server_options(admission=few()), unary_call=echo) as running:
        async with await running.peer() as honest, await running.peer() as peer:
            failing(peer, 200)
            assert await peer.closed() == ENHANCE_YOUR_CALM
            failing(honest, 5)
            assert (await honest.call(UNARY, simple(b"x"))).status == 0
        async with await running.peer() as again:  # a new connection does not begin anew
            failing(again, 95)
            await again.closed()
        assert running.server.connection_limiter.refused["useless"] == 2


@pytest.mark.parametrize(
    "frames",
    [
        lambda _: ping(),
        lambda _: window_update(0, 1),
        lambda _: frame(Kind.PRIORITY, 0, 3, bytes(5)),
        lambda _: frame(0xFA, 0, 0, bytes(40)),
        lambda _: frame(Kind.SETTINGS),
        lambda i: frame(Kind.HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, encode(request_fields(UNARY))),
        lambda i: frame(
            Kind.HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, encode(request_fields(UNARY, method=b"GET"))
        ),
    ],
    ids=["PING", "WINDOW_UPDATE", "PRIORITY", "unknown", "SETTINGS", "no message", "GET"],
)
async def test_useless_frames_end_a_connection(frames: Any) -> None:
    """Whatever they are; each one is told why."""
    async with serving(server_options(admission=few()), unary_call=echo) as running:
        async with await running.peer() as peer:
            with suppress(ConnectionError):
                for batch in range(0, 50_000, 500):
                    peer.send(b"".join(map(frames, range(batch, batch + 500))))
                    await peer.pong()
                    peer.pongs.clear()  # looking through all of them takes longer each time
                    if peer.ended:
                        break
            assert await peer.closed() == ENHANCE_YOUR_CALM
        await eventually(lambda: running.server.connections == 0)


async def test_frames_that_answer_what_was_sent_are_free() -> None:
    """A client that opens its windows for each message, and measures the way, is none that floods."""
    async with serving(server_options(admission=few()), unary_call=echo) as running:
        async with await running.peer() as peer:
            for _ in range(2000):
                assert (await peer.call(UNARY, simple(bytes(100)))).status == 0
                for _ in range(3):
                    peer.send(window_update(0, 1))
                peer.send(ping())
            assert not peer.ended
        assert running.server.connection_limiter.refused["useless"] == 0


async def test_a_proxy_may_do_more() -> None:
    """Many clients share its connections."""
    options = server_options(admission=few(proxies=LOOPBACK))
    async with serving(options, unary_call=echo) as running, await running.peer() as peer:
        failing(peer, 250)
        await peer.pong()
        failing(peer, 250)
        assert (await peer.call(UNARY, simple(b"x"))).status == 0


async def test_an_address_that_floods_waits() -> None:
    """Its next connection is refused, and after a while it is not."""
    options = server_options(admission=few(unlimited=(), longest_wait=0.8))
    async with serving(options, unary_call=echo) as running:
        async with await running.peer() as peer:
            failing(peer, 200)
            await peer.closed()
        async with await running.peer(start=False) as refused:
            await refused.frame()
            assert refused.ended
        assert running.server.connection_limiter.refused["waiting"] == 1
        await asyncio.sleep(0.9)
        async with await running.peer() as peer:
            assert (await peer.call(UNARY, simple(b"x"))).status == 0


# -- peers that do not do their part ------------------------------------------------------------------------


async def test_a_peer_that_does_not_acknowledge_settings_is_dropped() -> None:
    """What it is refused for having too many calls would pile up without an end."""
    connection = ConnectionOptions(handshake_timeout=0.8)
    async with serving(server_options(connection), unary_call=echo) as running:
        peer = await running.peer(start=False)
        peer.acknowledge_settings = False
        await peer.start()
        assert (await peer.call(UNARY, simple(b"x"))).status == 0
        await peer.closed()
        assert running.server.connection_limiter.refused["handshake"] == 1


async def test_a_peer_whose_transport_stays_full_is_dropped() -> None:
    """Though it goes on sending; one that takes a little is not."""

    async def endless(request: object, call: ServerCall) -> None:
        while True:
            call.send(output(10_000))
            await call.ready()

    connection = ConnectionOptions(stall_timeout=0.5)
    async with serving(server_options(connection), streaming_output_call=endless) as running:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, running.address)
        _, writer = await asyncio.open_connection(sock=sock, limit=1024)
        largest = 2**31 - 1
        writer.write(PREFACE + settings({0x4: largest}) + frame(Kind.SETTINGS, ACK))
        writer.write(window_update(0, largest - 65_535) + headers(1, request_fields(DOWNLOAD)))
        writer.write(data(1, ask(), end=True))

        def dropped() -> bool:
            writer.write(ping())
            return running.server.connection_limiter.refused["stalled"] == 1

        await eventually(dropped)
        writer.transport.abort()


# -- turns --------------------------------------------------------------------------------------------------


class Worker:
    """A connection with so many turns' worth of bytes."""

    def __init__(self, name: str, left: int, turns: Turns, log: list[str], *, cost: float = 0.0) -> None:
        self.name, self.left, self.turns, self.log, self.cost = name, left, turns, log, cost
        self.stranger = name == "x"
        self.account = Account()

    def take_turn(self, seconds: float) -> bool:
        """Take one."""
        self.log.append(self.name)
        self.left -= 1
        if self.stranger:
            self.turns.charge_strangers(self.cost)
        else:
            self.turns.charge(self.account, seconds, perf_counter())
        return self.left > 0


async def test_connections_take_turns() -> None:
    """One slice for each line in a turn of the loop."""
    log: list[str] = []
    turns = Turns(asyncio.get_running_loop())
    for name, left in (("a", 3), ("b", 1), ("x", 2)):
        turns.wait(Worker(name, left, turns, log))
    await eventually(lambda: len(log) == 6)
    assert log == ["a", "x", "b", "x", "a", "a"]


async def test_strangers_have_a_share() -> None:
    """When it is used up they wait, and the others do not."""
    log: list[str] = []
    turns = Turns(asyncio.get_running_loop())
    turns.wait(Worker("x", 1000, turns, log, cost=0.3))
    await eventually(lambda: log == ["x", "x"])
    assert turns.strangers_wait() > 0.0
    turns.wait(Worker("a", 2, turns, log))
    await eventually(lambda: log[2:] == ["a", "a"])
    await eventually(lambda: len(log) == 5)  # after half a second
    assert log[-1] == "x"
