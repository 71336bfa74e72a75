"""The messages that the other side of a call sends: body bytes in, messages out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from .connection import Connection
from .framing import MessageDecoder
from .status import RpcError, StatusCode

M = TypeVar("M", bound=Message)


class Direction(Enum):
    """Which way messages go, and what one means that cannot be parsed."""

    REQUEST = "request", StatusCode.INVALID_ARGUMENT
    RESPONSE = "response", StatusCode.INTERNAL

    def error(self, what: str) -> RpcError:
        """Return the error for a body that is not what the call's kind allows."""
        return RpcError(StatusCode.INTERNAL, f"the {self.value[0]} {what}")

    def parse(self, message_type: type[M], payload: bytes) -> M:
        """Return the message that ``payload`` is.

        Raises:
            RpcError: it is none.
        """
        try:
            return message_type.FromString(payload)
        except DecodeError as error:
            raise self.invalid(message_type) from error

    def invalid(self, message_type: type[Message]) -> RpcError:
        """Return the error for a payload that is no such message."""
        noun, code = self.value
        return RpcError(code, f"the {noun} is not a valid {message_type.DESCRIPTOR.full_name}")


_RESPONSE = Direction.RESPONSE


class MessageStream(Generic[M]):
    """The messages that a peer sends in one call.

    Bytes wait until somebody asks for a message: only then may the peer send as many again. One task alone
    may receive.

    Args:
        message_type: what the messages are.
        decoder: splits the body into messages.
        direction: whether they are requests or responses.
        loop: the event loop of the connection.
    """

    __slots__ = (
        "_chunks",
        "_connection",
        "_direction",
        "_ended",
        "_error",
        "_from_string",
        "_loop",
        "_message_type",
        "_messages",
        "_on_error",
        "_stream_id",
        "_waiter",
        "decoder",
    )

    def __init__(
        self,
        message_type: type[M],
        decoder: MessageDecoder,
        direction: Direction,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.decoder = decoder
        self._message_type = message_type
        self._direction = direction
        self._from_string = message_type.FromString
        self._on_error: Callable[[RpcError], None] | None = None
        self._loop = loop
        self._connection: Connection | None = None
        self._stream_id = 0
        self._ended = False
        self._error: RpcError | None = None
        self._chunks: deque[bytes] = deque()
        self._messages: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None

    # -- for the call --------------------------------------------------------------------------------

    def attach(
        self, connection: Connection, stream_id: int, on_error: Callable[[RpcError], None] | None = None
    ) -> None:
        """Say where the bytes come from, and who has to know when they are no messages."""
        self._on_error = on_error
        self._connection = connection
        self._stream_id = stream_id

    def take(self, data: bytes, ended: bool) -> None:
        """Take body bytes, or the end of the peer's side, or both."""
        if data:
            self._chunks.append(data)
        if ended:
            self._ended = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self, error: RpcError | None) -> None:
        """Let the messages that came be read, then raise ``error``, if any; what they hold is given back."""
        self._error = error
        self.release()
        self.take(b"", True)

    def release(self) -> None:
        """Give back the connection's window that unread bytes hold: perhaps nobody will read them."""
        if self._connection is not None:
            self._connection.acknowledge(self._stream_id, self.unread)
            self._connection = self._on_error = None

    def discard(self) -> None:
        """Drop the bytes that nobody will read."""
        self.release()
        self._chunks.clear()

    @property
    def unread(self) -> int:
        """Bytes received that were not given back to the peer's window."""
        return 0 if self._connection is None else sum(map(len, self._chunks))

    @property
    def held(self) -> int:
        """Bytes in memory: not asked for, not whole, or not read."""
        return self.decoder.buffered + sum(map(len, self._chunks)) + sum(map(len, self._messages))

    def single(self) -> bytes | None:
        """Return the payload of the only message once it is whole and the peer has ended its side.

        Raises:
            RpcError: the body is not exactly one message.
        """
        while self._take_chunk():
            pass
        if len(self._messages) > 1:
            raise self._direction.error("has more than one message")
        if not self._ended:
            return None
        if not self._messages or self.decoder.buffered:
            raise self._direction.error("is not one complete message")
        return self._messages.popleft()

    # -- for who reads -------------------------------------------------------------------------------

    async def receive(self) -> M | None:
        """Return the next message, or None after the last.

        Raises:
            RpcError: what came is no message, or the call ended with an error.
        """
        try:
            while not self._messages:
                if not self._take_chunk() and not await self._more():
                    return None
            return self._from_string(self._messages.popleft())
        except DecodeError as error:
            raise self._failed(self._direction.invalid(self._message_type)) from error
        except RpcError as error:
            self._failed(error)
            raise

    async def receive_many(self) -> list[M]:
        """Return every message that has arrived, at least one; an empty list after the last.

        Raises:
            RpcError: see ``receive``.
        """
        try:
            while True:
                while self._take_chunk():
                    pass
                if self._messages:
                    batch = list(map(self._from_string, self._messages))
                    self._messages.clear()
                    return batch
                if not await self._more():
                    return []
        except DecodeError as error:
            raise self._failed(self._direction.invalid(self._message_type)) from error
        except RpcError as error:
            self._failed(error)
            raise

    def _failed(self, error: RpcError) -> RpcError:
        """End a client's call with an error that was found here; it is raised again from now on."""
        if self._on_error is not None:
            self._on_error(error)
        if self._direction is _RESPONSE:  # a server's call ends with its handler: it needs no memory of it
            self._error = error
            self._messages.clear()
            self.discard()
        return error

    def _take_chunk(self) -> bool:
        """Move one received chunk to the decoder, and let the peer send as much again."""
        if not self._chunks:
            return False
        chunk = self._chunks.popleft()
        if self._connection is not None:
            self._connection.acknowledge(self._stream_id, len(chunk))
        self._messages.extend(self.decoder.feed(chunk))
        return True

    async def _more(self) -> bool:
        """Wait for something to arrive; False when there is nothing more."""
        if self._error is not None:
            raise self._error
        if self._ended:
            if self.decoder.buffered:
                raise self._direction.error("ended in the middle of a message")
            return False
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        return True
