"""Call metadata and timeouts as HTTP/2 headers, without I/O.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md (Timeout, Custom-Metadata).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

from .status import HeaderList, MetadataValue, RpcError, StatusCode, decode_binary, encode_binary

_KEY = re.compile(r"[0-9a-z_.\-]+")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_RESERVED = frozenset({b"te", b"content-type", b"user-agent", b"host"})
_FORBIDDEN = _RESERVED | {  # a peer refuses messages with one of these (RFC 9113, section 8.2.2)
    b"connection",
    b"content-length",
    b"keep-alive",
    b"proxy-connection",
    b"transfer-encoding",
    b"upgrade",
}
MAX_TIMEOUT = 30 * 24 * 3600.0
"""Longest timeout, in seconds; longer ones are shortened to it, because they would overflow timers."""


def decode_metadata(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, MetadataValue], ...]:
    """Return the metadata in header fields: pairs in their order, names in lower case, a name may repeat.

    Values of names that end in ``-bin`` are bytes, all others are text. Headers of HTTP/2 and of gRPC itself
    are not included.
    """
    pairs: list[tuple[str, MetadataValue]] = []
    for key, value in headers:
        if key.startswith((b":", b"grpc-")) or key in _RESERVED:
            continue
        name = key.decode("latin-1")
        if not name.endswith("-bin"):
            pairs.append((name, value.decode("latin-1")))
            continue
        for part in value.split(b","):  # binary headers may arrive joined
            with suppress(ValueError):
                pairs.append((name, decode_binary(part.strip())))
    return tuple(pairs)


def encode_metadata(pairs: Iterable[tuple[str, MetadataValue]]) -> HeaderList:
    """Return ``pairs`` as header fields.

    Raises:
        ValueError: a name is not a lower-case header name or is reserved, or a text value has characters
            outside printable ASCII.
    """
    return [_encode(name, value) for name, value in pairs]


def _encode(name: str, value: MetadataValue) -> tuple[bytes, bytes]:
    if not _KEY.fullmatch(name) or name.startswith("grpc-") or name.encode() in _FORBIDDEN:
        raise ValueError(f"{name!r} is not a metadata name")
    if name.endswith("-bin"):
        return name.encode(), encode_binary(value if isinstance(value, bytes) else value.encode())
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not (text.isascii() and text.isprintable()):
        raise ValueError(f"the value of metadata {name!r} has characters outside printable ASCII")
    return name.encode(), text.strip().encode()


def parse_timeout(value: bytes) -> float:
    """Read ``grpc-timeout`` and return seconds, at most ``MAX_TIMEOUT``.

    Raises:
        RpcError: INVALID_ARGUMENT: not one to eight digits and a unit of ``H M S m u n``.
    """
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise RpcError(StatusCode.INVALID_ARGUMENT, "grpc-timeout is malformed")
    return min(int(match[1]) * _SECONDS[match[2]], MAX_TIMEOUT)


def encode_timeout(seconds: float) -> bytes:
    """Write ``seconds`` as ``grpc-timeout``, in the finest unit that eight digits can hold."""
    if 0.1 <= seconds < 100.0:  # what nearly all calls have
        return b"%du" % int(seconds * 1_000_000)
    seconds = min(max(seconds, 0.0), 99_999_999 * _SECONDS[b"H"])
    unit = next(unit for unit in reversed(_SECONDS) if seconds / _SECONDS[unit] < 100_000_000)
    return b"%d%s" % (int(seconds / _SECONDS[unit]), unit)
