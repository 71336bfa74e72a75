"""One call as the server sees it: what handlers get, and the life of a call from headers to trailers.

Handlers are coroutine functions. What they take depends on what streams::

    unary             async def handler(request, call) -> response
    client streaming  async def handler(call) -> response
    server streaming  async def handler(request, call) -> None
    both              async def handler(call) -> None

A handler ends the call by returning, or by raising ``RpcError``. Anything else that it raises becomes
INTERNAL with a fixed text for the client and one log record for us.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from inspect import CORO_CREATED, getcoroutinestate
from time import perf_counter
from typing import Any, cast

from .connection import Connection
from .connection_hooks import Headers
from .framing import MessageDecoder, decode_single
from .metadata import Metadata, encode_metadata
from .receiving import RequestStream, SingleRequest, parse
from .sending import ResponseStream
from .service import Method
from .status import OK_TRAILERS, HeaderList, RpcError, StatusCode, status_trailers

_SINGLE = "the call has a single request, which its handler was given"


class CallConnection(Connection):
    """A connection that carries server calls: what a call asks of it beyond its streams.

    Attributes:
        known: what ``ServerOptions.admit`` wants to keep about the client.
    """

    known: object = None

    def translate(self, path: str, error: Exception) -> RpcError:
        """Return what the client of a call to ``path`` sees of ``error``."""
        raise NotImplementedError

    def call_finished(self, call: ServerCall, code: StatusCode) -> None:
        """Take note that a call ended with ``code``."""

    def call_failed(self, method: str, fields: Mapping[bytes, bytes], error: RpcError) -> None:
        """Take note that a call ended with this error."""


class ServerCall(ResponseStream):
    """One call, given to its handler.

    Attributes:
        deadline: ``loop.time()`` at which the handler is cancelled, or None.
        started: ``loop.time()`` at which the call arrived.
        begun: ``time.perf_counter()`` at that moment; a loop's time may have milliseconds only.
        finished_at: ``loop.time()`` at which its status was sent; 0 before.
        encoding: what the client compresses messages with, ``identity`` or ``gzip``.
        caller: what ``ServerOptions.admit`` returned.
        on_drain: set by a streaming handler that wants to end by itself when the server drains; called
            once. Without it such a call ends with UNAVAILABLE at that moment.
    """

    __slots__ = (
        "_cancelled",
        "_deadline_passed",
        "_fields",
        "_headers",
        "_kept",
        "_loop",
        "_max_message_size",
        "_metadata",
        "_method",
        "_pieces",
        "_requests",
        "_task",
        "_timer",
        "begun",
        "caller",
        "deadline",
        "encoding",
        "finished_at",
        "on_drain",
        "started",
    )

    _connection: CallConnection

    def __init__(
        self,
        connection: CallConnection,
        stream_id: int,
        method: Method,
        headers: Headers,
        fields: Mapping[bytes, bytes],
        max_message_size: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(connection, stream_id)
        self._method = method
        self._headers = headers
        self._fields = fields
        self._metadata: Metadata | None = None
        self._max_message_size = max_message_size
        self._loop = loop
        self._requests: RequestStream | None = None
        self._pieces: SingleRequest | None = None
        self._kept: deque[tuple[bytes, bool]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_passed = self._cancelled = False
        self.encoding = "identity"
        self.deadline: float | None = None
        self.started = loop.time()
        self.begun = perf_counter()
        self.finished_at = 0.0
        self.caller: object = None
        self.on_drain: Callable[[], None] | None = None

    # -- what handlers use ---------------------------------------------------------------------------

    @property
    def method(self) -> str:
        """The path of the call, ``/package.Service/Method``."""
        return self._method.path

    @property
    def metadata(self) -> Metadata:
        """The metadata that the client sent."""
        if self._metadata is None:
            self._metadata = Metadata(self._headers)
        return self._metadata

    def header(self, name: bytes) -> str:
        """Return an ASCII header of the request, empty when absent; cheaper than all of ``metadata``.

        The values of a header that was sent more than once are joined by commas (RFC 9110, section 5.3).
        """
        return (self.raw_header(name) or b"").decode("latin-1")

    def raw_header(self, name: bytes) -> bytes | None:
        """Return the bytes of a header of the request as ``header`` does, None when it is absent."""
        value = self._fields.get(name)
        if value is None or len(self._fields) == len(self._headers):
            return value
        return b",".join(value for each, value in self._headers if each == name)

    @property
    def peer(self) -> str:
        """The client's address, ``host:port``."""
        return self._connection.peer

    @property
    def connection(self) -> CallConnection:
        """What the call came over: the same object for all calls of one connection."""
        return self._connection

    @property
    def peer_certificate(self) -> dict[str, object] | None:
        """The client's verified certificate, as ``ssl.SSLSocket.getpeercert`` gives it."""
        return self._connection.peer_certificate

    def receive(self) -> Coroutine[Any, Any, Any]:
        """Return the next request message, or None after the client's last.

        Raises:
            RpcError: the bytes received are no messages of the request type.
            RuntimeError: the call has a single request.
        """
        if self._requests is None:
            raise RuntimeError(_SINGLE)
        return self._requests.receive()

    def receive_many(self) -> Coroutine[Any, Any, list[Any]]:
        """Return every request message that has arrived, at least one; an empty list after the last.

        Raises:
            RpcError: the bytes received are no messages of the request type.
            RuntimeError: the call has a single request.
        """
        if self._requests is None:
            raise RuntimeError(_SINGLE)
        return self._requests.receive_many()

    # -- who may call --------------------------------------------------------------------------------

    def hold(self) -> bool:
        """Have the request wait until `release`, as far as the stream's window allows it to come.

        For ``ServerOptions.admit``, when it is not known yet whether the call may go on. Return whether it
        waits: a handler that reads the requests itself begins at once, and has to wait on its own.
        """
        if self._method.client_streaming:
            return False
        self._kept = deque()
        return True

    def release(self) -> None:
        """Take the request that had to wait."""
        kept, self._kept = self._kept, None
        for data, ended in kept or ():
            self.data(data, ended)

    # -- driven by the connection --------------------------------------------------------------------

    def begin(self, ended: bool) -> None:
        """Take the call up: handlers of streaming requests start now, others with their message."""
        if self._method.client_streaming:
            self._requests = RequestStream(
                self._connection,
                self._stream_id,
                self._method.request_type,
                self._decoder(),
                ended,
                self._loop,
            )
            self._task = self._loop.create_task(self._run(None))
        elif ended:
            self._fail_protocol(StatusCode.INTERNAL, "the request has no message")

    def set_timeout(self, seconds: float) -> None:
        """Let the client's deadline cancel the handler."""
        self.deadline = self.started + seconds
        self._timer = self._loop.call_later(seconds, self._pass_deadline)

    def data(self, data: bytes, ended: bool) -> None:
        """Take body bytes."""
        if self._requests is not None and not self._done:
            self._requests.take(data, ended)
            return
        if self._kept is not None and not self._done:
            self._kept.append((data, ended))
            return
        self._connection.acknowledge(self._stream_id, len(data))
        if not self._done:
            self._unary_data(data, ended)

    def end(self) -> None:
        """Note that the client ended its side without further data."""
        if self._kept is not None:
            self._kept.append((b"", True))
        elif self._requests is not None:
            self._requests.take(b"", True)
        elif not self._done and self._task is None:
            self._unary_data(b"", True)

    def _unary_data(self, data: bytes, ended: bool) -> None:
        payload = None
        if ended and self._pieces is None:
            payload = decode_single(data, self._max_message_size)
        if payload is None:
            payload = self._collect(data, ended)
        if payload is not None:
            self._task = self._loop.create_task(self._run(payload))

    def _collect(self, data: bytes, ended: bool) -> bytes | None:
        """Gather a request that arrives in pieces; return its payload once it is whole."""
        if self._pieces is None:
            self._pieces = SingleRequest(self._decoder())
        try:
            return self._pieces.add(data, ended)
        except RpcError as error:
            self._fail(error)
            return None

    def _decoder(self) -> MessageDecoder:
        return MessageDecoder(self._max_message_size, self.encoding)

    def closed(self) -> None:
        """Let go of the stream: the client cancelled, or everything was sent."""
        if self._timer is not None:
            self._timer.cancel()
        self.on_drain = None  # it mostly holds what holds this call: a cycle, left to the collector
        if not self._done:
            self._done = True
            self._discard()
            self._connection.call_finished(self, StatusCode.CANCELLED)
            self._failed(RpcError(StatusCode.CANCELLED, "the client went away"))
            self._cancel()

    def drain(self) -> None:
        """End a streaming call because the server is about to stop; others may finish."""
        if self._done or not self._method.streaming:
            return
        if self.on_drain is not None:
            self.on_drain()
        else:
            self.abort(RpcError(StatusCode.UNAVAILABLE, "the server is shutting down"))

    def abort(self, error: Exception) -> None:
        """End the call with an error and cancel its handler."""
        if self._done:
            return
        self._fail(error)
        self._cancel()

    @property
    def waits_for_request(self) -> bool:
        """Whether a call with a single request has not got it whole."""
        return self._task is None and not self._done

    @property
    def held(self) -> int:
        """Bytes that the client makes us hold: what it does not read, and what is not whole or not taken."""
        held = self._connection.queued(self._stream_id)
        if self._requests is not None:
            held += self._requests.held
        if self._pieces is not None:
            held += self._pieces.held
        if self._kept:
            held += sum(len(data) for data, _ in self._kept)
        return held

    # -- running the handler -------------------------------------------------------------------------

    async def _run(self, payload: bytes | None) -> None:
        """Run the handler with the request, or with nothing when requests stream, and answer."""
        method = self._method
        try:
            if payload is None:
                response = await method.handler(self)
            else:
                response = await method.handler(parse(method.request_type, payload), self)
            if self._done:
                return
            if method.server_streaming:
                self._send_status(OK_TRAILERS)
            else:
                self._send_last(response)
            self._finished(StatusCode.OK)
        except BaseException as error:  # noqa: BLE001 -- settle raises again what is no outcome
            self._settle(error)

    def _settle(self, error: BaseException) -> None:
        """Turn what a handler raised into the status of the call."""
        if isinstance(error, asyncio.CancelledError):
            if self._deadline_passed:
                self._fail_protocol(StatusCode.DEADLINE_EXCEEDED, "the deadline passed")
            else:
                self._fail_protocol(StatusCode.CANCELLED, "the call was cancelled")
        elif isinstance(error, Exception):
            self._fail(error)
        else:
            raise error

    def _pass_deadline(self) -> None:
        if self._done:
            return
        self._deadline_passed = True
        if self._task is None or not _has_begun(self._task):
            self._fail_protocol(StatusCode.DEADLINE_EXCEEDED, "the deadline passed")
        self._cancel()

    def _cancel(self) -> None:
        """Cancel the handler, but only once: a second time would break off its clean-up."""
        task = self._task
        if task is not None and not self._cancelled:
            self._cancelled = True
            task.cancel()
            if not _has_begun(task):
                self._task = None  # it will keep the error, whose traceback keeps this call: a cycle

    def check(self, now: float, body_timeout: float) -> None:
        """Check the timers that need no precision.

        Args:
            now: ``loop.time()``.
            body_timeout: seconds in which the message of a call with a single request must be whole.
        """
        if self._done:
            return
        if self._timer is None and self.deadline is not None and now >= self.deadline:
            if not self._deadline_passed:
                self._pass_deadline()
        elif self.waits_for_request and now - self.started > body_timeout:
            self._fail_protocol(StatusCode.DEADLINE_EXCEEDED, "the request did not arrive in time")

    # -- ending --------------------------------------------------------------------------------------

    def _fail_protocol(self, code: StatusCode, message: str) -> None:
        self._fail(RpcError(code, message))

    def _fail(self, error: Exception) -> None:
        told = self._connection.translate(self._method.path, error)
        if not self._done:
            self._finish_with(told)
        elif told.fault is not None:  # nobody is there to be told, but it is a mistake of ours
            self._failed(told)

    def _failed(self, error: RpcError) -> None:
        self._connection.call_failed(self._method.path, self._fields, error)

    def _finish_with(self, error: RpcError) -> None:
        """Send the status; headers that were not sent go with it."""
        try:
            trailers = _error_trailers(error)
        except Exception as unsendable:  # noqa: BLE001 -- the client must not wait because of our mistake
            error = self._connection.translate(self._method.path, unsendable)
            trailers = status_trailers(error)
        self._send_status(trailers)
        self._finished(error.code)
        self._failed(error)

    def _finished(self, code: StatusCode) -> None:
        self._done = True
        self.finished_at = self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._discard()
        self._connection.call_finished(self, code)

    def _discard(self) -> None:
        """Give back the connection's window that bytes hold which nobody will read."""
        if self._requests is not None:
            self._requests.discard()
        if self._kept:
            self._connection.acknowledge(self._stream_id, sum(len(data) for data, _ in self._kept))
            self._kept.clear()


def _has_begun(task: asyncio.Task[None]) -> bool:
    """Tell whether a handler ran at all: one that is cancelled before it began never settles its call."""
    return getcoroutinestate(cast("Coroutine[Any, Any, None]", task.get_coro())) != CORO_CREATED


def _error_trailers(error: RpcError) -> HeaderList:
    trailers = status_trailers(error)
    return trailers + encode_metadata(error.metadata) if error.metadata else trailers
