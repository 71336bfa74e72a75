"""Server reflection, both versions, as grpcurl and its like use it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, MethodOptions
from google.rpc.error_details_pb2 import ErrorInfo

from tests._gen.grpc.testing import test_pb2
from tests.conformance.service import interop_service
from windshift.rpc import HealthService, Server, StatusCode, reflection_services
from windshift.rpc._gen.grpc.reflection.v1 import reflection_pb2 as v1
from windshift.rpc._gen.grpc.reflection.v1alpha import reflection_pb2 as v1alpha

from .calling import calling

TEST_FILE, MESSAGES_FILE, EMPTY_FILE = (
    f"grpc/testing/{name}.proto" for name in ("test", "messages", "empty")
)

both_versions = pytest.mark.parametrize("pb", [v1, v1alpha], ids=["v1", "v1alpha"])


class Asked:
    """One stream of questions."""

    def __init__(self, pb: Any, call: Any) -> None:
        self._pb = pb
        self._call = call

    async def ask(self, **question: Any) -> Any:
        """Ask and return the answer, which must repeat the question."""
        request = self._pb.ServerReflectionRequest(host="h", **question)
        self._call.send(request)
        response = await self._call.receive()
        assert response.original_request == request
        assert response.valid_host == "h"
        return response

    async def files(self, **question: Any) -> list[str]:
        """Ask and return the names of the files that came."""
        response = await self.ask(**question)
        files = response.file_descriptor_response.file_descriptor_proto
        return [FileDescriptorProto.FromString(each).name for each in files]

    async def error(self, **question: Any) -> tuple[int, str]:
        """Ask and return the error that came."""
        response = await self.ask(**question)
        assert response.WhichOneof("message_response") == "error_response"
        return response.error_response.error_code, response.error_response.error_message


@asynccontextmanager
async def asking(pb: ModuleType) -> AsyncIterator[Asked]:
    """Serve some services, and open a stream of one version."""
    services = [interop_service(), HealthService()]
    server = Server([*services, *reflection_services(services)])
    host, port = await server.listen("127.0.0.1", 0)
    method = f"/{pb.DESCRIPTOR.package}.ServerReflection/ServerReflectionInfo"
    async with (
        calling(f"{host}:{port}") as channel,
        channel.stream(method, pb.ServerReflectionResponse) as call,
    ):
        yield Asked(pb, call)
    server.close()


@both_versions
async def test_the_services(pb: ModuleType) -> None:
    """All that are served, reflection included."""
    async with asking(pb) as stream:
        response = await stream.ask(list_services="*")
        assert [each.name for each in response.list_services_response.service] == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "grpc.testing.TestService",
        ]


@both_versions
@pytest.mark.parametrize(
    "symbol",
    [
        "grpc.testing.TestService",
        "grpc.testing.TestService.UnaryCall",
    ],
)
async def test_a_symbol_comes_with_all_that_its_file_imports(pb: ModuleType, symbol: str) -> None:
    """The file itself first, so that tools need not search for it."""
    async with asking(pb) as stream:
        assert await stream.files(file_containing_symbol=symbol) == [TEST_FILE, EMPTY_FILE, MESSAGES_FILE]


@pytest.mark.parametrize(
    "symbol",
    [
        "grpc.testing.SimpleRequest",
        "grpc.testing.SimpleRequest.response_size",
        "grpc.testing.PayloadType",
        "grpc.testing.COMPRESSABLE",
    ],
)
async def test_symbols_of_every_kind(symbol: str) -> None:
    """Messages, fields, enums and their values are found by their full names."""
    async with asking(v1) as stream:
        assert await stream.files(file_containing_symbol=symbol) == [MESSAGES_FILE]


@pytest.mark.parametrize(
    "symbol",
    [
        "grpc.health.v1.Health.Check",
        "grpc.health.v1.HealthCheckResponse.SERVING",
        "grpc.health.v1.HealthListResponse.StatusesEntry.key",
    ],
)
async def test_symbols_of_services_with_a_descriptor_pool_of_their_own(symbol: str) -> None:
    """What is served counts, not what the process happens to have loaded."""
    async with asking(v1) as stream:
        assert await stream.files(file_containing_symbol=symbol) == ["grpc/health/v1/health.proto"]


async def test_payloads_that_no_method_names() -> None:
    """Their files are told with what is served, whatever pool they are in."""
    services = [HealthService()]
    server = Server([*services, *reflection_services(services, [messages_in_a_pool_of_their_own()])])
    host, port = await server.listen("127.0.0.1", 0)
    method = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    async with (
        calling(f"{host}:{port}") as channel,
        channel.stream(method, v1.ServerReflectionResponse) as call,
    ):
        assert await Asked(v1, call).files(file_containing_symbol="far.Away") == ["far.proto"]
    server.close()


def messages_in_a_pool_of_their_own() -> FileDescriptor:
    """Return a file that the process-wide pool does not have."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(
        FileDescriptorProto(name="far.proto", package="far", message_type=[DescriptorProto(name="Away")])
    )
    return pool.FindFileByName("far.proto")


