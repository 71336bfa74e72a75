"""Fetches an issuer's key set: from a file, or from a web server that is not trusted to behave.

These functions block; `windshift.server.auth.jwks` runs them in a thread.
"""

from __future__ import annotations

import io
import os
import socket
import ssl
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Final, cast
from urllib.parse import urlsplit

from windshift.server.background.writers import other_writers

TIME_LIMIT: Final = 10.0
"""Seconds that a fetch may take, except for resolving the host name, which the system bounds."""
SIZE_LIMIT: Final = 1 << 20
"""Bytes that a key set may have."""
_HEAD_LIMIT: Final = 1 << 16
"""Bytes that the headers of a response may have in addition."""


class NotFetched(Exception):
    """The key set could not be fetched. The text says why, without a URL: that may have secrets."""


def fetch(source: str, time_limit: float = TIME_LIMIT) -> bytes:
    """Return the contents of a path or an https URL; http URLs are only for loopback.

    No redirects, no caches. Certificates are verified against the system's authorities, or those of
    SSL_CERT_FILE and SSL_CERT_DIR. Raise `NotFetched` when it could not be read, is too large, or took longer
    than `time_limit` seconds, or others may change the file.
    """
    try:
        if not source.startswith(("https://", "http://")):
            return _read(Path(source))
        return _download(source, monotonic() + time_limit)
    except TimeoutError:
        raise NotFetched("it took too long") from None
    except ssl.SSLCertVerificationError as error:
        raise NotFetched(f"the server's certificate is not valid: {error.verify_message}") from None
    except OSError as error:
        raise NotFetched(error.strerror or type(error).__name__) from None
    except ValueError as error:
        raise _not_http(error) from None


def _not_http(error: Exception) -> NotFetched:
    return NotFetched(f"the server does not speak HTTP as it should ({type(error).__name__})")


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise NotFetched("it is not a file")
    with path.open("rb") as file:
        if others := other_writers(path, os.fstat(file.fileno()).st_mode):
            raise NotFetched(others)
        return _bounded(file.read(SIZE_LIMIT + 1))


def _bounded(content: bytes) -> bytes:
    if len(content) > SIZE_LIMIT:
        raise NotFetched(f"it has more than {SIZE_LIMIT} bytes")
    return content


def _download(url: str, deadline: float) -> bytes:
    from http.client import HTTPConnection, HTTPException  # noqa: PLC0415 - 1 MB that other issuers do without

    parts = urlsplit(url)
    host = parts.hostname
    if not host:
        raise NotFetched("its URL names no host")
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    with ExitStack() as opened:
        sock = opened.enter_context(_connect(host, port, deadline))
        if secure:
            sock = opened.enter_context(_context().wrap_socket(sock, server_hostname=host))
        elif not ip_address(sock.getpeername()[0]).is_loopback:
            raise NotFetched("http is for loopback addresses only, use https")
        connection = HTTPConnection(host, port)
        connection.sock = cast("socket.socket", _Timed(sock, deadline))
        headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "Accept": "application/json",
            "Connection": "close",
        }
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("GET", target, headers=headers)
            response = opened.enter_context(connection.getresponse())
            if response.status != 200:
                raise NotFetched(f"the server answered with status {response.status}")
            return _bounded(response.read(SIZE_LIMIT + 1))
        except HTTPException as error:
            raise _not_http(error) from None


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first address of a host that answers, each with a fair share of the time."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = TimeoutError()
    for left, (family, kind, protocol, _, address) in zip(
        range(len(addresses), 0, -1), addresses, strict=True
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_remaining(deadline) / left)
            sock.connect(address)
            sock.settimeout(_remaining(deadline))
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def _remaining(deadline: float) -> float:
    remaining = deadline - monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


class _Timed(io.RawIOBase):
    """The part of a socket that `http.client` needs, with one deadline and a limit on received bytes.

    It reads until the deadline, however slowly bytes arrive.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._left = SIZE_LIMIT + _HEAD_LIMIT

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_remaining(self._deadline))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def close(self) -> None:
        """Do nothing: the opener of the socket closes it, and `http.client` calls this before it reads."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # io gives a memoryview
        self._sock.settimeout(_remaining(self._deadline))
        count = self._sock.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise NotFetched("the answer is too large")
        return count
