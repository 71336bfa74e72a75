"""One call on the client's side, unary or streaming, from its start to its status.

A call waits in its channel until a connection takes it (``open``); then the connection passes on what the
server sends. A call that the server certainly did not process (REFUSED_STREAM, above the last stream of a
GOAWAY, never written) goes back to the channel once, transparently.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Generic, Protocol, Self, TypeVar

from google.protobuf.message import Message

from .connection import CANCEL, NO_ERROR, REFUSED_STREAM, Connection
from .framing import MessageDecoder, decode_single, encode_message
from .message_stream import MANY, Direction, MessageStream
from .metadata import decode_metadata, encode_timeout
from .options import ChannelOptions
from .outcome import final_error, reset_error, response_error
from .status import HeaderList, Headers, MetadataValue, RpcError, StatusCode

M = TypeVar("M", bound=Message)

_SEND_QUEUE_MARK = 65_536
_SHORTEST_TIMEOUT = 0.001  # seconds
_OK: Headers = ((b"grpc-status", b"0"),)
_PLAIN = b"identity"


class _Owner(Protocol):  # what a call needs of its `Channel`
    options: ChannelOptions

    @property
    def lack(self) -> str: ...
    def submit(self, call: Call) -> None: ...
    def withdraw(self, call: Call) -> None: ...
    def finished(self, call: Call) -> None: ...


class Call:
    """What all calls share.

    Attributes:
        done: whether the outcome is known.
        deadline: loop time at which the server ends the call with DEADLINE_EXCEEDED, or None; we do so
            ``deadline_grace`` later.
        stream_id: its HTTP/2 stream once a connection took it.
        ticket: the channel's handle of the deadline.
    """

    __slots__ = (
        "_connection",
        "_headers",
        "_loop",
        "_options",
        "_owner",
        "_retriable",
        "deadline",
        "done",
        "stream_id",
        "ticket",
    )

    def __init__(
        self,
        owner: _Owner,
        headers: HeaderList,
        timeout: float | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._owner = owner
        self._options = owner.options
        self._headers = headers
        self._loop = loop
        self._connection: Connection | None = None
        self._retriable = True
        self.done = False
        self.deadline = None if timeout is None else loop.time() + timeout
        self.stream_id = 0
        self.ticket: list[Call] | None = None

    # -- driven by the channel and the connection ----------------------------------------------------

    def open(self, connection: Connection) -> int:
        """Send the request so far, and return the stream's id.

        Raises:
            ConnectionError: the connection takes no more calls.
        """
        headers = self._headers
        if self.deadline is not None:
            remaining = max(self.deadline - self._loop.time(), _SHORTEST_TIMEOUT)
            headers = [*headers, (b"grpc-timeout", encode_timeout(remaining))]
        self.stream_id = self._send_request(connection, headers)
        self._connection = connection
        return self.stream_id

    def response(self, headers: Headers, ended: bool) -> None:
        """Take the headers of the response."""
        self._retriable = False
        connection = self._connection
        if connection is not None and headers != connection.state:
            self._judge(connection, headers, ended)
        if not self.done:
            self._take_headers(headers)
            if ended:
                self.trailers(headers)

    def _judge(self, connection: Connection, headers: Headers, ended: bool) -> None:
        fields = dict(headers)
        error = response_error(fields)
        encoding = fields.get(b"grpc-encoding", _PLAIN)
        if error is not None:
            error.metadata = decode_metadata(headers)
            self.abandon(error)
        elif encoding == b"gzip":
            self._use_gzip()
        elif encoding != _PLAIN:
            text = encoding.decode("latin-1")
            self.abandon(RpcError(StatusCode.INTERNAL, f"the server uses the unknown encoding {text}"))
        elif not ended:
            connection.state = headers

    def data(self, data: bytes, ended: bool) -> None:
        """Take body bytes of the response."""
        raise NotImplementedError

    def trailers(self, trailers: Headers) -> None:
        """Take the end of the response."""
        error = None if trailers == _OK else final_error(trailers)
        connection = self._connection
        if connection is not None and self._sending(connection):
            connection.reset(self.stream_id, NO_ERROR)  # the server needs no more of the request
        self._conclude(error, trailers)

    def closed(self, error_code: int) -> None:
        """Note that the stream is closed, before the call was done."""
        if error_code == REFUSED_STREAM and self._retriable:
            self.retry()
        elif error_code == CANCEL and self.deadline is not None and self._loop.time() >= self.deadline:
            self.expire()
        else:
            error = reset_error(error_code)
            self._conclude(error.unsent() if error_code == REFUSED_STREAM else error, ())

    def lost(self, error: RpcError, *, written: bool) -> None:
        """Note that the connection is lost.

        Args:
            error: how the call ends if the server may have seen it.
            written: whether any of the request may have been written.
        """
        if self.done:
            return
        if not written:
            error.unsent()
        if self._retriable and not written:
            self.retry()
        else:
            self._conclude(error, ())

    def retry(self) -> None:
        """Start again: the server did not process the call."""
        self._retriable = False
        self._connection = None
        self._owner.submit(self)

    def expire(self) -> None:
        """End the call at its deadline."""
        why = self._owner.lack if self._connection is None else "the deadline passed"
        self.abandon(RpcError(StatusCode.DEADLINE_EXCEEDED, why))

    def cancel(self) -> None:
        """End the call now; the server sees a cancelled call. No effect after the end."""
        self.abandon(RpcError(StatusCode.CANCELLED, "the call was cancelled"))

    def abandon(self, error: RpcError) -> None:
        """End the call from our side."""
        if self.done:
            return
        if self._connection is None:
            self._owner.withdraw(self)
            error.unsent()
        else:
            self._connection.reset(self.stream_id, CANCEL)
        self._conclude(error, ())

    @property
    def is_sent(self) -> bool:
        """Whether a connection has taken the call, so that the server may see it."""
        return self._connection is not None

    @property
    def unacknowledged(self) -> int:
        """Received bytes not yet returned to the server's flow-control window."""
        return 0

    # -- what differs --------------------------------------------------------------------------------

    def _send_request(self, connection: Connection, headers: HeaderList) -> int:
        raise NotImplementedError

    def _sending(self, connection: Connection) -> bool:
        """Whether our side of the stream is still open."""
        raise NotImplementedError

    def _use_gzip(self) -> None:
        raise NotImplementedError

    def _take_headers(self, headers: Headers) -> None:
        pass

    def _tell(self, error: RpcError | None, trailers: Headers) -> None:
        raise NotImplementedError

    def _conclude(self, error: RpcError | None, trailers: Headers) -> None:
        if self.done:
            return
        self.done = True
        if self.ticket is not None:
            self._owner.finished(self)
        self._tell(error, trailers)