@both_versions
async def test_a_file_by_its_name(pb: ModuleType) -> None:
    """With its imports."""
    async with asking(pb) as stream:
        assert await stream.files(file_by_filename=MESSAGES_FILE) == [MESSAGES_FILE]
        assert await stream.files(file_by_filename=TEST_FILE) == [TEST_FILE, EMPTY_FILE]


async def test_imports_are_sent_once_per_stream() -> None:
    """A file that was asked for is always sent."""
    async with asking(v1) as stream:
        assert len(await stream.files(file_by_filename=TEST_FILE)) == 3
        assert await stream.files(file_by_filename=TEST_FILE) == [TEST_FILE]
        assert await stream.files(file_by_filename=MESSAGES_FILE) == [MESSAGES_FILE]


async def test_the_files_can_be_built_again() -> None:
    """A tool gets everything it needs to call the service."""
    async with asking(v1) as stream:
        response = await stream.ask(file_containing_symbol="grpc.testing.TestService")
    pool = descriptor_pool.DescriptorPool()
    for each in reversed(response.file_descriptor_response.file_descriptor_proto):
        pool.AddSerializedFile(each)
    found = pool.FindServiceByName("grpc.testing.TestService")
    expected = test_pb2.DESCRIPTOR.services_by_name["TestService"]
    assert [method.name for method in found.methods] == [method.name for method in expected.methods]


async def test_types_that_only_travel_in_any() -> None:
    """The details of errors are found although no service mentions them."""
    assert ErrorInfo.DESCRIPTOR.file.name == "google/rpc/error_details.proto"
    async with asking(v1) as stream:
        files = await stream.files(file_containing_symbol="google.rpc.ErrorInfo")
        assert files == ["google/rpc/error_details.proto", "google/protobuf/duration.proto"]


@both_versions
async def test_extensions(pb: ModuleType) -> None:
    """Numbers of a message's extensions, and the file of one; a message without any has an empty list."""
    name = MethodOptions.DESCRIPTOR.full_name
    async with asking(pb) as stream:
        response = await stream.ask(all_extension_numbers_of_type="grpc.testing.SimpleRequest")
        assert response.WhichOneof("message_response") == "all_extension_numbers_response"
        assert not response.all_extension_numbers_response.extension_number
        response = await stream.ask(all_extension_numbers_of_type=name)
        answer = response.all_extension_numbers_response
        assert answer.base_type_name == name
        assert list(answer.extension_number) == extension_numbers()
        for number in answer.extension_number:
            extension = {"containing_type": name, "extension_number": number}
            assert await stream.files(file_containing_extension=extension)


def extension_numbers() -> list[int]:
    """Return the extensions of MethodOptions that this process has loaded."""
    found = descriptor_pool.Default().FindAllExtensions(MethodOptions.DESCRIPTOR)
    return sorted(field.number for field in found)


@both_versions
@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "no/such.proto"},
        {"file_containing_symbol": "no.such.Symbol"},
        {"file_containing_extension": {"containing_type": "no.such.Message", "extension_number": 1}},
        {"file_containing_extension": {"containing_type": "grpc.testing.Empty", "extension_number": 1}},
        {"all_extension_numbers_of_type": "no.such.Message"},
        {"all_extension_numbers_of_type": "grpc.testing.TestService"},
    ],
    ids=str,
)
async def test_what_is_not_there(pb: ModuleType, question: dict[str, Any]) -> None:
    """An error in the answer; the stream goes on."""
    async with asking(pb) as stream:
        code, text = await stream.error(**question)
        assert code == StatusCode.NOT_FOUND
        assert next(iter(question)) in text
        assert await stream.files(file_by_filename=EMPTY_FILE) == [EMPTY_FILE]


async def test_a_question_without_a_question() -> None:
    """INVALID_ARGUMENT in the answer."""
    async with asking(v1) as stream:
        assert (await stream.error())[0] == StatusCode.INVALID_ARGUMENT
