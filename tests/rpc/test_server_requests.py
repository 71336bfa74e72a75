"""Requests that are none of gRPC's, or not quite, and messages that are none."""

from __future__ import annotations

import gzip
import struct
from typing import Any

import pytest
from google.protobuf.message import Message

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import ServerCall, StatusCode

from .frames import Peer, Response, data, prefixed
from .serving import DUPLEX, UNARY, UPLOAD, count, echo, piece, reflect, server_options, serving, simple

LIMIT = 100_000


async def healthy(peer: Peer) -> None:
    """Check that the connection still serves."""
    response = await peer.call(UNARY, simple(b"still here"))
    assert response.status == 0
    assert messages_pb2.SimpleResponse.FromString(response.messages[0]).payload.body == b"still here"


# -- the head of a request ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"//",
        b"/a//b",
        b"/%ff",
        b"/\xff",
        b"/\xff\xfe/\x80",
        b"/grpc.testing.TestService/Unar\xc3\xbf",
        b"/grpc.testing.TestService",
        b"/grpc.testing.TestService/",
        b"/grpc.testing.TestService/UnaryCall/",
        b"/grpc.testing.TestService/UnaryCall?a=b",
        b"//grpc.testing.TestService/UnaryCall",
        b"/grpc.testing.TestService/unarycall",
        b"/grpc.testing.TestService/%55naryCall",
        b"/grpc.testing.TestService/UnimplementedCall",
        b"/grpc.testing.testservice/UnaryCall",
        b"*",
        b"/" + b"x" * 8192,
        b"/" + b"\xff" * 8192,
    ],
    ids=lambda path: repr(path)[:40],
)
async def test_a_path_that_is_no_method_is_unimplemented(path: bytes) -> None:
    """Paths are bytes and compared as they are; every other one is a method that the server has not."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        response = await peer.call(path)
        if response.reset is None:  # libnghttp2 itself resets some, which is as good
            assert response.status == StatusCode.UNIMPLEMENTED
            assert all(0x20 <= byte < 0x7F for byte in response.trailers[b"grpc-message"])
            assert len(response.trailers[b"grpc-message"]) < 1500
        await healthy(peer)


async def test_an_unimplemented_method_takes_a_body_of_any_size() -> None:
    """The answer comes at once, and what follows is read and dropped."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        stream_id = peer.request("/a/B", None, end=False)
        response = await peer.response(stream_id)
        assert response.status == StatusCode.UNIMPLEMENTED
        peer.send(peer.data(stream_id, bytes(20_000)), peer.data(stream_id, b"", end=True))
        await healthy(peer)
        assert response.reset is None


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"OPTIONS", b"post", b"BREW"])
async def test_another_method_than_post_is_405(method: bytes) -> None:
    """A browser or a probe that asks with GET gets an answer of HTTP."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        stream_id = peer.request(UNARY, None, method=method)
        response = await peer.response(stream_id)
        assert response.initial[b":status"] == b"405"
        assert response.initial[b"allow"] == b"POST"
        assert (b"gRPC" in response.body) == (method != b"HEAD")
        await healthy(peer)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        *b"|application/json|application/grpc-web|application/grpc-web+proto|application/grpc+json".split(
            b"|"
        ),
        *b"application/grpcx|text/html|\xff".split(b"|"),
    ],
)
async def test_another_content_type_is_415(content_type: bytes | None) -> None:
    """Only Protobuf over gRPC is served."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        response = await peer.response(peer.request(UNARY, content_type=content_type))
        assert response.initial[b":status"] == b"415"
        assert b"grpc-status" not in response.initial
        await healthy(peer)


@pytest.mark.parametrize(
    "content_type", [b"application/grpc", b"application/grpc+proto", b"application/grpc;charset=utf-8"]
)
async def test_every_way_to_write_the_content_type_is_taken(content_type: bytes) -> None:
    """With the subtype, without it, with parameters."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        assert (await peer.response(peer.request(UNARY, content_type=content_type))).status == 0


@pytest.mark.parametrize("name", ["te", "authority"])
async def test_headers_that_proxies_drop_are_not_asked_for(name: str) -> None:
    """``te: trailers`` and ``:authority`` may be missing, the latter when there is a ``host``."""
    extra = [(b"host", b"localhost")] if name == "authority" else []
    leave_out: dict[str, Any] = {name: None}
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        assert (await peer.response(peer.request(UNARY, extra=extra, **leave_out))).status == 0


@pytest.mark.parametrize("encoding", [b"deflate", b"snappy", b"br", b"GZIP", b"", b"gzip,identity", b"\xff"])
async def test_an_unknown_encoding_is_unimplemented(encoding: bytes) -> None:
    """The answer says what is accepted instead, as the protocol asks."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        response = await peer.call(UNARY, simple(), [(b"grpc-encoding", encoding)])
        assert response.status == StatusCode.UNIMPLEMENTED
        assert response.trailers[b"grpc-accept-encoding"] == b"identity,gzip"
        await healthy(peer)


