"""A call with a stream of messages in either direction, as its caller holds it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from google.protobuf.message import DecodeError, Message

from .client_call import Call, CallLimits, CallOwner, ClientCallConnection, undecodable
from .framing import MessageDecoder, encode_message
from .metadata import Metadata
from .outcome import HeaderPairs
from .status import HeaderList, RpcError, StatusCode

M = TypeVar("M", bound=Message)

_SEND_QUEUE_MARK = 65_536


class ClientCall(Call, Generic[M]):
    """A call with a stream of messages either way, or both.

    Sending and receiving are independent: one task may send while another receives. Only one task may
    receive, and only one may wait in ``ready``. A call that its holder no longer wants must be cancelled
    (``async with`` does it): nobody else will. Cancelling a task that waits in one of the methods does not
    cancel the call.
    """

    __slots__ = (
        "_chunks",
        "_closing",
        "_decoder",
        "_error",
        "_initial",
        "_messages",
        "_outbox",
        "_outbox_size",
        "_response_type",
        "_trailing",
        "_waiters",
    )

    def __init__(
        self,
        owner: CallOwner,
        limits: CallLimits,
        headers: HeaderList,
        response_type: type[M],
        timeout: float | None,
        wait_for_ready: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(owner, limits, headers, timeout, wait_for_ready, loop)
        self._response_type = response_type
        self._outbox: list[bytes] | None = []  # what was sent, while it may have to be sent again
        self._outbox_size = 0
        self._closing = False
        self._chunks: deque[bytes] = deque()
        self._decoder = MessageDecoder(limits.max_message_size)
        self._messages: deque[bytes] = deque()
        self._waiters: set[asyncio.Future[None]] = set()
        self._initial: HeaderPairs | None = None
        self._trailing: HeaderPairs = ()
        self._error: RpcError | None = None

    # -- sending -------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Queue a request message; never blocks. After the end of the call nothing happens."""
        self.send_bytes(message.SerializeToString())

    def send_bytes(self, payload: bytes) -> None:
        """Queue a request message that is serialized already.

        Raises:
            RuntimeError: after ``close_send``.
        """
        if self._closing:
            raise RuntimeError("close_send was called already")
        if self.done:
            return
        frame = encode_message(payload)
        if self._outbox is not None:
            self._outbox.append(frame)
            self._outbox_size += len(frame)
        if self._connection is not None:
            self._connection.send_data(self.stream_id, frame)
            self._limit_outbox()

    def close_send(self) -> None:
        """Say that no more messages come. Nothing happens the second time or after the end of the call."""
        if self._closing:
            return
        self._closing = True
        if self._connection is not None and not self.done:
            self._connection.end_stream(self.stream_id)

    async def ready(self) -> None:
        """Wait until little of what was sent is still queued; a slow server must not fill the memory."""
        while self._connection is None and not self.done and self._outbox_size > _SEND_QUEUE_MARK:
            await self._change()
        connection = self._connection
        if connection is not None and not self.done and connection.queued(self.stream_id):
            await connection.writable(self.stream_id)

    def _send_request(self, connection: ClientCallConnection, headers: HeaderList) -> int:
        stream_id = connection.send_request(headers)
        for frame in self._outbox or ():
            connection.send_data(stream_id, frame)
        if self._closing:
            connection.end_stream(stream_id)
        self._limit_outbox()
        self._wake()
        return stream_id

    def _limit_outbox(self) -> None:
        if not self._retriable or self._outbox_size > self._limits.retry_buffer:
            self._retriable = False
            self._outbox = None

    def _sending(self, connection: ClientCallConnection) -> bool:
        return not self._closing or connection.queued(self.stream_id) > 0

    # -- receiving -----------------------------------------------------------------------------------

    async def receive(self) -> M | None:
        """Return the next response message, or None after the last one of a call that ended with OK.

        Raises:
            RpcError: the call ended with another status; messages that came before it are returned first.
        """
        while not self._messages:
            if not self._take_chunk() and not await self._more():
                return None
        return self._parse(self._messages.popleft())

    async def receive_many(self) -> list[M]:
        """Return every response message that has arrived, at least one; an empty list after the last.

        Raises:
            RpcError: see ``receive``.
        """
        while True:
            while self._take_chunk():
                pass
            if self._messages:
                batch = [self._parse(payload) for payload in self._messages]
                self._messages.clear()
                return batch
            if not await self._more():
                return []

    async def initial_metadata(self) -> Metadata:
        """Wait for the metadata that the server sent ahead of its first message.

        A call that ends without any has empty metadata.
        """
        while self._initial is None and not self.done:
            await self._change()
        return Metadata(self._initial or ())

    @property
    def trailing_metadata(self) -> Metadata:
        """The metadata sent with the status; empty before the end of the call."""
        return Metadata(self._trailing)

    def __aiter__(self) -> AsyncIterator[M]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[M]:
        while (message := await self.receive()) is not None:
            yield message

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def _take_chunk(self) -> bool:
        """Move one received chunk to the message decoder, and let the server send as much again."""
        if not self._chunks:
            return False
        chunk = self._chunks.popleft()
        if self._connection is not None:
            self._connection.acknowledge(self.stream_id, len(chunk))
        try:
            self._messages.extend(self._decoder.feed(chunk))
        except RpcError as error:
            self._fail_locally(error)
            raise
        return True

    async def _more(self) -> bool:
        """Wait for something to arrive; False when the call ended with OK."""
        if not self.done:
            await self._change()
            return True
        if self._error is not None:
            raise self._error
        if self._decoder.incomplete:
            self._error = RpcError(StatusCode.INTERNAL, "the response ended in the middle of a message")
            raise self._error
        return False

    def _parse(self, payload: bytes) -> M:
        try:
            return self._response_type.FromString(payload)
        except DecodeError as error:
            broken = undecodable(self._response_type)
            self._fail_locally(broken)
            raise broken from error

    def _fail_locally(self, error: RpcError) -> None:
        self.abandon(error)
        self._error = error
        self._chunks.clear()
        self._messages.clear()

    async def _change(self) -> None:
        """Wait for whatever happens next."""
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    # -- driven by the connection --------------------------------------------------------------------

    def _use_gzip(self) -> None:
        self._decoder = MessageDecoder(self._limits.max_message_size, "gzip")

    def _take_headers(self, headers: HeaderPairs) -> None:
        self._initial = headers
        self._outbox = None
        self._wake()

    def data(self, data: bytes, ended: bool) -> None:
        """Take body bytes of the response; they wait here until ``receive`` asks for them."""
        if data:
            self._chunks.append(data)
            if self._waiters:
                self._wake()
        if ended:
            self.trailers(())

    @property
    def unacknowledged(self) -> int:
        """Bytes received that were not given back to the server's window."""
        return 0 if self._connection is None else sum(map(len, self._chunks))

    def _conclude(self, error: RpcError | None, trailers: HeaderPairs) -> None:
        if self.done:
            return
        self._mark_done()
        self._error = error
        self._trailing = trailers
        self._outbox = None
        connection = self._connection
        if connection is not None:  # what nobody may ever read must not hold the connection's window
            connection.acknowledge(self.stream_id, self.unacknowledged)
            self._connection = None
        self._wake()
