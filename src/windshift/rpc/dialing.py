"""One attempt to connect to a server: name resolution, addresses, TLS, the first SETTINGS."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl as tls
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from .client_connection import ClientConnection
from .options import ChannelOptions
from .threads import in_thread
from .transports import speaks_http2

_NO_TLS: Final = "does it speak plain text, or is it another service?"

_NO_AUTHORITY: Final = frozenset({18, 19, 20, 21})
"""What OpenSSL calls a certificate that is self-signed, or whose authority it does not have."""


async def dial(
    host: str,
    port: int,
    ssl: tls.SSLContext | None,
    options: ChannelOptions,
    new_connection: Callable[[], ClientConnection],
) -> ClientConnection:
    """Try the addresses of the server in turn, each with its share of the time, and connect to one.

    Raises:
        OSError: none works; the error of the last one.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + options.connect_timeout
    async with asyncio.timeout_at(give_up_at):
        addresses = await resolve(host, port)
    security: dict[str, Any] = {}
    if ssl is not None:
        security = {"ssl": ssl, "server_hostname": host}
        security["ssl_handshake_timeout"] = options.connect_timeout
    failure: OSError = ConnectionError("its name has no address")
    for index, (*_, address) in enumerate(addresses):
        share = (give_up_at - loop.time()) / (len(addresses) - index)
        connection = new_connection()
        try:
            async with asyncio.timeout(share):
                await _connect(connection, _host(address), address[1], security)
        except BaseException as error:
            connection.drop()
            if not isinstance(error, OSError):
                raise
            failure = error
        else:
            return connection
    raise failure


async def resolve(host: str, port: int) -> list[tuple[Any, ...]]:
    """Return the addresses of a name, as ``socket.getaddrinfo`` does."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        return [*look_up(flags=socket.AI_NUMERICHOST)]
    except socket.gaierror:  # it is no address, and asking for one takes its time
        return [*await in_thread(look_up, "resolve")]


def _host(address: tuple[Any, ...]) -> str:
    """Return the host of a socket address, with the scope of IPv6."""
    return f"{address[0]}%{address[3]}" if len(address) == 4 and address[3] else str(address[0])


async def _connect(connection: ClientConnection, host: str, port: int, security: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: connection.http2, host, port, **security)
    if not speaks_http2(transport):
        raise ConnectionError("it does not speak HTTP/2 over TLS (ALPN h2)")
    await connection.ready
    if connection.leaving:
        raise ConnectionError("it ended the connection at once")


def describe(error: Exception) -> str:
    """Say why an attempt failed, as text to follow "the server cannot be reached: "."""
    match error:
        case TimeoutError():
            return "it does not answer"
        case tls.SSLError() | ConnectionResetError():
            return _describe_tls(error)
        case socket.gaierror():
            return f"its name cannot be resolved: {error.strerror}"
        case OSError(errno=int(number)) if number:
            return os.strerror(number).lower()
    return str(error) or type(error).__name__


def _describe_tls(error: tls.SSLError | ConnectionResetError) -> str:
    match error:
        case tls.SSLCertVerificationError(verify_code=code, verify_message=message):
            trust = "; is its authority among those that are trusted?" if code in _NO_AUTHORITY else ""
            return f"its certificate is not accepted: {message}{trust}"
        case tls.SSLError(reason="WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE"):
            return f"its answer is not TLS; {_NO_TLS}"
        case tls.SSLError():
            return f"TLS failed: {getattr(error, 'reason', None) or error}"
    return f"it closed the connection before TLS began; {_NO_TLS}"


def split_target(target: str) -> tuple[str, int]:
    """Split ``host:port``; the host may be an IPv6 address in brackets.

    Raises:
        ValueError: it is not that.
    """
    host, _, port = target.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{target!r} is not a target; write host:port, or [address]:port for IPv6")
    return host, int(port)
