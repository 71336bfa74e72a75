"""Reading an issuer's key set from where it lies: a file, or a web server that is not trusted to behave.

These functions block. They run in a thread of their own, see `windshift.server.auth.jwks`.
"""

from __future__ import annotations

import io
import socket
import ssl
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Final, cast
from urllib.parse import urlsplit

TIME_LIMIT: Final = 10.0
"""Seconds that a fetch may take in all, but for the look-up of the host's name, which the system bounds."""
SIZE_LIMIT: Final = 1 << 20
"""Bytes that a key set may have."""
_HEAD_LIMIT: Final = 1 << 16
"""Bytes that the head of an answer may have on top of that."""


class NotFetched(Exception):
    """The key set could not be had. The text says why, without the place that it should have come from."""


def fetch(source: str, time_limit: float = TIME_LIMIT) -> bytes:
    """Return what lies at a path, or at an https URL; an http URL is for this machine's own addresses.

    Nothing is followed, cached or remembered. Certificates are verified by the system's authorities, or by
    those of SSL_CERT_FILE and SSL_CERT_DIR.

    Raises:
        NotFetched: it could not be had, is too large, or took longer than `time_limit` seconds.
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
    except (HTTPException, ValueError) as error:
        raise NotFetched(f"the server does not speak HTTP as it should ({type(error).__name__})") from None


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise NotFetched("it is not a file")
    with path.open("rb") as file:
        return _bounded(file.read(SIZE_LIMIT + 1))


def _bounded(content: bytes) -> bytes:
    if len(content) > SIZE_LIMIT:
        raise NotFetched(f"it has more than {SIZE_LIMIT} bytes")
    return content


def _download(url: str, deadline: float) -> bytes:
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
        connection.request("GET", target, headers=headers)
        response = opened.enter_context(connection.getresponse())
        if response.status != 200:
            raise NotFetched(f"the server answered with status {response.status}")
        return _bounded(response.read(SIZE_LIMIT + 1))


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first of a host's addresses that answers, giving each a fair part of the time."""
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


class _Timed:
    """What `http.client` needs of a socket, with one deadline for all of it and a limit on what comes."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_remaining(self._deadline))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._deadline))

    def close(self) -> None:
        """Do nothing: whoever opened the socket closes it."""


class _TimedReader(io.RawIOBase):
    """Reads from a socket until the deadline, whatever trickles in. It does not close the socket."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._left = SIZE_LIMIT + _HEAD_LIMIT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # io gives a memoryview
        self._sock.settimeout(_remaining(self._deadline))
        count = self._sock.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise NotFetched("the answer is too large")
        return count
