"""A TCP proxy that cuts a connection at an exact byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class CuttingProxy:
    """Passes bytes on, until it has passed as many as it was told; then both ends are gone.

    Attributes:
        cuts: connections that were cut.
        frozen: whether nothing is passed on, as if the machine were gone.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._left: dict[str, int] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.cuts = 0
        self.frozen = False

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self, port: int = 0) -> None:
        """Listen on a port; 0 = any free one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self._cut_all()

    def cut_after(self, direction: str, count: int) -> None:
        """Pass on `count` more bytes in this direction, ``up`` to the server or ``down``, and then cut."""
        self._left = {direction: count}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, up_writer}
        await asyncio.gather(self._pass(reader, up_writer, "up"), self._pass(up_reader, writer, "down"))
        self._writers -= {writer, up_writer}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        try:
            while data := await reader.read(65_536):
                if self.frozen:
                    continue
                left = self._left.get(direction)
                if left is not None and len(data) >= left:
                    self._left = {}
                    writer.write(data[:left])
                    await writer.drain()
                    self.cuts += 1
                    self._cut_all()
                    return
                if left is not None:
                    self._left[direction] = left - len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def _cut_all(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def cutting(port: int) -> AsyncIterator[CuttingProxy]:
    """Run a proxy to a port of this machine for as long as the block lasts."""
    proxy = CuttingProxy(port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
