"""What clients can cost: the memory of a server in a process of its own."""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import ConnectionOptions, StatusCode

from .floods import ENDING, HARMLESS, pieces
from .frames import Peer, prefixed, window_update
from .process import READABLE, SampleProcess, sample_process
from .serving import DOWNLOAD, DUPLEX, UNARY, UPLOAD, piece, simple

pytestmark = pytest.mark.skipif(not READABLE, reason="the memory of another process is read from /proc")

SLOW = bool(os.environ.get("WINDSHIFT_TEST_SLOW"))
"""Whether to take the sizes of the project's bars, not a fraction of them."""

NEVER = "/grpc.testing.TestService/HalfDuplexCall"
MB = 1_000_000
WINDOW = ConnectionOptions().stream_window


@pytest.fixture
async def server() -> AsyncIterator[SampleProcess]:
    """Run a server and let it reach its usual size."""
    async with sample_process() as process:
        async with await process.peer() as peer:
            for _ in range(200):
                await peer.call(UNARY, simple(bytes(1000)))
        yield process


def download(size: int) -> bytes:
    """Return a request for endless messages of a size."""
    parameters = [messages_pb2.ResponseParameters(size=size)]
    request = messages_pb2.StreamingOutputCallRequest(response_parameters=parameters)
    return prefixed(request.SerializeToString())


# -- clients that do not read -------------------------------------------------------------------------------


async def stalled(
    stack: AsyncExitStack, server: SampleProcess, size: int, window: int, connections: int
) -> None:
    """Open ten streams on each of some connections and read nothing of them."""
    for _ in range(connections):
        peer = await stack.enter_async_context(await server.peer(settings={0x4: window}))
        peer.send(window_update(0, window))
        for _ in range(10):
            peer.request(DOWNLOAD, download(size))


