"""Read request fields whose range is smaller than their type. Each function takes the path of the field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from typing import Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.timestamp_pb2 import Timestamp

from windshift.nats.times import NANOSECONDS, Time
from windshift.rpc.service import snake_case
from windshift.server.domain.errors import InvalidField
from windshift.server.domain.pages import LARGEST

T = TypeVar("T")
R = TypeVar("R")
E = TypeVar("E", bound=Enum)

_DURATION_SECONDS: Final = 315_576_000_000
_EARLIEST: Final = -62_135_596_800  # 0001-01-01T00:00:00Z
_LATEST: Final = 253_402_300_799  # 9999-12-31T23:59:59Z


def number(field: str, value: int, largest: int = LARGEST) -> int:
    """Return a number that is not above what the broker can hold."""
    if value > largest:
        raise InvalidField(field, f"must be at most {largest}")
    return value


def page_size(size: int, largest: int = 1_000, default: int = 100) -> int:
    """Return how many entries a page of a list has at most."""
    return number("page_size", size, largest) or default


def real(field: str, value: float, smallest: float, largest: float) -> float:
    """Return a number between two others; refuse what is not a number."""
    if not smallest <= value <= largest:
        raise InvalidField(field, f"must be from {smallest:g} to {largest:g}")
    return value


def few(field: str, values: Sequence[T], most: int) -> Sequence[T]:
    """Return a list that is not longer than it may be."""
    if len(values) > most:
        raise InvalidField(field, f"must have at most {most} elements")
    return values


def elements(field: str, values: Sequence[T], most: int, read: Callable[[str, T], R]) -> list[R]:
    """Read the elements of a list that is not longer than it may be; `read` takes the path of each too."""
    return [read(f"{field}[{position}]", value) for position, value in enumerate(few(field, values, most))]


def known(field: str, value: int, values: Mapping[int, T]) -> T:
    """Return what a value of an enumeration stands for; refuse unknown ones."""
    if value not in values:
        raise InvalidField(field, f"{value} is not a known value")
    return values[value]


def members(kind: type[E], numbers: EnumTypeWrapper) -> dict[int, E]:
    """Return the members of `kind` by the numbers that the values of a Protobuf enumeration have.

    Their names are the same, but there they begin with the enumeration's. Others are left out.
    """
    prefix = f"{snake_case(numbers.DESCRIPTOR.name).upper()}_"
    names = ((number, name.removeprefix(prefix)) for name, number in numbers.items())
    return {number: kind[name] for number, name in names if name in kind.__members__}


def timestamp(field: str, value: Timestamp) -> Time:
    """Return a time; refuse what a Protobuf Timestamp must not hold."""
    if not (_EARLIEST <= value.seconds <= _LATEST and 0 <= value.nanos < NANOSECONDS):
        raise InvalidField(field, "must be a time in the years 1 to 9999, with 0 to 999,999,999 nanoseconds")
    return Time(value.seconds, value.nanos)


def unix_ns(field: str, value: Timestamp) -> int:
    """Return a time as nanoseconds since 1970; refuse what a Protobuf Timestamp must not hold."""
    seconds, nanos = timestamp(field, value)
    return seconds * NANOSECONDS + nanos


def wire_time(value: Time | None) -> Timestamp | None:
    """Write a time."""
    return None if value is None else Timestamp(seconds=value.seconds, nanos=value.nanos)


def duration_ns(field: str, value: Duration) -> int:
    """Return a duration in nanoseconds; refuse what a Protobuf Duration must not hold."""
    seconds, nanos = value.seconds, value.nanos
    if abs(seconds) > _DURATION_SECONDS or abs(nanos) >= NANOSECONDS or seconds * nanos < 0:
        raise InvalidField(
            field, "must be at most 10,000 years, with nanoseconds of the same sign as seconds"
        )
    return seconds * NANOSECONDS + nanos


def duration(field: str, value: Duration, shortest: timedelta) -> timedelta | None:
    """Return a duration cut to microseconds, `None` for zero; refuse what else is below `shortest`."""
    nanoseconds = duration_ns(field, value)
    if nanoseconds == 0:
        return None
    if nanoseconds < shortest // timedelta(microseconds=1) * 1000:
        raise InvalidField(
            field, f"must be 0 or at least {shortest // timedelta(milliseconds=1)} milliseconds"
        )
    if nanoseconds > LARGEST:
        raise InvalidField(field, "must be at most 292 years")
    return timedelta(microseconds=nanoseconds // 1000)
