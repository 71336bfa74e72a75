"""The server: listeners, connections, the way from a request's headers to its handler, and the drain."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl as tls
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .call import RESPONSE_HEADERS, CallConnection, ErrorTranslator, Failure, ServerCall
from .connection import SERVER, ConnectionOptions, Headers
from .holding import largest_holders
from .listening import Listener, Place, Places, Refusals, open_sockets
from .metadata import parse_timeout
from .service import Method, Service
from .status import HeaderList, RpcError, StatusCode, status_trailers
from .tls import handshake_failure

_log = logging.getLogger(__name__)

_DRAIN_PING = b"draining"
_NOT_GRPC = b"This port speaks gRPC only: POST with content-type application/grpc.\n"
_TELL_AGAIN = 10.0
"""Seconds between two warnings of the same kind."""
_CONTENT_TYPES = frozenset({b"application/grpc", b"application/grpc+proto"})

CallObserver = Callable[[ServerCall, StatusCode], None]
RefusalObserver = Callable[[str | None, StatusCode], None]
FailureObserver = Callable[[Failure], None]
Admission = Callable[[ServerCall], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Limits and timers of a server.

    Attributes:
        connection: those of each connection.
        max_message_size: bytes of one request message, after decompression too.
        max_connections: connections at once, from the moment that they are accepted; further ones are
            dropped at once.
        max_connections_per_address: the same for one IPv4 address or one /64 network of IPv6; 0 = as many as
            in all.
        default_timeout: seconds after which a call without streams and without a deadline of its own is
            cancelled; None = never. Kept with a precision of ``tick_interval``.
        request_timeout: seconds in which the request message of such a call must arrive.
        first_request_timeout: seconds in which a connection's first call must begin.
        discard_timeout: seconds in which a client must end its side after the status was sent; then the
            stream is reset.
        max_held: bytes that clients together may make the server hold, of messages that are not whole and of
            answers that they do not read; when it is more, the connections that hold most are dropped. None =
            no bound.
        tick_interval: seconds between two looks at the timers above, and at what is held.
        drain_ping_timeout: seconds that a drain waits for a client to have seen the first GOAWAY.
        admit: called with each call before anything of its body is read; what it returns becomes the call's
            ``caller``, what it raises its status. Must be quick.
        translate: says what a client sees of an error, raised by a handler, by ``admit`` or by the gRPC layer
            itself.
        on_call_finished: called with each call and its status when it ends; must be quick and not raise.
        on_call_refused: the same for a request that was answered before it became a call, with the path of
            its method; None = there is no such method.
        on_call_failed: called once with each call, refused ones included, that did not end with OK, and once
            more when a handler fails after its client went away; must be quick and not raise. None = what
            nobody expected is logged, and nothing else.
    """

    connection: ConnectionOptions = field(default_factory=ConnectionOptions)
    max_message_size: int = 4 * 1024 * 1024
    max_connections: int = 10_000
    max_connections_per_address: int = 0
    default_timeout: float | None = None
    request_timeout: float = 30.0
    first_request_timeout: float = 10.0
    discard_timeout: float = 5.0
    max_held: int | None = None
    tick_interval: float = 1.0
    drain_ping_timeout: float = 1.0
    admit: Admission | None = None
    translate: ErrorTranslator | None = None
    on_call_finished: CallObserver | None = None
    on_call_refused: RefusalObserver | None = None
    on_call_failed: FailureObserver | None = None


