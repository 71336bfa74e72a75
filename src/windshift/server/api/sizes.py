"""Limits the size of requests, and the number of things in them, before they are decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from google.protobuf.message import DecodeError, Message

from windshift.rpc import Method
from windshift.rpc.service import UNLIMITED
from windshift.server.api.policies import policy_of
from windshift.server.domain.errors import InvalidField

_TAGS_AT_MOST: Final = 16
"""How often the tags of lists may occur for each element that is allowed, before the elements are counted."""
_FIELDS_AT_MOST: Final = 2
"""How many fields a message may have for each of them."""
_LEAST: Final = 2
"""Bytes that an element takes at least."""


class SizeInterceptor:
    """Limits requests by what they may hold.

    Args:
        largest: bytes of a request with one payload, which the broker limits.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest

    def intercept(self, method: Method) -> Method:
        """Limit the requests of a method."""
        policy = policy_of(method.path)
        size = self._largest if policy.max_size == UNLIMITED else policy.max_size
        kind = method.request_type
        if policy.most_elements:
            kind = cast("type[Message]", _Counted(kind, policy.most_elements))
        return replace(method, max_message_size=size, request_type=kind)


class _Counted:
    """A class of messages that are parsed only if their lists have no more than so many elements.

    Decoded, an element of two bytes takes a hundred, and 8 MiB have room for four millions of these.

    Args:
        kind: the class.
        most: elements of each list, by the number of its field, which is below 16.
    """

    def __init__(self, kind: type[Message], most: Mapping[int, int]) -> None:
        self.DESCRIPTOR = kind.DESCRIPTOR
        self._parse = kind.FromString
        self._most = most
        tags = [number << 3 | _LENGTH for number in most]
        self._tags = [bytes([each]) for tag in tags for each in (tag, tag | _MORE)]  # or longer than need be
        self._possible = _TAGS_AT_MOST * min(most.values())

    def FromString(self, data: bytes) -> Message:  # noqa: N802 - as Protobuf names it
        """Parse a message; raise `InvalidField` if there are too many elements."""
        if len(data) > _LEAST * self._possible and _occur_more(data, self._tags, self._possible):
            number = _crowded(data, self._most)
            if number:
                field = self.DESCRIPTOR.fields_by_number[number].name
                raise InvalidField(field, f"must have at most {self._most[number]} elements")
        return self._parse(data)


def _occur_more(data: bytes, tags: Sequence[bytes], most: int) -> bool:
    """Whether some bytes are in data more often than `most`; to count them all takes longer."""
    for tag in tags:
        position = data.find(tag)
        while position >= 0:
            most -= 1
            if most < 0:
                return True
            position = data.find(tag, position + 1)
    return False


def _crowded(data: bytes, most: Mapping[int, int]) -> int:
    """Return the number of a list in an encoded message with more elements than it may have; 0 = none.

    A message with far too many fields of any kind counts as one whose first list has too many. Raise
    `DecodeError` for what is no message, or has groups, which no message here has.
    """
    left, fields, position = dict(most), _FIELDS_AT_MOST * sum(most.values()), 0
    while position < len(data):
        tag, position = _varint(data, position, _LONGEST_TAG)
        kind = tag & 7
        if kind == _LENGTH:
            length, position = _varint(data, position, _LONGEST_TAG)
            position += length
        elif kind == _VARINT:
            _, position = _varint(data, position, _LONGEST)
        elif kind in _FIXED:
            position += _FIXED[kind]
        else:
            raise DecodeError("a field is of no known kind")
        number = tag >> 3
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


def _varint(data: bytes, position: int, longest: int) -> tuple[int, int]:
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
