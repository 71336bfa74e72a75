"""Payloads without .proto files: pydantic models, msgspec structs and dataclasses, as JSON.

`ws.connect(codecs=[ws.codecs.Pydantic()])`. They travel as `windshift.payload.v1.Json` with the name of their
class: its attribute `__windshift_type__`, or module and name. Whoever reads them needs a class of that name;
its fields may differ as far as the class allows.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.any_pb2 import Any as AnyMessage

from windshift.protos import payload as protos

from .payloads import JSON, PREFIX, Codec

__all__ = ["Codec", "Dataclasses", "Msgspec", "Pydantic"]

T = TypeVar("T")

_Read = Callable[[Any], Any]


class Pydantic:
    """Takes pydantic models and pydantic's dataclasses. Needs the package pydantic, version 2."""

    def __init__(self) -> None:
        import pydantic  # noqa: PLC0415 -- not needed without this codec
        import pydantic.dataclasses  # noqa: PLC0415 -- the same

        self._pydantic = pydantic
        self._adapter: Callable[[type], Any] = functools.cache(pydantic.TypeAdapter)

    def name(self, kind: type) -> str | None:
        """Return the name that payloads of this class have."""
        ours = issubclass(kind, self._pydantic.BaseModel)
        return _name(kind) if ours or self._pydantic.dataclasses.is_pydantic_dataclass(kind) else None

    def encode(self, value: Any) -> AnyMessage:
        """Return a model as a payload, with the aliases of its fields."""
        kind = type(value)
        return _wrap(kind, self._adapter(kind).dump_json(value, by_alias=True))

    def decode(self, payload: AnyMessage, kind: type[T]) -> T:
        """Return the model in a payload."""
        try:
            model: T = self._adapter(kind).validate_json(_unwrap(payload))
        except self._pydantic.ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            told = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems[:5])
            raise ValueError("; ".join(told)) from None
        return model


class Msgspec:
    """Takes msgspec structs, and dataclasses. Needs the package msgspec."""

    def __init__(self) -> None:
        import msgspec  # noqa: PLC0415 -- not needed without this codec

        self._struct = msgspec.Struct
        self._encode, self._decode = msgspec.json.encode, msgspec.json.decode

    def name(self, kind: type) -> str | None:
        """Return the name that payloads of this class have."""
        return _name(kind) if issubclass(kind, self._struct) or dataclasses.is_dataclass(kind) else None

    def encode(self, value: Any) -> AnyMessage:
        """Return a struct as a payload."""
        return _wrap(type(value), self._encode(value))

    def decode(self, payload: AnyMessage, kind: type[T]) -> T:
        """Return the struct in a payload."""
        return self._decode(_unwrap(payload), type=kind)


class Dataclasses:
    """Takes dataclasses, with what Python brings along.

    Fields may be of the types of JSON, of `datetime`, `date`, `time`, `UUID`, `Decimal` (as texts), `bytes`
    (base64), enumerations, literals, dataclasses, and of lists, tuples, sets, mappings by text, and unions of
    all these. Fields that a class does not have are ignored.
    """

    def __init__(self) -> None:
        self._readers: dict[type, _Read] = {}

    def name(self, kind: type) -> str | None:
        """Return the name that payloads of this class have.

        Raises:
            TypeError: a field is of a type that cannot be read.
        """
        if not dataclasses.is_dataclass(kind):
            return None
        self._reader(kind)
        return _name(kind)

    def encode(self, value: Any) -> AnyMessage:
        """Return an object as a payload."""
        text = json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return _wrap(type(value), text.encode())

    def decode(self, payload: AnyMessage, kind: type[T]) -> T:
        """Return the object in a payload."""
        value: T = self._reader(kind)(json.loads(_unwrap(payload)))
        return value

    def _reader(self, kind: Any) -> _Read:
        """Return a function that makes objects of a class from JSON values."""
        if kind not in self._readers:
            fields: dict[str, tuple[_Read, bool]] = {}
            self._readers[kind] = lambda value: _read_object(kind, fields, value)  # its fields may need it
            hints = typing.get_type_hints(kind)
            for field in dataclasses.fields(kind):
                if field.init:
                    needed = field.default is field.default_factory is dataclasses.MISSING
                    read = self._read(hints[field.name], f"{kind.__name__}.{field.name}")
                    fields[field.name] = (read, needed)
        return self._readers[kind]

    def _read(self, hint: Any, where: str) -> _Read:
        """Return a function that reads values of a type, or raises ValueError.

        Raises:
            TypeError: it is of none that can be read.
        """
        if isinstance(hint, typing.NewType):
            return self._read(hint.__supertype__, where)
        if typing.get_origin(hint) is not None:
            return self._read_generic(hint, where)
        if dataclasses.is_dataclass(hint):
            return self._reader(hint)
        if isinstance(hint, type) and issubclass(hint, Enum):
            return hint
        if hint not in _READERS:
            raise TypeError(f"{where} is of type {hint}, which this codec cannot read")
        return _READERS[hint]

    def _read_generic(self, hint: Any, where: str) -> _Read:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Literal:
            return lambda value: _one_of(arguments, value)
        readers = [self._read(each, where) for each in arguments if each is not Ellipsis]
        if origin in (typing.Union, types.UnionType):
            return _either(readers)
        if origin is tuple and Ellipsis not in arguments:
            return _row(readers)
        if issubclass(origin, Mapping) and arguments[0] is str:
            return lambda value: {key: readers[1](each) for key, each in _of(dict, value).items()}
        if issubclass(origin, Sequence | AbstractSet):
            collection = _COLLECTIONS.get(origin, list)
            return lambda value: collection(readers[0](each) for each in _of(list, value))
        raise TypeError(f"{where} is of type {hint}, which this codec cannot read")


