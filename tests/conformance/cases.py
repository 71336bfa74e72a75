"""The cases of the interoperability tests, played by the project's own client.

Source: https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md, "Client". A case fails by
AssertionError or by an `RpcError` that it did not ask for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests._gen.grpc.testing import empty_pb2, messages_pb2
from windshift.rpc import Channel, ClientCall, RpcError, StatusCode

from .service import INITIAL_ECHO, TEST_SERVICE, TRAILING_ECHO, UNIMPLEMENTED_SERVICE

LARGE_REQUEST, LARGE_RESPONSE = 271_828, 314_159
REQUEST_SIZES = (27_182, 8, 1_828, 45_904)
RESPONSE_SIZES = (31_415, 9, 2_653, 58_979)
METADATA = ((INITIAL_ECHO, "test_initial_metadata_value"), (TRAILING_ECHO, b"\xab\xab\xab"))
SPECIAL_MESSAGE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"

OutputCall = ClientCall[messages_pb2.StreamingOutputCallResponse]

_PATH = f"/{TEST_SERVICE.full_name}/"


async def empty_unary(channel: Channel) -> None:
    """Call with an empty message."""
    empty = empty_pb2.Empty()
    assert await channel.unary(_PATH + "EmptyCall", empty, empty_pb2.Empty) == empty


async def large_unary(channel: Channel) -> None:
    """Send and receive more than a stream's window."""
    request = _simple(LARGE_REQUEST, LARGE_RESPONSE)
    response = await channel.unary(_PATH + "UnaryCall", request, messages_pb2.SimpleResponse)
    assert response.payload.body == bytes(LARGE_RESPONSE)


async def client_streaming(channel: Channel) -> None:
    """Send several messages for one."""
    call = channel.stream(_PATH + "StreamingInputCall", messages_pb2.StreamingInputCallResponse)
    for size in REQUEST_SIZES:
        call.send(messages_pb2.StreamingInputCallRequest(payload=_payload(size)))
        await call.ready()
    call.close_send()
    response = await call.receive()
    assert response is not None
    assert response.aggregated_payload_size == sum(REQUEST_SIZES)
    assert await call.receive() is None


async def server_streaming(channel: Channel) -> None:
    """Receive several messages for one."""
    call = channel.stream(_PATH + "StreamingOutputCall", messages_pb2.StreamingOutputCallResponse)
    call.send(_output_request(0, *RESPONSE_SIZES))
    call.close_send()
    assert tuple([len(message.payload.body) async for message in call]) == RESPONSE_SIZES


async def ping_pong(channel: Channel) -> None:
    """Send each message after the answer to the one before."""
    call = _full_duplex(channel)
    for sent, wanted in zip(REQUEST_SIZES, RESPONSE_SIZES, strict=True):
        call.send(_output_request(sent, wanted))
        assert await _size(call) == wanted
    call.close_send()
    assert await call.receive() is None


async def empty_stream(channel: Channel) -> None:
    """Send nothing and receive nothing."""
    call = _full_duplex(channel)
    call.close_send()
    assert await call.receive() is None


async def timeout_on_sleeping_server(channel: Channel) -> None:
    """Give up after a millisecond."""
    call = _full_duplex(channel, timeout=0.001)
    call.send(_output_request(27_182))
    assert (await _error(call)).code is StatusCode.DEADLINE_EXCEEDED


async def cancel_after_begin(channel: Channel) -> None:
    """Cancel before anything is sent but the headers."""
    call = channel.stream(_PATH + "StreamingInputCall", messages_pb2.StreamingInputCallResponse)
    call.cancel()
    assert (await _error(call)).code is StatusCode.CANCELLED


async def cancel_after_first_response(channel: Channel) -> None:
    """Cancel in the middle of a conversation."""
    call = _full_duplex(channel)
    call.send(_output_request(27_182, 31_415))
    assert await _size(call) == 31_415
    call.cancel()
    assert (await _error(call)).code is StatusCode.CANCELLED


