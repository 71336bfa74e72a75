"""The messages that the other side of a call sends: body bytes in, messages out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from .connection import Connection
from .framing import MessageDecoder, Packed
from .status import RpcError, StatusCode

M = TypeVar("M", bound=Message)


class Direction(Enum):
    """Requests or responses, and what an unparsable one means."""

    REQUEST = "request", StatusCode.INVALID_ARGUMENT
    RESPONSE = "response", StatusCode.INTERNAL

    def error(self, what: str) -> RpcError:
        """Return the error for a body that the kind of call does not allow."""
        return RpcError(StatusCode.INTERNAL, f"the {self.value[0]} {what}")

    def parse(self, message_type: type[M], payload: bytes) -> M:
        """Parse a message.

        Raises:
            RpcError: it cannot be parsed.
        """
        try:
            return message_type.FromString(payload)
        except DecodeError as error:
            raise self.invalid(message_type) from error

    def invalid(self, message_type: type[Message]) -> RpcError:
        """Return the error for a payload that cannot be parsed."""
        noun, code = self.value
        return RpcError(code, f"the {noun} is not a valid {message_type.DESCRIPTOR.full_name}")


_RESPONSE = Direction.RESPONSE
ENOUGH = 65_536
"""Bytes after which a batch ends: as many as a window has room for, where messages are not compressed."""
MANY = 1024
"""Messages after which it does."""


@dataclass(slots=True, eq=False)
class MessageStream(Generic[M]):
    """The messages that a peer sends in one call.

    Bytes wait until a message is requested; only then may the peer send as many again. Only one task may
    receive.

    Attributes:
        message_type: the class of the messages.
        decoder: splits the body into messages.
        direction: requests or responses.
        loop: the event loop of the connection.
        handed: bytes of what was received last, which its reader has until it receives again.
    """

    message_type: type[M]
    decoder: MessageDecoder
    direction: Direction
    loop: asyncio.AbstractEventLoop
    handed: int = 0
    _connection: Connection | None = None
    _stream_id: int = 0
    _on_error: Callable[[RpcError], None] | None = None
    _ended: bool = False
    _stopped: bool = False
    _error: RpcError | None = None
    _chunks: deque[bytes] | None = None  # most streams are idle, and an empty deque takes 0.75 KB
    _messages: list[bytes] = field(default_factory=list)  # of few chunks
    _waiter: asyncio.Future[None] | None = None

    # -- for the call --------------------------------------------------------------------------------

    def attach(
        self, connection: Connection, stream_id: int, on_error: Callable[[RpcError], None] | None = None
    ) -> None:
        """Set where the bytes come from, and who is told if they are not messages."""
        self._on_error = on_error
        self._connection = connection
        self._stream_id = stream_id

    def take(self, data: bytes, ended: bool) -> None:
        """Take body bytes, or the end of the peer's side, or both."""
        if data:
            if self._chunks is None:
                self._chunks = deque()
            self._chunks.append(data)
        if ended:
            self._ended = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self, error: RpcError | None) -> None:
        """Let the messages so far be read, then raise ``error``, if any. Their window is returned."""
        self._error = error
        self.release()
        self.take(b"", True)

    def stop(self) -> None:
        """Have the reader receive nothing more, as after the last message. What came stays unread."""
        self._stopped = True
        self.take(b"", False)

    def release(self) -> None:
        """Return the connection's window of unread bytes, which may never be read."""
        if self._connection is not None:
            self._connection.acknowledge(self._stream_id, self.unread)
            self._connection = self._on_error = None

    def discard(self) -> None:
        """Drop unread bytes."""
        self.release()
        self._chunks = None

    @property
    def unread(self) -> int:
        """Received bytes not yet returned to the peer's window."""
        return 0 if self._connection is None else sum(map(len, self._chunks or ()))

    @property
    def held(self) -> int:
        """Bytes in memory: unread, or part of an incomplete message."""
        held = self.decoder.buffered
        if self._chunks or self._messages:  # most calls hold nothing, and all are asked each second
            held += sum(map(len, self._chunks or ())) + sum(map(len, self._messages))
        return held

    def single(self) -> bytes | None:
        """Return the payload of the only message once it is complete and the peer has ended its side.

        Raises:
            RpcError: the body is not exactly one message.
        """
        while self._take_chunk():
            pass
        if len(self._messages) > 1:
            raise self.direction.error("has more than one message")
        if not self._ended:
            return None
        if not self._messages or self.decoder.buffered:
            raise self.direction.error("is not one complete message")
        return self.decoder.unpack(self._messages.pop(0))

    # -- for the reader -------------------------------------------------------------------------------

    async def receive(self) -> M | None:
        """Return the next message, or None after the last.

        Raises:
            RpcError: a message cannot be parsed, or the call ended with an error.
        """
        return next(iter(await self.receive_many(1)), None)

    async def receive_many(
        self, limit: int = MANY, before_inflating: Callable[[], None] | None = None
    ) -> list[M]:
        """Return the messages that have arrived, at least one; an empty list after the last, or ``stop``.

        Args:
            limit: at most so many; the others wait, and so does the peer. It is fewer when they are large.
            before_inflating: called before a compressed one is inflated; may raise ``RpcError``.

        Raises:
            RpcError: see ``receive``.
        """
        self.handed = 0
        most = 1 if self.decoder.gzip else limit  # compressed ones may be too many as they are
        try:
            while not self._stopped:
                while len(self._messages) < most and self._take_chunk():
                    pass
                if self._messages:
                    return self._batch(limit, before_inflating)
                if not await self._more():
                    break
        except DecodeError as error:
            raise self._failed(self.direction.invalid(self.message_type)) from error
        except RpcError as error:
            self._failed(error)
            raise
        return []

    def _batch(self, limit: int, before_inflating: Callable[[], None] | None) -> list[M]:
        if self.decoder.gzip:
            return self._inflated(limit, before_inflating)
        some = self._messages[:limit]
        del self._messages[:limit]
        self.handed = sum(map(len, some))
        return [*map(self.message_type.FromString, some)]

    def _inflated(self, limit: int, before_inflating: Callable[[], None] | None) -> list[M]:
        """Do the same with messages that may be compressed: inflated they need room, and time."""
        batch: list[M] = []
        for payload in self._messages[:limit]:
            if before_inflating is not None and isinstance(payload, Packed):
                before_inflating()
            inflated = self.decoder.unpack(payload)
            self.handed += len(inflated)
            batch.append(self.message_type.FromString(inflated))
            if self.handed >= ENOUGH:
                break
        del self._messages[: len(batch)]
        return batch

    def _failed(self, error: RpcError) -> RpcError:
        """End a client's call with an error found here, which is raised from now on."""
        if self._on_error is not None:
            self._on_error(error)
        if self.direction is _RESPONSE:  # a server's call ends with its handler
            self._error = error
            self._messages.clear()
            self.discard()
        return error

    def _take_chunk(self) -> bool:
        """Feed one received chunk to the decoder, and let the peer send as much again."""
        if not self._chunks:
            self._chunks = None
            return False
        chunk = self._chunks.popleft()
        if self._connection is not None:
            self._connection.acknowledge(self._stream_id, len(chunk))
        self._messages.extend(self.decoder.feed(chunk))
        return True

    async def _more(self) -> bool:
        """Wait for bytes; False after the last."""
        if self._error is not None:
            raise self._error
        if self._ended:
            if self.decoder.buffered:
                raise self.direction.error("ended in the middle of a message")
            return False
        if self._waiter is not None:
            raise RuntimeError("another task receives from this call already")
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        return True
