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
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

_log = logging.getLogger(__name__)

_BACKLOG: Final = 1024
"""Connections that may wait to be accepted."""

_RETRY: Final = 0.5
"""Seconds until another attempt after the process, or the system, had no files left."""

_WARNING_INTERVAL: Final = 10.0
"""Seconds between two warnings."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Accepted = Callable[[socket.socket, str], float]
"""Takes a connection, and the address of the client (not its port).

Returns the seconds for which no other is to be accepted.
"""


async def open_sockets(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Listen on every address that ``host`` means and that this machine has.

    Args:
        host: an address or name.
        port: a TCP port; 0 = one that is free, the same for all addresses.
        reuse_port: share the port with other processes.

    Raises:
        OSError: no address worked, or one failed with anything but EADDRNOTAVAIL.
    """

    def listening(family: int, address: tuple[Any, ...]) -> socket.socket:
        return socket.create_server(address, family=family, reuse_port=reuse_port, backlog=_BACKLOG)

    return await _on_every_address(host, port, listening)


async def hold_port(host: str, port: int, *, is_shared: bool) -> list[socket.socket]:
    """Hold a port for processes that will listen on it with `reuse_port`, and return what holds it.

    These sockets listen to nothing, and get no connection. Arguments and errors are those of `open_sockets`;
    unless `is_shared`, it is an error that somebody else listens there, whether he shares the port or not.
    """
    if port and not is_shared:
        close_sockets(await _on_every_address(host, port, partial(_bound, reuse_port=False)))
    return await _on_every_address(host, port, partial(_bound, reuse_port=True))


def _bound(family: int, address: tuple[Any, ...], *, reuse_port: bool) -> socket.socket:
    """Bind a socket as `socket.create_server` does, which makes it listen too."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # or others could listen beside it
    except OSError:
        bound.close()
        raise
    return bound


async def _on_every_address(
    host: str, port: int, open_one: Callable[[int, tuple[Any, ...]], socket.socket]
) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(infos):
        chosen = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(open_one(family, (address[0], chosen, *address[2:])))
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

    ``accepted`` takes each, non-blocking, and must not raise.
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
        """Accept one connection; for the next one others have had their turn."""
        try:
            connection, address = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):  # the client is gone already
            return
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._warn(error)
            self._wait(_RETRY)  # trying again at once would only spin
            return
        connection.setblocking(False)
        seconds = self._accepted(connection, address[0])
        if seconds:
            self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        self._stop()
        self._pause = self._loop.call_later(seconds, self._listen)

    def _warn(self, error: OSError) -> None:
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


@dataclass(slots=True)
class RejectionLog:
    """Logs connections that had to go, and what happened to them: one in a while, and how many others."""

    _loop: asyncio.AbstractEventLoop
    _what: str = "a connection was refused"
    _next_at: float = 0.0
    _skipped: int = 0

    def rejected(self, address: str, why: str) -> None:
        """Note one, of a client with this address."""
        now = self._loop.time()
        if now < self._next_at:
            self._skipped += 1
            return
        self._next_at = now + _WARNING_INTERVAL
        fields = {"peer": address} | ({"more": self._skipped} if self._skipped else {})
        self._skipped = 0
        _log.warning("%s: %s", self._what, why, extra=fields)
