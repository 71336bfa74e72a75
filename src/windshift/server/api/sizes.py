"""Limits the size of requests, and the number of things in them, before they are decoded."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, cast

from google.protobuf.message import DecodeError, Message

from windshift.rpc import Method
from windshift.rpc.service import UNLIMITED
from windshift.server.api.policies import policy_of
from windshift.server.domain.errors import InvalidField

_FIRST_FIELD: Final = b"\n"
"""The tag of a first field that is a message, which begins each element of a list."""
_LONGER_TAG: Final = b"\x8a"
"""How the same tag begins if it is not written as shortly as possible."""
_AT_MOST: Final = 16
"""How often these bytes may occur for each element that is allowed, before the elements are counted; and how
many fields a message may have for each of them."""


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
        if policy.most_elements is not None:
            kind = cast("type[Message]", _Counted(kind, policy.most_elements))
        return replace(method, max_message_size=size, request_type=kind)


class _Counted:
    """A class of messages that are parsed only if they have no more than so many elements.

    Decoded, an element of two bytes takes a hundred, and 8 MiB have room for four millions of these.
    """

    def __init__(self, kind: type[Message], most: int) -> None:
        self.DESCRIPTOR = kind.DESCRIPTOR
        self._parse = kind.FromString
        self._most = most

    def FromString(self, data: bytes) -> Message:  # noqa: N802 - as Protobuf names it
        """Parse a message; raise `InvalidField` if there are too many elements."""
        possible = data.count(_FIRST_FIELD) + data.count(_LONGER_TAG)
        if possible > _AT_MOST * self._most and not _has_at_most(data, self._most):
            field = self.DESCRIPTOR.fields_by_number[1].name
            raise InvalidField(field, f"must have at most {self._most} elements")
        return self._parse(data)


def _has_at_most(data: bytes, most: int) -> bool:
    """Tell whether an encoded message has no more than so many elements in its first field.

    Raise `DecodeError` for what is no message, or has groups, which no message here has.
    """
    position = elements = fields = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == _LENGTH:
            length, position = _varint(data, position)
            position += length
        elif kind == _VARINT:
            _, position = _varint(data, position)
        elif kind in _FIXED:
            position += _FIXED[kind]
        else:
            raise DecodeError("a field is of no known kind")
        elements += tag >> 3 == 1
        fields += 1
        if elements > most or fields > _AT_MOST * most:
            return False
    return True


_VARINT: Final = 0
_LENGTH: Final = 2
_FIXED: Final = {1: 8, 5: 4}
"""Wire types: https://protobuf.dev/programming-guides/encoding/#structure."""


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < _MOST_BITS:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < _MORE:
            return value, position
        shift += 7
    raise DecodeError("a number has no end")


_MORE: Final = 128
_MOST_BITS: Final = 70
