"""What HTTP/2 does not allow, as tables for servers with any methods."""

from __future__ import annotations

from collections.abc import Callable

from .frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    Kind,
    Peer,
    data,
    encode,
    frame,
    goaway,
    headers,
    ping,
    request_fields,
    rst_stream,
    settings,
    window_update,
)

PROTOCOL_ERROR = 0x1
FLOW_CONTROL_ERROR = 0x3
STREAM_CLOSED = 0x5
FRAME_SIZE_ERROR = 0x6
COMPRESSION_ERROR = 0x9

Breach = Callable[[Peer], None]


def no_http2(path: str) -> dict[str, bytes]:
    """Return beginnings that are none: the connection is closed."""
    return {
        "http/1.1": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "h2c upgrade": b"POST " + path.encode() + b" HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
        "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        "zeros": b"\0" * 100,
        "ones": b"\xff" * 100_000,
        "wrong preface": PREFACE[:-1] + b"x",
        "lower case": PREFACE.lower(),
        "preface and http/1.1": PREFACE + b"GET / HTTP/1.1\r\n\r\n",
        "ping first": PREFACE + ping() + settings(),
        "request first": PREFACE + headers(1, request_fields(path)),
        "settings ack first": PREFACE + frame(Kind.SETTINGS, ACK),
    }


def bad_headers(path: str) -> dict[str, list[tuple[bytes, bytes]]]:
    """Return header blocks that are malformed: the stream is reset, or answered with an error."""
    return {
        "upper case name": [*request_fields(path), (b"Upper", b"x")],
        "name with space": [*request_fields(path), (b"a b", b"x")],
        "empty name": [*request_fields(path), (b"", b"x")],
        "value with line break": [*request_fields(path), (b"a", b"x\r\ny: z")],
        "value with zero": [*request_fields(path), (b"a", b"\0")],
        "connection header": [*request_fields(path), (b"connection", b"close")],
        "transfer-encoding": [*request_fields(path), (b"transfer-encoding", b"chunked")],
        "te other than trailers": list(request_fields(path, te=b"gzip")),
        "pseudo header behind": [*request_fields(path), (b":path", b"/")],
        "unknown pseudo header": [(b":x", b"y"), *request_fields(path)],
        "response pseudo header": [(b":status", b"200"), *request_fields(path)],
        "no path": list(request_fields(path, path=None)),
        "no method": list(request_fields(path, method=None)),
        "no scheme": list(request_fields(path, scheme=None)),
        "no authority": list(request_fields(path, authority=None)),
        "two paths": [(b":path", b"/"), *request_fields(path)],
        "empty path": list(request_fields(b"")),
        "wrong content-length": [*request_fields(path), (b"content-length", b"3")],
        "no number as content-length": [*request_fields(path), (b"content-length", b"-1")],
        "connect": list(request_fields(path, method=b"CONNECT")),
        "no headers": [],
    }


def breaches(path: str, streaming: str) -> dict[str, tuple[Breach, set[int]]]:
    """Return what ends a connection, with the codes that GOAWAY may then have.

    Args:
        path: of a method.
        streaming: of another one, that waits for its client.
    """

    def opened(peer: Peer) -> int:
        return peer.request(streaming, None, end=False)

    def ended(peer: Peer) -> int:
        return peer.request(streaming, None, end=True)

    return {
        "DATA after the end": (lambda p: p.send(data(ended(p), b"x")), {STREAM_CLOSED}),
        "HEADERS after the end": (
            lambda p: p.send(headers(ended(p), [(b"a", b"b")], end=True)),
            {STREAM_CLOSED, PROTOCOL_ERROR},
        ),
        "DATA on an idle stream": (lambda p: p.send(data(99, b"x")), {PROTOCOL_ERROR}),
        "DATA on stream 0": (lambda p: p.send(data(0, b"x")), {PROTOCOL_ERROR}),
        "HEADERS on stream 0": (lambda p: p.send(headers(0, request_fields(path))), {PROTOCOL_ERROR}),
        "HEADERS on an even stream": (lambda p: p.send(headers(2, request_fields(path))), {PROTOCOL_ERROR}),
        "a frame over 16 KiB": (lambda p: p.send(data(opened(p), bytes(16_385))), {FRAME_SIZE_ERROR}),
        "the stream window overrun": (
            lambda p: p.send(*(data(p._next_stream_id - 2, bytes(16_384)) for _ in range(1 + opened(p) * 5))),
            {FLOW_CONTROL_ERROR},
        ),
        "the connection window overflown": (
            lambda p: p.send(window_update(0, 0x7FFF_FFFF)),
            {FLOW_CONTROL_ERROR},
        ),
        "WINDOW_UPDATE of 0": (lambda p: p.send(window_update(0, 0)), {PROTOCOL_ERROR}),
        "WINDOW_UPDATE of 3 bytes": (
            lambda p: p.send(frame(Kind.WINDOW_UPDATE, 0, 0, b"123")),
            {FRAME_SIZE_ERROR},
        ),
        "WINDOW_UPDATE on an idle stream": (lambda p: p.send(window_update(99, 1)), {PROTOCOL_ERROR}),
        "RST_STREAM on an idle stream": (lambda p: p.send(rst_stream(99)), {PROTOCOL_ERROR}),
        "RST_STREAM on stream 0": (lambda p: p.send(rst_stream(0)), {PROTOCOL_ERROR}),
        "PING of 7 bytes": (lambda p: p.send(ping(b"1234567")), {FRAME_SIZE_ERROR}),
        "PING on a stream": (lambda p: p.send(frame(Kind.PING, 0, 1, bytes(8))), {PROTOCOL_ERROR}),
        "SETTINGS of 5 bytes": (lambda p: p.send(frame(Kind.SETTINGS, payload=b"12345")), {FRAME_SIZE_ERROR}),
        "SETTINGS on a stream": (lambda p: p.send(frame(Kind.SETTINGS, 0, 1)), {PROTOCOL_ERROR}),
        "SETTINGS ACK with a payload": (
            lambda p: p.send(frame(Kind.SETTINGS, ACK, 0, bytes(6))),
            {FRAME_SIZE_ERROR},
        ),
        "a window setting over 2 GiB": (lambda p: p.send(settings({0x4: 0x8000_0000})), {FLOW_CONTROL_ERROR}),
        "a frame size setting below 16 KiB": (lambda p: p.send(settings({0x5: 100})), {PROTOCOL_ERROR}),
        "PUSH_PROMISE of a client": (
            lambda p: p.send(frame(Kind.PUSH_PROMISE, END_HEADERS, opened(p), bytes(4))),
            {PROTOCOL_ERROR},
        ),
        "CONTINUATION alone": (lambda p: p.send(frame(Kind.CONTINUATION, END_HEADERS, 1)), {PROTOCOL_ERROR}),
        "HEADERS interrupted": (
            lambda p: p.send(frame(Kind.HEADERS, 0, 1, encode(request_fields(path))[:5]), ping()),
            {PROTOCOL_ERROR},
        ),
        "more padding than frame": (
            lambda p: p.send(frame(Kind.DATA, PADDED, opened(p), b"\xff12")),
            {PROTOCOL_ERROR},
        ),
        "bytes that are no header block": (
            lambda p: p.send(frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, b"\xff" * 50)),
            {COMPRESSION_ERROR},
        ),
        "an index outside of the header table": (
            lambda p: p.send(frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\x80\x10")),
            {COMPRESSION_ERROR},
        ),
        "GOAWAY with an impossible stream": (lambda p: p.send(goaway(99, 0)), {PROTOCOL_ERROR}),
    }
