"""A NATS server whose every word is the test's: it does what a real one does rarely or never."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeAlias

LIMIT = 30
"""Seconds that anything may take on a slow machine."""

# --- What a server writes ---------------------------------------------------------------------------------

PING, PONG, OK = b"PING\r\n", b"PONG\r\n", b"+OK\r\n"


def info_frame(**changes: Any) -> bytes:
    """Return a server's word of itself, as nats-server writes it."""
    info = {
        "server_id": "NDRZIRLVDOMH345DKFTLVKC7ZOSJ64NEHBRBP33DQ7TPQAVDALZ4SPDN",
        "version": "2.15.1",
        "proto": 1,
        "host": "127.0.0.1",
        "port": 4222,
        "headers": True,
        "max_payload": 1048576,
        "client_id": 5,
        **changes,
    }
    return b"INFO %b \r\n" % json.dumps(info, separators=(",", ":")).encode()


def message_frame(sid: int, subject: bytes, body: bytes, headers: bytes = b"", reply: bytes = b"") -> bytes:
    """Return a message, as nats-server writes it."""
    start = b"%b %d %b" % (subject, sid, reply and reply + b" ")
    if headers:
        size = len(headers)
        return b"HMSG %b%d %d\r\n%b%b\r\n" % (start, size, size + len(body), headers, body)
    return b"MSG %b%d\r\n%b\r\n" % (start, len(body), body)


def error_frame(text: str | bytes) -> bytes:
    """Return an error, as nats-server writes it."""
    return b"-ERR '%b'\r\n" % (text if isinstance(text, bytes) else text.encode())


# --- What a client writes ---------------------------------------------------------------------------------


class Operation(NamedTuple):
    """One frame of a client."""

    name: bytes
    arguments: tuple[bytes, ...] = ()
    headers: bytes = b""
    body: bytes = b""


def take_operation(unread: bytearray) -> Operation | None:
    """Take a frame off the front, as nats-server reads it; None while it is not whole."""
    line, end, _ = bytes(unread[:10_000]).partition(b"\r\n")
    if not end:
        return None
    name, *arguments = re.split(rb"[ \t]+", line)
    name = name.upper()
    if name not in (b"PUB", b"HPUB"):
        del unread[: len(line) + 2]
        return Operation(name, tuple(arguments) if name != b"CONNECT" else (line[8:],))
    start, size = len(line) + 2, int(arguments[-1])
    stop = start + size
    if len(unread) < stop + 2:
        return None
    assert unread[stop : stop + 2] == b"\r\n"
    body = start + (int(arguments[-2]) if name == b"HPUB" else 0)
    operation = Operation(name, tuple(arguments), bytes(unread[start:body]), bytes(unread[body:stop]))
    del unread[: stop + 2]
    return operation


# --- The server -------------------------------------------------------------------------------------------


class Peer:
    """A client's connection, from the server's side.

    Attributes:
        heard: everything that came in plain text, and what came in TLS behind it.
        operations: what was understood of it.
        subscriptions: the subjects that it asked for, by number.
        may_read: whether what comes is read; cleared, the client cannot send any more before long.
        ended: whether the client has ended the connection, which is seen when everything before was read.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unread = bytearray()
        self._is_mute = False
        self.heard = bytearray()
        self.operations: list[Operation] = []
        self.subscriptions: dict[int, bytes] = {}
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.ended = False

    def say(self, *frames: bytes) -> None:
        """Send frames, in one piece; none after `half_close`. Raise `OSError` when nobody is there."""
        if self._writer.is_closing():
            raise ConnectionResetError
        if not self._is_mute:
            self._writer.write(b"".join(frames))

    async def next(self) -> Operation | None:
        """Return the client's next operation; None at its end."""
        while (operation := take_operation(self._unread)) is None:
            data = await self._read()
            if not data:
                return None
            self._unread += data
        self.operations.append(operation)
        if operation.name == b"SUB":
            self.subscriptions[int(operation.arguments[-1])] = operation.arguments[0]
        elif operation.name == b"UNSUB":
            self.subscriptions.pop(int(operation.arguments[0]), None)
        return operation

    async def read_some(self) -> None:
        """Take some bytes, whatever they are."""
        await self._read()

    async def _read(self) -> bytes:
        await self.may_read.wait()
        data = await self._reader.read(65_536)
        self.heard += data
        return data

    async def until(self, name: bytes) -> Operation:
        """Read on to an operation of this name."""
        while (operation := await self.next()) is not None:
            if operation.name == name:
                return operation
        raise ConnectionResetError

    async def greet(self, **info: Any) -> None:
        """Speak first, and accept the client."""
        self.say(info_frame(**info))
        await self.accept()

    async def accept(self) -> None:
        """Wait for the client's first word, and accept it."""
        await self.until(b"PING")
        self.say(PONG)

    async def silence(self) -> None:
        """Say nothing, and take what comes to the client's end."""
        while await self._read():
            pass

    async def serve(self, hear: Callable[[Operation], None] | None = None) -> None:
        """Answer pings to the client's end, and have every operation heard."""
        while (operation := await self.next()) is not None:
            if operation.name == b"PING":
                self.say(PONG)
            if hear is not None:
                hear(operation)

    def sid(self, subject: bytes) -> int:
        """Return the number of the subscription to a subject."""
        return next(sid for sid, known in self.subscriptions.items() if known == subject)

    async def encrypt(self, context: ssl.SSLContext) -> None:
        """Go on with TLS."""
        await self._writer.start_tls(context)

    def half_close(self) -> None:
        """Say that nothing more will be said, and go on listening."""
        self._writer.write_eof()
        self._is_mute = True

    def close(self) -> None:
        """End the connection when what was said has been sent."""
        self._writer.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()


Script: TypeAlias = Callable[[Peer], Awaitable[None]]


async def honest(peer: Peer) -> None:
    """Do what a server without any other client does."""
    await peer.greet()
    await peer.serve()


class FakeServer:
    """Plays a script to each client, on a port of this machine.

    Attributes:
        peers: all connections that there were, in their order.
    """

    def __init__(self, script: Script, tls: ssl.SSLContext | None) -> None:
        self._script = script
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._playing: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException] = []
        self.peers: list[Peer] = []
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # who does not read soon shows
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._accept, sock=listener, ssl=self._tls)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        self._playing.add(task)
        try:
            await self._script(peer)
            await peer.silence()
        except (OSError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        except BaseException as error:  # noqa: BLE001 - raised where the server was asked for
            self.failures.append(error)
        finally:
            peer.ended = True
            self._playing.discard(task)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._playing:
            task.cancel()
        for peer in self.peers:
            peer.abort()
        if self.failures:
            raise self.failures[0]


@asynccontextmanager
async def fake_server(
    script: Script = honest, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FakeServer]:
    """Run a server for as long as the block lasts. What fails in a script fails there.

    Args:
        script: what it does with each client.
        tls: of its own, before the first word.
    """
    server = FakeServer(script, tls)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
