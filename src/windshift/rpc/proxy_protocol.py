"""The PROXY protocol, versions 1 and 2: what a proxy says of the client before the client's own bytes.

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

from __future__ import annotations

import asyncio
import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = 16
"""Bytes of version 2 before its addresses."""
_LONGEST_V1: Final = 107
_LONGEST_V2: Final = 4096
"""Bytes of the longest header that is taken; the format allows 64 KiB, and proxies send some hundred."""

_V1: Final = re.compile(rb"PROXY (TCP[46]) (\S+) (\S+) (\d{1,5}) (\d{1,5})\r\n")
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN( [^\r\n]*)?\r\n")
_ADDRESSES: Final[dict[int, tuple[type[IPv4Address | IPv6Address], int]]] = {
    0x11: (IPv4Address, 4),
    0x21: (IPv6Address, 16),
}
_VERSIONS: Final = {b"TCP4": 4, b"TCP6": 6}


class ClientAddress(NamedTuple):
    """Where a client is, as its proxy says."""

    host: str
    port: int


_Header = tuple[int, ClientAddress | None]


def parse(data: bytes) -> _Header | None:
    """Return the size of the header that ``data`` begins with, and the client that it tells of.

    No client = the proxy itself is it, as when it looks whether we are there. None = there is more to come.

    Raises:
        ValueError: it begins with none.
    """
    if data[:12] == _SIGNATURE[: len(data)]:
        return _parse_v2(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return _parse_v1(data)
    raise ValueError("it does not begin with a PROXY header")


def _parse_v1(data: bytes) -> _Header | None:
    line, end, _ = data[:_LONGEST_V1].partition(b"\n")
    if not end:
        if len(data) >= _LONGEST_V1:
            raise ValueError("its PROXY header is too long")
        return None
    line += end
    if _UNKNOWN.fullmatch(line):
        return len(line), None
    found = _V1.fullmatch(line)
    if found is None:
        raise ValueError("its PROXY header is malformed")
    family, source, _, port, _ = found.groups()
    client = ip_address(source.decode("ascii", "replace"))
    if client.version != _VERSIONS[family] or int(port) > 65_535:
        raise ValueError("its PROXY header is malformed")
    return len(line), ClientAddress(str(client), int(port))


def _parse_v2(data: bytes) -> _Header | None:
    if len(data) < _FIXED:
        return None
    command, family = data[12], data[13]
    size = _FIXED + int.from_bytes(data[14:16], "big")
    if command not in {0x20, 0x21} or size > _LONGEST_V2:
        raise ValueError("its PROXY header is malformed, or too long")
    if len(data) < size:
        return None
    if command == 0x20 or family not in _ADDRESSES:  # the proxy itself; a socket of no internet
        return size, None
    kind, length = _ADDRESSES[family]
    if size < _FIXED + 2 * length + 4:
        raise ValueError("its PROXY header is too short for its addresses")
    ports = _FIXED + 2 * length
    host = kind(data[_FIXED : _FIXED + length])
    return size, ClientAddress(str(host), int.from_bytes(data[ports : ports + 2], "big"))


async def receive(sock: socket.socket, loop: asyncio.AbstractEventLoop) -> ClientAddress | None:
    """Take the header off a connection, and nothing behind it; None = the proxy itself is the client.

    Raises:
        ValueError: there is none.
        OSError: the connection broke.
    """
    data = b""
    while True:
        try:
            more = sock.recv(_LONGEST_V2, socket.MSG_PEEK)
        except BlockingIOError:
            await _readable(sock, loop)
            continue
        if not more:
            raise ConnectionResetError("the connection was closed before its PROXY header")
        header = parse(data + more)
        taken = len(more) if header is None else header[0] - len(data)
        data += sock.recv(taken)
        if header is not None:
            return header[1]


async def _readable(sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
