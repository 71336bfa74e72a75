"""Payloads: Protobuf messages by the name of their type, and other classes by the codecs of a client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from windshift.protos import payload as protos

from .errors import Undecodable, UnknownType

T = TypeVar("T")

JSON: Final[str] = protos.Json.DESCRIPTOR.full_name
"""Full name of the message that wraps JSON."""

PREFIX: Final = "type.googleapis.com/"
"""What the URLs of types begin with."""
_classes: dict[str, type[Message]] = {}
_urls: dict[type, str] = {}


class Codec(Protocol):
    """Turns objects of some classes into payloads and back."""

    def name(self, kind: type) -> str | None:
        """Return the name that `type_name` gives to payloads of this class; None = not one of ours."""

    def encode(self, value: Any) -> AnyMessage:
        """Return an object as a payload."""
        ...

    def decode(self, payload: AnyMessage, kind: type[T]) -> T:
        """Return the object in a payload, whose type name is that of `kind`.

        Raises:
            ValueError: the payload is not valid; the text says why.
        """
        ...


def type_name(payload: AnyMessage) -> str:
    """Return the full name of a payload's type.

    JSON values have the name of their wrapper, followed by `/` and their own, if they have one:
    `windshift.payload.v1.Json/shop.Order`.
    """
    name = payload.type_url.rpartition("/")[2]
    if name != JSON:
        return name
    try:
        inner = protos.Json.FromString(payload.value).type
    except DecodeError:
        return name
    return f"{JSON}/{inner}" if inner else name


class TypeFilter:
    """Classes that payloads may have.

    Attributes:
        server: the names that the server can filter by.
        exact: whether the server's filter lets nothing else through.
    """

    def __init__(self, kinds: dict[str, type]) -> None:
        self._kinds = kinds
        self.server = sorted({name.partition("/")[0] for name in kinds})
        self.exact = not any("/" in name for name in kinds)

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def find(self, payload: AnyMessage) -> type | None:
        """Return the class for a payload; None = there is none."""
        if not self._kinds:
            return None
        name = type_name(payload)
        return self._kinds.get(name) or self._kinds.get(name.partition("/")[0])


def checked(codecs: Sequence[Codec]) -> tuple[Codec, ...]:
    """Return codecs as they are.

    Raises:
        TypeError: it is one alone, or the class of one.
    """
    given: Any = codecs  # whatever it is
    if not isinstance(given, Iterable) or any(isinstance(codec, type) for codec in given):
        raise TypeError(f"codecs is a list of objects, such as [ws.codecs.Dataclasses()], not {given!r}")
    return tuple(codecs)


class Payloads:
    """Encodes and decodes the payloads of a client."""

    def __init__(self, codecs: Sequence[Codec] = ()) -> None:
        self._codecs = checked(codecs)
        self._known: dict[type, tuple[str, Codec]] = {}

    def learn(self, codecs: Sequence[Codec]) -> None:
        """Take what further codecs take, too; those that are there are asked first."""
        self._codecs += tuple(codec for codec in checked(codecs) if codec not in self._codecs)

    def filter(self, kinds: Sequence[type]) -> TypeFilter:
        """Return a filter for these classes.

        Raises:
            TypeError: one of them cannot be a payload.
        """
        if isinstance(kinds, type):
            raise TypeError(f"types is a list of classes, such as [{kinds.__name__}]")
        return TypeFilter({self.name(kind): kind for kind in kinds})

    def name(self, kind: type) -> str:
        """Return the name that payloads of a class have, see `type_name`.

        Raises:
            TypeError: it can be no payload.
        """
        if not isinstance(kind, type):
            raise TypeError(f"types are classes, not {kind!r}")
        return kind.DESCRIPTOR.full_name if issubclass(kind, Message) else self._find(kind)[0]

    def pack(self, value: object) -> AnyMessage:
        """Return a message, or an object of a class that a codec knows, as a payload; an `Any` as it is.

        Raises:
            TypeError: it can be no payload.
        """
        payload = AnyMessage()
        self.pack_into(payload, value)
        return payload

    def pack_into(self, payload: AnyMessage, value: object) -> None:
        """Make an empty payload that of a message or object; see `pack`."""
        kind = type(value)
        if kind is AnyMessage:
            payload.CopyFrom(value)  # type: ignore[arg-type] # it is one
        elif isinstance(value, Message):
            payload.type_url = _urls.get(kind) or _urls.setdefault(kind, PREFIX + value.DESCRIPTOR.full_name)
            payload.value = value.SerializeToString()
        else:
            payload.CopyFrom(self._find(type(value))[1].encode(value))

    def unpack(self, payload: AnyMessage) -> Message:
        """Return the Protobuf message in a payload.

        Raises:
            UnknownType: no imported module has this type.
            Undecodable: the bytes are invalid.
        """
        name = payload.type_url.rpartition("/")[2]
        message: Message = _parse(_classes.get(name) or _imported(name), payload)
        return message

    def unpack_as(self, payload: AnyMessage, kind: type[T]) -> T:
        """Return the object in a payload, which must be of this class; for `Any`, the payload as it is.

        Raises:
            Undecodable: it is of another type, or the bytes are invalid.
        """
        if kind is AnyMessage:
            return payload  # type: ignore[return-value] # T is Any
        name, expected = type_name(payload), self.name(kind)
        if name != expected and name.partition("/")[0] != expected:
            raise Undecodable(name, f"is not of type {expected!r}")
        if issubclass(kind, Message):
            value: T = _parse(kind, payload)
            return value
        try:
            return self._known[kind][1].decode(payload, kind)
        except Exception as error:  # validators run code of their own
            raise Undecodable(name, f"cannot be decoded: {error}") from error

    def _find(self, kind: type) -> tuple[str, Codec]:
        found = self._known.get(kind)
        if found is None:
            for codec in self._codecs:
                if (name := codec.name(kind)) is not None:
                    found = self._known[kind] = (name, codec)
                    break
            else:
                what = getattr(kind, "__qualname__", kind)
                raise TypeError(
                    f"a payload is a Protobuf message, or what a codec of the client or app takes, not {what}"
                )
        return found


def _parse(kind: Any, payload: AnyMessage) -> Any:
    try:
        return kind.FromString(payload.value)
    except DecodeError as error:
        name = payload.type_url.rpartition("/")[2]
        raise Undecodable(name, "is not a valid message") from error


def _imported(name: str) -> type[Message]:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        raise UnknownType(name) from None
    return _classes.setdefault(name, message_factory.GetMessageClass(descriptor))
