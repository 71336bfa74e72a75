"""Who may come in: how many connections at once, of whom, and what happens without any files left."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from tests.support.certificates import Authority
from windshift.rpc import (
    AdmissionOptions,
    ConnectionOptions,
    client_tls,
    close_sockets,
    hold_port,
    open_sockets,
    server_tls,
)
from windshift.rpc.listening import Listener, RejectionLog

from .frames import Peer
from .serving import UNARY, Serving, echo, eventually, server_options, serving, simple


class Hours:
    """A clock that is set by hand."""

    now = 100.0

    def time(self) -> float:
        """Return seconds."""
        return self.now


def test_refusals_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The first is told, further ones are counted, and the next one after ten seconds tells how many."""
    clock = Hours()
    log = RejectionLog(cast("asyncio.AbstractEventLoop", clock))
    for seconds in (0, 1, 9):
        clock.now = 100.0 + seconds
        log.rejected("192.0.2.1", "why")
    clock.now = 111.0
    log.rejected("192.0.2.2", "why")
    first, second = (vars(record) for record in caplog.records)
    assert (first["peer"], "more" in first) == ("192.0.2.1", False)
    assert (second["peer"], second["more"]) == ("192.0.2.2", 2)


# -- at a server --------------------------------------------------------------------------------------------


async def refused(running: Serving) -> bool:
    """Tell whether another connection is dropped at once."""
    async with await running.peer(start=False) as peer:
        await peer.frame()
        return peer.ended


async def serves(running: Serving) -> bool:
    """Tell whether another connection is served."""
    async with await running.peer(start=False) as peer:
        await peer.start()
        return not peer.ended and (await peer.call(UNARY, simple(b"x"))).status == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
async def test_an_address_over_its_limit_is_dropped() -> None:
    """Others, and the same one later, are served."""
    options = server_options(admission=AdmissionOptions(places=4, per_address=2))
    async with serving(options, unary_call=echo) as running:
        first, second = await running.peer(), await running.peer()
        assert await refused(running)
        other = await asyncio.open_connection(*running.address, local_addr=("127.0.0.2", 0))
        async with Peer(*other) as peer:
            await peer.start()
            assert (await peer.call(UNARY, simple(b"x"))).status == 0
        await first.close()
        await eventually(lambda: running.server.connections == 1)
        assert await serves(running)
        await second.close()


async def test_a_handshake_that_does_not_begin_takes_a_place(tmp_path: Path) -> None:
    """A TCP connection counts before there is any TLS; its place is free when its time is over."""
    authority = Authority(tmp_path)
    own = authority.issue("api")
    options = server_options(ConnectionOptions(handshake_timeout=1.0), admission=AdmissionOptions(places=3))
    client = client_tls(authority.certificate)
    async with (
        serving(options, ssl=server_tls(own.certificate, own.key), unary_call=echo) as running,
        await running.peer(ssl=client) as peer,
    ):
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(socket.create_connection(running.address))
            await eventually(lambda: running.server.connection_limiter.taken == 3)
            assert await refused(running)
            assert (await peer.call(UNARY, simple(b"x"))).status == 0
            await eventually(lambda: running.server.connection_limiter.taken == 1)
        async with await running.peer(ssl=client) as second:
            assert (await second.call(UNARY, simple(b"x"))).status == 0
        await eventually(lambda: running.server.connection_limiter.taken == 1)


async def test_a_server_that_is_closed_leaves_no_handshake(tmp_path: Path) -> None:
    """Connections in their handshakes are dropped with the others."""
    authority = Authority(tmp_path)
    own = authority.issue("api")
    async with serving(ssl=server_tls(own.certificate, own.key)) as running:
        with socket.create_connection(running.address) as silent:
            await eventually(lambda: len(running.server._beginning) == 1)
            running.server.close()
            silent.setblocking(False)
            async with asyncio.timeout(30):
                assert await asyncio.get_running_loop().sock_recv(silent, 1) == b""
    assert running.server.connection_limiter.taken == 0


async def test_the_window_of_a_connection_follows_its_streams() -> None:
    """Twice what all of them may send, whether there are few or many."""
    for streams, window in ((1, 131_072), (256, 1 << 25), (10_000, 2 * 10_000 * 65_536)):
        options = server_options(ConnectionOptions(max_concurrent_streams=streams))
        async with serving(options, unary_call=echo) as running, await running.peer() as peer:
            await peer.pong()
            assert (peer.settings[0x3], peer.window) == (streams, window)
            assert (await peer.call(UNARY, simple(bytes(60_000)))).status == 0


# -- sockets ------------------------------------------------------------------------------------------------


async def test_a_name_is_listened_on_at_all_its_addresses() -> None:
    """With one port for all of them, also a free one."""
    sockets = await open_sockets("localhost", 0)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    for sock in sockets:
        sock.close()


async def test_an_address_of_somebody_else_is_an_error() -> None:
    """As is a port in use; nothing stays open then."""
    with pytest.raises(OSError) as caught:
        await open_sockets("192.0.2.1", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError) as caught:
        await open_sockets("127.0.0.1", taken.getsockname()[1])
    assert caught.value.errno == errno.EADDRINUSE


async def test_without_files_connections_wait(caplog: pytest.LogCaptureFixture) -> None:
    """The process says so once, turns to other work, and accepts them when it has files again."""
    loop = asyncio.get_running_loop()
    accepted: list[socket.socket] = []

    def take(sock: socket.socket, _: str) -> float:
        accepted.append(sock)
        return 0.0

    sockets = await open_sockets("127.0.0.1", 0)
    listener = Listener(sockets, take, loop)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(sockets[0].getsockname())
        resource.setrlimit(resource.RLIMIT_NOFILE, (_lowest_free(), hard))
        try:
            await eventually(lambda: "connections wait" in caplog.text)
            busy = loop.time()
            await asyncio.sleep(0.2)
            assert loop.time() - busy < 10
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await eventually(lambda: len(accepted) == 3)
    assert len(caplog.records) == 1
    for sock in accepted:
        sock.close()
    listener.close()


async def test_a_listener_may_be_closed_while_it_waits() -> None:
    """It does not come back."""
    sockets = await open_sockets("127.0.0.1", 0)
    listener = Listener(sockets, lambda *_: 0.0, asyncio.get_running_loop())
    listener._wait(1.0)
    assert listener._pause is not None
    listener.close()
    assert listener._pause.cancelled()


def _lowest_free() -> int:
    """Return the lowest number that no file has: the limit that lets none be opened."""
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


# -- a port for several processes ---------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="other systems share ports in other ways")
async def test_a_port_is_held_for_those_who_share_it() -> None:
    """Others may listen there with `reuse_port`, and get all connections; nobody else gets the port."""
    held = await hold_port("localhost", 0, is_shared=False)
    port = held[0].getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        await open_sockets("localhost", port)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))
    listening = await open_sockets("localhost", port, reuse_port=True)
    for _ in range(10):
        socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(OSError, match="in use"):
        await hold_port("localhost", port, is_shared=False)
    close_sockets([*await hold_port("localhost", port, is_shared=True), *listening, *held])
