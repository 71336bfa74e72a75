"""Requests of all methods as chance makes them: of any fields, with any values, and then damaged."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.rpc.frames import prefixed
from tests.support.client import DEAD_LETTERS, EVENTS, STATE

METHODS: Final = tuple(
    method
    for service in (EVENTS, STATE, DEAD_LETTERS)
    for method in service.methods
    if method.name != "DeleteStore"  # while it deletes a stream, nats-server cannot make it anew
)

TEXTS: Final = (
    *("", "warm", "fuzz", "fuzz2", "c", "d", "a", "fuzz.a", "fuzz2.b.c", "warm.a", "fuzz.>", "fuzz.*", "*"),
    *(">", "$JS.API.STREAM.DELETE.warm", "_INBOX.a", "KV_fuzz", "WS_DEAD_LETTERS", "a..b", ".", "a b"),
    *("a\0b", "a\r\nb", "x" * 255, "x" * 256, "x" * 2000, "é", "\U0001f525", "\u202e", "%s%n", "../a"),
    *("type.googleapis.com/a.B", "x.Y", "/", "9", "-1", "1:2:3", "null", "k" * 256, " k", "AAAA", "e30="),
)
FITTING: Final = {
    "stream": ("warm", "fuzz", "fuzz2"),
    "name": ("fuzz", "fuzz2", "fuzz3", "c", "d"),
    "consumer": ("c", "d"),
    "id": ("c", "d"),
    "subject": ("warm.a", "fuzz.a", "fuzz.b", "fuzz2.c"),
    "subjects": ("fuzz.>", "fuzz2.>", "fuzz.a", "fuzz.*", "warm.a"),
    "filter_subjects": ("warm.a", "fuzz.>", ">"),
    "store": ("fuzz", "store"),
    "key": ("a", "b.c", "fuzz"),
    "type_url": ("x.Y", "type.googleapis.com/x.Y"),
    "idempotency_key": ("one", "two"),
}
"""What a text may well be, by the name of its field."""
NUMBERS: Final = (0, 1, 2, 3, 5, 7, 10, 50, 100, 255, 500, 1000, 10_000, 10_001, 2**16, 2**31 - 1)
LARGE: Final = (2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
NEGATIVE: Final = (-1, -2, -1000, -(2**31))
REALS: Final = (0.0, -0.0, 0.5, 1.0, 2.0, -1.0, 1e308, -1e308, 5e-324, float("inf"), float("nan"))
BYTES: Final = (b"", b"x", b"\0" * 10, b"\xff" * 20, bytes(2000))

_DEPTH: Final = 4
_FITTING: Final = 0.95
"""How often a value is one that may well be sent."""

F: Final = FieldDescriptor
_INTEGERS: Final[dict[int, tuple[int, ...]]] = {
    F.CPPTYPE_INT32: (*NUMBERS, *NEGATIVE),
    F.CPPTYPE_UINT32: (*NUMBERS, 2**31, 2**32 - 1),
    F.CPPTYPE_INT64: (*NUMBERS, *NEGATIVE, 2**53, 2**63 - 1, -(2**63), 315_576_000_001, 253_402_300_800),
    F.CPPTYPE_UINT64: (*NUMBERS, *LARGE),
    F.CPPTYPE_ENUM: (0, 1, 2, 3, 4, 99, -1, 2**31 - 1),
}


@dataclass(frozen=True)
class Request:
    """A call.

    Attributes:
        path: its method.
        body: its messages, whole and with their prefixes.
        compressed: whether they are.
        endless: whether the call may go on when its client has said everything.
    """

    path: str
    body: bytes
    compressed: bool
    endless: bool


def any_request(chance: Random) -> Request:
    """Make a call of any method."""
    method = chance.choice(METHODS)
    kind = GetMessageClass(method.input_type)
    amount = chance.randrange(1, 5) if method.client_streaming else 1
    compressed = chance.random() < 0.1
    payloads = [damaged(_message(kind, chance).SerializeToString(), chance) for _ in range(amount)]
    if "subscribe" in kind.DESCRIPTOR.fields_by_name and chance.random() < 0.7:
        payloads.insert(0, _subscription(kind, chance))
    body = b"".join(
        prefixed(gzip.compress(each, 1), 1) if compressed else prefixed(each) for each in payloads
    )
    service = cast("Any", method.containing_service).full_name
    endless = bool(method.server_streaming and not method.client_streaming)
    return Request(f"/{service}/{method.name}", body, compressed, endless)


def _subscription(kind: type[Message], chance: Random) -> bytes:
    request: Any = kind()
    request.subscribe.stream = chance.choice(("warm", "fuzz", "fuzz2"))
    request.subscribe.consumer = chance.choice(("c", "d"))
    return cast("bytes", request.SerializeToString())


def _message(kind: type[Message], chance: Random, depth: int = 0) -> Message:
    message = kind()
    often = chance.choice((0.2, 0.5, 0.95))
    for field in cast("list[FieldDescriptor]", kind.DESCRIPTOR.fields):
        if chance.random() < often:
            _fill(message, field, chance, depth)
    return message


def _fill(message: Message, field: FieldDescriptor, chance: Random, depth: int) -> None:
    target: Any = message
    if field.is_repeated:
        values = [_value(field, chance, depth) for _ in range(chance.choice((0, 1, 1, 2, 3, 20)))]
        getattr(target, field.name).extend(value for value in values if value is not None)
    elif field.cpp_type == F.CPPTYPE_MESSAGE:
        value = _value(field, chance, depth)
        if value is not None:
            getattr(target, field.name).CopyFrom(value)
    else:
        setattr(target, field.name, _value(field, chance, depth))


def _value(field: FieldDescriptor, chance: Random, depth: int) -> Any:
    if field.cpp_type == F.CPPTYPE_MESSAGE:
        kind = GetMessageClass(cast("Descriptor", field.message_type))
        return _message(kind, chance, depth + 1) if depth < _DEPTH else None
    makers: dict[int, Callable[[], Any]] = {
        F.CPPTYPE_STRING: lambda: chance.choice(
            BYTES if field.type == F.TYPE_BYTES else _texts(field, chance)
        ),
        F.CPPTYPE_BOOL: lambda: chance.random() < 0.5,
        F.CPPTYPE_DOUBLE: lambda: chance.choice(REALS),
        F.CPPTYPE_FLOAT: lambda: chance.choice(REALS),
    }
    maker = makers.get(field.cpp_type)
    if maker is not None:
        return maker()
    integers = _INTEGERS[field.cpp_type]
    return chance.choice(integers[:8] if chance.random() < _FITTING else integers)


def _texts(field: FieldDescriptor, chance: Random) -> tuple[str, ...] | tuple[bytes, ...]:
    if field.type == F.TYPE_BYTES:
        return BYTES
    return FITTING.get(field.name, TEXTS) if chance.random() < _FITTING else TEXTS


def damaged(data: bytes, chance: Random) -> bytes:
    """Change a message's bytes in places, or leave it whole."""
    for _ in range(chance.choice((0, 0, 0, 0, 0, 1, 2, 3))):
        where = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data = data[:where] + bytes((chance.randrange(256),)) + data[where + 1 :]
            case 1:
                data = data[:where] + chance.randbytes(chance.randrange(1, 9)) + data[where:]
            case 2:
                data = data[:where] + data[where + chance.randrange(1, 5) :]
            case 3:
                data = data[:where]
            case _:
                data += data[where:]
    return data
