"""Durations and times, as Python has them and as Protobuf has them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

Seconds = timedelta | float
"""A duration: a `timedelta`, or a number of seconds."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def seconds(value: Seconds) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: it is not a number.
    """
    result = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if math.isnan(result):
        raise ValueError("a duration is a number of seconds, not nan")
    return result


def duration(value: Seconds) -> Duration:
    """Return a duration for the wire.

    Raises:
        ValueError: it is infinite, or not a number.
    """
    result = Duration()
    if math.isinf(seconds(value)):
        raise ValueError("this duration has an end: it cannot be infinite")
    if isinstance(value, timedelta):
        result.FromTimedelta(value)
    else:
        result.FromNanoseconds(round(value * 1e9))
    return result


def timestamp(value: datetime) -> Timestamp:
    """Return a time for the wire.

    Raises:
        TypeError: not a time.
        ValueError: the time has no time zone.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"a time is a datetime, not {value!r}")
    if value.tzinfo is None:
        raise ValueError("a time needs a time zone, such as datetime.UTC")
    result = Timestamp()
    result.FromDatetime(value)
    return result


def moment(value: Timestamp) -> datetime:
    """Return a time of the wire, in UTC; nanoseconds are cut to microseconds."""
    return _EPOCH + timedelta(0, value.seconds, value.nanos // 1000)  # a fifth of what `ToDatetime` takes


def moment_of(message: Message, field: str) -> datetime | None:
    """Return the time in a field of a message; None = it is not set."""
    return moment(getattr(message, field)) if message.HasField(field) else None


def timedelta_of(message: Message, field: str) -> timedelta | None:
    """Return the duration in a field of a message; None = it is not set."""
    return getattr(message, field).ToTimedelta() if message.HasField(field) else None
