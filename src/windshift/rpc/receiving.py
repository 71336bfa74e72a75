"""What a call receives: from bytes of its body to messages of its request type."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from google.protobuf.message import DecodeError, Message

from .connection import Connection
from .framing import MessageDecoder
from .status import RpcError, StatusCode


def parse(request_type: type[Message], payload: bytes) -> Message:
    """Return the message that ``payload`` is.

    Raises:
        RpcError: INVALID_ARGUMENT when it is none.
    """
    try:
        return request_type.FromString(payload)
    except DecodeError as error:
        name = request_type.DESCRIPTOR.full_name
        raise RpcError(StatusCode.INVALID_ARGUMENT, f"the request is not a valid {name}") from error


class SingleRequest:
    """A call's only request, when it does not come in one piece.

    Args:
        decoder: splits the call's body into messages.
    """

    __slots__ = ("_decoder", "_messages")

    def __init__(self, decoder: MessageDecoder) -> None:
        self._decoder = decoder
        self._messages: list[bytes] = []

    def add(self, data: bytes, ended: bool) -> bytes | None:
        """Take body bytes, and return the payload once it is whole and the client has ended its side.

        Raises:
            RpcError: the body is not exactly one message.
        """
        self._messages += self._decoder.feed(data)
        if len(self._messages) > 1:
            raise RpcError(StatusCode.INTERNAL, "the request has more than one message")
        if not ended:
            return None
        if not self._messages or self._decoder.incomplete:
            raise RpcError(StatusCode.INTERNAL, "the request is not one complete message")
        return self._messages.pop()

    @property
    def held(self) -> int:
        """Bytes that were received so far."""
        return self._decoder.buffered + sum(map(len, self._messages))


class RequestStream:
    """The requests of a call that may have many.

    Bytes wait until the handler asks for a message: only then may the client send as many again. One task
    alone may receive.

    Args:
        connection: what the call comes over.
        stream_id: the HTTP/2 stream of the call.
        request_type: what its messages are.
        decoder: splits the call's body into messages.
        ended: whether the client has ended its side already.
        loop: the event loop of the connection.
    """

    __slots__ = (
        "_chunks",
        "_connection",
        "_decoder",
        "_ended",
        "_loop",
        "_messages",
        "_request_type",
        "_stream_id",
        "_waiter",
    )

    def __init__(
        self,
        connection: Connection,
        stream_id: int,
        request_type: type[Message],
        decoder: MessageDecoder,
        ended: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._request_type = request_type
        self._decoder = decoder
        self._ended = ended
        self._loop = loop
        self._chunks: deque[bytes] = deque()
        self._messages: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def take(self, data: bytes, ended: bool) -> None:
        """Take body bytes, or the end of the client's side, or both."""
        if data:
            self._chunks.append(data)
        if ended:
            self._ended = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> Any:
        """Return the next message, or None after the client's last.

        Raises:
            RpcError: the bytes received are no messages of the request type.
        """
        while not self._messages:
            if not self._take_chunk() and not await self._more():
                return None
        return parse(self._request_type, self._messages.popleft())

    async def receive_many(self) -> list[Any]:
        """Return every message that has arrived, at least one; an empty list after the last.

        Raises:
            RpcError: the bytes received are no messages of the request type.
        """
        messages = self._messages
        while True:
            while self._take_chunk():
                pass
            if messages:
                batch = [parse(self._request_type, payload) for payload in messages]
                messages.clear()
                return batch
            if not await self._more():
                return []

    def _take_chunk(self) -> bool:
        """Move one received chunk to the message decoder, and let the client send as much again."""
        if not self._chunks:
            return False
        chunk = self._chunks.popleft()
        self._connection.acknowledge(self._stream_id, len(chunk))
        self._messages.extend(self._decoder.feed(chunk))
        return True

    async def _more(self) -> bool:
        """Wait for something to arrive; False when the client has ended its side."""
        if self._ended:
            if self._decoder.incomplete:
                raise RpcError(StatusCode.INTERNAL, "the request ended in the middle of a message")
            return False
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        return True

    def discard(self) -> None:
        """Give back the connection's window that bytes hold which nobody will read."""
        if self._chunks:
            self._connection.acknowledge(self._stream_id, sum(map(len, self._chunks)))
            self._chunks.clear()

    @property
    def held(self) -> int:
        """Bytes that were received and not taken."""
        return self._decoder.buffered + sum(map(len, self._chunks)) + sum(map(len, self._messages))
