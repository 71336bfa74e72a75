"""One call as the client sees it: its life from the start to its status, and the form of it that is unary.

A call waits at its channel until a connection takes it (``open``); the connection then hands it what the
server sends. What the server surely did not look at (REFUSED_STREAM, above the last stream of a GOAWAY, never
written) is given back to the channel once, without the caller noticing.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from google.protobuf.message import Message

from .connection import CANCEL, NO_ERROR, REFUSED_STREAM, Connection
from .framing import ACCEPT_ENCODING, PREFIX_SIZE, MessageDecoder, encode_message
from .metadata import Metadata, encode_timeout
from .outcome import HeaderPairs, final_error, reset_error, response_error
from .status import HeaderList, RpcError, StatusCode

_OK: HeaderPairs = ((b"grpc-status", b"0"),)
_PLAIN = b"identity"


class CallOwner(Protocol):
    """What a call needs of its channel."""

    def submit(self, call: Call) -> None:
        """Give the call to a connection, now or as soon as there is one."""

    def withdraw(self, call: Call) -> None:
        """Forget a call that waits for a connection."""

    def finished(self, call: Call) -> None:
        """Take note that a call is done that has a ticket."""


class CallLimits(Protocol):
    """What a call needs of its channel's options."""

    @property
    def max_message_size(self) -> int:
        """Bytes of one response message."""

    @property
    def retry_buffer(self) -> int:
        """Bytes of a call's request that are kept until the response begins."""


class ClientCallConnection(Connection):
    """What a call needs of its connection.

    Attributes:
        plain_response: headers of an earlier response without anything special; most calls get the same.
    """

    plain_response: HeaderPairs = ()


