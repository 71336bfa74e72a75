"""Length-prefixed messages of the gRPC wire format, without I/O.

A message is one flag byte (0 = plain, 1 = compressed), a big-endian 32-bit length and the payload.
Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message".
"""

from __future__ import annotations

import zlib
from struct import Struct

from .status import RpcError, StatusCode

_PREFIX = Struct(">BI")
PREFIX_SIZE = _PREFIX.size
_pack_prefix = _PREFIX.pack
_unpack_prefix = _PREFIX.unpack_from

_GZIP_WINDOW_BITS = 31  # zlib: 16 + 15 selects the gzip container with the largest window

_GZIP_PIECE = 65_536
_PART = 1024
"""Bytes from which a part of an incomplete message stands for itself; smaller ones are put together."""

ACCEPT_ENCODING = (b"grpc-accept-encoding", b"identity,gzip")
"""The header with the supported compressions."""


_SHORT = 256
_SHORT_PREFIXES = tuple(_pack_prefix(0, size) for size in range(_SHORT))


def encode_message(payload: bytes) -> bytes:
    """Return ``payload`` with the prefix of an uncompressed message."""
    size = len(payload)
    return (_SHORT_PREFIXES[size] if size < _SHORT else _pack_prefix(0, size)) + payload


def gunzip(data: bytes | memoryview, max_size: int) -> bytes:
    """Inflate a gzip member, never producing more than ``max_size`` bytes.

    Raises:
        RpcError: RESOURCE_EXHAUSTED when the result would be larger, INTERNAL when ``data`` is not exactly
            one gzip member.
    """
    inflater = zlib.decompressobj(_GZIP_WINDOW_BITS)
    inflated = []
    room = max_size + 1
    taken = 0
    while taken < len(data) and not inflater.eof:  # in pieces: the inflater copies its unused input
        piece = data[taken : taken + _GZIP_PIECE]
        try:
            inflated.append(inflater.decompress(piece, room))
        except zlib.error as error:
            raise RpcError(StatusCode.INTERNAL, "the compressed message is not valid gzip") from error
        taken += len(piece) - len(inflater.unused_data)
        room -= len(inflated[-1])
        if not room:
            raise _too_large(max_size)
    if not inflater.eof:
        raise RpcError(StatusCode.INTERNAL, "the compressed message is truncated")
    if taken < len(data):
        raise RpcError(StatusCode.INTERNAL, "the compressed message has bytes after its end")
    return b"".join(inflated)


def _too_large(max_size: int) -> RpcError:
    return RpcError(
        StatusCode.RESOURCE_EXHAUSTED, f"the message is larger than the limit of {max_size} bytes"
    )


def decode_single(data: bytes, max_size: int) -> bytes | None:
    """Return the payload if ``data`` is exactly one uncompressed message within the limit, else None.

    Nearly every unary request arrives like this, and then needs no decoder.
    """
    size = len(data) - PREFIX_SIZE
    if size < 0 or size > max_size:
        return None
    prefix = _SHORT_PREFIXES[size] if size < _SHORT else _pack_prefix(0, size)
    return data[PREFIX_SIZE:] if data.startswith(prefix) else None


class Packed(bytes):
    """A compressed payload, which may become a thousand times as large: it is inflated when it is due."""

    __slots__ = ()


class MessageDecoder:
    """Split received bytes into messages.

    The size limit is checked on the length prefix, before the payload is buffered, and as it is inflated.

    Args:
        max_size: largest payload accepted, in bytes, also after decompression.
        gzip: whether messages may be compressed, from ``grpc-encoding``.

    Attributes:
        gzip: the same.
        buffered: bytes of an incomplete message.
    """

    __slots__ = ("_max_size", "_needed", "_parts", "buffered", "gzip")

    def __init__(self, max_size: int, *, gzip: bool = False) -> None:
        self._max_size = max_size
        self.gzip = gzip
        self._parts: list[bytes | bytearray] = []  # a single buffer that grows would be copied each time
        self._needed = PREFIX_SIZE
        self.buffered = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take ``data`` and return the payloads that it completes, in order, for ``unpack`` each.

        Raises:
            RpcError: RESOURCE_EXHAUSTED for a message over the limit, INTERNAL for bytes that are not
                messages. Do not use the decoder afterwards.
        """
        if not self.buffered:
            payload = decode_single(data, self._max_size)
            return self._split(data) if payload is None else [payload]
        missing = self._needed - self.buffered - len(data)
        if missing > 0:
            self._keep(data)
            return []
        parts, self._parts, self.buffered = self._parts, [], 0
        if missing or self._needed == PREFIX_SIZE or parts[0][0]:
            return self._split(b"".join((*parts, data)))
        self._needed = PREFIX_SIZE  # it is one message, the end of what came, and plain: copied once
        return [b"".join((memoryview(parts[0])[PREFIX_SIZE:], *parts[1:], data))]

    def unpack(self, payload: bytes) -> bytes:
        """Return a payload inflated.

        Raises:
            RpcError: see ``gunzip``.
        """
        return gunzip(payload, self._max_size) if isinstance(payload, Packed) else payload

    def _keep(self, data: bytes) -> None:
        """Keep the bytes of an incomplete message, of which there may be few at a time."""
        self.buffered += len(data)
        last = self._parts[-1] if self._parts else None
        if len(data) >= _PART:
            self._parts.append(data)
        elif isinstance(last, bytearray) and len(last) < _PART:
            last += data
        else:
            self._parts.append(bytearray(data))

    def _split(self, data: bytes) -> list[bytes]:
        messages = []
        position, available = 0, len(data)
        while available - position >= PREFIX_SIZE:
            flag, size = _unpack_prefix(data, position)
            self._check_prefix(flag, size)
            begin = position + PREFIX_SIZE
            end = begin + size
            if end > available:
                self._needed = end - position
                break
            messages.append(Packed(data[begin:end]) if flag else data[begin:end])
            position = end
        else:
            self._needed = PREFIX_SIZE
        if position < available:
            self._keep(data[position:])
        return messages

    def _check_prefix(self, flag: int, size: int) -> None:
        if flag > 1:
            raise RpcError(StatusCode.INTERNAL, f"the message prefix has an unknown flag {flag:#04x}")
        if flag and not self.gzip:
            raise RpcError(StatusCode.INTERNAL, "a message is compressed but grpc-encoding names no encoding")
        if size > self._max_size:
            raise _too_large(self._max_size)
