"""Server reflection, v1 and v1alpha: tools such as grpcurl learn the API from the server itself.

Source: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from ._gen.grpc.reflection.v1 import reflection_pb2 as v1
from ._gen.grpc.reflection.v1alpha import reflection_pb2 as v1alpha
from .call import ServerCall
from .service import Service
from .status import RpcError, StatusCode

_CALL_SIZE = 8192
"""Bytes that an open call takes, about. Anybody may open some."""

REFLECTION = v1.DESCRIPTOR.services_by_name["ServerReflection"]
"""Descriptor of the service, for clients."""
_OLDER = v1alpha.DESCRIPTOR.services_by_name["ServerReflection"]


def reflection_services(
    services: Iterable[Service], payloads: Iterable[FileDescriptor] = ()
) -> tuple[Service, Service]:
    """Return both versions of the reflection service, which describe ``services`` and themselves.

    Args:
        services: what is served beside them.
        payloads: files of messages that no method names, because they travel in ``google.protobuf.Any``.
    """
    described = [*(service.descriptor for service in services), REFLECTION, _OLDER]
    catalog = Catalog(described, payloads)
    return Service(REFLECTION, _Reflection(v1, catalog)), Service(_OLDER, _Reflection(v1alpha, catalog))


class Catalog:
    """The files that declare some services, and those of payloads, with everything they import.

    They are looked up in the pools that these files are in, and in the process-wide one, which has the types
    that only travel inside ``google.protobuf.Any``, such as error details.
    """

    def __init__(self, services: Sequence[ServiceDescriptor], payloads: Iterable[FileDescriptor]) -> None:
        self.names = sorted(service.full_name for service in services)
        files = [*(service.file for service in services), *payloads]
        self._pools = dict.fromkeys((*(file.pool for file in files), descriptor_pool.Default()))
        self._methods = {  # which pools do not find
            method.full_name: file
            for file in files
            for service in file.services_by_name.values()
            for method in service.methods
        }

    def file(self, name: str) -> FileDescriptor:
        """Return the file with this name.

        Raises:
            KeyError: there is none.
        """
        return self._first(lambda pool: pool.FindFileByName(name))

    def file_of_symbol(self, symbol: str) -> FileDescriptor:
        """Return the file that declares the symbol with this full name.

        Raises:
            KeyError: there is none.
        """
        found = self._methods.get(symbol)
        return found or self._first(lambda pool: pool.FindFileContainingSymbol(symbol))

    def _first(self, find: Callable[[DescriptorPool], FileDescriptor]) -> FileDescriptor:
        for pool in self._pools:
            with suppress(KeyError):
                return find(pool)
        raise KeyError

    def file_of_extension(self, message: str, number: int) -> FileDescriptor:
        """Return the file that declares the extension ``number`` of a message.

        Raises:
            KeyError: there is none.
        """
        extended = self._message(message)
        extension: Any = extended.file.pool.FindExtensionByNumber(
            extended, number
        )  # .file is not in its type
        return cast("FileDescriptor", extension.file)

    def extension_numbers(self, message: str) -> list[int]:
        """Return the numbers of all extensions of a message.

        Raises:
            KeyError: there is no such message.
        """
        extended = self._message(message)
        return sorted(field.number for field in extended.file.pool.FindAllExtensions(extended))

    def _message(self, name: str) -> Descriptor:
        return self.file_of_symbol(name).pool.FindMessageTypeByName(name)


@dataclass(frozen=True)
class _Reflection:
    """One version of the service; the versions differ only in the names of their messages."""

    _pb: Any
    _catalog: Catalog

    async def server_reflection_info(self, call: ServerCall) -> None:
        sent: set[str] = set()
        call.overhead = _CALL_SIZE
        while (request := await call.receive()) is not None:
            call.send(self._answer(request, sent))
            await call.ready()

    def _answer(self, request: Any, sent: set[str]) -> Any:
        response = self._pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        question = request.WhichOneof("message_request")
        try:
            self._fill(response, request, question, sent)
        except KeyError:
            response.error_response.error_code = StatusCode.NOT_FOUND
            response.error_response.error_message = f"not found: {question} {getattr(request, question)}"
        except RpcError as error:
            response.error_response.error_code = error.code
            response.error_response.error_message = error.message
        return response

    def _fill(self, response: Any, request: Any, question: str | None, sent: set[str]) -> None:
        catalog = self._catalog
        match question:
            case "list_services":
                for name in catalog.names:
                    response.list_services_response.service.add(name=name)
            case "file_by_filename":
                _add_file(response, catalog.file(request.file_by_filename), sent)
            case "file_containing_symbol":
                _add_file(response, catalog.file_of_symbol(request.file_containing_symbol), sent)
            case "file_containing_extension":
                extension = request.file_containing_extension
                file = catalog.file_of_extension(extension.containing_type, extension.extension_number)
                _add_file(response, file, sent)
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                numbers = catalog.extension_numbers(name)
                response.all_extension_numbers_response.base_type_name = name
                response.all_extension_numbers_response.extension_number.extend(numbers)
            case _:
                raise RpcError(StatusCode.INVALID_ARGUMENT, "the request is empty")


def _add_file(response: Any, file: FileDescriptor, sent: set[str]) -> None:
    """Add a file, and those of its imports that this stream has not sent yet."""
    for each in with_imports(file):
        if each is file or each.name not in sent:
            response.file_descriptor_response.file_descriptor_proto.append(each.serialized_pb)
            sent.add(each.name)


def with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """Yield a file and all its direct and indirect imports, each once."""
    seen = {file.name}
    pending = [file]
    while pending:
        current = pending.pop(0)
        yield current
        for imported in current.dependencies:
            if imported.name not in seen:
                seen.add(imported.name)
                pending.append(imported)