class UnaryCall(Call):
    """A call with one message each way.

    Attributes:
        future: its result is the payload of the response, or ``RpcError``.
    """

    __slots__ = ("_body", "_decoder", "_payload", "future")

    def __init__(
        self,
        owner: _Owner,
        headers: HeaderList,
        payload: bytes,
        timeout: float | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(owner, headers, timeout, loop)
        self._body = encode_message(payload)
        self._payload: bytes | None = None
        self._decoder: MessageDecoder | None = None
        self.future: asyncio.Future[bytes] = loop.create_future()

    def _send_request(self, connection: Connection, headers: HeaderList) -> int:
        return connection.send_request(headers, self._body)

    def _sending(self, connection: Connection) -> bool:
        return connection.queued(self.stream_id) > 0

    def _use_gzip(self) -> None:
        self._decoder = MessageDecoder(self._options.max_message_size, gzip=True)

    def data(self, data: bytes, ended: bool) -> None:
        """Take body bytes of the response: usually the whole message."""
        if self._connection is not None:
            self._connection.acknowledge(self.stream_id, len(data))
        try:
            self._collect(data)
        except RpcError as error:
            self.abandon(error)
        if ended and not self.done:
            self.trailers(())

    def _collect(self, data: bytes) -> None:
        if self._decoder is None:
            payload = decode_single(data, self._options.max_message_size)
            if payload is not None and self._payload is None:
                self._payload = payload
                return
            self._decoder = MessageDecoder(self._options.max_message_size)
        for payload in self._decoder.feed(data):
            if self._payload is not None:
                raise Direction.RESPONSE.error("has more than one message")
            self._payload = self._decoder.unpack(payload)

    def _tell(self, error: RpcError | None, trailers: Headers) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        elif self._payload is None:
            self.future.set_exception(Direction.RESPONSE.error("has no complete message"))
        else:
            self.future.set_result(self._payload)


class ClientCall(Call, Generic[M]):
    """A call with a stream of messages either way, or both.

    Sending and receiving are independent: one task may send while another receives. Only one task may
    receive (a second one gets RuntimeError), and only one may wait in ``ready``. Cancel a call that is no
    longer wanted (``async with`` does); nothing else does. Cancelling a task that waits in a method does not
    cancel the call.

    Attributes:
        entered: whether ``async with`` takes care of its end.
    """

    def __init__(
        self,
        owner: _Owner,
        headers: HeaderList,
        response_type: type[M],
        timeout: float | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(owner, headers, timeout, loop)
        self._outbox: list[bytes] | None = []  # what was sent, while it may have to be sent again
        self._outbox_size = 0
        self._closing = False
        decoder = MessageDecoder(self._options.max_message_size)
        self._responses = MessageStream(response_type, decoder, Direction.RESPONSE, loop)
        self._changed = asyncio.Event()  # a connection, the headers, or the end
        self._initial: Headers | None = None
        self._trailing: Headers = ()
        self.entered = False

    # -- sending -------------------------------------------------------------------------------------

    def send(self, message: Message) -> bool:
        """Queue a request message; never blocks.

        Returns:
            Whether it was taken; False after the end of the call. That it was taken does not mean that it
            arrived.
        """
        return self.send_bytes(message.SerializeToString())

    def send_bytes(self, payload: bytes) -> bool:
        """Queue a serialized request message; see ``send``.

        Raises:
            RuntimeError: after ``close_send``.
        """
        if self._closing:
            raise RuntimeError("close_send was called already")
        if self.done:
            return False
        frame = encode_message(payload)
        if self._outbox is not None:
            self._outbox.append(frame)
            self._outbox_size += len(frame)
        if self._connection is not None:
            self._connection.send_data(self.stream_id, frame)
            self._limit_outbox()
        return True

    @property
    def queued(self) -> int:
        """Bytes of requests that are not written yet; ``ready`` waits until they are few."""
        if self.done:
            return 0
        connection = self._connection
        return self._outbox_size if connection is None else connection.queued(self.stream_id)

    def close_send(self) -> None:
        """End the request stream. No effect the second time, or after the end of the call."""
        if self._closing:
            return
        self._closing = True
        if self._connection is not None and not self.done:
            self._connection.end_stream(self.stream_id)

    async def ready(self) -> None:
        """Wait until few sent bytes are still queued, so that a slow server does not fill the memory."""
        while self._connection is None and not self.done and self._outbox_size > _SEND_QUEUE_MARK:
            await self._changed.wait()
        connection = self._connection
        if connection is not None and not self.done and connection.queued(self.stream_id):
            await connection.writable(self.stream_id)

    def _send_request(self, connection: Connection, headers: HeaderList) -> int:
        stream_id = connection.send_request(headers)
        self._responses.attach(connection, stream_id, self.abandon)
        for frame in self._outbox or ():
            connection.send_data(stream_id, frame)
        if self._closing:
            connection.end_stream(stream_id)
        self._limit_outbox()
        self._wake()
        return stream_id

    def _limit_outbox(self) -> None:
        if not self._retriable or self._outbox_size > self._options.retry_buffer:
            self._retriable = False
            self._outbox = None

    def _sending(self, connection: Connection) -> bool:
        return not self._closing or connection.queued(self.stream_id) > 0

    # -- receiving -----------------------------------------------------------------------------------

    def receive(self) -> Coroutine[Any, Any, M | None]:
        """Return the next response message, or None after the last one of a call that ended with OK.

        Raises:
            RpcError: the call ended with another status; earlier messages are returned first.
        """
        return self._responses.receive()

    def receive_many(self, limit: int = MANY) -> Coroutine[Any, Any, list[M]]:
        """Return the response messages that have arrived, at least one; an empty list after the last.

        Args:
            limit: at most so many; the others wait, and so does the server. It is fewer when they are large.

        Raises:
            RpcError: see ``receive``.
        """
        return self._responses.receive_many(limit)

    async def initial_metadata(self) -> tuple[tuple[str, MetadataValue], ...]:
        """Wait for the metadata that the server sends before its first message.

        Empty if the call ends without any.
        """
        while self._initial is None and not self.done:
            await self._changed.wait()
        return decode_metadata(self._initial or ())

    async def begun(self) -> bool:
        """Wait for the server to begin its response; false when it ends the call with its only headers."""
        await self.initial_metadata()
        return self._initial is not None and self._initial is not self._trailing

    @property
    def trailing_metadata(self) -> tuple[tuple[str, MetadataValue], ...]:
        """The metadata sent with the status; empty until the end of the call."""
        return decode_metadata(self._trailing)

    async def __aiter__(self) -> AsyncIterator[M]:
        while (message := await self.receive()) is not None:
            yield message

    async def __aenter__(self) -> Self:
        self.entered = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def _wake(self) -> None:
        self._changed.set()
        self._changed.clear()

    # -- driven by the connection --------------------------------------------------------------------

    def _use_gzip(self) -> None:
        self._responses.decoder.gzip = True

    def _take_headers(self, headers: Headers) -> None:
        self._initial = headers
        self._outbox = None
        self._wake()

    def data(self, data: bytes, ended: bool) -> None:
        """Take body bytes of the response, and keep them for ``receive``."""
        self._responses.take(data, False)
        if ended:
            self.trailers(())

    @property
    def unacknowledged(self) -> int:
        """Received bytes not yet returned to the server's flow-control window."""
        return self._responses.unread

    def _tell(self, error: RpcError | None, trailers: Headers) -> None:
        self._trailing = trailers
        self._outbox = None
        self._connection = None
        self._responses.end(error)
        self._wake()