class Call:
    """What is common to all calls.

    Attributes:
        done: whether the caller has, or could have, the outcome.
        deadline: ``loop.time()`` at which the call ends with DEADLINE_EXCEEDED, or None.
        wait_for_ready: whether the call waits while the server cannot be reached, instead of failing.
        stream_id: its HTTP/2 stream once a connection took it.
        ticket: the channel's note of the deadline.
    """

    __slots__ = (
        "_connection",
        "_headers",
        "_limits",
        "_loop",
        "_owner",
        "_retriable",
        "deadline",
        "done",
        "stream_id",
        "ticket",
        "wait_for_ready",
    )

    def __init__(
        self,
        owner: CallOwner,
        limits: CallLimits,
        headers: HeaderList,
        timeout: float | None,
        wait_for_ready: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._owner = owner
        self._limits = limits
        self._headers = headers
        self._loop = loop
        self._connection: ClientCallConnection | None = None
        self._retriable = True
        self.done = False
        self.deadline = None if timeout is None else loop.time() + timeout
        self.stream_id = 0
        self.ticket: list[Call] | None = None
        self.wait_for_ready = wait_for_ready

    # -- driven by the channel and the connection ----------------------------------------------------

    def open(self, connection: ClientCallConnection) -> int:
        """Send the request, as far as it is known, and return the stream's id.

        Raises:
            ConnectionError: the connection takes no more calls.
        """
        headers = self._headers
        if self.deadline is not None:
            remaining = self.deadline - self._loop.time()
            headers = [*headers, (b"grpc-timeout", encode_timeout(remaining))]
        self.stream_id = self._send_request(connection, headers)
        self._connection = connection
        return self.stream_id

    def response(self, headers: HeaderPairs, ended: bool) -> None:
        """Take the headers of the response."""
        self._retriable = False
        connection = self._connection
        if connection is not None and headers != connection.plain_response:
            self._judge(connection, headers, ended)
        if not self.done:
            self._take_headers(headers)
            if ended:
                self.trailers(headers)

    def _judge(self, connection: ClientCallConnection, headers: HeaderPairs, ended: bool) -> None:
        fields = dict(headers)
        error = response_error(fields)
        encoding = fields.get(b"grpc-encoding", _PLAIN)
        if error is not None:
            error.metadata = Metadata(headers).items()
            self.abandon(error)
        elif encoding == b"gzip":
            self._use_gzip()
        elif encoding != _PLAIN:
            text = encoding.decode("latin-1")
            self.abandon(RpcError(StatusCode.INTERNAL, f"the server uses the unknown encoding {text}"))
        elif not ended:
            connection.plain_response = headers

    def data(self, data: bytes, ended: bool) -> None:
        """Take body bytes of the response."""
        raise NotImplementedError

    def trailers(self, trailers: HeaderPairs) -> None:
        """Take the end of the response."""
        error = None if trailers == _OK else final_error(trailers)
        connection = self._connection
        if connection is not None and self._sending(connection):
            connection.reset(self.stream_id, NO_ERROR)  # the server needs no more of the request
        self._conclude(error, trailers)

    def closed(self, error_code: int) -> None:
        """Take note that the stream is gone."""
        if self.done:
            return
        if error_code == REFUSED_STREAM and self._retriable:
            self.retry()
        elif error_code == CANCEL and self.deadline is not None and self._loop.time() >= self.deadline:
            self.expire()
        else:
            self._conclude(reset_error(error_code), ())

    def lost(self, error: RpcError, *, written: bool) -> None:
        """Take note that the connection is gone.

        Args:
            error: what the call ends with when the server may have seen it.
            written: whether any of the request may have been written.
        """
        if self.done:
            return
        if self._retriable and not written:
            self.retry()
        else:
            self._conclude(error, ())

    def retry(self) -> None:
        """Start again: the server did not look at the call."""
        self._retriable = False
        self._connection = None
        self._owner.submit(self)

    def expire(self) -> None:
        """End the call at its deadline."""
        self.abandon(RpcError(StatusCode.DEADLINE_EXCEEDED, "the deadline passed"))

    def cancel(self) -> None:
        """End the call now; the server sees that its client went away. Nothing happens when it is over."""
        self.abandon(RpcError(StatusCode.CANCELLED, "the call was cancelled"))

    def abandon(self, error: RpcError) -> None:
        """End the call from our side."""
        if self.done:
            return
        if self._connection is None:
            self._owner.withdraw(self)
        else:
            self._connection.reset(self.stream_id, CANCEL)
        self._conclude(error, ())

    @property
    def unacknowledged(self) -> int:
        """Bytes received that were not given back to the server's window."""
        return 0

    # -- what differs --------------------------------------------------------------------------------

    def _send_request(self, connection: ClientCallConnection, headers: HeaderList) -> int:
        raise NotImplementedError

    def _sending(self, connection: ClientCallConnection) -> bool:
        """Whether our side of the stream is still open."""
        raise NotImplementedError

    def _use_gzip(self) -> None:
        raise NotImplementedError

    def _take_headers(self, headers: HeaderPairs) -> None:
        pass

    def _conclude(self, error: RpcError | None, trailers: HeaderPairs) -> None:
        raise NotImplementedError

    def _mark_done(self) -> None:
        self.done = True
        if self.ticket is not None:
            self._owner.finished(self)


class UnaryCall(Call):
    """A call with one message each way.

    Attributes:
        future: gets the payload of the response, or ``RpcError``.
    """

    __slots__ = ("_body", "_decoder", "_payload", "future")

    def __init__(
        self,
        owner: CallOwner,
        limits: CallLimits,
        headers: HeaderList,
        payload: bytes,
        timeout: float | None,
        wait_for_ready: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(owner, limits, headers, timeout, wait_for_ready, loop)
        self._body = encode_message(payload)
        self._payload: bytes | None = None
        self._decoder: MessageDecoder | None = None
        self.future: asyncio.Future[bytes] = loop.create_future()

    def _send_request(self, connection: ClientCallConnection, headers: HeaderList) -> int:
        return connection.send_whole_request(headers, self._body)

    def _sending(self, connection: ClientCallConnection) -> bool:
        return connection.queued(self.stream_id) > 0

    def _use_gzip(self) -> None:
        self._decoder = MessageDecoder(self._limits.max_message_size, "gzip")

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
            size = len(data) - PREFIX_SIZE
            if self._payload is None and 0 <= size <= self._limits.max_message_size and is_whole(data):
                self._payload = data[PREFIX_SIZE:]
                return
            self._decoder = MessageDecoder(self._limits.max_message_size)
        for payload in self._decoder.feed(data):
            if self._payload is not None:
                raise RpcError(StatusCode.INTERNAL, "the response has more than one message")
            self._payload = payload

    def _conclude(self, error: RpcError | None, trailers: HeaderPairs) -> None:
        if self.done:
            return
        self._mark_done()
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        elif self._payload is None:
            self.future.set_exception(RpcError(StatusCode.INTERNAL, "the response has no complete message"))
        else:
            self.future.set_result(self._payload)


def is_whole(data: bytes) -> bool:
    """Return whether ``data``, longer than a prefix, is exactly one message that is not compressed."""
    return data[0] == 0 and int.from_bytes(data[1:PREFIX_SIZE], "big") == len(data) - PREFIX_SIZE


def undecodable(response_type: type[Message]) -> RpcError:
    """Return the error for a response that is no message of its type."""
    return RpcError(StatusCode.INTERNAL, f"the response is not a valid {response_type.DESCRIPTOR.full_name}")


def request_headers(authority: str, scheme: str, path: str, user_agent: str) -> list[tuple[bytes, bytes]]:
    """Return the header fields that all calls of a method begin with."""
    return [
        (b":method", b"POST"),
        (b":scheme", scheme.encode()),
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", user_agent.encode()),
        ACCEPT_ENCODING,
    ]