_COLLECTIONS: dict[Any, Any] = {tuple: tuple, set: set, frozenset: frozenset, AbstractSet: frozenset}


def _of(kind: Any, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{type(value).__name__} instead of {kind.__name__}")
    return value


def _float(value: Any) -> float:
    return float(value) if type(value) is int else _of(float, value)


def _decimal(value: Any) -> Decimal:
    try:
        return Decimal(_of(str, value))
    except ArithmeticError:
        raise ValueError("a text that is not a number") from None


_READERS: dict[Any, _Read] = {
    Any: lambda value: value,
    str: lambda value: _of(str, value),
    int: lambda value: _of(int, value),
    bool: lambda value: _of(bool, value),
    float: _float,
    type(None): lambda value: _of(type(None), value),
    datetime: lambda value: datetime.fromisoformat(_of(str, value)),
    date: lambda value: date.fromisoformat(_of(str, value)),
    time: lambda value: time.fromisoformat(_of(str, value)),
    UUID: lambda value: UUID(_of(str, value)),
    Decimal: _decimal,
    bytes: lambda value: base64.b64decode(_of(str, value), validate=True),
    list: lambda value: _of(list, value),
    dict: lambda value: _of(dict, value),
}


def _one_of(choices: tuple[Any, ...], value: Any) -> Any:
    if value not in choices:
        raise ValueError(f"{value!r} is not one of {choices}")
    return value


def _either(readers: list[_Read]) -> _Read:
    def read(value: Any) -> Any:
        problems = []
        for reader in readers:
            try:
                return reader(value)
            except ValueError as error:
                problems.append(str(error))
        raise ValueError(", ".join(problems))

    return read


def _row(readers: list[_Read]) -> _Read:
    return lambda value: tuple(read(each) for read, each in zip(readers, _of(list, value), strict=True))


def _read_object(kind: Any, fields: dict[str, tuple[_Read, bool]], value: Any) -> Any:
    given = {}
    for name, (read, needed) in fields.items():
        if name in _of(dict, value):
            try:
                given[name] = read(value[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        elif needed:
            raise ValueError(f"{name}: missing")
    return kind(**given)


def _plain(value: Any) -> Any:
    """Return what JSON has for a value that it does not have."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for kinds, plain in _WRITERS.items():
        if isinstance(value, kinds):
            return plain(value)
    raise TypeError(f"{type(value).__qualname__} cannot be turned into JSON")


_WRITERS: dict[Any, Callable[[Any], Any]] = {
    (datetime, date, time): lambda value: value.isoformat(),
    (UUID, Decimal): str,
    Enum: lambda value: value.value,
    bytes: lambda value: base64.b64encode(value).decode(),
    AbstractSet: list,
    Mapping: dict,
    Sequence: list,
}


def _name(kind: type) -> str:
    own = vars(kind).get("__windshift_type__")
    return f"{JSON}/{own or f'{kind.__module__}.{kind.__qualname__}'}"


def _wrap(kind: type, value: bytes) -> AnyMessage:
    wrapped = protos.Json(type=_name(kind).partition("/")[2], value=value)
    return AnyMessage(type_url=PREFIX + JSON, value=wrapped.SerializeToString())


def _unwrap(payload: AnyMessage) -> bytes:
    return protos.Json.FromString(payload.value).value
