"""More connections than there is room for: those that are there are served, and later there is room again."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hardening.target import CHECK, MODES, Target, healthy, target, tell
from tests.support.certificates import Authority
from tests.support.windshift_process import WindshiftProcess

LIMIT = 60

both = pytest.mark.parametrize("mode", MODES)


class Flood:
    """Connections that are opened and left as they are."""

    def __init__(self, server: Target) -> None:
        self._server = server
        self._sockets: list[socket.socket] = []

    def open(self, amount: int, source: str = "127.0.0.1", said: bytes = b"") -> None:
        """Open so many more, from an address, and say something on each."""
        for _ in range(amount):
            opened = socket.create_connection(self._server.address, 10, source_address=(source, 0))
            opened.setblocking(False)
            if said:
                opened.send(said)
            self._sockets.append(opened)

    @property
    def alive(self) -> int:
        """How many of them the server has not closed."""
        return sum(map(_is_open, self._sockets))

    async def until(self, alive: int) -> None:
        """Wait until so many are left, or a few less: the server may have clients from before."""
        async with asyncio.timeout(20):
            while (left := self.alive) > alive:  # noqa: ASYNC110 -- in another process
                await asyncio.sleep(0.02)
        assert left >= alive - 3

    def close(self) -> None:
        """Close them all."""
        while self._sockets:
            self._sockets.pop().close()


def _is_open(opened: socket.socket) -> bool:
    try:
        while opened.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


async def _served(server: Target) -> None:
    """Wait until a new connection is served."""
    async with asyncio.timeout(20):
        while True:
            try:
                async with await server.peer() as peer:
                    if not peer.ended and (await peer.call(CHECK)).status == 0:
                        return
            except (OSError, RuntimeError):  # the latter of a transport that is closed
                pass
            await asyncio.sleep(0.05)


@both
async def test_more_connections_than_allowed(tmp_path: Path, mode: str) -> None:
    """Those beyond are dropped at once, also before any TLS; a client that is there does not notice."""
    with target(tmp_path, mode, GRPC_MAX_CONNECTIONS=str(LIMIT)) as server:
        await server.warm_up()
        async with healthy(server) as client:
            flood = Flood(server)
            for _ in range(3):
                flood.open(2 * LIMIT)
                await flood.until(LIMIT - 1)
                assert server.process.probe("/readyz").status == 200
                flood.close()
                await _served(server)
        tell(f"a healthy client: {client}")
        assert server.process.err.count("too many connections are open") >= 1
        assert server.process.err.count("too many connections are open") < 10
        assert server.faults() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
@both
async def test_more_connections_of_one_address_than_allowed(tmp_path: Path, mode: str) -> None:
    """Other addresses are served all the same, also by the same proxy; loopback is not limited."""
    limits = {"GRPC_MAX_CONNECTIONS_PER_ADDRESS": "10", "GRPC_PROXY_PROTOCOL_FROM": "127.0.0.7"}
    with target(tmp_path, mode, **limits) as server:
        async with healthy(server):
            files = server.open_files
            for _ in range(2):
                flood, others = Flood(server), Flood(server)
                others.open(50)
                others.open(5, "127.0.0.7", b"PROXY TCP4 192.0.2.2 127.0.0.7 1 2\r\n")
                flood.open(50, "127.0.0.7", b"PROXY TCP4 192.0.2.1 127.0.0.7 1 2\r\n")
                await flood.until(10)
                assert others.alive == 55
                await _served(server)
                flood.close()
                others.close()
                await _left(server, files)
        assert server.faults() == []


@both
async def test_connections_that_come_and_go(tmp_path: Path, mode: str) -> None:
    """A thousand in a row leave no memory and no open file behind."""
    with target(tmp_path, mode) as server:
        await server.warm_up()
        await _come_and_go(server, 500)  # TLS takes half a megabyte for each at once
        before, started = server.memory, time.monotonic()
        await _come_and_go(server, 500)
        seconds = time.monotonic() - started
        growth = (server.memory - before) / 1024
        tell(f"500 connections in {seconds:.1f} s, memory +{growth:.0f} KiB")
        assert growth < 20 * 1024
        assert server.faults() == []


async def _come_and_go(server: Target, amount: int) -> None:
    flood = Flood(server)
    files = server.open_files
    for _ in range(amount // 20):
        flood.open(20)
        flood.close()
    await _served(server)
    await _left(server, files)


async def _left(server: Target, files: int) -> None:
    """Wait until the server has no more files open than before."""
    async with asyncio.timeout(20):
        while server.open_files > files:  # noqa: ASYNC110 -- in another process
            await asyncio.sleep(0.05)


def limited(directory: Path, files: int, mode: str) -> tuple[WindshiftProcess, Authority | None]:
    """Return a server that may have so many open files; it is not started."""
    authority, environment = None, {}
    if mode == "tls":
        authority = Authority(directory)
        own = authority.issue("api")
        environment = {"GRPC_TLS_CERT": str(own.certificate), "GRPC_TLS_KEY": str(own.key)}
    under = ("sh", "-c", f'ulimit -n {files} && exec "$0" "$@"')
    return WindshiftProcess(directory, under=under, **environment), authority


async def test_few_open_files(tmp_path: Path) -> None:
    """The start says for how many connections there is room; probes and NATS keep theirs."""
    process, authority = limited(tmp_path, 96, "plaintext")
    with ExitStack() as stack:
        stack.callback(process.kill)
        process.start()
        server = Target(process, authority)
        (warning,) = (
            each for each in map(json.loads, process.err.splitlines()) if each["level"] == "warning"
        )
        assert "lets 72 connections in, not GRPC_MAX_CONNECTIONS=10000" in warning["message"]
        flood = Flood(server)
        flood.open(200)
        await flood.until(72)
        assert process.probe("/readyz").status == 200
        flood.close()
        await _served(server)
        assert server.faults() == []
        assert process.stop() == 0


async def test_fewer_open_files_than_thought(tmp_path: Path) -> None:
    """Whatever uses the files up: connections wait, others are served, the processor is left in peace."""
    process, authority = limited(tmp_path, 96, "tls")
    with ExitStack() as stack:
        stack.callback(process.kill)
        process.start()
        server = Target(process, authority)
        async with await server.peer() as peer:
            assert (await peer.call(CHECK)).status == 0
            _set_limit(process, server.open_files + 5)
            flood = Flood(server)
            flood.open(15)
            process.wait_for(lambda: "connections wait to be accepted" in process.err)
            before = server.processor_seconds
            await asyncio.sleep(1)
            assert server.processor_seconds - before < 0.5
            assert (await peer.call(CHECK)).status == 0
            flood.close()
            await _served(server)
        assert server.faults() == []
        assert process.stop() == 0


def _set_limit(process: WindshiftProcess, files: int) -> None:
    """Lower the limit of a process that runs."""
    import resource  # noqa: PLC0415 -- there is none on Windows

    resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, (files, 96))
