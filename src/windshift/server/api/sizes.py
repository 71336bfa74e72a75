"""Limits the size of requests, and the number of things in them, before they are decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import repeat
from typing import Any, Final, TypeAlias, cast

from google.protobuf.message import DecodeError, Message

from windshift.rpc import Method
from windshift.rpc.service import UNLIMITED
from windshift.server.api.policies import policy_of
from windshift.server.domain.errors import InvalidField

_FIELDS_AT_MOST: Final = 2
"""How many fields a message may have for each element that is allowed."""
_COUNTED: Final = 64 * 1024
"""Bytes above which elements are counted before a message is parsed; parsing a smaller one is cheaper."""
_SHORT: Final = 32
"""Bytes of a field that takes as much time as a longer one."""
IN_SHORT: Final = 512 * 1024
"""Bytes of a request that may be in shorter fields, as in a request without a payload."""
_LOOKS: Final = 32
_LOOKS_EACH: Final = 8
"""Fields that are looked at to find the long ones, and as many more for each element that is allowed."""


def limit_requests(largest: int, method: Method) -> Method:
    """Limit what requests may hold: one with one payload, which the broker limits, `largest` bytes."""
    policy = policy_of(method.path)
    size = largest if policy.max_size == UNLIMITED else policy.max_size
    method = replace(method, max_message_size=size)
    if not policy.carries_payload:
        return method
    counted = cast("type[Message]", _Counted(method.request_type, policy.most_elements))
    if policy.most_elements:
        return replace(method, request_type=counted)
    return replace(method, large_type=counted)  # small ones cost no call more


class _Counted:
    """A class of messages that are parsed only if their lists have no more than so many elements.

    Decoded, an element of two bytes takes a hundred, and 8 MiB have room for four millions of these. Other
    fields take time when they come again and again: a large message must have long ones.

    Args:
        most: elements of each list, by the number of its field. Messages in it have none.
    """

    def __init__(self, kind: type[Message], most: Mapping[int, int]) -> None:
        self.DESCRIPTOR = kind.DESCRIPTOR
        self._parse = kind.FromString
        self._most = most
        self._inner = _inner(kind.DESCRIPTOR)

    def FromString(self, data: bytes) -> Message:  # noqa: N802 - as Protobuf names it
        """Parse a message; raise `InvalidField` if there are too many elements, or fields."""
        if self._most and len(data) > _COUNTED:
            number = _crowded(data, self._most)
            if number:
                field = self.DESCRIPTOR.fields_by_number[number].name
                raise InvalidField(field, f"must have at most {self._most[number]} elements")
        if len(data) > IN_SHORT and self._is_crumbled(data):
            raise InvalidField("", "the request has too many fields; set each field once")
        return self._parse(data)

    def _is_crumbled(self, data: bytes) -> bool:
        """Whether too much of a message is in short fields, or behind too many others."""
        left = len(data) - IN_SHORT
        looks = repeat(None, _LOOKS + _LOOKS_EACH * sum(self._most.values()))
        for length in _long_fields(data, 0, len(data), self._inner, looks):
            left -= length
            if left <= 0:
                return False
        return True


_Inner: TypeAlias = "Mapping[int, _Inner]"
"""The messages that a message has, by the number of their field."""


def _inner(descriptor: Any) -> _Inner:
    fields = [field for field in descriptor.fields if field.message_type is not None]
    return {field.number: _inner(field.message_type) for field in fields}


def _long_fields(data: bytes, position: int, end: int, inner: _Inner, looks: Iterator[None]) -> Iterator[int]:
    """Yield the lengths of long fields in a message, and in those in it, of as many as there are looks."""
    while position < end and next(looks, looks) is None:
        number, begin, position = field_at(data, position)
        if position - begin >= _SHORT:
            if number in inner:
                yield from _long_fields(data, begin, position, inner[number], looks)
            else:
                yield position - begin


def _crowded(data: bytes, most: Mapping[int, int]) -> int:
    """Return the number of a list in an encoded message with more elements than it may have; 0 = none.

    A message with far too many fields of any kind counts as one whose first list has too many.
    """
    left, fields, position = dict(most), _FIELDS_AT_MOST * sum(most.values()), 0
    while position < len(data):
        number, _, position = field_at(data, position)
        if number in left:
            left[number] -= 1
            if left[number] < 0:
                return number
        fields -= 1
        if fields < 0:
            return next(iter(most))
    return 0


_VARINT: Final = 0
_LENGTH: Final = 2
_FIXED: Final = {1: 8, 5: 4}
"""Wire types: https://protobuf.dev/programming-guides/encoding/#structure."""


def field_at(data: bytes, position: int) -> tuple[int, int, int]:
    """Return the number of the field at a position, and where what it holds begins and ends.

    Raise `DecodeError` for what is no field, or a group, which no message here has.
    """
    tag, position = _varint(data, position, _LONGEST_TAG)
    kind = tag & 7
    if kind == _LENGTH:
        length, position = _varint(data, position, _LONGEST_TAG)
        return tag >> 3, position, position + length
    if kind == _VARINT:
        return tag >> 3, position, _varint(data, position, _LONGEST)[1]
    if kind in _FIXED:
        return tag >> 3, position, position + _FIXED[kind]
    raise DecodeError("a field is of no known kind")


def _varint(data: bytes, position: int, longest: int) -> tuple[int, int]:
    if position < len(data) and (byte := data[position]) < _MORE:
        return byte, position + 1
    value = shift = 0
    for byte in data[position : position + longest]:
        position += 1
        value |= (byte & 127) << shift
        if byte < _MORE:
            return value, position
        shift += 7
    raise DecodeError("a number has no end")


_MORE: Final = 128
_LONGEST: Final = 10
_LONGEST_TAG: Final = 5
"""Bytes that a number may take. Protobuf takes no tag and no length that is longer."""