@pytest.mark.parametrize("timeout", b"|1|S|-1S|123456789S|1.5S|1s|1S 2|\xff".split(b"|"))
async def test_a_malformed_timeout_is_refused(timeout: bytes) -> None:
    """Better than to run without the deadline that the client believes in."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        response = await peer.call(UNARY, simple(), [(b"grpc-timeout", timeout)])
        assert response.status == StatusCode.INVALID_ARGUMENT
        assert "grpc-timeout" in response.message
        await healthy(peer)
    assert (UNARY, int(StatusCode.OK)) in running.finished


@pytest.mark.parametrize("timeout", [b"99999999H", b"00000001H", b"99999999S", b"60000000u"])
async def test_the_longest_timeout_is_taken(timeout: bytes) -> None:
    """Eight digits of hours are more than timers can hold, and no error."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        assert (await peer.call(UNARY, simple(), [(b"grpc-timeout", timeout)])).status == 0


async def test_a_request_without_grpc_is_never_seen_by_a_handler() -> None:
    """A refused request costs no handler."""
    called: list[str] = []

    async def handler(request: Message, call: ServerCall) -> Message:
        called.append(call.method)
        return messages_pb2.SimpleResponse()

    async with serving(unary_call=handler) as running, await running.peer() as peer:
        await peer.response(peer.request(UNARY, method=b"GET"))
        await peer.response(peer.request(UNARY, content_type=b"text/plain"))
        await peer.call(UNARY, simple(), [(b"grpc-encoding", b"br")])
        await peer.call(UNARY, simple(), [(b"grpc-timeout", b"x")])
    assert called == []


# -- messages -----------------------------------------------------------------------------------------------


def zipped(payload: bytes) -> bytes:
    """Return a compressed message."""
    return prefixed(gzip.compress(payload), 1)


BAD_BODIES = {
    "4 GiB announced": (b"\0\xff\xff\xff\xff", StatusCode.RESOURCE_EXHAUSTED),
    "4 GiB announced with a payload": (b"\0\xff\xff\xff\xff" + bytes(1000), StatusCode.RESOURCE_EXHAUSTED),
    "one byte over the limit": (struct.pack(">BI", 0, LIMIT + 1), StatusCode.RESOURCE_EXHAUSTED),
    "flag 0xff": (b"\xff\0\0\0\1x", StatusCode.INTERNAL),
    "flag 2": (b"\2\0\0\0\0", StatusCode.INTERNAL),
    "compressed without encoding": (zipped(b""), StatusCode.INTERNAL),
    "cut in the prefix": (b"\0\0\0", StatusCode.INTERNAL),
    "cut in the payload": (simple(b"x" * 100)[:-1], StatusCode.INTERNAL),
    "no protobuf": (prefixed(b"\xff\xff\xff"), StatusCode.INVALID_ARGUMENT),
    "endless groups": (prefixed(b"\x0b" * 5000), StatusCode.INVALID_ARGUMENT),
    "an http/1 body": (b"a=b&c=d&e=f", None),
}
BAD_GZIP = {
    "a bomb": (zipped(bytes(50 << 20)), StatusCode.RESOURCE_EXHAUSTED),
    "one byte over the limit": (zipped(bytes(LIMIT + 1)), StatusCode.RESOURCE_EXHAUSTED),
    "truncated": (prefixed(gzip.compress(simple()[5:])[:-4], 1), StatusCode.INTERNAL),
    "empty": (prefixed(b"", 1), StatusCode.INTERNAL),
    "no gzip": (prefixed(b"hello hello hello", 1), StatusCode.INTERNAL),
    "no protobuf": (zipped(b"\xff\xff\xff"), StatusCode.INVALID_ARGUMENT),
}


async def unary_body(peer: Peer, body: bytes, encoding: bytes) -> Response:
    """Send a body in one unary request."""
    return await peer.call(UNARY, body, [(b"grpc-encoding", encoding)])


async def unary_body_in_bytes(peer: Peer, body: bytes, encoding: bytes) -> Response:
    """Send a body in frames of one byte."""
    stream_id = peer.request(UNARY, None, [(b"grpc-encoding", encoding)], end=False)
    peer.send(*(peer.data(stream_id, body[i : i + 1]) for i in range(min(len(body), 2000))))
    peer.send(peer.data(stream_id, body[2000:], end=True))
    return await peer.response(stream_id)


async def streamed_body(peer: Peer, body: bytes, encoding: bytes) -> Response:
    """Send a good message and then the body to a method that takes a stream."""
    stream_id = peer.request(UPLOAD, piece(b"x"), [(b"grpc-encoding", encoding)], end=False)
    peer.send(peer.data(stream_id, body, end=True))
    return await peer.response(stream_id)


