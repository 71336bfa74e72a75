"""One call as the server sees it: what handlers get, and the life of a call from headers to trailers.

Handlers are coroutine functions. What they take depends on what streams::

    unary             async def handler(request, call) -> response
    client streaming  async def handler(call) -> response
    server streaming  async def handler(request, call) -> None
    both              async def handler(call) -> None

A handler ends the call by returning, or by raising ``RpcError``. Anything else that it raises becomes
INTERNAL with a fixed text for the client and one log record for us.

A task is much of what a small call costs. So a unary handler may also be a plain function, which returns
nothing and answers when it can: by ``call.answer``, or by ``call.go_on`` where a task is needed after all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, Protocol, cast

from google.protobuf.message import Message

from .connection import Connection
from .framing import ACCEPT_ENCODING, MessageDecoder, decode_single, encode_message
from .holding import Holding
from .message_stream import Direction, MessageStream
from .metadata import decode_metadata, encode_metadata
from .service import UNLIMITED, Method
from .status import (
    OK_TRAILERS,
    HeaderList,
    Headers,
    MetadataValue,
    NoRoom,
    RpcError,
    StatusCode,
    status_trailers,
)

RESPONSE_HEADERS: HeaderList = [
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    ACCEPT_ENCODING,
]

_PARSE = Direction.REQUEST.parse
_OK = StatusCode.OK  # before Python 3.12 it costs a function call to read it there
_SINGLE = "the call has a single request, which its handler was given"


_LARGE_ANSWER = 65_536
"""Bytes from which it matters whether the client reads its answer."""


class _Owner(Protocol):  # what a call needs of its `ServerConnection`
    holding: Holding
    served: int
    observer: Callable[[ServerCall, StatusCode], None] | None
    pace: Callable[[ServerCall, Any], Awaitable[Any]]

    def translate(self, path: str, error: Exception) -> RpcError: ...
    def call_admitted(self) -> None: ...
    def call_malformed(self) -> None: ...
    def call_failed(self, method: str, fields: Mapping[bytes, bytes], error: RpcError) -> None: ...


class ServerCall:
    """One call, given to its handler.

    Attributes:
        method: the path of the call, ``/package.Service/Method``.
        connection: what the call came over: the same object for all calls of one connection.
        peer: the client's address, ``host:port``.
        deadline: ``loop.time()`` at which the handler is cancelled, or None.
        started: ``loop.time()`` at which the call arrived.
        begun: ``time.perf_counter()`` then; a loop's time may have milliseconds only.
        done: whether the status was sent or the stream is gone.
        fields: the headers of the request, and the last value of each.
        state: what interceptors keep about the call, such as who makes it.
        span: its span, or False if it is not recorded; None = that is not decided yet.
        size: bytes of its request so far, where it has a single one; of others what a handler keeps.
        overhead: bytes that the server keeps for the call as long as it lasts, where clients may open many.
        on_drain: set by a streaming handler that wants to end by itself when the server drains; called
            once. Without it such a call ends with UNAVAILABLE at that moment.
        on_cancel: set by a plain handler; called, once, when the call ends before it was answered.
        on_end: set by who stands before a plain handler; called, once, when the call has ended.
    """

    __slots__ = (
        "_admission",
        "_cancelled",
        "_deadline_passed",
        "_handled",
        "_headers",
        "_headers_sent",
        "_method",
        "_owner",
        "_requests",
        "_response_headers",
        "_stream_id",
        "_task",
        "_timer",
        "_trailing_metadata",
        "begun",
        "connection",
        "deadline",
        "done",
        "fields",
        "method",
        "on_cancel",
        "on_drain",
        "on_end",
        "overhead",
        "peer",
        "size",
        "span",
        "started",
        "state",
    )

    def __init__(
        self,
        owner: _Owner,
        connection: Connection,
        stream_id: int,
        method: Method,
        headers: Headers,
        fields: Mapping[bytes, bytes],
    ) -> None:
        self._owner = owner
        self.connection = connection
        self._stream_id = stream_id
        self._method = method
        self.method = method.path
        self.peer = connection.peer
        self._headers = headers
        self.fields = fields
        self._requests: MessageStream[Any] | None = None  # none as long as a single one may come whole
        self._admission: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.done = self._headers_sent = self._deadline_passed = self._cancelled = False
        self._handled = False  # whether there is a handler at work, or was
        self._response_headers = RESPONSE_HEADERS
        self._trailing_metadata: HeaderList | None = None
        self.deadline: float | None = None
        self.started = connection.received_at
        self.begun = connection.received_clock
        self.size = self.overhead = 0
        self.state: object = None
        self.span: object = None
        self.on_drain: Callable[[], None] | None = None
        self.on_cancel: Callable[[], None] | None = None
        self.on_end: Callable[[], None] | None = None

    # -- the request ---------------------------------------------------------------------------------

    @property
    def metadata(self) -> tuple[tuple[str, MetadataValue], ...]:
        """The metadata that the client sent, see ``decode_metadata``. It is read anew each time."""
        return decode_metadata(self._headers)

    def header(self, name: bytes) -> str:
        """Return an ASCII header of the request, empty when absent; cheaper than all of ``metadata``.

        The values of a header that was sent more than once are joined by commas (RFC 9110, section 5.3).
        """
        value = self.raw_header(name) if name in self.fields else None
        return "" if value is None else value.decode("latin-1")

    def raw_header(self, name: bytes) -> bytes | None:
        """Return the bytes of a header of the request as ``header`` does, None when it is absent."""
        value = self.fields.get(name)
        if value is None or len(self.fields) == len(self._headers):
            return value
        return b",".join(value for each, value in self._headers if each == name)

    def receive(self) -> Coroutine[Any, Any, Any]:
        """Return the next request message, or None after the client's last, or after ``stop_receiving``.

        Raises:
            RpcError: the bytes received are not messages of the request type.
            RuntimeError: the call has a single request.
        """
        return self._streamed().receive()

    def receive_many(self) -> Coroutine[Any, Any, list[Any]]:
        """Return request messages that have arrived, at least one; an empty list after the last.

        It is empty after ``stop_receiving``, too. They are 1,024 at most, and fewer when they are large.

        Raises:
            RpcError: the bytes received are not messages of the request type.
            RuntimeError: the call has a single request.
        """
        return self._streamed().receive_many()

    def stop_receiving(self) -> None:
        """Have the handler receive nothing more, as if the client had ended its side.

        Raises:
            RuntimeError: the call has a single request.
        """
        self._streamed().stop()

    async def receive_kept(self) -> tuple[list[Any], int]:
        """Receive as ``receive_many`` does; return also the bytes that count as kept until ``let_go``.

        Raises:
            NoRoom: too much is kept for all clients; nothing more is inflated then.
            RpcError: see ``receive_many``.
            RuntimeError: see ``receive_many``.
        """
        requests = self._streamed()
        messages = await requests.receive_many(before_inflating=self._require_room)
        try:
            return messages, self._keep(requests)
        except NoRoom:
            messages.clear()  # the error keeps this frame
            raise

    def _streamed(self) -> MessageStream[Any]:
        """Return the messages of a call that streams them. Raise RuntimeError for any other."""
        if self._requests is None or not self._method.client_streaming:
            raise RuntimeError(_SINGLE)
        return self._requests

    def _require_room(self) -> None:
        """Raise ``NoRoom`` unless a message of any size could be kept."""
        if not self._owner.holding.has_room(UNLIMITED):
            raise NoRoom

    def _keep(self, requests: MessageStream[Any]) -> int:
        """Count the messages that were received last as kept."""
        if self.done:
            return 0
        size, requests.handed = requests.handed, 0
        if not size:
            return 0  # there was none
        holding = self._owner.holding
        self.size += size
        holding.requests += size
        if not holding.has_room(size):
            raise NoRoom
        return size

    def let_go(self, size: int) -> None:
        """Keep so many bytes of messages no longer. After the end of the call nothing happens."""
        if not self.done:
            self.size -= size
            self._owner.holding.requests -= size

    # -- the response --------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Queue a response message; never blocks. After the end of the call nothing happens."""
        if not self.done:
            self.send_bytes(message.SerializeToString())

    def send_bytes(self, *payloads: bytes) -> None:
        """Queue response messages that are serialized already."""
        if self.done:
            return
        if not self._headers_sent:
            self._send_headers()
        self.connection.send_data(self._stream_id, b"".join(map(encode_message, payloads)))

    def send_many(self, messages: Iterable[Message]) -> None:
        """Queue several response messages, as ``send`` does, at less cost for each."""
        if not self.done:
            self.send_bytes(*[message.SerializeToString() for message in messages])

    def begin_response(self) -> None:
        """Send the headers now, ahead of the first message: the client sees that its call was taken up."""
        if not self.done and not self._headers_sent:
            self._send_headers()

    async def ready(self) -> None:
        """Wait until little of what was sent is still queued; a slow client must not fill the memory."""
        if self.connection.queued(self._stream_id) and not self.done:
            await self.connection.writable(self._stream_id)

    @property
    def queued(self) -> int:
        """Bytes that wait for the client to read."""
        return self.connection.queued(self._stream_id)

    def set_initial_metadata(self, pairs: Iterable[tuple[str, MetadataValue]]) -> None:
        """Set the metadata sent ahead of the first message.

        Raises:
            RuntimeError: the headers have been sent.
            ValueError: see ``encode_metadata``.
        """
        if self._headers_sent:
            raise RuntimeError("the initial metadata has been sent already")
        self._response_headers = RESPONSE_HEADERS + encode_metadata(pairs)

    def add_trailing_metadata(self, name: str, value: MetadataValue) -> None:
        """Add a pair to the metadata sent with the status.

        Raises:
            ValueError: see ``encode_metadata``.
        """
        self._trailing_metadata = (self._trailing_metadata or []) + encode_metadata([(name, value)])

    def _send_headers(self) -> None:
        self._headers_sent = True
        self.connection.send_response(self._stream_id, self._response_headers)

    def _send_last(self, response: Message) -> None:
        """Send the only response, or the last one, with the status OK."""
        payload = encode_message(response.SerializeToString())
        if len(payload) > _LARGE_ANSWER:
            self._owner.holding.answered(len(payload))
        if self._headers_sent:
            self.connection.send_data(self._stream_id, payload)
            self._send_status(OK_TRAILERS)
            return
        trailers = OK_TRAILERS + self._trailing_metadata if self._trailing_metadata else OK_TRAILERS
        self.connection.send_message(self._stream_id, self._response_headers, payload, trailers)

    def _send_status(self, trailers: HeaderList) -> None:
        """Send a status; headers that were not sent go with it."""
        if self._trailing_metadata:
            trailers = trailers + self._trailing_metadata
        if self._headers_sent:
            self.connection.send_trailers(self._stream_id, trailers)
        else:
            self.connection.send_response(self._stream_id, self._response_headers + trailers, end=True)

    # -- driven by the connection --------------------------------------------------------------------

    def await_admission(self, admission: Coroutine[Any, Any, None]) -> None:
        """Start the handler when ``admission`` is done, or end the call with what it raises.

        Until then the request waits, as far as the stream's window allows it to come.
        """
        self._admission = self.connection.loop.create_task(admission)
        self._admission.add_done_callback(self._admitted)

    def _admitted(self, admission: asyncio.Task[None]) -> None:
        self._admission = None
        if admission.cancelled():
            self._fail(RpcError(StatusCode.CANCELLED, "the call was cancelled"))
        elif (error := admission.exception()) is not None:
            self._fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        else:
            self._owner.call_admitted()
            if self._requests is not None and not self.done:
                self._begin(self._requests)

    def begin(self, ended: bool) -> None:
        """Take the call up: handlers of streaming requests start now, others with their message."""
        if self._method.client_streaming:
            requests = self._new_requests()
            requests.take(b"", ended)
            if self._admission is None:
                self._begin(requests)
        elif ended:
            self._owner.call_malformed()
            self._fail(RpcError(StatusCode.INTERNAL, "the request has no message"))

    def set_timeout(self, seconds: float) -> None:
        """Let the client's deadline cancel the handler."""
        self.deadline = self.started + seconds
        self._timer = self.connection.loop.call_later(seconds, self._pass_deadline)

    def data(self, data: bytes, ended: bool) -> None:
        """Take body bytes, or the end of the client's side, or both."""
        requests = self._requests
        if self.done:
            self.connection.acknowledge(self._stream_id, len(data))
            return
        if requests is None:
            if ended and self._admission is None:  # nearly every request comes in one piece
                payload = decode_single(data, self._method.max_message_size)
                if payload is not None:
                    self.connection.acknowledge(self._stream_id, len(data))
                    self.size = len(payload)
                    holding = self._owner.holding
                    holding.requests += self.size
                    if holding.requests <= holding.plenty or self._finds_room():
                        self._handle(payload, self._method.request_type)
                    return
            requests = self._new_requests()
        if not self._method.client_streaming and not self._account_for(len(data)):
            self.connection.acknowledge(self._stream_id, len(data))
            return
        requests.take(data, ended)
        if not self._handled and self._admission is None:
            self._begin(requests)

    def _account_for(self, more: int) -> bool:
        """Count more bytes of a single request; False = there is no room for it, and the call failed."""
        self.size += more
        self._owner.holding.requests += more
        return not more or self._finds_room()

    def _finds_room(self) -> bool:
        """Tell whether there is room for what came of a single request; otherwise the call fails."""
        if self._owner.holding.has_room(self.size):
            return True
        self._fail(NoRoom())
        return False

    def _new_requests(self) -> MessageStream[Any]:
        method = self._method
        may_be_gzip = self.fields.get(b"grpc-encoding") == b"gzip"
        decoder = MessageDecoder(method.max_message_size, gzip=may_be_gzip)
        self._requests = MessageStream(method.request_type, decoder, Direction.REQUEST, self.connection.loop)
        self._requests.attach(self.connection, self._stream_id)
        return self._requests

    def _begin(self, requests: MessageStream[Any]) -> None:
        """Start the handler: of streaming requests at once, of a single one when that is there."""
        payload = None
        if not self._method.client_streaming:
            try:
                payload = requests.single()
            except RpcError as error:
                self._owner.call_malformed()
                self._fail(error)
                return
            if payload is None or not self._account_for(
                max(0, len(payload) - self.size)
            ):  # inflated it may be larger
                return
        method = self._method
        self._handle(payload, method.large_type or method.request_type)

    def closed(self) -> None:
        """End a call that was not answered: its stream is gone."""
        self._finished(StatusCode.CANCELLED)
        self._failed(RpcError(StatusCode.CANCELLED, "the client went away"))
        self._cancel()

    def drain(self) -> None:
        """End a streaming call because the server is about to stop; others may finish."""
        if self.done or not self._method.streaming:
            return
        if self.on_drain is not None:
            self.on_drain()
        else:
            self.abort(RpcError(StatusCode.UNAVAILABLE, "the server is shutting down"))

    def abort(self, error: Exception) -> None:
        """End the call with an error and cancel its handler."""
        if self.done:
            return
        self._fail(error)
        self._cancel()

    @property
    def unacknowledged(self) -> int:
        """Received bytes not yet returned to the client's flow-control window."""
        return 0 if self._requests is None else self._requests.unread

    def holds(self) -> tuple[int, int]:
        """Return the bytes that the call makes us hold, and those that its client can do nothing about.

        What waits to be sent is not among them. A client that does not read holds up a streaming handler.
        """
        held = self.overhead
        if self.done:
            return held, 0
        if not self._method.client_streaming:
            return held + self.size, self.size if self._handled else 0
        if self._requests is None:
            return held, 0
        work = self._requests.handed + self.size
        waits = work if work and not self.queued else 0
        return held + self._requests.held + work, waits

    # -- running the handler -------------------------------------------------------------------------

    def _handle(self, payload: bytes | None, kind: type[Message]) -> None:
        """Have the handler called with the request: in a task, unless it is a plain function."""
        self._handled = True
        method = self._method
        if payload is None or not method.plain:
            self._task = self.connection.loop.create_task(self._run(partial(self._respond, payload, kind)))
            return
        try:
            nothing = method.handler(_PARSE(kind, payload), self)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the client must be answered
            self._fail(error)
        else:
            if nothing is not None:
                self._fail(TypeError("a plain handler returns nothing"))

    def answer(self, response: Message) -> None:
        """Send the response of a plain handler. After the end of the call nothing happens."""
        self.on_cancel = None  # it mostly holds what holds this call: a cycle, left to the collector
        if self.done:
            return
        try:
            self._send_last(response)
            self._finished(_OK)
        except Exception as error:  # noqa: BLE001 -- the client must not wait because of our mistake
            self._fail(error)
        if self.connection.may_hurry:
            self.connection.hurry()

    def charge(self, seconds: float, now: float) -> None:
        """Charge time, spent on the call outside of its parsing and its task, to who makes it."""
        self.connection.account.charge(seconds, now)

    def go_on(self, work: Callable[[], Awaitable[Message | None]]) -> None:
        """Have a task do the rest of a plain handler's work: what this returns is awaited.

        Its result is the response; None = it is still to come, by `answer`. `on_cancel` is called if the call
        ends before the work has begun. After the end of the call nothing happens.
        """
        if not self.done:
            self._task = self.connection.loop.create_task(self._run(partial(self._do, work)))

    async def _run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have work done that answers the call."""
        doing = work()
        del work  # it holds the request
        try:
            await self._owner.pace(self, doing)
        except BaseException as error:  # noqa: BLE001 -- it never began; settle raises again what is no outcome
            self._settle(error)

    async def _do(self, work: Callable[[], Awaitable[Message | None]]) -> None:
        """Do work, and answer. It sees to its own cancellation from here on: it may have been in a line."""
        self.on_cancel = None
        try:
            response = await work()
        except BaseException as error:  # noqa: BLE001 -- the same
            self._settle(error)
        else:
            if response is not None:
                self.answer(response)
            elif self._task is asyncio.current_task():
                self._task = None  # it answers no more, also not at the deadline

    async def _respond(self, payload: bytes | None, kind: type[Message]) -> None:
        """Run the handler with the request, or with nothing when requests stream, and answer."""
        method = self._method
        try:
            if payload is None:
                response = await method.handler(self)
            else:
                request = _PARSE(kind, payload)
                payload = None  # it would be held twice
                response = await method.handler(request, self)
            if self.done:
                return
            if method.server_streaming:
                self._send_status(OK_TRAILERS)
            else:
                self._send_last(response)
            self._finished(_OK)
            if self.connection.may_hurry:
                self.connection.hurry()
        except BaseException as error:  # noqa: BLE001 -- settle raises again what is no outcome
            self._settle(error)

    def _settle(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            if self._deadline_passed:
                self._fail(RpcError(StatusCode.DEADLINE_EXCEEDED, "the deadline passed"))
            else:
                self._fail(RpcError(StatusCode.CANCELLED, "the call was cancelled"))
        elif isinstance(error, Exception):
            self._fail(error)
        else:
            raise error

    def _pass_deadline(self) -> None:
        if self.done:
            return
        self._deadline_passed = True
        if self._task is None or not _has_begun(self._task):
            self._fail(RpcError(StatusCode.DEADLINE_EXCEEDED, "the deadline passed"))
        self._cancel()

    def _cancel(self) -> None:
        """Cancel what the handler does, but only once: a second time would break off its clean-up."""
        if self._admission is not None:
            self._admission.cancel()
        on_cancel, self.on_cancel = self.on_cancel, None
        if on_cancel is not None:
            on_cancel()
        task = self._task
        if task is not None and not self._cancelled:
            self._cancelled = True
            task.cancel()
            if not _has_begun(task):
                self._task = None  # it will keep the error, whose traceback keeps this call: a cycle

    def check(self, now: float, body_timeout: float) -> None:
        """Check the timer that needs no precision: a single request must be whole in so many seconds."""
        if self.done or self._handled or self._method.client_streaming:
            return
        if now - self.started > body_timeout:
            self._fail(RpcError(StatusCode.DEADLINE_EXCEEDED, "the request did not arrive in time"))

    # -- ending --------------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        status = self._owner.translate(self._method.path, error)
        if not self.done:
            self._finish_with(status)
        elif status.fault is not None:  # nobody is there to be told, but it is a mistake of ours
            self._failed(status)

    def _failed(self, error: RpcError) -> None:
        self._owner.call_failed(self._method.path, self.fields, error)

    def _finish_with(self, error: RpcError) -> None:
        try:
            trailers = status_trailers(error) + encode_metadata(error.metadata)
        except Exception as unsendable:  # noqa: BLE001 -- the client must not wait because of our mistake
            error = self._owner.translate(self._method.path, unsendable)
            trailers = status_trailers(error)
        self._send_status(trailers)
        self._finished(error.code)
        self._failed(error)

    def _finished(self, code: StatusCode) -> None:
        self.done = True
        owner = self._owner
        owner.holding.requests -= self.size
        owner.served += self.size
        self.on_drain = None  # it mostly holds what holds this call: a cycle, left to the collector
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._requests is not None:
            self._requests.discard()
        if self.on_end is not None:
            self.on_end()
        if owner.observer is not None:
            owner.observer(self, code)


def _has_begun(task: asyncio.Task[None]) -> bool:
    """Tell whether a handler ran at all: one that is cancelled before it began never settles its call."""
    return getcoroutinestate(cast("Coroutine[Any, Any, None]", task.get_coro())) != CORO_CREATED
