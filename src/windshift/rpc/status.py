"""Status codes, errors and their form in HTTP/2 trailers, without I/O.

Sources: https://grpc.io/docs/guides/status-codes/ and
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md (Status, Status-Message, Status-Details).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any, Self, TypeVar
from urllib.parse import unquote_to_bytes

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

MAX_MESSAGE_LENGTH = 2048
"""Longest ``grpc-message`` sent, in characters: clients refuse header blocks beyond 8 KiB."""
_MAX_MESSAGE_SIZE = 7 * MAX_MESSAGE_LENGTH
"""Its largest size in thirds of a byte. It is sent twice: percent-encoded, and as base64 in the details."""
_MAX_TRAILERS = 7680
"""Bytes of message and details as sent, which leaves something for other trailers."""

M = TypeVar("M", bound=Message)

Headers = tuple[tuple[bytes, bytes], ...]
HeaderList = list[tuple[bytes, bytes]]
MetadataValue = str | bytes


class StatusCode(IntEnum):
    """The outcome of a call, numbered as on the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A call that did not end with OK.

    A handler raises it to choose the status that the client gets; a client's call raises what it got.

    Attributes:
        code: the status; never OK.
        message: text for people; sent as ``grpc-message``, cut at ``MAX_MESSAGE_LENGTH`` characters, sooner
            when some are beyond ASCII.
        details: Protobuf messages of ``google.rpc.Status.details``. Those that are too large are not sent. On
            the client side they are ``google.protobuf.Any``, as received.
        metadata: other trailing metadata.
        fault: on the server side, the unexpected exception behind it; never sent.
        sent: on the client side, whether the server may have seen the call; False = certainly not.
    """

    fault: Exception | None = None
    sent: bool = True

    def __init__(
        self,
        code: StatusCode,
        message: str = "",
        details: Sequence[Message] = (),
        metadata: Iterable[tuple[str, MetadataValue]] = (),
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.details = tuple(details)
        self.metadata = tuple(metadata)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).__new__, (type(self),), {**self.__dict__, "args": self.args}

    def unsent(self) -> Self:
        """Note that the server never saw the call; return the error."""
        self.sent = False
        return self

    def detail(self, kind: type[M]) -> M | None:
        """Return the first of the details that is a message of this type; None if there is none."""
        for detail in self.details:
            if isinstance(detail, kind):
                return detail
            message = kind()
            try:
                if isinstance(detail, AnyMessage) and detail.Unpack(message):
                    return message
            except DecodeError:
                continue
        return None


class ChannelClosed(RpcError):
    """The channel was closed: before the call, or while it went on."""

    def __init__(self) -> None:
        super().__init__(StatusCode.CANCELLED, "the channel is closed")


class NoRoom(RpcError):
    """The server holds as many requests as it may; nothing was done."""

    def __init__(self) -> None:
        super().__init__(
            StatusCode.RESOURCE_EXHAUSTED,
            "the server holds as many requests as it may; nothing was done, slow down and try again",
        )


def percent_encode(text: str) -> bytes:
    """Encode a status message: bytes outside printable ASCII, and ``%``, become ``%XX``.

    So do spaces at either end, which no header value may have there (RFC 9113, section 8.2.1). The message is
    cut so that it fits what clients accept.
    """
    data = text[:MAX_MESSAGE_LENGTH].encode("utf-8", "replace")
    if data.isascii() and text.isprintable() and b"%" not in data and data == data.strip():
        return data
    encoded = b"".join(_encoded_characters(text[:MAX_MESSAGE_LENGTH]))
    if encoded.startswith(b" "):
        encoded = b"%20" + encoded[1:]
    return encoded[:-1] + b"%20" if encoded.endswith(b" ") else encoded


def _encoded_characters(text: str) -> Iterator[bytes]:
    room = _MAX_MESSAGE_SIZE
    for character in text:
        data = character.encode("utf-8", "replace")
        encoded = b"".join(_PERCENT[byte] for byte in data)
        room -= 3 * len(encoded) + 4 * len(data)
        if room < 0:
            return
        yield encoded


_PERCENT = [bytes((b,)) if 0x20 <= b <= 0x7E and b != 0x25 else b"%%%02X" % b for b in range(256)]


def percent_decode(data: bytes) -> str:
    """Decode a status message; malformed escapes stay as they are, as the protocol asks."""
    return unquote_to_bytes(data).decode("utf-8", "replace")


def encode_binary(value: bytes) -> bytes:
    """Encode the value of a ``-bin`` header: base64 without padding."""
    return base64.b64encode(value).rstrip(b"=")


def decode_binary(value: bytes) -> bytes:
    """Decode one value of a ``-bin`` header, padded or not.

    Raises:
        ValueError: the value is not base64.
    """
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("a -bin header is not base64") from error


OK_TRAILERS: HeaderList = [(b"grpc-status", b"0")]


def status_trailers(error: RpcError) -> HeaderList:
    """Return the trailers that carry ``error``, without its further metadata.

    Details that clients would refuse the trailers for are left out.
    """
    trailers = [(b"grpc-status", b"%d" % error.code)]
    message = percent_encode(error.message)
    if message:
        trailers.append((b"grpc-message", message))
    if error.details:
        status = Status(code=int(error.code), message=percent_decode(message))
        room = (_MAX_TRAILERS - len(message)) * 3 // 4
        for detail in error.details:
            if isinstance(detail, AnyMessage):
                status.details.append(detail)
            else:
                status.details.add().Pack(detail)
            if status.ByteSize() > room:
                del status.details[-1]
        trailers.append((b"grpc-status-details-bin", encode_binary(status.SerializeToString())))
    return trailers
