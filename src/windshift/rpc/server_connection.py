"""A client's connection: from request headers to a handler or a refusal, and the end of it in a drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from math import inf
from random import uniform
from typing import Final, NamedTuple, Protocol

from .admission import CANCELLED_CALL, FAILING_CALL, INVALID_CALL, USELESS_FRAME, ConnectionLimiter, Slot
from .call import RESPONSE_HEADERS, ServerCall
from .connection import NO_ERROR, SERVER, Connection, ConnectionHandler
from .holding import Holder, Holding, Turnover
from .listening import RejectionLog
from .metadata import parse_timeout
from .proxy_protocol import ClientAddress
from .server_options import Failure, ServerOptions
from .service import Method
from .status import HeaderList, Headers, RpcError, StatusCode, status_trailers
from .transports import joined
from .turns import CALL_COST, Turns

_log = logging.getLogger(__name__)

_DRAIN_PING = b"draining"
_NOT_GRPC = b"This port speaks gRPC only: POST with content-type application/grpc.\n"
_USELESS = {
    StatusCode.UNIMPLEMENTED: FAILING_CALL,
    StatusCode.UNAUTHENTICATED: FAILING_CALL,
    StatusCode.INVALID_ARGUMENT: INVALID_CALL,
    StatusCode.PERMISSION_DENIED: INVALID_CALL,
    StatusCode.CANCELLED: CANCELLED_CALL,
}
"""How useless the calls are that end so."""
_TOLERATED = 512
"""Units of useless work, halved each second, that are left to a connection while others of its address make
too much."""
_CONTENT_TYPES = frozenset({b"application/grpc", b"application/grpc+proto"})
_ENCODINGS = frozenset({b"identity", b"gzip"})


class _Owner(Protocol):  # what a connection needs of its `Server`
    options: ServerOptions
    methods: dict[bytes, Method]
    connection_limiter: ConnectionLimiter
    turns: Turns
    holding: Holding
    rejections: RejectionLog
    endings: RejectionLog

    def connection_opened(self, connection: ServerConnection) -> None: ...
    def connection_lost(self, connection: ServerConnection) -> None: ...
    def connection_gone(self, connection: ServerConnection) -> None: ...


class Opening(NamedTuple):
    """What the headers of a request say. Most requests have the headers of the one before.

    Attributes:
        headers: the headers, as they came.
        fields: the last value of each name.
        method: what they ask for; None = no method serves that.
        is_plain: whether nothing is to be done before the message of such a call has come.
    """

    headers: Headers
    fields: Mapping[bytes, bytes]
    method: Method | None
    is_plain: bool


_NOT_OPENED: Final = Opening((), {}, None, is_plain=False)


def read_opening(headers: Headers, methods: Mapping[bytes, Method]) -> Opening:
    """Read the headers of a request."""
    fields = dict(headers)
    method = methods.get(fields.get(b":path", b""))
    if not _is_grpc(fields) or fields.get(b":method") != b"POST":
        method = None
    is_plain = not (
        method is None
        or method.streaming
        or method.on_headers is not None
        or b"grpc-encoding" in fields
        or b"grpc-timeout" in fields
    )
    return Opening(headers, fields, method, is_plain)


class ServerConnection(ConnectionHandler):
    """One client's connection and its calls.

    Attributes:
        http2: the connection itself.
        holding: what is held for all clients.
        served: bytes of requests that were answered.
        observer: called with each call that has ended, and its status.
        pace: says how the work of a call is run.
    """

    def __init__(
        self,
        owner: _Owner,
        loop: asyncio.AbstractEventLoop,
        slot: Slot,
        client: ClientAddress | None = None,
    ) -> None:
        stranger = owner.options.authenticate_timeout is not None
        self.http2 = Connection(SERVER, owner.options.connection, self, loop, owner.turns, stranger=stranger)
        if client is not None:
            self.http2.peer = joined(client.host, client.port)
        self._owner = owner
        self._slot = slot
        self._methods = owner.methods
        self._loop = loop
        self._calls: dict[int, ServerCall] = {}
        self._opening = _NOT_OPENED  # of the last request
        self._unended: dict[int, float] = {}  # answered streams that clients have not ended: since when
        self._turnover = Turnover(loop.time())
        self._useless = 0  # units, halved each second
        self.holding = owner.holding
        self.served = 0
        self.observer = owner.options.on_call_finished
        self.pace = owner.options.pace
        self._had_request = False
        self._admitted = not stranger
        self._draining = self._going_away = False
        age = owner.options.connection_age
        self._drain_at = inf if age is None else loop.time() + age * uniform(0.9, 1.1)
        self._end_at = inf

    # -- hooks of the connection -------------------------------------------------------------------------

    def on_no_http2(self) -> None:
        """Have it told: a proxy in front that speaks HTTP/1.1 is easily overlooked."""
        self._owner.rejections.rejected(self.http2.peer, "the client does not offer HTTP/2 (ALPN h2)")

    def on_ready(self) -> None:
        """Register with the server."""
        self._slot.drop = self.http2.abort
        self._owner.connection_opened(self)
        if self.http2.stranger and self.http2.peer_certificate is not None:
            self.http2.stranger = False
            if self._owner.options.certificate_suffices:
                self.call_admitted()

    def on_request(self, stream_id: int, headers: Headers, ended: bool) -> None:
        """Find the method and take the call up, or answer why not."""
        known, fields, method, is_plain = self._opening
        if headers != known:  # to compare them costs less than to read them
            self._had_request = True
            self._opening = known, fields, method, is_plain = read_opening(headers, self._methods)
        if method is None:
            self._refuse(stream_id, fields, ended)
            return
        call = ServerCall(self, self.http2, stream_id, method, known, fields)
        if not is_plain:
            try:
                self._prepare(call, stream_id, method)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the client must be answered
                self._refuse_call(stream_id, method.path, fields, error, ended)
                return
        self._calls[stream_id] = call
        if self.http2.stranger:
            self._owner.turns.charge_strangers(CALL_COST)
        if ended or method.client_streaming:
            call.begin(ended)

    def _prepare(self, call: ServerCall, stream_id: int, method: Method) -> None:
        seconds = _read_options(call.fields)
        admission = None
        if method.on_headers is not None:
            admission = method.on_headers(call)
            if admission is None and not self._admitted:
                self.call_admitted()
        if seconds is not None:
            call.set_timeout(seconds)
        if method.streaming:
            self.http2.share_fairly(stream_id)
        if admission is not None:
            call.await_admission(admission)

    def on_data(self, stream_id: int, data: bytes, ended: bool) -> None:
        """Give body bytes to their call, or discard them."""
        call = self._calls.get(stream_id)
        if call is not None:
            call.data(data, ended)
        else:
            self.http2.acknowledge(stream_id, len(data))

    def on_trailers(self, stream_id: int, headers: Headers) -> None:
        """End the client's side: its trailers mean nothing else."""
        self.on_data(stream_id, b"", True)

    def on_stream_closed(self, stream_id: int, error_code: int) -> None:
        """Release the call; cancel its handler when it still runs."""
        if self._unended:
            self._unended.pop(stream_id, None)
        call = self._calls.pop(stream_id, None)
        if call is not None and not call.done:
            call.closed()
        if self._going_away and not self._calls:
            self._finish_drain()

    def on_ping_answered(self, payload: bytes) -> None:
        """Go on with a drain when the client has seen the first GOAWAY."""
        if payload == _DRAIN_PING:
            self._when_read(self._go_away)

    def on_useless(self, frames: int) -> None:
        """Count frames that carry nothing."""
        self._count_useless(frames * USELESS_FRAME)

    def on_given_up(self, reason: str) -> None:
        """Count the connection."""
        self._owner.connection_limiter.refused[reason] += 1

    def _count_useless(self, units: int) -> None:
        """Have useless work counted, and end the connection when its address made too much of it."""
        slot = self._slot
        if slot.address is None or self.http2.over:
            return
        self._useless += units
        within = slot.address.spend(units, self._loop.time())
        if not within and self._useless > _TOLERATED and self.http2.end_for_flood():
            self._owner.connection_limiter.flooded(slot)
            self._owner.endings.rejected(
                self.http2.peer, "its address makes too many calls that fail, or frames that carry nothing"
            )

    def on_lost(self, error: Exception | None) -> None:
        """End every call: an engine that failed reports no closed streams."""
        calls = list(self._calls.values())
        self._calls.clear()
        self._unended.clear()
        for call in calls:
            if not call.done:
                call.closed()
        self._owner.connection_lost(self)

    def on_socket_closed(self) -> None:
        """Let the server forget the socket."""
        self._owner.connection_limiter.release(self._slot)
        self._owner.connection_gone(self)

    # -- for calls -----------------------------------------------------------------------------------

    def translate(self, path: str, error: Exception) -> RpcError:
        """Let the server's options say what the client sees; what nobody expected becomes a fault."""
        known = self._owner.options.translate(path, error)
        if known is not None:
            return known
        if isinstance(error, RpcError):
            return error
        status = self.translate(
            path, RpcError(StatusCode.INTERNAL, "the server failed on this call; its log says why")
        )
        status.fault = error
        return status

    def call_admitted(self) -> None:
        """Treat the connection as that of somebody who is known, from now on."""
        self._admitted, self.http2.stranger = True, False
        self._owner.connection_limiter.authenticated(self._slot)

    def call_malformed(self) -> None:
        """Count a call with a malformed request."""
        self._count_useless(FAILING_CALL)

    def call_failed(self, method: str, fields: Mapping[bytes, bytes], error: RpcError) -> None:
        """Tell who wants to know; nobody: log what nobody expected."""
        units = _USELESS.get(error.code)
        if units is not None:
            self._count_useless(units)
        observer = self._owner.options.on_call_failed
        if observer is not None:
            observer(Failure(method, self.http2.peer, error, fields))
        elif error.fault is not None:
            _log.error("the handler of %s failed", method, exc_info=error.fault)

    @property
    def active_calls(self) -> list[ServerCall]:
        """The calls that have not ended."""
        return [call for call in self._calls.values() if not call.done]

    def holds(self, now: float) -> Holder[ServerConnection]:
        """Return what is held for the client.

        It frees what waits to be parsed by going away, and what its open calls take by ending them: that
        these are quiet does not count against it.
        """
        held = stuck = self.http2.unread + (self.http2.queued() if self._calls else 0)
        overhead = 0
        for call in self._calls.values():
            of_it, waits_for_others = call.holds()
            held += of_it
            stuck += of_it - waits_for_others
            overhead += call.overhead
        idle = self._turnover.idle(stuck - overhead, self.http2.sent + self.served, now)
        return Holder(self, held, stuck, idle)

    # -- refusing ------------------------------------------------------------------------------------

    def _refuse(self, stream_id: int, fields: Mapping[bytes, bytes], ended: bool) -> None:
        """Answer a request that no method takes."""
        if fields.get(b":method") != b"POST":
            self._answer_http(stream_id, [(b":status", b"405"), (b"allow", b"POST")], fields, ended)
        elif not _is_grpc(fields):
            accepted = (b"accept-post", b"application/grpc")
            self._answer_http(stream_id, [(b":status", b"415"), accepted], fields, ended)
        else:
            text = _path_text(fields)
            error = RpcError(StatusCode.UNIMPLEMENTED, f"the server has no method {text}")
            self._refuse_call(stream_id, None, fields, error, ended)

    def _refuse_call(
        self, stream_id: int, path: str | None, fields: Mapping[bytes, bytes], error: Exception, ended: bool
    ) -> None:
        """Answer a request that does not become a call; without a path there is no such method."""
        text = _path_text(fields)
        seen = self.translate(text, error)
        self._answer(stream_id, RESPONSE_HEADERS + status_trailers(seen), b"", ended)
        observer = self._owner.options.on_call_refused
        if observer is not None:
            observer(path, seen.code)
        self.call_failed(text, fields, seen)

    def _answer_http(
        self, stream_id: int, headers: HeaderList, fields: Mapping[bytes, bytes], ended: bool
    ) -> None:
        """Answer a client that speaks HTTP but not gRPC."""
        self._count_useless(FAILING_CALL)
        body = b"" if fields.get(b":method") == b"HEAD" else _NOT_GRPC
        self._answer(stream_id, [*headers, (b"content-type", b"text/plain")], body, ended)

    def _answer(self, stream_id: int, headers: HeaderList, body: bytes, ended: bool) -> None:
        """Send a whole response; what the client still sends is read and dropped, never reset."""
        self.http2.send_response(stream_id, headers, end=not body)
        if body:
            self.http2.send_data(stream_id, body, end=True)
        if not ended:
            self._unended[stream_id] = self._loop.time()

    # -- time ----------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Check the timers of the connection and its calls."""
        self.http2.tick(now)
        self._useless //= 2
        self._opening = _NOT_OPENED  # an idle connection keeps no headers
        options = self._owner.options
        if self.http2.over:
            return
        if not self._had_request and now - self.http2.made_at > options.first_request_timeout:
            self._had_request = True
            self.drain()
            return
        if self.http2.stranger and self._has_to_go(now):
            return
        if now >= self._drain_at and not self._draining:
            self.drain()
            self._end_at = now + options.connection_age_grace
        elif now >= self._end_at:
            self.end(RpcError(StatusCode.UNAVAILABLE, "the connection is too old; connect anew"))
            return
        for call in list(self._calls.values()):
            call.check(now, options.request_timeout)
        if not self.http2.heal_window(sum(call.unacknowledged for call in self._calls.values())):
            self.drain()
        if not self.http2.unwritten:  # a reset would overtake the status that was sent before it
            self._reset_unended(now)

    def _has_to_go(self, now: float) -> bool:
        """End a connection on which nobody authenticated in time; not a proxy's, which may know no better."""
        timeout = self._owner.options.authenticate_timeout
        if self._slot.address is None or timeout is None or self._draining:
            return False
        if now - self.http2.made_at <= timeout:
            return False
        self._owner.connection_limiter.refused["unauthenticated"] += 1
        for call in list(self._calls.values()):
            call.abort(
                RpcError(StatusCode.UNAVAILABLE, "nobody authenticated on this connection; connect anew")
            )
        self.drain()
        return True

    def _reset_unended(self, now: float) -> None:
        """Reset streams that were answered a while ago and whose clients did not end their side."""
        for stream_id, each in self._calls.items():
            if each.done:
                self._unended.setdefault(stream_id, now)
        before = now - self._owner.options.discard_timeout
        for stream_id, since in list(self._unended.items()):
            call = self._calls.get(stream_id)
            if since < before and (call is None or not call.queued):
                del self._unended[stream_id]
                self.http2.reset(stream_id, NO_ERROR)

    # -- drain ---------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no new calls, end streaming ones, let the others finish, close.

        The order matters (measured with grpcio and grpc-go under load, no call lost): first GOAWAY and a
        PING, its answer, the end of the streaming calls, the final GOAWAY, the last stream, half-close.
        """
        if self._draining or self.http2.over:
            return
        self._draining = True
        self.http2.send_shutdown_notice(_DRAIN_PING)
        self._loop.call_later(self._owner.options.drain_ping_timeout, self._go_away)

    def _when_read(self, action: Callable[[], None]) -> None:
        """Do something when what has come is parsed, so that calls right behind the last frame count."""
        if self.http2.unread:
            self._loop.call_soon(self._when_read, action)
        else:
            action()

    def _go_away(self) -> None:
        if self._going_away or self.http2.over:
            return
        for call in list(self._calls.values()):
            call.drain()
        self.http2.send_goaway()
        self._going_away = True
        if not self._calls:
            self._finish_drain()

    def _finish_drain(self) -> None:
        self._loop.call_soon(self._when_read, self._close_when_idle)

    def _close_when_idle(self) -> None:
        if not self._calls:
            self.http2.close_gracefully()

    def end(self, error: Exception, but: ServerCall | None = None) -> None:
        """End all calls with an error, and the connection once the client has ended their streams, too.

        One call may be left to finish: that which has the connection ended.

        A client that sees the socket end right behind a status may make a lost connection of both (grpcio
        does). One that does not end its streams within ``close_timeout`` has had its time.
        """
        self._draining = self._going_away = True
        self._end_at = inf
        for call in list(self._calls.values()):
            if call is not but:
                call.abort(error)
        self.http2.send_goaway()
        if self._calls:
            timeout = self._owner.options.connection.close_timeout
            self._loop.call_later(timeout, self.http2.close_gracefully)
        else:
            self._finish_drain()


def _path_text(fields: Mapping[bytes, bytes]) -> str:
    """Return what a client asked for: at most 200 bytes, and nothing beyond ASCII.

    What follows a question mark is left out: it means nothing to gRPC, and may be a secret.
    """
    return fields.get(b":path", b"").partition(b"?")[0][:200].decode("ascii", "backslashreplace")


def _is_grpc(fields: Mapping[bytes, bytes]) -> bool:
    return fields.get(b"content-type", b"").split(b";")[0].strip() in _CONTENT_TYPES


def _read_options(fields: Mapping[bytes, bytes]) -> float | None:
    """Check how the messages of a call are compressed; return the seconds that its client gives it."""
    if fields.get(b"grpc-encoding", b"identity") not in _ENCODINGS:
        raise RpcError(StatusCode.UNIMPLEMENTED, "grpc-encoding is not supported; send identity or gzip")
    timeout = fields.get(b"grpc-timeout")
    return None if timeout is None else parse_timeout(timeout)
