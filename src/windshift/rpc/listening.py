"""Listening sockets, and limits on incoming connections.

Connections are accepted here rather than by the event loop's own server, so that they count before their TLS
handshake. The event loop would also say nothing when the process runs out of files.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable
from typing import Final

_log = logging.getLogger(__name__)

_BATCH: Final = 64
"""Connections that are accepted before others get their turn."""

_RETRY: Final = 0.5
"""Seconds until another attempt after the process, or the system, had no files left."""

_WARNING_INTERVAL: Final = 10.0
"""Seconds between two warnings."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_IPV6_NETWORK: Final = 8
"""Bytes of an IPv6 address that count: whoever has one address has the whole /64."""

Accepted = Callable[[socket.socket, str], None]
"""Takes a connection, and the address of the client (not its port)."""


async def open_sockets(
    host: str, port: int, *, reuse_port: bool = False, backlog: int = 1024
) -> list[socket.socket]:
    """Listen on every address that ``host`` means and that this machine has.

    Args:
        host: an address or name.
        port: a TCP port; 0 = one that is free, the same for all addresses.
        reuse_port: share the port with other processes.
        backlog: connections that may wait to be accepted.

    Raises:
        OSError: no address worked, or one failed with anything but EADDRNOTAVAIL.
    """
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(infos):
        chosen = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(
                socket.create_server(
                    (address[0], chosen, *address[2:]), family=family, reuse_port=reuse_port, backlog=backlog
                )
            )
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # that one: a name with an address of a family that is off
                close_sockets(sockets)
                raise
            missing = error
    if not sockets:
        raise missing or OSError(errno.EADDRNOTAVAIL, "the name has no address")
    return sockets


def close_sockets(sockets: Iterable[socket.socket]) -> None:
    """Close all of them."""
    for each in sockets:
        each.close()


class Listener:
    """Accept connections for as long as it is open.

    Args:
        sockets: that listen.
        accepted: takes each connection, non-blocking; must not raise.
        loop: the event loop that waits for them.
    """

    def __init__(
        self, sockets: Iterable[socket.socket], accepted: Accepted, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._sockets = tuple(sockets)
        self._accepted = accepted
        self._loop = loop
        self._pause: asyncio.TimerHandle | None = None
        self._warn_at = 0.0
        for each in self._sockets:
            each.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        self._pause = None
        for each in self._sockets:
            self._loop.add_reader(each.fileno(), self._accept, each)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # the client is gone already
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._wait(error)
                return
            connection.setblocking(False)
            self._accepted(connection, address[0])

    def _wait(self, error: OSError) -> None:
        """Stop accepting for a moment: trying again at once would only spin."""
        self._stop()
        self._pause = self._loop.call_later(_RETRY, self._listen)
        now = self._loop.time()
        if now >= self._warn_at:
            self._warn_at = now + _WARNING_INTERVAL
            _log.warning("connections wait to be accepted: %s", error.strerror)

    def _stop(self) -> None:
        for each in self._sockets:
            self._loop.remove_reader(each.fileno())

    def close(self) -> None:
        """Accept no more. Connections that were waiting are reset."""
        if self._pause is None:
            self._stop()
        else:
            self._pause.cancel()
        close_sockets(self._sockets)


class RejectionLog:
    """Logs connections that were refused before their first call: one in a while, and how many others."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._next_at = 0.0
        self._skipped = 0

    def rejected(self, address: str, why: str) -> None:
        """Note one, of a client with this address."""
        now = self._loop.time()
        if now < self._next_at:
            self._skipped += 1
            return
        self._next_at = now + _WARNING_INTERVAL
        fields = {"peer": address} | ({"more": self._skipped} if self._skipped else {})
        self._skipped = 0
        _log.warning("a connection was refused: %s", why, extra=fields)


class Slot:
    """What one connection takes of a limit."""

    __slots__ = ("_key", "_limiter")

    def __init__(self, limiter: ConnectionLimiter, key: bytes | str) -> None:
        self._limiter: ConnectionLimiter | None = limiter
        self._key = key

    def release(self) -> None:
        """Make room for another connection; once is enough."""
        if self._limiter is not None:
            self._limiter.released(self._key)
            self._limiter = None


class ConnectionLimiter:
    """Limits how many connections there are at once.

    Args:
        total: in all.
        per_address: from one IPv4 address or one /64 network of IPv6; 0 = as many as in all.
    """

    def __init__(self, total: int, per_address: int = 0) -> None:
        self._total = total
        self._per_address = per_address
        self._taken = 0
        self._by_address: dict[bytes | str, int] = {}

    def acquire(self, address: str) -> Slot | None:
        """Return a slot for a connection of this address, None when there is none left."""
        if self._taken >= self._total:
            return None
        key: bytes | str = ""
        if self._per_address:
            key = _network(address)
            taken = self._by_address.get(key, 0)
            if taken >= self._per_address:
                return None
            self._by_address[key] = taken + 1
        self._taken += 1
        return Slot(self, key)

    def released(self, key: bytes | str) -> None:
        """Take a slot back; called by it."""
        self._taken -= 1
        if self._per_address:
            self._by_address[key] -= 1
            if not self._by_address[key]:
                del self._by_address[key]


def _network(address: str) -> bytes | str:
    if ":" not in address:
        return address
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return address
    return packed[:_IPV6_NETWORK]
