"""The headers by which events lie in JetStream: names that other programs read and write too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

DATA_TYPE: Final = "WS-Data-Type"
"""The full name of the Protobuf message that the body holds."""
PUBLISHED_TIME: Final = "WS-Published-Time"
"""RFC 3339; see `format_rfc3339`."""
TRACE_PARENT: Final = "WS-Trace-Parent"
TRACE_STATE: Final = "WS-Trace-State"

MESSAGE_ID: Final = "Nats-Msg-Id"
"""The idempotency key: JetStream stores one message per key and duplicates window."""
EXPECTED_LAST_SEQUENCE: Final = "Nats-Expected-Last-Sequence"
EXPECTED_LAST_SUBJECT_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
ROLLUP: Final = "Nats-Rollup"
"""Replaces earlier messages by this one, for two values that it may have. Others are refused."""

MAX_BLOCK: Final = 65_535
"""The most bytes of headers that JetStream takes (`JSStreamHeaderExceedsMaximumErr`)."""

_FRAME = len("NATS/1.0\r\n") + len("\r\n")
_LINE = len(": ") + len("\r\n")


class Verified(str):
    """A header's value that is known to hold no line break and no outer space.

    nats-py takes those out of every value. Looking for them costs more than the rest of writing the header,
    so a value that was checked already answers that there is nothing to take out.
    """

    __slots__ = ()

    def strip(self, chars: str | None = None, /) -> Verified:
        """Return the value: it has no outer space."""
        return self

    def translate(self, table: object, /) -> Verified:
        """Return the value: it has no line break."""
        return self


def encoded_size(headers: Mapping[str, str]) -> int:
    """Say how many bytes these headers take on the wire and in the stream. They must be ASCII."""
    if not headers:
        return 0  # a message without any is sent in the form that has no block for them
    size = _FRAME
    for name, value in headers.items():
        size += len(name) + _LINE + len(value)
    return size


def format_rfc3339(seconds: int, nanos: int) -> Verified:
    """Write a time (see `Time`) in UTC, with ``Z`` and nanoseconds."""
    return Verified(f"{_to_the_second(seconds)}.{nanos:09d}Z")


@lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    """Write a whole second. Events that follow each other mostly share it: hence the cache."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")