class ServerConnection(CallConnection):
    """One client's connection and its calls."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, place: Place | None = None) -> None:
        super().__init__(SERVER, server.options.connection, loop)
        self._server = server
        self._place = place
        self._methods = server.methods
        self._max_message_size = server.options.max_message_size
        self._default_timeout = server.options.default_timeout
        self._admit = server.options.admit
        self._calls: dict[int, ServerCall] = {}
        self._unread: dict[int, float] = {}  # streams answered before a call existed: when
        self._had_request = False
        self._draining = self._going_away = False

    # -- hooks of the connection -------------------------------------------------------------------------

    def on_no_http2(self) -> None:
        """Have it told: a proxy in front that speaks HTTP/1.1 is easily overlooked."""
        self._server.refusals.tell(self.peer, "the client does not offer HTTP/2 (ALPN h2)")

    def on_ready(self) -> None:
        """Register with the server."""
        self._server.connection_opened(self)

    def on_request(self, stream_id: int, headers: Headers, ended: bool) -> None:
        """Find the method and take the call up, or answer why not."""
        self._had_request = True
        fields = dict(headers)
        method = self._methods.get(fields.get(b":path", b""))
        if method is None or fields.get(b":method") != b"POST" or not _is_grpc(fields):
            self._refuse(stream_id, fields, ended)
            return
        try:
            call = self._open_call(stream_id, method, headers, fields)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the client must be answered
            self._refuse_call(stream_id, method.path, fields, error, ended)
            return
        self._calls[stream_id] = call
        call.begin(ended)

    def _open_call(
        self, stream_id: int, method: Method, headers: Headers, fields: Mapping[bytes, bytes]
    ) -> ServerCall:
        largest = self._max_message_size
        if method.max_message_size is not None:
            largest = min(largest, method.max_message_size)
        call = ServerCall(self, stream_id, method, headers, fields, largest, self._loop)
        encoding = fields.get(b"grpc-encoding")
        if encoding is not None and encoding != b"identity":
            if encoding != b"gzip":
                raise RpcError(
                    StatusCode.UNIMPLEMENTED, "grpc-encoding is not supported; send identity or gzip"
                )
            call.encoding = "gzip"
        timeout = fields.get(b"grpc-timeout")
        seconds = None if timeout is None else _read_timeout(timeout)
        if self._admit is not None:
            call.caller = self._admit(call)
        if seconds is not None:
            call.set_timeout(seconds)
        elif self._default_timeout is not None and not method.streaming:
            call.deadline = call.started + self._default_timeout
        if method.streaming:
            self.share_fairly(stream_id)
        return call

    def on_data(self, stream_id: int, data: bytes, ended: bool) -> None:
        """Give body bytes to their call, or discard them."""
        call = self._calls.get(stream_id)
        if call is not None:
            call.data(data, ended)
        else:
            self.acknowledge(stream_id, len(data))

    def on_trailers(self, stream_id: int, headers: Headers) -> None:
        """End the client's side: its trailers mean nothing else."""
        call = self._calls.get(stream_id)
        if call is not None:
            call.end()

    def on_stream_closed(self, stream_id: int, error_code: int) -> None:
        """Release the call; cancel its handler when it still runs."""
        self._unread.pop(stream_id, None)
        call = self._calls.pop(stream_id, None)
        if call is not None:
            call.closed()
        if self._going_away and not self._calls:
            self._finish_drain()

    def on_ping_answered(self, payload: bytes) -> None:
        """Go on with a drain when the client has seen the first GOAWAY."""
        if payload == _DRAIN_PING:
            self._go_away()

    def on_lost(self, error: Exception | None) -> None:
        """End every call: an engine that failed reports no closed streams."""
        calls = list(self._calls.values())
        self._calls.clear()
        self._unread.clear()
        for call in calls:
            call.closed()
        self._server.connection_lost(self)

    def on_gone(self) -> None:
        """Let the server forget the socket."""
        if self._place is not None:
            self._place.leave()
        self._server.connection_gone(self)

    # -- for calls -----------------------------------------------------------------------------------

    def translate(self, path: str, error: Exception) -> RpcError:
        """Let the server's options say what the client sees; what nobody expected becomes a fault."""
        translate = self._server.options.translate
        known = translate(path, error) if translate is not None else None
        if known is not None:
            return known
        if isinstance(error, RpcError):
            return error
        told = self.translate(
            path, RpcError(StatusCode.INTERNAL, "the server failed on this call; its log says why")
        )
        told.fault = error
        return told

    def call_finished(self, call: ServerCall, code: StatusCode) -> None:
        """Tell who wants to know."""
        observer = self._server.options.on_call_finished
        if observer is not None:
            observer(call, code)

    def call_failed(self, method: str, fields: Mapping[bytes, bytes], error: RpcError) -> None:
        """Tell who wants to know; nobody: log what nobody expected."""
        observer = self._server.options.on_call_failed
        if observer is not None:
            observer(Failure(method, self.peer, error, fields))
        elif error.fault is not None:
            _log.error("the handler of %s failed", method, exc_info=error.fault)

    @property
    def active_calls(self) -> list[ServerCall]:
        """The calls that have not ended."""
        return [call for call in self._calls.values() if not call.done]

    @property
    def held(self) -> int:
        """Bytes that the client makes us hold, see ``ServerCall.held``."""
        return sum(call.held for call in self._calls.values())

    # -- refusing ------------------------------------------------------------------------------------

    def _refuse(self, stream_id: int, fields: Mapping[bytes, bytes], ended: bool) -> None:
        """Answer a request that no method takes."""
        if fields.get(b":method") != b"POST":
            self._answer_text(stream_id, b"405", (b"allow", b"POST"), fields, ended)
        elif not _is_grpc(fields):
            self._answer_text(stream_id, b"415", (b"accept-post", b"application/grpc"), fields, ended)
        else:
            text = _path_text(fields)
            error = RpcError(StatusCode.UNIMPLEMENTED, f"the server has no method {text}")
            self._refuse_call(stream_id, None, fields, error, ended)

    def _refuse_call(
        self, stream_id: int, path: str | None, fields: Mapping[bytes, bytes], error: Exception, ended: bool
    ) -> None:
        """Answer a request that does not become a call; without a path there is no such method."""
        text = _path_text(fields)
        told = self.translate(text, error)
        self._answer(stream_id, told, ended)
        observer = self._server.options.on_call_refused
        if observer is not None:
            observer(path, told.code)
        self.call_failed(text, fields, told)

    def _answer(self, stream_id: int, error: RpcError, ended: bool) -> None:
        self._answer_http(stream_id, RESPONSE_HEADERS + status_trailers(error), ended)

    def _answer_text(
        self,
        stream_id: int,
        status: bytes,
        header: tuple[bytes, bytes],
        fields: Mapping[bytes, bytes],
        ended: bool,
    ) -> None:
        """Answer a client that speaks HTTP but not gRPC."""
        headers = [(b":status", status), header, (b"content-type", b"text/plain")]
        body = b"" if fields.get(b":method") == b"HEAD" else _NOT_GRPC
        self._answer_http(stream_id, headers, ended, body)

    def _answer_http(self, stream_id: int, headers: HeaderList, ended: bool, body: bytes = b"") -> None:
        """Send a whole response; what the client still sends is read and dropped, never reset."""
        self.send_response(stream_id, headers, end=not body)
        if body:
            self.send_data(stream_id, body, end=True)
        if not ended:
            self._unread[stream_id] = self._loop.time()

    # -- time ----------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Check the timers of the connection and its calls."""
        super().tick(now)
        options = self._server.options
        if self.over:
            return
        if not self._had_request and now - self._made_at > options.first_request_timeout:
            self._had_request = True
            self.drain()
            return
        for call in list(self._calls.values()):
            call.check(now, options.request_timeout)
        if not self.unwritten:  # a reset would overtake the status that was sent before it
            self._reset_unended(now - options.discard_timeout)

    def _reset_unended(self, before: float) -> None:
        """Reset streams that were answered before a time and whose clients did not end their side."""
        for call in list(self._calls.values()):
            if call.done and call.finished_at < before and not self.queued(call.stream_id):
                self.reset(call.stream_id, 0)
        for stream_id, since in list(self._unread.items()):
            if since < before:
                del self._unread[stream_id]
                self.reset(stream_id, 0)

    # -- drain ---------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no new calls, end streaming ones, let the others finish, close.

        The order matters (measured with grpcio and grpc-go under load, no call lost): first GOAWAY and a
        PING, its answer, the end of the streaming calls, the final GOAWAY, the last stream, half-close.
        """
        if self._draining or self.over:
            return
        self._draining = True
        self.send_shutdown_notice(_DRAIN_PING)
        self._loop.call_later(self._server.options.drain_ping_timeout, self._go_away)

    def _go_away(self) -> None:
        if self._going_away or self.over:
            return
        for call in list(self._calls.values()):
            call.drain()
        self.send_goaway()
        self._going_away = True
        if not self._calls:
            self._finish_drain()

    def _finish_drain(self) -> None:
        self._loop.call_soon(self._close_when_idle)

    def _close_when_idle(self) -> None:
        """Close, unless calls came right behind the frame that ended the wait: GOAWAY has let them in."""
        if not self._calls:
            self.close_gracefully()

    def give_up(self) -> None:
        """End the calls that did not finish within the drain, and the connection."""
        for call in list(self._calls.values()):
            call.abort(RpcError(StatusCode.UNAVAILABLE, "the server is shutting down"))
        self.close_gracefully()


def _path_text(fields: Mapping[bytes, bytes]) -> str:
    """Return what a client asked for: at most 200 bytes, and nothing beyond ASCII.

    What follows a question mark is left out: it means nothing to gRPC, and may be a secret.
    """
    return fields.get(b":path", b"").partition(b"?")[0][:200].decode("ascii", "backslashreplace")


def _is_grpc(fields: Mapping[bytes, bytes]) -> bool:
    content_type = fields.get(b"content-type", b"")
    return content_type in _CONTENT_TYPES or content_type.split(b";")[0].strip() in _CONTENT_TYPES


def _read_timeout(value: bytes) -> float:
    try:
        return parse_timeout(value)
    except ValueError as error:
        raise RpcError(StatusCode.INVALID_ARGUMENT, str(error)) from error


class Server:
    """A gRPC server over any number of listeners.

    Must be made and used in a running event loop.

    Args:
        services: what it answers.
        options: limits and timers.
    """

    def __init__(self, services: Iterable[Service], options: ServerOptions | None = None) -> None:
        self.options = options or ServerOptions()
        self.services = tuple(services)
        self.methods: dict[bytes, Method] = {
            path.encode(): method for service in self.services for path, method in service.methods.items()
        }
        self._loop = asyncio.get_running_loop()
        self._listeners: list[Listener] = []
        self.refusals = Refusals(self._loop)
        self._places = Places(self.options.max_connections, self.options.max_connections_per_address)
        self._beginning: set[asyncio.Task[None]] = set()  # connections in their TLS handshakes
        self._connections: set[ServerConnection] = set()
        self._sockets: set[ServerConnection] = set()  # and those that are over, but not yet closed
        self._ticker: asyncio.TimerHandle | None = None
        self._idle, self._closed = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._closed.set()
        self._draining = False
        self._dropped = 0  # connections, since that was told
        self._tell_dropped_at = 0.0
        self._received = self._sent = 0  # by connections that are gone

    @property
    def received(self) -> int:
        """Bytes that came over all connections, without TLS."""
        return self._received + sum(connection.received for connection in self._sockets)

    @property
    def sent(self) -> int:
        """Bytes that were sent over all connections, without TLS."""
        return self._sent + sum(connection.sent for connection in self._sockets)

    def active_calls(self) -> Counter[str]:
        """Count the calls that have not ended, by the path of their method."""
        return Counter(call.method for connection in self._connections for call in connection.active_calls)

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    async def listen(
        self,
        host: str,
        port: int,
        *,
        ssl: tls.SSLContext | None = None,
        reuse_port: bool = False,
        backlog: int = 1024,
    ) -> tuple[str, int]:
        """Accept connections on an address and return it, with the port that 0 became.

        Args:
            host: an address or name; all of a name's addresses are listened on.
            port: a TCP port; 0 = one that is free.
            ssl: a context from ``windshift.rpc.server_tls``; None = plaintext.
            reuse_port: share the port with other processes (SO_REUSEPORT), for a hand-over or workers.
            backlog: connections that may wait to be accepted.

        Raises:
            OSError: the address cannot be listened on.
        """
        sockets = await open_sockets(host, port, reuse_port=reuse_port, backlog=backlog)
        name = sockets[0].getsockname()
        self._listeners.append(
            Listener(sockets, lambda sock, address: self._accepted(sock, address, ssl), self._loop)
        )
        if self._ticker is None:
            self._ticker = self._loop.call_later(self.options.tick_interval, self._tick)
        return name[0], name[1]

    def _accepted(self, sock: socket.socket, address: str, ssl: tls.SSLContext | None) -> None:
        """Begin a connection, or drop it when there are too many."""
        place = self._places.take(address)
        if place is None:
            sock.close()
            self._tell_dropped(address)
            return
        task = self._loop.create_task(self._begin(sock, address, place, ssl))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _begin(
        self, sock: socket.socket, address: str, place: Place, ssl: tls.SSLContext | None
    ) -> None:
        """Have a connection made, and its TLS handshake before it if it has one."""
        try:
            await self._loop.connect_accepted_socket(
                lambda: ServerConnection(self, self._loop, place),
                sock,
                ssl=ssl,
                ssl_handshake_timeout=self.options.connection.handshake_timeout if ssl else None,
            )
        except tls.SSLError as error:
            self.refusals.tell(address, handshake_failure(error))
            place.leave()
        except OSError as error:  # the client is gone, or its handshake takes too long
            _log.debug("a connection did not begin: %s", error)
            place.leave()
        except BaseException:
            place.leave()
            raise

    def _tick(self) -> None:
        now = self._loop.time()
        for connection in list(self._connections):
            connection.tick(now)
        if self.options.max_held is not None:
            self._drop_holders(self.options.max_held)
        self._ticker = self._loop.call_later(self.options.tick_interval, self._tick)

    def _drop_holders(self, limit: int) -> None:
        """Drop those who hold most of the memory, as far as needed."""
        held = {connection: held for connection in self._connections if (held := connection.held)}
        gone = largest_holders(held, limit)
        for connection in gone:
            connection.abort()
        if gone:
            _log.warning(
                "clients hold too much memory: %d connections were dropped, the first one of %s, with %d MB "
                "of messages that are not whole and of unread answers",
                len(gone),
                gone[0].peer,
                held[gone[0]] // 1_000_000,
            )

    def connection_opened(self, connection: ServerConnection) -> None:
        """Keep a new connection; called by it."""
        self._connections.add(connection)
        self._sockets.add(connection)
        self._idle.clear()
        self._closed.clear()
        if self._draining:
            connection.drain()

    def _tell_dropped(self, address: str) -> None:
        """Say that connections were one too many; whoever opens thousands does not fill the log."""
        self._dropped += 1
        now = self._loop.time()
        if now >= self._tell_dropped_at:
            self._tell_dropped_at = now + _TELL_AGAIN
            _log.warning(
                "too many connections are open: %d were dropped, the last one of %s", self._dropped, address
            )
            self._dropped = 0

    def connection_lost(self, connection: ServerConnection) -> None:
        """Forget a connection; called by it."""
        self._connections.discard(connection)
        if not self._connections:
            self._idle.set()

    def connection_gone(self, connection: ServerConnection) -> None:
        """Forget the socket of a connection; called by it."""
        if connection in self._sockets:
            self._sockets.remove(connection)
            self._received += connection.received
            self._sent += connection.sent
        if not self._sockets:
            self._closed.set()

    async def drain(self, timeout: float) -> bool:
        """Stop accepting, let what is in flight finish, close everything.

        Streaming calls are asked to end (``ServerCall.on_drain``), other calls run to their end. Afterwards
        every socket is closed, so that the process may end without cutting off what clients still read.

        Args:
            timeout: seconds after which what still runs is ended with UNAVAILABLE. The clients then have
                ``ConnectionOptions.close_timeout`` to close their sockets.

        Returns:
            Whether everything ended by itself.
        """
        self._draining = True
        self._close_listeners()
        for connection in list(self._connections):
            connection.drain()
        ended = True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            ended = False
            for connection in list(self._connections):
                connection.give_up()
        finally:
            self._stop_ticker()
        await self._closed.wait()
        return ended

    def close(self) -> None:
        """Drop everything now."""
        self._close_listeners()
        self._stop_ticker()
        for task in self._beginning:
            task.cancel()
        for connection in list(self._connections):
            connection.abort()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _stop_ticker(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
