"""A transport without a socket, and one turn of a connection after the other."""

from __future__ import annotations

import asyncio
from typing import Any

from windshift.rpc import Server
from windshift.rpc.admission import Slot
from windshift.rpc.server_connection import ServerConnection


class FakeTransport(asyncio.Transport):
    """Keep what is written; behave as uvloop's transports do where that is stricter than asyncio's.

    Attributes:
        written: everything written so far.
        reading: whether the protocol wants data.
    """

    def __init__(self, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = loop
        self._closing = self._lost = self._eof = False
        self.written = bytearray()
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._lost:
            raise RuntimeError("write after connection_lost")
        if self._eof:
            raise RuntimeError("write after write_eof")
        if not self._closing:
            self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._lost:
            raise RuntimeError("write_eof after connection_lost")
        self._eof = True

    def pause_reading(self) -> None:
        if self._closing:
            raise RuntimeError("pause_reading after close")
        self.reading = False

    def resume_reading(self) -> None:
        if self._closing:
            raise RuntimeError("resume_reading after close")
        self.reading = True

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self.lose, None)

    def abort(self) -> None:
        self.close()

    def lose(self, error: Exception | None = None) -> None:
        """End the connection, once."""
        self._closing = True
        if not self._lost:
            self._lost = True
            self._protocol.connection_lost(error)

    def deliver(self, data: bytes) -> None:
        """Hand received bytes to the protocol, unless it reads no more."""
        if not self._closing:
            self._protocol.data_received(data)


def connected(server: Server) -> tuple[ServerConnection, FakeTransport]:
    """Return a connection that a test drives. Useless work on it counts for no address."""
    loop = asyncio.get_running_loop()
    connection = ServerConnection(server, loop, Slot(released=True))
    transport = FakeTransport(connection.http2, loop)
    connection.http2.connection_made(transport)
    return connection, transport
