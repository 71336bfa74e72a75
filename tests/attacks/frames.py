"""Attacks on the transport: what nobody needs credentials for, written frame by frame."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import Final

from tests.attacks.place import HOSTILE, PROXY, Place
from tests.authorization.policies import token_of
from tests.hardening.target import CHECK, CONSUME, NOTHING, PUBLISH
from tests.rpc.floods import Flood, ending, harmless
from tests.rpc.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    INITIAL_WINDOW_SIZE,
    PREFACE,
    Kind,
    data,
    encode,
    frame,
    prefixed,
    request_fields,
    settings,
    window_update,
)

CONNECTIONS: Final = 10
_WATCH: Final = "/grpc.health.v1.Health/Watch"
_HELLO: Final = PREFACE + settings() + frame(Kind.SETTINGS, ACK)
_FRAMES: Final = 12_000
_BYTES: Final = 2 << 20
"""How much a flood sends on one connection at most; then it connects anew."""

_addresses = count()


def _connect(place: Place, address: str | None = None) -> socket.socket:
    """Connect as a client elsewhere does: by a proxy that tells its address."""
    number = next(_addresses)
    address = address or f"198.18.{number // 250 % 250}.{number % 250 + 1}"
    connection = socket.create_connection(("127.0.0.1", place.api), 5, source_address=(PROXY, 0))
    connection.sendall(f"PROXY TCP4 {address} 127.0.0.1 1 {place.api}\r\n".encode())
    return connection


def flood(
    made: Callable[[], bytes], *, read: bool = True, addresses: bool = False
) -> Callable[[Place], None]:
    """Make an attack that sends the same bytes on many connections, and on new ones when they are closed.

    Args:
        made: makes what is sent on each connection.
        read: whether the client reads what it is sent.
        addresses: whether each connection comes from an address of its own.
    """

    def attack(place: Place) -> None:
        blob = made()
        end = time.monotonic() + place.seconds
        with selectors.DefaultSelector() as selector:
            for _ in range(CONNECTIONS):
                _join(selector, place, addresses)
            while time.monotonic() < end:
                for key, events in selector.select(0.1):
                    if not _go_on(key, events, blob, read):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]
                        _join(selector, place, addresses)

    return attack


def _join(selector: selectors.BaseSelector, place: Place, addresses: bool) -> None:
    with suppress(OSError):  # refused: the next one may get in
        connection = _connect(place, None if addresses else "203.0.113.7")
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, [0])


def _go_on(key: selectors.SelectorKey, events: int, blob: bytes, read: bool) -> bool:
    """Send and read what is possible; False = the connection is of no use any more."""
    connection, sent = key.fileobj, key.data
    assert isinstance(connection, socket.socket)
    try:
        if events & selectors.EVENT_READ and read and not connection.recv(1 << 18):
            return False
        if events & selectors.EVENT_WRITE:
            if sent[0] >= len(blob):
                return False
            sent[0] += connection.send(blob[sent[0] : sent[0] + (1 << 18)])
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True


def _blob(made: Flood) -> bytes:
    make, amount = made
    out = bytearray(_HELLO)
    for number in range(min(amount, _FRAMES)):
        out += make(number)
        if len(out) > _BYTES:
            break
    return bytes(out)


def _calls(path: str, body: bytes = NOTHING, token: str | None = None, amount: int = 9000) -> bytes:
    """Write many calls whose answers nobody awaits."""
    extra = [(b"authorization", f"Bearer {token}".encode())] if token else []
    block = encode(request_fields(path, extra))
    return _HELLO + b"".join(
        frame(Kind.HEADERS, END_HEADERS, 2 * i + 1, block) + data(2 * i + 1, body, end=True)
        for i in range(amount)
    )


# Connections that stay


@contextmanager
def _crowd(place: Place, size: int, hello: bytes, end: float) -> Iterator[list[socket.socket]]:
    """Open connections, each from an address of its own, as many as the server takes until the end."""
    crowd: list[socket.socket] = []
    try:
        while len(crowd) < size and time.monotonic() < end:
            with suppress(OSError):
                crowd.append(_connect(place))
                crowd[-1].sendall(hello)
                crowd[-1].setblocking(False)
        yield crowd
    finally:
        for each in crowd:
            each.close()


def idle(place: Place) -> None:
    """Open 2,000 connections from as many addresses, and do nothing."""
    end = time.monotonic() + place.seconds
    with _crowd(place, 2000, _HELLO, end):
        time.sleep(max(0.0, end - time.monotonic()))


def half_sent(place: Place) -> None:
    """Send most of 4 MB on each of 20 calls of 30 connections, with credentials, and never the rest."""
    end = time.monotonic() + place.seconds
    extra = [(b"authorization", f"Bearer {token_of(HOSTILE)}".encode())]
    block = encode(request_fields(PUBLISH, extra))
    head = b"\0" + (4 << 20).to_bytes(4, "big")
    opened = b"".join(
        frame(Kind.HEADERS, END_HEADERS, 2 * i + 1, block) + data(2 * i + 1, head + bytes(3000))
        for i in range(20)
    )
    chunks = b"".join(data(2 * i + 1, bytes(3000)) for i in range(20))
    with _crowd(place, 30, _HELLO + opened, end) as crowd:
        while time.monotonic() < end:
            for each in crowd:
                with suppress(OSError):
                    each.recv(1 << 16)
                    each.send(chunks)
            time.sleep(0.05)


def without_acknowledgement(place: Place) -> None:
    """Neither read nor acknowledge SETTINGS, with 260 calls open on each connection, and 300 more a second.

    What it holds is the answers to calls that are refused.
    """
    end = time.monotonic() + place.seconds
    block = encode(request_fields(CONSUME))
    hello = PREFACE + settings({INITIAL_WINDOW_SIZE: 0x7FFF_FFFF}) + window_update(0, 0x7FFF_0000)
    opened = b"".join(frame(Kind.HEADERS, END_HEADERS, 2 * i + 1, block) for i in range(260))
    with _crowd(place, CONNECTIONS, hello + opened, end) as crowd:
        for turn in count(260, 30):
            more = b"".join(
                frame(Kind.HEADERS, END_HEADERS | END_STREAM, 2 * (turn + i) + 1, block) for i in range(30)
            )
            for each in crowd:
                with suppress(OSError):
                    each.send(more)
            if time.monotonic() > end:
                return
            time.sleep(0.1)


def watches(place: Place) -> None:
    """Open 256 health watches on each of 200 connections."""
    end = time.monotonic() + place.seconds
    with _crowd(place, 200, _calls(_WATCH, amount=256), end):
        time.sleep(max(0.0, end - time.monotonic()))


def health_port(place: Place) -> None:
    """Ask for the metrics on 300 connections that are kept."""
    end = time.monotonic() + place.seconds
    crowd: list[socket.socket] = []
    while time.monotonic() < end:
        with suppress(OSError):
            while len(crowd) < 300:
                crowd.append(
                    socket.create_connection(("127.0.0.1", place.health), 1, source_address=(PROXY, 0))
                )
                crowd[-1].setblocking(False)
        for each in crowd[:]:
            try:
                with suppress(BlockingIOError):
                    if not each.recv(1 << 20):
                        raise ConnectionError
                each.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            except OSError:
                each.close()
                crowd.remove(each)
        time.sleep(0.02)


def floods() -> dict[str, Callable[[Place], None]]:
    """Return the floods by name: of frames, and of calls without credentials."""
    frames = {**harmless(CHECK), **ending(CHECK, CONSUME, NOTHING)}
    return {
        **{f"flood of {name}": flood(partial(_blob, made)) for name, made in frames.items()},
        "flood of unknown methods": flood(partial(_calls, "/no/Method")),
        "flood of unknown methods, many addresses": flood(partial(_calls, "/no/Method"), addresses=True),
        "flood of calls without credentials": flood(partial(_calls, PUBLISH)),
        "flood of calls with a wrong token": flood(partial(_calls, PUBLISH, token="ws_honest_" + "x" * 43)),
        "flood of health checks": flood(partial(_calls, CHECK)),
        "flood of health checks that are not read": flood(partial(_calls, CHECK), read=False),
        "flood of malformed requests": flood(
            partial(_calls, PUBLISH, prefixed(b"\xff" * 10), token_of(HOSTILE))
        ),
        "flood of forbidden publishes": flood(
            partial(_calls, PUBLISH, prefixed(b"\x0a\x08honest.a\x12\x05\x0a\x03x.Y"), token_of(HOSTILE))
        ),
        "flood of bytes that are not HTTP/2": flood(lambda: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    }