WAYS = {way.__name__: way for way in (unary_body, unary_body_in_bytes, streamed_body)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_body_that_is_no_message_ends_the_call(name: str, way: str) -> None:
    """With a status that fits, however the bytes are cut into frames, and only that call."""
    body, code = BAD_BODIES[name]
    options = server_options(max_message_size=LIMIT)
    async with (
        serving(options, unary_call=echo, streaming_input_call=count) as running,
        await running.peer() as peer,
    ):
        response = await WAYS[way](peer, body, b"identity")
        assert response.reset is None
        assert response.status not in (0, StatusCode.UNKNOWN, None)
        assert code is None or response.status == code
        await healthy(peer)


async def test_text_that_is_not_utf_8_is_refused() -> None:
    """Protobuf's own rule for strings."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        response = await peer.call(UNARY, prefixed(b"\x3a\x04\x12\x02\xff\xff"))
        assert response.status == StatusCode.INVALID_ARGUMENT
        assert "SimpleRequest" in response.message


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BAD_GZIP)
async def test_bad_gzip_ends_the_call(name: str, way: str) -> None:
    """The same for compressed messages; a bomb is not inflated beyond the limit."""
    body, code = BAD_GZIP[name]
    options = server_options(max_message_size=LIMIT)
    async with (
        serving(options, unary_call=echo, streaming_input_call=count) as running,
        await running.peer() as peer,
    ):
        response = await WAYS[way](peer, body, b"gzip")
        assert response.status == code
        await healthy(peer)


async def test_compressed_and_plain_messages_may_be_mixed() -> None:
    """With ``grpc-encoding: gzip`` each message says for itself whether it is compressed."""
    request = messages_pb2.StreamingInputCallRequest(payload=messages_pb2.Payload(body=b"12345"))
    body = zipped(request.SerializeToString()) + piece(b"678") + zipped(request.SerializeToString())
    async with serving(streaming_input_call=count) as running, await running.peer() as peer:
        response = await peer.call(UPLOAD, body, [(b"grpc-encoding", b"gzip")])
        answer = messages_pb2.StreamingInputCallResponse.FromString(response.messages[0])
        assert (response.status, answer.aggregated_payload_size) == (0, 13)


@pytest.mark.parametrize("body", [simple(b"a") + simple(b"b"), simple(b"a") + b"\0", simple() * 1000])
async def test_two_messages_in_a_unary_call_are_an_error(body: bytes) -> None:
    """The handler must not run on half of what was asked."""
    called: list[int] = []

    async def handler(request: Message, call: ServerCall) -> Message:
        called.append(1)
        return messages_pb2.SimpleResponse()

    async with serving(unary_call=handler) as running, await running.peer() as peer:
        response = await peer.call(UNARY, body)
        assert response.status == StatusCode.INTERNAL
        assert called == []


@pytest.mark.parametrize("frames", [0, 1, 3])
async def test_no_message_in_a_unary_call_is_an_error(frames: int) -> None:
    """END_STREAM on the headers, or behind empty frames only."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        stream_id = peer.request(UNARY, None, end=not frames)
        peer.send(*(data(stream_id, b"", end=i == frames - 1) for i in range(frames)))
        assert (await peer.response(stream_id)).status == StatusCode.INTERNAL
        await healthy(peer)


async def test_no_message_in_a_stream_is_fine() -> None:
    """A client may end at once."""
    async with (
        serving(streaming_input_call=count, full_duplex_call=reflect) as running,
        await running.peer() as peer,
    ):
        for path in (UPLOAD, DUPLEX):
            assert (await peer.response(peer.request(path, None))).status == 0
            assert (await peer.response(peer.request(path, b""))).status == 0


async def test_an_empty_message_is_a_message() -> None:
    """Five zero bytes are a request with every field at its default."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        response = await peer.call(UNARY, b"\0\0\0\0\0")
        assert (response.status, len(response.messages)) == (0, 1)


@pytest.mark.parametrize(("size", "code"), [(LIMIT, 0), (LIMIT + 1, StatusCode.RESOURCE_EXHAUSTED)])
async def test_the_limit_of_a_message_is_exact(size: int, code: int) -> None:
    """A message of the limit's size passes, one byte more does not, also across many frames."""
    body = prefixed(_request_of(size))
    async with (
        serving(server_options(max_message_size=LIMIT), unary_call=echo) as running,
        await running.peer() as peer,
    ):
        stream_id = peer.request(UNARY, None, end=False)
        await peer.upload(stream_id, body, end=True)
        assert (await peer.response(stream_id)).status == code


def _request_of(size: int) -> bytes:
    """Return a serialized SimpleRequest of exactly ``size`` bytes."""
    body = size
    while len(message := simple(bytes(body))[5:]) > size:
        body -= len(message) - size
    assert len(message) == size
    return message
