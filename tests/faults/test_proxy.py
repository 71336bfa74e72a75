"""The proxy does what is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.faults.proxy import Proxy, running_proxy


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Run a proxy to a server that says everything again."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with running_proxy("127.0.0.1", port) as proxy:
            yield proxy


async def test_passes_on(proxy: Proxy) -> None:
    """Data go both ways, and so does the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"a" * 300_000)
    assert await reader.readexactly(300_000) == b"a" * 300_000
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()


async def test_stalls_and_flows(proxy: Proxy) -> None:
    """Nothing comes while it is stalled, and everything afterwards."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.stall()
    writer.write(b"word")
    reading = asyncio.create_task(reader.readexactly(4))
    await asyncio.wait((reading,), timeout=0.2)
    assert not reading.done()
    proxy.flow()
    assert await reading == b"word"
    writer.close()


async def test_delays(proxy: Proxy) -> None:
    """A piece takes its time, in each direction."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.delay = 0.1
    start = asyncio.get_running_loop().time()
    writer.write(b"word")
    await reader.readexactly(4)
    assert asyncio.get_running_loop().time() - start >= 0.19
    writer.close()


async def test_cuts(proxy: Proxy) -> None:
    """A connection that is cut is reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"word")
    await reader.readexactly(4)
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()


async def test_injects(proxy: Proxy) -> None:
    """A client reads what was slipped in, and then the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"word")
    await reader.readexactly(4)
    proxy.inject(b"-ERR\r\n")
    assert await reader.read() == b"-ERR\r\n"
    writer.close()
