"""Frames that are each nearly free to send and not free to receive."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from .frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_FRAME,
    Kind,
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
from .serving import DUPLEX, UNARY, simple

Flood = tuple[Callable[[int], bytes], int]
"""Makes the frames of a number, and says how many there are."""

_MANY = 100_000
"""Enough for a slow machine: it may take up a thousand a second, and sockets hold megabytes of answers."""
_NOWHERE = encode(request_fields("/no/Method"))
_NAMED_ONCE = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000  # a literal that enters the header table …
_NAMED_AGAIN = b"\xbe" * 16_000  # … and 16,000 references to it, 4 KB each


def _request(i: int, block: bytes, flags: int = 0) -> bytes:
    return frame(Kind.HEADERS, END_HEADERS | flags, 2 * i + 1, block)


def _once(i: int, first: bytes, rest: bytes) -> bytes:
    return first + rest if i == 0 else rest


def rapid_reset(unary: str, body: bytes, amount: int) -> Flood:
    """Make a flood of whole calls that are cancelled at once (CVE-2023-44487)."""
    block = encode(request_fields(unary))
    return (
        lambda i: _request(i, block) + data(2 * i + 1, body, end=True) + rst_stream(2 * i + 1),
        amount,
    )


def ending(unary: str, duplex: str, body: bytes, resets: int = _MANY) -> dict[str, Flood]:
    """Make the floods that end the connection.

    Args:
        unary: a method of the server.
        duplex: another one, that waits for its client.
        body: of a call to ``unary``.
        resets: how many resets there are; those end the connection by their rate.
    """
    streaming = encode(request_fields(duplex))
    fields = [*request_fields(unary), *((b"x-%d" % i, bytes(b"y" * 1000)) for i in range(100))]
    big_block = encode(fields)

    def opened(i: int) -> bytes:
        return _request(i, streaming)

    return {
        "rapid reset": rapid_reset(unary, body, resets),
        "rapid reset of streams": (lambda i: opened(i) + rst_stream(2 * i + 1), resets),
        "resets provoked by WINDOW_UPDATE of 0": (lambda i: opened(i) + window_update(2 * i + 1, 0), resets),
        "resets provoked by window overflow": (
            lambda i: opened(i) + window_update(2 * i + 1, 0x7FFF_FFFF),
            resets,
        ),
        "resets provoked by bad headers": (lambda i: headers(2 * i + 1, [(b"A", b"b")]), resets),
        "WINDOW_UPDATE": (lambda _: window_update(0, 1), 300_000),
        "PING": (lambda _: ping(), 100_000),
        "SETTINGS": (lambda i: settings({0x4: 65_535 + i % 2}), 50_000),
        "SETTINGS acks": (lambda _: frame(Kind.SETTINGS, ACK), 1000),
        "empty DATA": (lambda i: _once(i, opened(0), data(1)), 100_000),
        "empty CONTINUATION": (lambda i: frame(Kind.HEADERS if i == 0 else Kind.CONTINUATION, 0, 1), 10_000),
        "full CONTINUATION": (
            lambda i: frame(
                Kind.HEADERS if i == 0 else Kind.CONTINUATION,
                0,
                1,
                b"\0\1a\x7f\x81\x7e" + bytes(b"x" * (MAX_FRAME - 6)),
            ),
            100,
        ),
        "PRIORITY": (lambda _: frame(Kind.PRIORITY, 0, 3, struct.pack(">IB", 1, 1)), 100_000),
        "PRIORITY_UPDATE": (lambda i: frame(0x10, 0, 0, struct.pack(">I", 2 * i + 1) + b"u=1"), 100_000),
        "unknown frames": (lambda _: frame(0xFA, 0, 0, b"x" * 10), 100_000),
        "GOAWAY": (lambda _: goaway(), 10_000),
        "streams": (opened, 10_000),
        "streams that are refused": (lambda i: _request(i, _NOWHERE, END_STREAM), 2 * _MANY),
        "a header block of 100 KB": (
            lambda i: frame(
                Kind.CONTINUATION if i else Kind.HEADERS,
                END_HEADERS if i == 6 else 0,
                1,
                big_block[i * MAX_FRAME : (i + 1) * MAX_FRAME],
            ),
            7,
        ),
        "2000 headers": (lambda i: headers(2 * i + 1, [*request_fields(unary), *[(b"x", b"y")] * 2000]), 1),
        "a compressed header bomb": (lambda i: _request(i, _NAMED_ONCE * (i == 0) + _NAMED_AGAIN), 100),
    }


def harmless(duplex: str) -> dict[str, Flood]:
    """Make floods that cost no memory and little time, so that libnghttp2 lets them be."""
    opened = _request(0, encode(request_fields(duplex)))
    return {
        "WINDOW_UPDATE": (lambda _: window_update(0, 1), 50_000),
        "DATA on a closed stream": (lambda i: _once(i, opened + rst_stream(1), data(1)), 100_000),
        "DATA behind a refusal": (lambda i: _once(i, _request(0, _NOWHERE), data(1, b"x")), 30_000),
        "messages of 5 bytes": (lambda i: _once(i, opened, data(1, bytes(5))), 10_000),
    }


ENDING = ending(UNARY, DUPLEX, simple())
HARMLESS = harmless(DUPLEX)


def pieces(flood: Flood, frames: int = 500) -> Iterator[bytes]:
    """Yield the bytes of a flood in pieces of so many frames."""
    make, amount = flood
    for i in range(0, amount, frames):
        yield b"".join(map(make, range(i, min(i + frames, amount))))
