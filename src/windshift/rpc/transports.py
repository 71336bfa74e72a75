"""What a connection needs to know about its transport, and sets on it."""

from __future__ import annotations

import asyncio
import socket

_TCP_NOTSENT_LOWAT = 25  # Linux; absent from the socket module
_UNSENT = 131_072


def speaks_http2(transport: asyncio.Transport) -> bool:
    """Whether the peer chose ``h2`` in the TLS handshake; without TLS it is taken for granted."""
    tls = transport.get_extra_info("ssl_object")
    return tls is None or tls.selected_alpn_protocol() == "h2"


def prepare(transport: asyncio.Transport, write_size: int) -> None:
    """Keep little of what is sent below HTTP/2, where nothing can overtake it.

    The largest write has ``write_size`` bytes.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        # Otherwise a PING waits behind everything in a slow reader's kernel buffer.
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT)
    # 0 pauses at the first byte that the kernel does not take, so that a stalled peer holds one
    # write, not two; uvloop's TLS would never resume with it.
    tls = transport.get_extra_info("ssl_object")
    transport.set_write_buffer_limits(high=0 if tls is None else write_size)


def name_of_peer(transport: asyncio.Transport) -> str:
    """Return the address of the other side, ``host:port``."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        return joined(name[0], name[1])
    return str(name or "unknown")


def joined(host: str, port: int) -> str:
    """Return ``host:port``, as URLs have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
