"""The server: listeners, the limits of all connections together, and the drain."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl as tls
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from inspect import CORO_CREATED, getcoroutinestate
from time import perf_counter, thread_time
from typing import Any

from . import proxy_protocol
from .admission import ConnectionLimiter, NoPlace, Slot, includes
from .holding import Holder, Holding
from .listening import Listener, RejectionLog, open_sockets
from .server_connection import ServerConnection
from .server_options import ServerOptions
from .service import Interceptor, Method, Service, taking_shortcut
from .status import RpcError, StatusCode
from .tls import handshake_failure
from .turns import CONNECTION_COST, MOST_OF_REFUSAL, Turns

_log = logging.getLogger(__name__)


_LOOK_SLICE = 0.0005
"""Seconds in a turn of the event loop that looking at connections takes, about."""


class Server:
    """A gRPC server over any number of listeners.

    Must be made and used in a running event loop.

    Args:
        services: what it answers.
        options: limits and timers.
        interceptors: stand before every method; calls come to the first of them first.

    Attributes:
        methods: what it answers, by path.
        connection_limiter: gives connections their places.
        turns: when what connections received is parsed.
        holding: what is held for all clients.
        rejections: where connections are logged that were refused.
        endings: where connections are logged that were ended.
    """

    def __init__(
        self,
        services: Iterable[Service],
        options: ServerOptions | None = None,
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        self.options = options or ServerOptions()
        self.methods: dict[bytes, Method] = {
            path.encode(): self._intercepted(method, interceptors)
            for service in services
            for path, method in service.methods.items()
        }
        self._loop = asyncio.get_running_loop()
        self._listeners: list[Listener] = []
        self.rejections = RejectionLog(self._loop)
        self.endings = RejectionLog(self._loop, "a connection was ended")
        self._too_many = RejectionLog(self._loop)
        self.connection_limiter = ConnectionLimiter(self.options.admission, self._loop.time)
        self.turns = Turns(self._loop)
        self.holding = Holding(self.options.max_held, lambda: self._loop.call_soon(self._look_who_reads))
        self._beginning: dict[asyncio.Task[None], Callable[[], None]] = {}  # handshakes, and what ends them
        self._connections: set[ServerConnection] = set()
        self._sockets: set[ServerConnection] = set()  # and those that are over, but not yet closed
        self._ticker: asyncio.Handle | None = None
        self._idle, self._closed = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._closed.set()
        self._draining = False
        self._received = self._sent = 0  # by connections that are gone

    def _intercepted(self, method: Method, interceptors: Sequence[Interceptor]) -> Method:
        for interceptor in reversed(interceptors):
            method = interceptor(method)
        method = taking_shortcut(method)
        return replace(method, max_message_size=min(method.max_message_size, self.options.max_message_size))

    @property
    def received(self) -> int:
        """Bytes that came over all connections, without TLS."""
        return self._received + sum(connection.http2.received for connection in self._sockets)

    @property
    def sent(self) -> int:
        """Bytes that were sent over all connections, without TLS."""
        return self._sent + sum(connection.http2.sent for connection in self._sockets)

    def active_calls(self) -> Counter[str]:
        """Count the calls that have not ended, by the path of their method."""
        return Counter(call.method for connection in self._connections for call in connection.active_calls)

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    @property
    def open_connections(self) -> tuple[ServerConnection, ...]:
        """The connections that are open now."""
        return tuple(self._connections)

    async def listen(
        self,
        host: str,
        port: int,
        *,
        ssl: tls.SSLContext | None = None,
        reuse_port: bool = False,
    ) -> tuple[str, int]:
        """Accept connections on an address and return it, with the port that 0 became.

        Args:
            host: an address or name; all of a name's addresses are listened on.
            port: a TCP port; 0 = one that is free.
            ssl: a context from ``windshift.rpc.server_tls``; None = plaintext.
            reuse_port: share the port with other processes (SO_REUSEPORT), for a hand-over or workers.

        Raises:
            OSError: the address cannot be listened on.
        """
        sockets = await open_sockets(host, port, reuse_port=reuse_port)
        name = sockets[0].getsockname()
        self._listeners.append(
            Listener(sockets, lambda sock, address: self._accepted(sock, address, ssl), self._loop)
        )
        if self._ticker is None:
            self._ticker = self._loop.call_later(self.options.tick_interval, self._tick)
        return name[0], name[1]

    def _accepted(self, sock: socket.socket, address: str, ssl: tls.SSLContext | None) -> float:
        """Begin a connection, or drop it; return for how long strangers have to wait."""
        try:
            slot = self.connection_limiter.take(address)
        except NoPlace as error:
            self._refuse(sock, address, error)
            return 0.0
        begin = self._begin(sock, address, slot, ssl)
        task = self._loop.create_task(begin)
        self._beginning[task] = slot.drop = lambda: _drop(sock, begin, task)
        task.add_done_callback(self._beginning.pop)
        if self.options.authenticate_timeout is None:
            return 0.0
        self.turns.charge_strangers(CONNECTION_COST)
        return self.turns.strangers_wait()

    def _refuse(self, sock: socket.socket, address: str, why: NoPlace) -> None:
        sock.close()
        self._too_many.rejected(address, str(why))

    async def _begin(self, sock: socket.socket, address: str, slot: Slot, ssl: tls.SSLContext | None) -> None:
        """Have a connection made, after what its proxy says and its TLS handshake, if it has these."""
        options, client = self.options, None
        began = thread_time()
        try:
            if includes(options.proxy_protocol, address):
                client = await self._client_address(sock)
                self.connection_limiter.move(slot, client.host if client else address)
            await self._loop.connect_accepted_socket(
                lambda: ServerConnection(self, self._loop, slot, client).http2,
                sock,
                ssl=ssl,
                ssl_handshake_timeout=options.connection.handshake_timeout if ssl else None,
            )
        except NoPlace as error:
            self._refuse(sock, client.host if client else address, error)
            self.connection_limiter.release(slot)
            self.turns.charge_strangers(min(thread_time() - began, MOST_OF_REFUSAL))
        except tls.SSLError as error:
            self.rejections.rejected(address, handshake_failure(error))
            self.connection_limiter.release(slot)
        except OSError as error:  # the client is gone, or its handshake takes too long
            _log.debug("a connection did not begin: %s", error)
            self.connection_limiter.release(slot)
        except BaseException:
            self.connection_limiter.release(slot)
            raise

    async def _client_address(self, sock: socket.socket) -> proxy_protocol.ClientAddress | None:
        """Return what the proxy says of its client. Raises OSError when it says nothing."""
        try:
            async with asyncio.timeout(self.options.connection.handshake_timeout):
                return await proxy_protocol.receive(sock, self._loop)
        except ValueError as error:
            self.rejections.rejected(sock.getpeername()[0], str(error))
            sock.close()
            raise ConnectionAbortedError(str(error)) from error
        except BaseException:
            sock.close()
            raise

    def _tick(self) -> None:
        self._look_at(iter(list(self._connections)), [])

    def _look_at(self, connections: Iterator[ServerConnection], seen: list[Holder[ServerConnection]]) -> None:
        """Look at some of them in each turn of the event loop: thousands of calls take a while."""
        now, began = self._loop.time(), perf_counter()
        for connection in connections:
            connection.tick(now)
            seen.append(connection.holds(now))
            if perf_counter() - began > _LOOK_SLICE:
                self._ticker = self._loop.call_soon(self._look_at, connections, seen)
                return
        self._drop_holders(seen)
        self.connection_limiter.forget()
        self._ticker = self._loop.call_later(self.options.tick_interval, self._tick)

    def _look_who_reads(self) -> None:
        now = self._loop.time()
        self._drop_holders([connection.holds(now) for connection in self._connections])

    def _drop_holders(self, seen: Sequence[Holder[ServerConnection]]) -> None:
        """Drop those who make the server hold memory for nothing, as far as needed."""
        gone = self.holding.who_goes([each for each in seen if each.who in self._connections])
        for each in gone:
            each.who.http2.abort()
        if gone:
            self.connection_limiter.refused["held"] += len(gone)
            _log.warning(
                "clients hold too much memory: %d connections were dropped, the first of %s, with %d MB "
                "of incomplete messages, unread answers, bytes to be parsed and open streams",
                len(gone),
                gone[0].who.http2.peer,
                gone[0].stuck // 1_000_000,
            )

    def connection_opened(self, connection: ServerConnection) -> None:
        """Keep a new connection; called by it."""
        self._connections.add(connection)
        self._sockets.add(connection)
        self._idle.clear()
        self._closed.clear()
        if self._draining:
            connection.drain()

    def connection_lost(self, connection: ServerConnection) -> None:
        """Forget a connection; called by it."""
        self._connections.discard(connection)
        if not self._connections:
            self._idle.set()

    def connection_gone(self, connection: ServerConnection) -> None:
        """Forget the socket of a connection; called by it."""
        if connection in self._sockets:
            self._sockets.remove(connection)
            self._received += connection.http2.received
            self._sent += connection.http2.sent
        if not self._sockets:
            self._closed.set()

    async def drain(self, timeout: float) -> bool:
        """Stop accepting, let what is in flight finish, close everything.

        Streaming calls are asked to end (``ServerCall.on_drain``), other calls run to their end. Afterwards
        every socket is closed, so that the process may end without cutting off what clients still read.

        Args:
            timeout: seconds after which what still runs is ended with UNAVAILABLE. The clients then have
                ``ConnectionOptions.close_timeout`` to read that, and as long to close their sockets.

        Returns:
            Whether everything ended by itself.
        """
        self._draining = True
        self._close_listeners()
        for connection in list(self._connections):
            connection.drain()
        ended = True
        try:
            async with asyncio.timeout(timeout):
                await self._finish_handshakes()
                await self._idle.wait()
        except TimeoutError:
            ended = False
            self._drop_handshakes()
            for connection in list(self._connections):
                connection.end(RpcError(StatusCode.UNAVAILABLE, "the server is shutting down"))
        finally:
            self._stop_ticker()
        await self._closed.wait()
        return ended

    async def _finish_handshakes(self) -> None:
        """Wait for connections that are being made; one that takes long has no calls, and is dropped."""
        if self._beginning:
            await asyncio.wait(self._beginning, timeout=self.options.drain_ping_timeout)
        self._drop_handshakes()
        if self._beginning:
            await asyncio.wait(self._beginning)

    def _drop_handshakes(self) -> None:
        for drop in self._beginning.values():
            drop()

    def close(self) -> None:
        """Drop everything now."""
        self._close_listeners()
        self._stop_ticker()
        self._drop_handshakes()
        for connection in list(self._sockets):
            connection.http2.abort()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _stop_ticker(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None


def _drop(sock: socket.socket, begin: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
    """Have a connection not begin.

    To cancel is not enough: a task without a first step closes nothing, and a handshake goes on if its
    transport is so new that the event loop has not told of the connection.
    """
    task.cancel()
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    if getcoroutinestate(begin) == CORO_CREATED:
        sock.close()
