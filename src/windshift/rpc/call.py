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
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from inspect import CORO_CREATED, getcoroutinestate
from time import perf_counter
from typing import Any, cast

from google.protobuf.message import DecodeError, Message

from .connection import Connection, Headers
from .framing import ACCEPT_ENCODING, MessageDecoder, decode_single, encode_message
from .metadata import Metadata, encode_metadata
from .service import Method
from .status import OK_TRAILERS, HeaderList, MetadataValue, RpcError, StatusCode, status_trailers

RESPONSE_HEADERS: HeaderList = [
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    ACCEPT_ENCODING,
]

ErrorTranslator = Callable[[str, Exception], RpcError | None]
"""Says what a client sees of an error, given the call's path. None = what the gRPC layer would send."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that did not end with OK, for those who keep a record of it.

    Attributes:
        method: the path of the call, as far as the server knows it.
        peer: the client's address.
        error: what the client was told; its ``fault`` is what nobody expected.
        fields: the headers of the request.
    """

    method: str
    peer: str
    error: RpcError
    fields: Mapping[bytes, bytes] = field(repr=False)

    def header(self, name: bytes) -> str:
        """Return an ASCII header of the request, empty when absent."""
        return self.fields.get(name, b"").decode("latin-1")


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


class ServerCall:
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
        "_chunks",
        "_connection",
        "_deadline_passed",
        "_decoder",
        "_done",
        "_ended",
        "_fields",
        "_headers",
        "_headers_sent",
        "_initial_metadata",
        "_kept",
        "_loop",
        "_max_message_size",
        "_messages",
        "_metadata",
        "_method",
        "_stream_id",
        "_task",
        "_timer",
        "_trailing_metadata",
        "_waiter",
        "begun",
        "caller",
        "deadline",
        "encoding",
        "finished_at",
        "on_drain",
        "started",
    )

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
        self._connection = connection
        self._stream_id = stream_id
        self._method = method
        self._headers = headers
        self._fields = fields
        self._metadata: Metadata | None = None
        self._max_message_size = max_message_size
        self._decoder: MessageDecoder | None = None
        self._loop = loop
        self._chunks: deque[bytes] | None = None
        self._messages: deque[bytes] | None = None
        self._kept: deque[tuple[bytes, bool]] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = self._done = self._headers_sent = self._deadline_passed = self._cancelled = False
        self._initial_metadata: HeaderList | None = None
        self.encoding = "identity"
        self.deadline: float | None = None
        self.started = loop.time()
        self.begun = perf_counter()
        self.finished_at = 0.0
        self._trailing_metadata: HeaderList | None = None
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

    async def receive(self) -> Any:
        """Return the next request message, or None after the client's last.

        Raises:
            RpcError: the bytes received are no messages of the request type.
        """
        messages = self._queue()
        while not messages:
            if not self._take_chunk() and not await self._more():
                return None
        return self._parse(messages.popleft())

    async def receive_many(self) -> list[Any]:
        """Return every request message that has arrived, at least one; an empty list after the last.

        Raises:
            RpcError: the bytes received are no messages of the request type.
        """
        messages = self._queue()
        while True:
            while self._take_chunk():
                pass
            if messages:
                batch = [self._parse(payload) for payload in messages]
                messages.clear()
                return batch
            if not await self._more():
                return []

    def send(self, message: Message) -> None:
        """Queue a response message; never blocks. After the end of the call nothing happens."""
        self.send_bytes(message.SerializeToString())

    def send_bytes(self, payload: bytes) -> None:
        """Queue a response message that is serialized already."""
        if self._done:
            return
        if not self._headers_sent:
            self._send_headers()
        self._connection.send_data(self._stream_id, encode_message(payload))

    def begin_response(self) -> None:
        """Send the headers now, ahead of the first message: the client sees that its call was taken up."""
        if not self._done and not self._headers_sent:
            self._send_headers()

    async def ready(self) -> None:
        """Wait until little of what was sent is still queued; a slow client must not fill the memory."""
        if self._connection.queued(self._stream_id) and not self._done:
            await self._connection.writable(self._stream_id)

    @property
    def queued(self) -> int:
        """Bytes that wait for the client to read."""
        return self._connection.queued(self._stream_id)

    def set_initial_metadata(self, pairs: Iterable[tuple[str, MetadataValue]]) -> None:
        """Set the metadata sent ahead of the first message.

        Raises:
            RuntimeError: the headers have been sent.
            ValueError: see ``encode_metadata``.
        """
        if self._headers_sent:
            raise RuntimeError("the initial metadata has been sent already")
        self._initial_metadata = encode_metadata(pairs)

    def add_trailing_metadata(self, name: str, value: MetadataValue) -> None:
        """Add a pair to the metadata sent with the status.

        Raises:
            ValueError: see ``encode_metadata``.
        """
        self._trailing_metadata = (self._trailing_metadata or []) + encode_metadata([(name, value)])

    # -- receiving -----------------------------------------------------------------------------------

    def _queue(self) -> deque[bytes]:
        if self._messages is None:
            self._messages = deque()
        return self._messages

    def _decode(self, data: bytes) -> None:
        """Add the messages that ``data`` completes to the queue."""
        if self._decoder is None:
            self._decoder = MessageDecoder(self._max_message_size, self.encoding)
        self._queue().extend(self._decoder.feed(data))

    def _take_chunk(self) -> bool:
        """Move one received chunk to the message decoder, and let the client send as much again."""
        if not self._chunks:
            return False
        chunk = self._chunks.popleft()
        self._connection.acknowledge(self._stream_id, len(chunk))
        self._decode(chunk)
        return True

    async def _more(self) -> bool:
        """Wait for something to arrive; False when the client has ended its side."""
        if self._ended:
            if self._decoder is not None and self._decoder.incomplete:
                raise RpcError(StatusCode.INTERNAL, "the request ended in the middle of a message")
            return False
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        return True

    def _parse(self, payload: bytes) -> Message:
        request_type = self._method.request_type
        try:
            return request_type.FromString(payload)
        except DecodeError as error:
            name = request_type.DESCRIPTOR.full_name
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"the request is not a valid {name}") from error

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
            self._chunks = deque()
            self._ended = ended
            self._task = self._loop.create_task(self._run_streaming())
        elif ended:
            self._fail_protocol(StatusCode.INTERNAL, "the request has no message")

    def set_timeout(self, seconds: float) -> None:
        """Let the client's deadline cancel the handler."""
        self.deadline = self.started + seconds
        self._timer = self._loop.call_later(seconds, self._pass_deadline)

    def data(self, data: bytes, ended: bool) -> None:
        """Take body bytes."""
        if self._chunks is not None and not self._done:
            if data:
                self._chunks.append(data)
            if ended:
                self._ended = True
            self._wake()
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
        elif self._chunks is None and not self._done and self._task is None:
            self._unary_data(b"", True)
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _unary_data(self, data: bytes, ended: bool) -> None:
        payload = None
        if ended and self._decoder is None:
            payload = decode_single(data, self._max_message_size)
        if payload is None:
            payload = self._collect(data, ended)
        if payload is not None:
            run = self._run_server_streaming if self._method.server_streaming else self._run_unary
            self._task = self._loop.create_task(run(payload))

    def _collect(self, data: bytes, ended: bool) -> bytes | None:
        """Gather a request that arrives in pieces; return its payload once it is whole."""
        try:
            self._decode(data)
        except RpcError as error:
            self._fail(error)
            return None
        messages = self._queue()
        if len(messages) > 1:
            self._fail_protocol(StatusCode.INTERNAL, "the request has more than one message")
        elif ended and (not messages or (self._decoder is not None and self._decoder.incomplete)):
            self._fail_protocol(StatusCode.INTERNAL, "the request is not one complete message")
        elif ended:
            return messages.popleft()
        return None

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
    def done(self) -> bool:
        """Whether the status was sent or the stream is gone."""
        return self._done

    @property
    def waits_for_request(self) -> bool:
        """Whether a call with a single request has not got it whole."""
        return self._task is None and not self._done

    @property
    def held(self) -> int:
        """Bytes that the client makes us hold: what it does not read, and what is not whole or not taken."""
        held = self._connection.queued(self._stream_id)
        if self._decoder is not None:
            held += self._decoder.buffered
        for waiting in (self._chunks, self._messages):
            if waiting:
                held += sum(map(len, waiting))
        if self._kept:
            held += sum(len(data) for data, _ in self._kept)
        return held

    @property
    def stream_id(self) -> int:
        """The HTTP/2 stream of the call."""
        return self._stream_id

    # -- running the handler -------------------------------------------------------------------------

    async def _run_unary(self, payload: bytes) -> None:
        try:
            response = await self._method.handler(self._parse(payload), self)
            self._finish_unary(response)
        except BaseException as error:  # noqa: BLE001 -- settle raises again what is no outcome
            self._settle(error)

    async def _run_server_streaming(self, payload: bytes) -> None:
        try:
            await self._method.handler(self._parse(payload), self)
            self._finish_with(None)
        except BaseException as error:  # noqa: BLE001 -- settle raises again what is no outcome
            self._settle(error)

    async def _run_streaming(self) -> None:
        try:
            response = await self._method.handler(self)
            if self._method.server_streaming:
                self._finish_with(None)
            else:
                self._finish_unary(response)
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

    def _send_headers(self) -> None:
        self._headers_sent = True
        headers = RESPONSE_HEADERS
        if self._initial_metadata:
            headers = headers + self._initial_metadata
        self._connection.send_response(self._stream_id, headers)

    def _finish_unary(self, response: Message) -> None:
        if self._done:
            return
        payload = encode_message(response.SerializeToString())
        trailers = OK_TRAILERS
        if self._trailing_metadata:
            trailers = trailers + self._trailing_metadata
        if self._headers_sent:
            self._connection.send_data(self._stream_id, payload)
            self._connection.send_trailers(self._stream_id, trailers)
        else:
            headers = RESPONSE_HEADERS
            if self._initial_metadata:
                headers = headers + self._initial_metadata
            self._connection.send_message(self._stream_id, headers, payload, trailers)
        self._finished(StatusCode.OK)

    def _finish_with(self, error: RpcError | None) -> None:
        """Send the status; headers that were not sent go with it."""
        if self._done:
            return
        trailers = OK_TRAILERS
        if error is not None:
            try:
                trailers = _error_trailers(error)
            except Exception as unsendable:  # noqa: BLE001 -- the client must not wait because of our mistake
                error = self._connection.translate(self._method.path, unsendable)
                trailers = status_trailers(error)
        if self._trailing_metadata:
            trailers = trailers + self._trailing_metadata
        if self._headers_sent:
            self._connection.send_trailers(self._stream_id, trailers)
        else:
            headers = RESPONSE_HEADERS + (self._initial_metadata or [])
            self._connection.send_response(self._stream_id, headers + trailers, end=True)
        self._finished(StatusCode.OK if error is None else error.code)
        if error is not None:
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
        if self._chunks:
            self._connection.acknowledge(self._stream_id, sum(map(len, self._chunks)))
            self._chunks.clear()
        if self._kept:
            self._connection.acknowledge(self._stream_id, sum(len(data) for data, _ in self._kept))
            self._kept.clear()


def _has_begun(task: asyncio.Task[None]) -> bool:
    """Tell whether a handler ran at all: one that is cancelled before it began never settles its call."""
    return getcoroutinestate(cast("Coroutine[Any, Any, None]", task.get_coro())) != CORO_CREATED


def _error_trailers(error: RpcError) -> HeaderList:
    trailers = status_trailers(error)
    return trailers + encode_metadata(error.metadata) if error.metadata else trailers
