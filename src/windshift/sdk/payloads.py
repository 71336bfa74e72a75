"""Payloads: Protobuf messages by the name of their type, from the default descriptor pool."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from .errors import Undecodable, UnknownType

M = TypeVar("M", bound=Message)

_PREFIX = "type.googleapis.com/"
_classes: dict[str, type[Message]] = {}


def pack(message: Message) -> AnyMessage:
    """Return a message with the name of its type.

    Raises:
        TypeError: it is no Protobuf message.
    """
    if not isinstance(message, Message):
        raise TypeError(f"a payload is a Protobuf message, not {type(message).__qualname__}")
    return AnyMessage(type_url=_PREFIX + message.DESCRIPTOR.full_name, value=message.SerializeToString())


def type_name(payload: AnyMessage) -> str:
    """Return the full name of a payload's type."""
    return payload.type_url.rpartition("/")[2]


def unpack(payload: AnyMessage) -> Message:
    """Return the message in a payload.

    Raises:
        UnknownType: no imported module has this type.
        Undecodable: the bytes are no such message.
    """
    name = type_name(payload)
    return _parse(_classes.get(name) or _find(name), payload)


def unpack_as(payload: AnyMessage, kind: type[M]) -> M:
    """Return the message in a payload, which must be of this type.

    Raises:
        Undecodable: it is of another type, or the bytes are no such message.
    """
    name = type_name(payload)
    if name != kind.DESCRIPTOR.full_name:
        raise Undecodable(name, f"is not of type {kind.DESCRIPTOR.full_name!r}")
    return _parse(kind, payload)


def _parse(kind: type[M], payload: AnyMessage) -> M:
    try:
        return kind.FromString(payload.value)
    except DecodeError as error:
        raise Undecodable(type_name(payload), "has bytes that are no such message") from error


def _find(name: str) -> type[Message]:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        raise UnknownType(name) from None
    return _classes.setdefault(name, message_factory.GetMessageClass(descriptor))