async def custom_metadata(channel: Channel) -> None:
    """Get text and binary metadata back, before and after the messages."""
    unary = channel.stream(_PATH + "UnaryCall", messages_pb2.SimpleResponse, metadata=METADATA)
    unary.send(_simple(LARGE_REQUEST, LARGE_RESPONSE))
    unary.close_send()
    response = await unary.receive()
    assert response is not None
    assert len(response.payload.body) == LARGE_RESPONSE
    assert await unary.receive() is None
    await _check_echo(unary)

    duplex = _full_duplex(channel, metadata=True)
    duplex.send(_output_request(LARGE_REQUEST, LARGE_RESPONSE))
    assert await _size(duplex) == LARGE_RESPONSE
    duplex.close_send()
    assert await duplex.receive() is None
    await _check_echo(duplex)


async def status_code_and_message(channel: Channel) -> None:
    """Get the status that was asked for, from a unary and from a streaming call."""
    await _check_status(channel, "test status message")
    call = _full_duplex(channel)
    request = messages_pb2.StreamingOutputCallRequest()
    request.response_status.code, request.response_status.message = 2, "test status message"
    call.send(request)
    call.close_send()
    error = await _error(call)
    assert (error.code, error.message) == (StatusCode.UNKNOWN, "test status message")


async def special_status_message(channel: Channel) -> None:
    """Get a message back unharmed that cannot stand in a header as it is."""
    await _check_status(channel, SPECIAL_MESSAGE)


async def unimplemented_method(channel: Channel) -> None:
    """Call what the service declares and the server does not have."""
    await _check_unimplemented(channel, TEST_SERVICE.full_name)


async def unimplemented_service(channel: Channel) -> None:
    """Call a service that the server does not have."""
    await _check_unimplemented(channel, UNIMPLEMENTED_SERVICE.full_name)


CASES: dict[str, Callable[[Channel], Awaitable[None]]] = {
    case.__name__: case
    for case in (
        empty_unary,
        large_unary,
        client_streaming,
        server_streaming,
        ping_pong,
        empty_stream,
        timeout_on_sleeping_server,
        cancel_after_begin,
        cancel_after_first_response,
        custom_metadata,
        special_status_message,
        status_code_and_message,
        unimplemented_method,
        unimplemented_service,
    )
}
"""All cases, by the name that the interoperability tests give them."""


def _payload(size: int) -> messages_pb2.Payload:
    return messages_pb2.Payload(body=bytes(size))


def _simple(size: int, wanted: int) -> messages_pb2.SimpleRequest:
    return messages_pb2.SimpleRequest(response_size=wanted, payload=_payload(size))


def _output_request(size: int, *wanted: int) -> messages_pb2.StreamingOutputCallRequest:
    parameters = [messages_pb2.ResponseParameters(size=each) for each in wanted]
    return messages_pb2.StreamingOutputCallRequest(response_parameters=parameters, payload=_payload(size))


def _full_duplex(channel: Channel, *, timeout: float | None = None, metadata: bool = False) -> OutputCall:
    return channel.stream(
        _PATH + "FullDuplexCall",
        messages_pb2.StreamingOutputCallResponse,
        timeout=timeout,
        metadata=METADATA if metadata else (),
    )


async def _size(call: OutputCall) -> int:
    response = await call.receive()
    assert response is not None
    return len(response.payload.body)


async def _error(call: ClientCall[messages_pb2.StreamingInputCallResponse] | OutputCall) -> RpcError:
    try:
        while await call.receive() is not None:
            pass
    except RpcError as error:
        return error
    raise AssertionError("the call ended with OK")


async def _check_echo(call: ClientCall[messages_pb2.SimpleResponse] | OutputCall) -> None:
    assert METADATA[0] in await call.initial_metadata()
    assert METADATA[1] in call.trailing_metadata


async def _check_status(channel: Channel, message: str) -> None:
    request = messages_pb2.SimpleRequest()
    request.response_status.code, request.response_status.message = 2, message
    error = await _failure(channel.unary(_PATH + "UnaryCall", request, messages_pb2.SimpleResponse))
    assert (error.code, error.message) == (StatusCode.UNKNOWN, message)


async def _check_unimplemented(channel: Channel, service: str) -> None:
    path = f"/{service}/UnimplementedCall"
    error = await _failure(channel.unary(path, empty_pb2.Empty(), empty_pb2.Empty))
    assert error.code is StatusCode.UNIMPLEMENTED


async def _failure(call: Awaitable[object]) -> RpcError:
    try:
        await call
    except RpcError as error:
        return error
    raise AssertionError("the call ended with OK")
