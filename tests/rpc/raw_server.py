"""A server that speaks HTTP/2 frame by frame over a real socket, as the test tells it.

Each connection is a ``Peer``: what the client sent on a stream stands in its ``responses``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from .frames import PREFACE, WAIT, HeaderFields, Peer, data, headers, prefixed, settings

GRPC_HEADERS = [(b":status", b"200"), (b"content-type", b"application/grpc")]
OK = [(b"grpc-status", b"0")]


@dataclass
class RawServer:
    """A listening socket.

    Attributes:
        target: of channels to it.
        accepted: how many connections were made so far.
    """

    target: str = ""
    accepted: int = 0
    _arrived: asyncio.Queue[Peer] = field(default_factory=asyncio.Queue)
    _peers: list[Peer] = field(default_factory=list)

    async def accept(self, pairs: dict[int, int] | None = None) -> Peer:
        """Wait for the next connection and start HTTP/2 on it.

        Args:
            pairs: of the first SETTINGS frame.
        """
        peer = await self.accept_silently()
        async with asyncio.timeout(WAIT):
            assert await peer._reader.readexactly(len(PREFACE)) == PREFACE
        peer.send(settings(pairs))
        await peer.until(lambda: bool(peer.settings))
        return peer

    async def accept_silently(self) -> Peer:
        """Wait for the next connection and say nothing."""
        async with asyncio.timeout(WAIT):
            return await self._arrived.get()

    def arrive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection."""
        self.accepted += 1
        peer = Peer(reader, writer)
        self._peers.append(peer)
        self._arrived.put_nowait(peer)

    async def close(self) -> None:
        """Close every connection."""
        for peer in self._peers:
            await peer.close()


@asynccontextmanager
async def raw_server() -> AsyncIterator[RawServer]:
    """Listen on a free port."""
    server = RawServer()
    listener = await asyncio.start_server(server.arrive, "127.0.0.1", 0)
    server.target = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await server.close()


def answer(
    stream_id: int,
    *payloads: bytes,
    initial: Iterable[tuple[bytes, bytes]] = (),
    trailers: HeaderFields = OK,
) -> bytes:
    """Return a whole response in frames."""
    frames = [headers(stream_id, [*GRPC_HEADERS, *initial])]
    frames += [data(stream_id, prefixed(payload)) for payload in payloads]
    return b"".join([*frames, headers(stream_id, trailers, end=True)])
