"""`grpc.testing.TestService` as the interoperability tests want it, on `windshift.rpc`.

Source: https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md, "Server".
"""

from __future__ import annotations

import asyncio

from tests._gen.grpc.testing import empty_pb2, messages_pb2, test_pb2
from windshift.rpc import RpcError, ServerCall, Service, StatusCode

TEST_SERVICE = test_pb2.DESCRIPTOR.services_by_name["TestService"]
UNIMPLEMENTED_SERVICE = test_pb2.DESCRIPTOR.services_by_name["UnimplementedService"]

INITIAL_ECHO = "x-grpc-test-echo-initial"
TRAILING_ECHO = "x-grpc-test-echo-trailing-bin"


def interop_service() -> Service:
    """Return the service, to be given to a server."""
    return Service(TEST_SERVICE, InteropService())


class InteropService:
    """The methods; `UnimplementedCall` is missing on purpose."""

    async def empty_call(self, request: empty_pb2.Empty, call: ServerCall) -> empty_pb2.Empty:
        """Answer nothing with nothing."""
        return empty_pb2.Empty()

    async def unary_call(
        self, request: messages_pb2.SimpleRequest, call: ServerCall
    ) -> messages_pb2.SimpleResponse:
        """Answer with the metadata, the status or the size that the request asks for."""
        _echo_metadata(call)
        _raise_status(request.response_status)
        return messages_pb2.SimpleResponse(payload=_payload(request.response_size))

    async def cacheable_unary_call(
        self, request: messages_pb2.SimpleRequest, call: ServerCall
    ) -> messages_pb2.SimpleResponse:
        """Do the same as `unary_call`."""
        return await self.unary_call(request, call)

    async def streaming_output_call(
        self, request: messages_pb2.StreamingOutputCallRequest, call: ServerCall
    ) -> None:
        """Answer with as many messages as the request asks for."""
        await _answer(request, call)

    async def streaming_input_call(self, call: ServerCall) -> messages_pb2.StreamingInputCallResponse:
        """Answer with the size of all payloads."""
        size = 0
        while batch := await call.receive_many():
            size += sum(len(request.payload.body) for request in batch)
        return messages_pb2.StreamingInputCallResponse(aggregated_payload_size=size)

    async def full_duplex_call(self, call: ServerCall) -> None:
        """Answer every request when it comes."""
        _echo_metadata(call)
        while (request := await call.receive()) is not None:
            _raise_status(request.response_status)
            await _answer(request, call)

    async def half_duplex_call(self, call: ServerCall) -> None:
        """Answer all requests when the last one has come."""
        requests = []
        while (request := await call.receive()) is not None:
            requests.append(request)
        for request in requests:
            await _answer(request, call)


def _echo_metadata(call: ServerCall) -> None:
    initial = dict(call.metadata).get(INITIAL_ECHO)
    if initial is not None:
        call.set_initial_metadata([(INITIAL_ECHO, initial)])
    trailing = dict(call.metadata).get(TRAILING_ECHO)
    if trailing is not None:
        call.add_trailing_metadata(TRAILING_ECHO, trailing)


def _raise_status(status: messages_pb2.EchoStatus) -> None:
    if status.code:
        raise RpcError(StatusCode(status.code), status.message)


def _payload(size: int) -> messages_pb2.Payload:
    return messages_pb2.Payload(body=bytes(size))


async def _answer(request: messages_pb2.StreamingOutputCallRequest, call: ServerCall) -> None:
    for parameters in request.response_parameters:
        if parameters.interval_us:
            await asyncio.sleep(parameters.interval_us / 1e6)
        call.send(messages_pb2.StreamingOutputCallResponse(payload=_payload(parameters.size)))
        await call.ready()
