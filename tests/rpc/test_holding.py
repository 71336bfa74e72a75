"""What clients make the server hold: half messages, and answers that nobody reads."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import ServerCall
from windshift.rpc.holding import largest_holders

from .frames import Peer
from .serving import DUPLEX, UNARY, UPLOAD, Steps, echo, eventually, server_options, serving, simple

MB = 1_000_000


def test_who_holds_most_goes_first() -> None:
    """And nobody goes who need not."""
    held = {"a": 10, "b": 50, "c": 30, "d": 0}
    assert largest_holders(held, 90) == []
    assert largest_holders(held, 89) == ["b"]
    assert largest_holders(held, 40) == ["b"]
    assert largest_holders(held, 39) == ["b", "c"]
    assert largest_holders(held, 0) == ["b", "c", "a"]
    assert largest_holders({}, 0) == []


@given(st.dictionaries(st.integers(), st.integers(0, 100)), st.integers(0, 500))
def test_what_is_left_is_within_the_limit(held: dict[int, int], limit: int) -> None:
    """Whatever they hold; and with the last of those who go it would not be."""
    gone = largest_holders(held, limit)
    left = sum(held.values()) - sum(held[each] for each in gone)
    assert left <= limit
    assert not gone or left + held[gone[-1]] > limit


async def large(request: messages_pb2.SimpleRequest, call: ServerCall) -> Message:
    """Answer with as many bytes as are asked for (UnaryCall)."""
    return messages_pb2.SimpleResponse(payload=messages_pb2.Payload(body=bytes(request.response_size)))


async def test_answers_that_nobody_reads_are_bounded() -> None:
    """The connection that holds most is dropped; one that holds less, and one that reads, are not."""
    options = server_options(max_held=12 * MB)
    async with serving(options, unary_call=large) as running, AsyncExitStack() as stack:
        few, many = [await stack.enter_async_context(await running.peer(settings={0x4: 0})) for _ in range(2)]
        few.request(UNARY, simple(response_size=2 * MB))
        for _ in range(9):
            many.request(UNARY, simple(response_size=MB))
        await few.pong()
        await many.pong()
        await asyncio.sleep(0.1)  # some looks at what is held
        for _ in range(3):
            many.request(UNARY, simple(response_size=MB))
        await many.closed()
        async with await running.peer() as reader:
            for _ in range(20):
                assert (await reader.call(UNARY, simple(response_size=2 * MB))).status == 0
        await few.pong()
        assert not few.ended
        assert running.server.connections == 1


@pytest.mark.parametrize("path", [UNARY, UPLOAD, DUPLEX])
async def test_messages_that_are_not_whole_are_bounded(path: str) -> None:
    """As much as they may be large each: a connection cannot have hundreds of them."""
    steps = Steps()

    async def take(call: ServerCall) -> None:
        await steps.watched(call.receive())

    options = server_options(max_held=5 * MB)
    async with (
        serving(options, unary_call=echo, streaming_input_call=take, full_duplex_call=take) as running,
        await running.peer() as peer,
    ):
        for _ in range(4):
            await _upload_most(peer, path)
        await peer.pong()
        await asyncio.sleep(0.1)  # as above
        assert not peer.ended
        for _ in range(4):
            await _upload_most(peer, path)
        await peer.closed()
        await eventually(lambda: running.server.connections == 0)


async def _upload_most(peer: Peer, path: str) -> None:
    """Begin a message of a megabyte, and leave out its last byte."""
    with suppress(ConnectionError):
        await peer.upload(peer.request(path, None, end=False), simple(bytes(MB))[:-1])