async def all_wait(server: SampleProcess, streams: int) -> None:
    """Wait until every handler waits for its client."""
    async with asyncio.timeout(30):
        while await server.waiting() != streams:  # noqa: ASYNC110 -- in another process
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("window", [65_535, 1 << 30], ids=["no window", "full socket"])
@pytest.mark.parametrize("size", [1000, 64_000, 1_000_000])
async def test_a_stream_that_nobody_reads_costs_little(server: SampleProcess, size: int, window: int) -> None:
    """100 streams on ten connections: each holds one message, not two, and some buffers."""
    async with AsyncExitStack() as stack:
        await stalled(stack, server, size, window, 1)
        await all_wait(server, 10)
    await all_wait(server, 0)
    before = await server.memory()
    async with AsyncExitStack() as stack:
        await stalled(stack, server, size, window, 10)
        await all_wait(server, 100)
        each = (await server.memory() - before) / 100
        print(f"{each / 1000:.0f} KB for each stalled stream of messages of {size} bytes")  # noqa: T201 -- a figure to quote
        assert each <= size + max(100_000, size // 2)
        await asyncio.gather(*(healthy(server) for _ in range(3)))
    await all_wait(server, 0)


async def healthy(server: SampleProcess) -> None:
    """Check that clients that read are served meanwhile."""
    async with await server.peer() as peer:
        stream_id = peer.request(DOWNLOAD, download(10_000))
        await peer.until(lambda: len(peer.responses[stream_id].body) > 2 * MB)
        slowest = 0.0
        for _ in range(50):
            started = time.monotonic()
            assert (await peer.call(UNARY)).status == 0
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 10


async def test_stalling_again_and_again_costs_no_more(server: SampleProcess) -> None:
    """What a stalled stream held is free again when its client has gone."""
    sizes = []
    for _ in range(6):
        async with AsyncExitStack() as stack:
            await stalled(stack, server, 64_000, 1 << 30, 5)
            await all_wait(server, 50)
            sizes.append(await server.memory())
        await all_wait(server, 0)
    assert sizes[-1] - sizes[1] < 3 * MB


# -- uploads ------------------------------------------------------------------------------------------------


async def upload(peer: Peer, path: str, size: int, message: int, server: SampleProcess) -> int:
    """Upload so many bytes in messages of a size; return the most memory that the server had meanwhile."""
    body = piece(bytes(message))
    stream_id = peer.request(path, None, end=False)
    server.forget_peak()
    for _ in range(size // message):
        assert await peer.upload(stream_id, body)
    peer.send(peer.data(stream_id, b"", end=True))
    assert (await peer.response(stream_id, 600)).status == 0
    return server.peak()


@pytest.mark.timeout(900 if SLOW else 60)
@pytest.mark.parametrize(("path", "message"), [(UPLOAD, 16_000), (UPLOAD, 1_000_000), (DUPLEX, 1_000_000)])
async def test_an_upload_costs_little_however_slow_its_handler(
    server: SampleProcess, path: str, message: int
) -> None:
    """The client waits for the handler; the server keeps a window and a message (1 GB in the long run)."""
    slow_path = path == UPLOAD
    total = (1000 * MB if message == MB else 100 * MB) if SLOW else (20 * MB if slow_path else 100 * MB)
    async with await server.peer() as peer:
        await upload(peer, path, 2 * message, message, server)
        before = await server.memory()
        growth = await upload(peer, path, total, message, server) - before
        print(f"{growth / MB:.1f} MB for an upload of {total // MB} MB")  # noqa: T201 -- a figure to quote
        assert growth <= 10 * MB


async def test_uploads_that_no_handler_takes_cost_their_windows(server: SampleProcess) -> None:
    """100 streams full to the brim: at most two windows each, with all that a call needs besides."""
    before = await server.memory()
    async with AsyncExitStack() as stack:
        for _ in range(10):
            peer = await stack.enter_async_context(await server.peer())
            await peer.pong()
            for _ in range(10):
                peer.request(NEVER, bytes(WINDOW), end=False)
            await peer.pong()
        each = (await server.memory() - before) / 100
        print(f"{each / 1000:.0f} KB for each full stream")  # noqa: T201 -- a figure to quote
        assert each <= 2 * WINDOW


# -- bombs and floods ---------------------------------------------------------------------------------------


def bomb(megabytes: int) -> bytes:
    """Return a gzip of so many MiB of zeros, about a thousandth of that, without inflating it all here."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = compressor.compress(b"") + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return head + block * megabytes


async def test_a_gzip_bomb_costs_no_more_than_the_limit(server: SampleProcess) -> None:
    """4 MB that would become 4 GB; refused long before that."""
    bytes_of_bomb = bomb(3800)
    assert 3 * MB < len(bytes_of_bomb) < 4 * MB
    before = await server.memory()
    server.forget_peak()
    async with await server.peer() as peer:
        for path in (UNARY, UPLOAD):
            stream_id = peer.request(path, None, [(b"grpc-encoding", b"gzip")], end=False)
            assert await peer.upload(stream_id, prefixed(bytes_of_bomb, 1), end=True)
            started = time.monotonic()
            assert (await peer.response(stream_id)).status == StatusCode.RESOURCE_EXHAUSTED
            assert time.monotonic() - started < 10
    print(f"{(server.peak() - before) / MB:.1f} MB for a bomb")  # noqa: T201 -- a figure to quote
    assert server.peak() - before <= 32 << 20


@pytest.mark.timeout(180)
async def test_floods_cost_no_memory(server: SampleProcess) -> None:
    """Every flood in turn, and the server is as before."""
    before = await server.memory()
    server.forget_peak()
    for make, amount in (*ENDING.values(), *HARMLESS.values()):
        async with await server.peer() as peer:
            with suppress(ConnectionError, TimeoutError):  # the latter when answers are in the way
                for part in pieces((make, min(amount, 30_000))):
                    if peer._writer.transport.is_closing():
                        break
                    await peer.send_slowly(part)
    print(f"{(server.peak() - before) / MB:.1f} MB for floods")  # noqa: T201 -- a figure to quote
    assert server.peak() - before <= 40 << 20
    assert await server.memory() - before <= 20 << 20


# -- many, for long -----------------------------------------------------------------------------------------

KILLED = 1000 if SLOW else 200
REQUESTS = 1_000_000 if SLOW else 10_000


async def use_and_kill(server: SampleProcess, connections: int) -> None:
    """Open connections with calls in every state and kill them."""
    for i in range(connections):
        peer = await server.peer(start=False)
        peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        peer.request(NEVER, piece(bytes(10_000)), end=False)
        peer.request(DOWNLOAD, download(1000))
        peer.request(UNARY, simple()[:-1], end=False)
        peer.request("/no/Method", None, end=False)
        if i % 2:
            await peer.until(lambda peer=peer: bool(peer.responses[3].body))  # type: ignore[misc]
        peer.kill()


@pytest.mark.timeout(1800 if SLOW else 60)
async def test_memory_is_flat_over_many_requests_and_killed_connections(server: SampleProcess) -> None:
    """After a first round nothing grows any more (1,000,000 requests, 1,000 kills in the long run)."""
    sizes = []
    for _ in range(5):
        await use_and_kill(server, KILLED // 5)
        async with await server.peer() as peer:
            for _ in range(REQUESTS // 5 // 100):
                ids = [peer.request(UNARY, simple(bytes(100))) for _ in range(100)]
                for stream_id in ids:
                    assert (await peer.response(stream_id)).status == 0
                peer.responses.clear()
        sizes.append(await server.memory())
    print("MB after each round:", [round(size / MB, 1) for size in sizes])  # noqa: T201 -- a figure to quote
    assert sizes[-1] - sizes[1] < 2 * MB
