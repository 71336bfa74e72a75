"""A client that speaks HTTP/2 frame by frame over a real socket, so that it can also break the rules.

It does nothing on its own but acknowledge SETTINGS, answer PINGs and give back window, and each of these can
be switched off. It reads only when a test waits for something: a test that waits for nothing is a client that
does not read.
"""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import Self

from hpack import Decoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WAIT = 90.0
"""Seconds after which a test gives up waiting; nothing here should take a tenth of it."""

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8

INITIAL_WINDOW_SIZE = 0x4
DEFAULT_WINDOW = 65_535
MAX_FRAME = 16_384

HeaderFields = Iterable[tuple[bytes, bytes]]


class Kind(IntEnum):
    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    flags: int
    stream_id: int
    payload: bytes


@dataclass(slots=True)
class Response:
    """What the server sent on one stream."""

    headers: list[dict[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def initial(self) -> dict[bytes, bytes]:
        return self.headers[0]

    @property
    def trailers(self) -> dict[bytes, bytes]:
        """The last header block: after a body the trailers, without one the only block."""
        return self.headers[-1]

    @property
    def status(self) -> int | None:
        """The gRPC status, None when there is none."""
        value = self.trailers.get(b"grpc-status") if self.headers else None
        return None if value is None else int(value)

    @property
    def message(self) -> str:
        return self.trailers.get(b"grpc-message", b"").decode()

    @property
    def messages(self) -> list[bytes]:
        """The payloads of the length-prefixed messages in the body."""
        return split(bytes(self.body))


def split(body: bytes) -> list[bytes]:
    """Return the payloads of whole length-prefixed messages."""
    found = []
    while len(body) >= 5 and len(body) >= 5 + (size := int.from_bytes(body[1:5], "big")):
        found.append(body[5 : 5 + size])
        body = body[5 + size :]
    return found


def chunked(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut a stream at the given places, some of which give empty chunks."""
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(places)]


def prefixed(payload: bytes, flag: int = 0) -> bytes:
    """Return a length-prefixed message."""
    return struct.pack(">BI", flag, len(payload)) + payload


# -- frames -------------------------------------------------------------------------------------------------


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """Return any frame, valid or not."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload


def data(stream_id: int, body: bytes = b"", *, end: bool = False) -> bytes:
    """Return one DATA frame."""
    return frame(Kind.DATA, END_STREAM if end else 0, stream_id, body)


def headers(stream_id: int, fields: HeaderFields, *, end: bool = False) -> bytes:
    """Return one HEADERS frame with END_HEADERS."""
    flags = END_HEADERS | (END_STREAM if end else 0)
    return frame(Kind.HEADERS, flags, stream_id, encode(fields))


def settings(pairs: dict[int, int] | None = None) -> bytes:
    """Return a SETTINGS frame."""
    payload = b"".join(struct.pack(">HI", key, value) for key, value in (pairs or {}).items())
    return frame(Kind.SETTINGS, payload=payload)


def rst_stream(stream_id: int, code: int = 0x8) -> bytes:
    """Return RST_STREAM, CANCEL unless told otherwise."""
    return frame(Kind.RST_STREAM, 0, stream_id, struct.pack(">I", code))


def window_update(stream_id: int, increment: int) -> bytes:
    """Return WINDOW_UPDATE."""
    return frame(Kind.WINDOW_UPDATE, 0, stream_id, struct.pack(">I", increment))


def ping(payload: bytes = b"12345678", *, ack: bool = False) -> bytes:
    """Return a PING."""
    return frame(Kind.PING, ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int = 0, code: int = 0) -> bytes:
    """Return a GOAWAY."""
    return frame(Kind.GOAWAY, 0, 0, struct.pack(">II", last_stream_id, code))


def encode(fields: HeaderFields) -> bytes:
    """Encode a header block without the dynamic table, so that blocks may be dropped, repeated and cut."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(value: bytes) -> bytes:
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    prefix, size = bytearray((127,)), size - 127
    while size >= 128:
        prefix.append(size % 128 + 128)
        size //= 128
    return bytes((*prefix, size)) + value


def request_fields(path: bytes | str, /, extra: HeaderFields = (), **replace: bytes | None) -> HeaderFields:
    """Return the header fields of a gRPC request.

    Args:
        path: the ``:path``.
        extra: fields behind the usual ones.
        replace: usual fields to replace or, with None, to leave out, by name without ``:`` and with ``_``.
    """
    usual = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path.encode() if isinstance(path, str) else path,
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    for name, value in replace.items():
        key = name.replace("_", "-").encode()
        key = b":" + key if b":" + key in usual else key
        if value is None:
            del usual[key]
        else:
            usual[key] = value
    return [*usual.items(), *extra]


# -- the client ---------------------------------------------------------------------------------------------


class Peer:
    """One connection to a server.

    Attributes:
        responses: what came on each stream so far.
        goaways: (last stream, error code) of the GOAWAYs so far.
        pings: payloads of the server's PINGs so far, answers not included.
        pongs: payloads of the server's answers to PINGs.
        settings: the server's settings.
        ended: the server closed the connection, or reset it.
        window: what may still be sent on the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder(max_header_list_size=1 << 20)
        self._block = b""
        self._next_stream_id = 1
        self.responses: defaultdict[int, Response] = defaultdict(Response)
        self.goaways: list[tuple[int, int]] = []
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.settings: dict[int, int] = {}
        self.ended = False
        self.window = DEFAULT_WINDOW
        self._windows: defaultdict[int, int] = defaultdict(int)
        self.acknowledge_settings = True
        self.answer_pings = True
        self.give_window = True

    @classmethod
    async def connect(
        cls,
        address: tuple[str, int],
        *,
        ssl: tls.SSLContext | None = None,
        settings: dict[int, int] | None = None,
        start: bool = True,
    ) -> Self:
        """Connect, and start HTTP/2 unless told not to.

        Args:
            address: of the server.
            ssl: for TLS.
            settings: of the first SETTINGS frame.
            start: whether to send the preface and SETTINGS and wait for the server's.
        """
        host, port = address
        reader, writer = await asyncio.open_connection(
            host, port, ssl=ssl, server_hostname="localhost" if ssl else None
        )
        peer = cls(reader, writer)
        if start:
            await peer.start(settings)
        return peer

    async def start(self, pairs: dict[int, int] | None = None) -> None:
        """Send the preface and SETTINGS; wait for the server's."""
        self.send(PREFACE, settings(pairs))
        await self.until(lambda: bool(self.settings))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- sending ---------------------------------------------------------------------------------------

    def send(self, *frames: bytes) -> None:
        """Send bytes as they are. Raise `ConnectionError` when the connection is closed."""
        try:
            self._writer.write(b"".join(frames))
        except RuntimeError as error:  # uvloop's
            raise ConnectionError from error

    async def send_slowly(self, *frames: bytes) -> None:
        """Send bytes, and wait while the kernel takes no more."""
        self.send(*frames)
        async with asyncio.timeout(WAIT):
            await self._writer.drain()

    def stream_id(self) -> int:
        """Return the next stream id."""
        self._next_stream_id += 2
        return self._next_stream_id - 2

    def request(
        self,
        path: bytes | str,
        /,
        body: bytes | None = b"\0\0\0\0\0",
        extra: HeaderFields = (),
        *,
        end: bool = True,
        **replace: bytes | None,
    ) -> int:
        """Send a request and return its stream id; the body must fit the windows.

        Args:
            path: the ``:path``.
            body: of the one DATA frame; None = no DATA frame.
            extra: further header fields.
            end: whether END_STREAM follows.
            replace: see ``request_fields``.
        """
        stream_id = self.stream_id()
        fields = request_fields(path, extra, **replace)
        block = headers(stream_id, fields, end=end and body is None)
        self.send(block, b"" if body is None else self.data(stream_id, body, end=end))
        return stream_id

    def data(self, stream_id: int, body: bytes, *, end: bool = False) -> bytes:
        """Return DATA frames of the largest size and account for them."""
        self.window -= len(body)
        self._windows[stream_id] -= len(body)
        pieces = [body[i : i + MAX_FRAME] for i in range(0, len(body), MAX_FRAME)] or [b""]
        last = len(pieces) - 1
        return b"".join(data(stream_id, piece, end=end and i == last) for i, piece in enumerate(pieces))

    def stream_window(self, stream_id: int) -> int:
        """Return what may still be sent on a stream by its own window."""
        return self._windows[stream_id] + self.settings.get(INITIAL_WINDOW_SIZE, DEFAULT_WINDOW)

    def room(self, stream_id: int) -> int:
        """Return what may still be sent on a stream."""
        return min(self.window, self.stream_window(stream_id))

    async def upload(self, stream_id: int, body: bytes, *, end: bool = False) -> bool:
        """Send a body as the windows allow; False when the server answered before all was sent."""
        sent = 0
        while sent < len(body):
            await self.until(lambda: self.room(stream_id) > 0 or self.responses[stream_id].over)
            if self.responses[stream_id].over or self.ended:
                return False
            piece = body[sent : sent + self.room(stream_id)]
            sent += len(piece)
            await self.send_slowly(self.data(stream_id, piece))
        if end:
            self.send(data(stream_id, end=True))
        return True

    # -- receiving -------------------------------------------------------------------------------------

    async def frame(self) -> Frame | None:
        """Read one frame and keep the books; None when the connection is over."""
        try:
            head = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError, tls.SSLError):
            self.ended = True
            return None
        received = Frame(head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFF_FFFF, payload)
        self._note(received)
        return received

    async def until(self, condition: Callable[[], bool], timeout: float = WAIT) -> None:
        """Read until a condition holds or the connection is over."""
        async with asyncio.timeout(timeout):
            while not condition() and await self.frame() is not None:
                pass

    async def response(self, stream_id: int, timeout: float = WAIT) -> Response:
        """Read until a stream is over, or the connection, and return what came on the stream."""
        await self.until(lambda: self.responses[stream_id].over, timeout)
        return self.responses[stream_id]

    async def call(
        self, path: bytes | str, body: bytes = b"\0\0\0\0\0", extra: HeaderFields = ()
    ) -> Response:
        """Send a request and return its response."""
        return await self.response(self.request(path, body, extra))

    async def closed(self, timeout: float = WAIT) -> int | None:
        """Read until the connection is over; return the error code of the last GOAWAY, or None."""
        await self.until(lambda: False, timeout)
        self._writer.transport.abort()
        return self.goaways[-1][1] if self.goaways else None

    async def pong(self) -> None:
        """Send a PING and wait for its answer: the server has then handled everything sent before."""
        payload = struct.pack(">Q", len(self.pongs) + (1 << 32))
        self.send(ping(payload))
        await self.until(lambda: payload in self.pongs)

    def _note(self, received: Frame) -> None:
        match received.kind:
            case Kind.HEADERS | Kind.CONTINUATION:
                self._note_headers(received)
            case Kind.DATA:
                self._note_data(received)
            case Kind.RST_STREAM:
                self.responses[received.stream_id].reset = int.from_bytes(received.payload, "big")
            case Kind.WINDOW_UPDATE if received.stream_id:
                self._windows[received.stream_id] += int.from_bytes(received.payload, "big")
            case Kind.WINDOW_UPDATE:
                self.window += int.from_bytes(received.payload, "big")
            case _:
                self._note_control(received)

    def _note_control(self, received: Frame) -> None:
        match received.kind:
            case Kind.SETTINGS if not received.flags & ACK:
                self.settings.update(struct.iter_unpack(">HI", received.payload))
                if self.acknowledge_settings:
                    self.send(frame(Kind.SETTINGS, ACK))
            case Kind.PING if received.flags & ACK:
                self.pongs.append(received.payload)
            case Kind.PING:
                self.pings.append(received.payload)
                if self.answer_pings:
                    self.send(ping(received.payload, ack=True))
            case Kind.GOAWAY:
                last, code = struct.unpack_from(">II", received.payload)
                self.goaways.append((last, code))

    def _note_headers(self, received: Frame) -> None:
        response = self.responses[received.stream_id]
        self._block += received.payload
        response.ended |= bool(received.kind == Kind.HEADERS and received.flags & END_STREAM)
        if received.flags & END_HEADERS:
            response.headers.append(
                {bytes(k): bytes(v) for k, v in self._decoder.decode(self._block, raw=True)}
            )
            self._block = b""

    def _note_data(self, received: Frame) -> None:
        response = self.responses[received.stream_id]
        response.body += received.payload
        response.ended |= bool(received.flags & END_STREAM)
        if self.give_window and received.payload:
            size = len(received.payload)
            self.send(window_update(0, size), window_update(received.stream_id, size))

    # -- the end ---------------------------------------------------------------------------------------

    def half_close(self) -> None:
        """Close our side of the socket, so that nothing more can be sent."""
        self.acknowledge_settings = self.answer_pings = self.give_window = False
        self._writer.write_eof()

    def kill(self) -> None:
        """Drop the connection with a TCP reset."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        self.ended = True

    async def close(self) -> None:
        """Close the connection."""
        self._writer.transport.abort()
        self.ended = True
