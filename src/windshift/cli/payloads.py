"""Payloads as people type and read them: JSON, by the descriptors that can be found."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pool, empty_pb2, json_format, message_factory, unknown_fields
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError, Message

from windshift.cli.failing import NOT_FOUND, USAGE, Failure
from windshift.protos import payload as protos
from windshift.sdk.payloads import JSON, PREFIX

_decode: Final = json.JSONDecoder(parse_constant=str).decode
_DEEPEST = 16
_SAFE_INTEGER = 2**53


class Payloads:
    """Reads and writes payloads, by descriptors from files, then those of imported modules."""

    def __init__(self, descriptors: Sequence[Path] = (), modules: Sequence[str] = ()) -> None:
        for module in modules:
            _import(module)
        self._pools: list[Any] = [*map(_read_descriptors, descriptors), descriptor_pool.Default()]
        self._classes: dict[str, tuple[type[Message], Any] | None] = {}

    # Out

    def show(self, payload: AnyMessage) -> dict[str, Any]:
        """Return the type and the data of a payload, as JSON has them.

        What has no known type, or is no message of it, is shown by field numbers, and marked `undecoded`.
        """
        name = payload.type_url.rpartition("/")[2]
        if name == JSON:
            return _show_json(payload.value)
        found = self._find(name)
        if found is not None:
            kind, pool = found
            try:
                message = kind.FromString(payload.value)
                return {"type": name, "data": json_format.MessageToDict(message, descriptor_pool=pool)}
            except (DecodeError, json_format.Error, ValueError, TypeError, RecursionError):
                pass  # such as a time out of range, or an `Any` inside whose type is unknown
        return {"type": name, "data": undecoded(payload.value), "undecoded": True}

    # In

    def message(self, text: str, name: str) -> AnyMessage:
        """Return the payload of a type whose JSON this is.

        Raises:
            Failure: the type is unknown, or the JSON does not fit it; the text names the field.
        """
        name = name.rpartition("/")[2]
        found = self._find(name)
        if found is None:
            raise Failure(
                f"the type {name!r} is not known", NOT_FOUND, hint="name its --descriptors file or --module"
            )
        kind, pool = found
        message = kind()
        try:
            json_format.Parse(text, message, descriptor_pool=pool)
        except (json_format.ParseError, RecursionError) as error:
            raise Failure(
                f"the payload is not a valid {name}: {' '.join(str(error).split())}", USAGE
            ) from error
        return AnyMessage(type_url=PREFIX + name, value=message.SerializeToString())

    def _find(self, name: str) -> tuple[type[Message], Any] | None:
        if name not in self._classes:
            self._classes[name] = None
            for pool in self._pools:
                try:
                    descriptor = pool.FindMessageTypeByName(name)
                except KeyError:
                    continue
                self._classes[name] = (message_factory.GetMessageClass(descriptor), pool)
                break
        return self._classes[name]


def wrapped(text: str, name: str = "") -> AnyMessage:
    """Return JSON as a payload.

    Raises:
        Failure: it is not JSON.
    """
    try:
        _check(text)
    except (ValueError, RecursionError) as error:
        hint = "give its --type, or quote a text: '\"…\"'"
        raise Failure(f"the payload is not JSON: {error}", USAGE, hint=hint) from error
    value = protos.Json(type=name, value=text.encode())
    return AnyMessage(type_url=PREFIX + JSON, value=value.SerializeToString())


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number in JSON")


_check: Final = json.JSONDecoder(parse_constant=_refuse).decode


def of_bytes(content: bytes, name: str) -> AnyMessage:
    """Return bytes as the payload of a type."""
    return AnyMessage(type_url=PREFIX + name.rpartition("/")[2], value=content)


def _show_json(value: bytes) -> dict[str, Any]:
    try:
        wrapper = protos.Json.FromString(value)
        name = f"{JSON}/{wrapper.type}" if wrapper.type else JSON
        return {"type": name, "data": _decode(wrapper.value.decode())}
    except (DecodeError, ValueError, RecursionError):
        return {"type": JSON, "data": undecoded(value), "undecoded": True}


def undecoded(content: bytes) -> Any:
    """Return the fields of a message of unknown type by their numbers; bytes in base64 if it is none."""
    fields = _fields(content, 0)
    return base64.b64encode(content).decode() if fields is None else fields


def _fields(content: bytes, depth: int) -> dict[str, Any] | None:
    if depth > _DEEPEST:
        return None
    message = empty_pb2.Empty()
    try:
        message.ParseFromString(content)
        unknown: Any = unknown_fields.UnknownFieldSet(message)
        found = list(unknown)
    except (DecodeError, ValueError):
        return None
    return _by_number(found, depth)


def _by_number(found: Iterable[Any], depth: int) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for field in found:
        value = _value(field.data, depth)
        name = str(field.field_number)
        if name not in shown:
            shown[name] = value
        elif isinstance(shown[name], list):
            shown[name].append(value)
        else:
            shown[name] = [shown[name], value]
    return shown


def _value(data: Any, depth: int) -> Any:
    if isinstance(data, int):
        return data if data <= _SAFE_INTEGER else str(data)
    if not isinstance(data, bytes):  # a group
        return _by_number(data, depth + 1) if depth < _DEEPEST else {}
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and (text or not data):
        return text
    inner = _fields(data, depth + 1)
    if inner is not None:
        return inner
    return text or base64.b64encode(data).decode()


def _read_descriptors(path: Path) -> Any:
    """Read a `FileDescriptorSet`, as `buf build -o` and `protoc --descriptor_set_out` write it."""
    pool = descriptor_pool.DescriptorPool()
    try:
        files = FileDescriptorSet.FromString(path.read_bytes()).file
        left = {file.name: file for file in files}
        for file in files:
            _add(pool, file.name, left)
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}", USAGE) from error
    except (DecodeError, TypeError, KeyError) as error:
        hint = "write it with buf build -o FILE, or protoc --include_imports --descriptor_set_out=FILE"
        raise Failure(f"{path} has no descriptors: {error}", USAGE, hint=hint) from error
    return pool


def _add(pool: Any, name: str, left: dict[str, Any]) -> None:
    """Add a file behind those that it imports; what the set leaves out must be of an imported module."""
    file = left.pop(name, None)
    if file is None:
        return
    for needed in file.dependency:
        if needed in left:
            _add(pool, needed, left)
        else:
            try:
                pool.FindFileByName(needed)
            except KeyError:
                known = descriptor_pool.Default().FindFileByName(needed)
                _add(pool, needed, {needed: FileDescriptorProto.FromString(known.serialized_pb)})
    pool.Add(file)


def _import(module: str) -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        import_module(module)
    except Exception as error:  # whatever a module does
        raise Failure(f"the module {module!r} cannot be imported: {error}", USAGE) from error
