"""What clients make the server hold: half messages, and answers that nobody reads."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import AsyncExitStack, suppress

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import HealthService, Server, ServerCall, StatusCode, holding
from windshift.rpc.holding import Holder, Holding, Turnover

from .frames import INITIAL_WINDOW_SIZE, Peer, prefixed, settings, window_update
from .serving import DUPLEX, UNARY, UPLOAD, Steps, echo, eventually, server_options, serving, simple

MB = 1_000_000


def goes(held: int, *holders: Holder[str], limit: int = 100, refused: bool = False) -> str:
    """Return the names of those who go; what they do not hold is held for a client that can free nothing."""
    holding = Holding(limit, lambda: None)
    holding.refused = refused
    others = Holder("others", held - sum(each.held for each in holders), 0, 0.0)
    return "".join(each.who for each in holding.who_goes([others, *holders]))


def holder(who: str, stuck: int, idle: float) -> Holder[str]:
    """Return a client that could free all that is held for it."""
    return Holder(who, stuck, stuck, idle)


def test_who_holds_for_nothing_goes_first() -> None:
    """By how much and how long; then who holds most; and nobody goes who need not."""
    honest, large, small = holder("h", 50, 3.0), holder("l", 20, 12.0), holder("s", 10, 12.0)
    assert goes(100, honest, large, small) == ""
    assert goes(101, honest, large, small) == "l"
    assert goes(125, honest, large, small) == "ls"
    assert goes(131, honest, large, small) == "lsh"
    assert goes(101, holder("a", 10, 3.0), honest) == "h"
    assert goes(101, holder("p", 1, 1e6), holder("m", 11, 12.0)) == "m"  # who paused with little may stay


def test_who_holds_for_nothing_makes_room_for_requests() -> None:
    """When these were refused: others do not go, though nothing is above the limit."""
    honest, stale = holder("h", 20, 3.0), holder("s", 30, 12.0)
    assert goes(90, honest, stale) == ""
    assert goes(90, honest, stale, refused=True) == "s"
    assert goes(50, honest, stale, refused=True) == ""


def test_without_a_limit_nobody_goes() -> None:
    """However much is held."""
    looks = list[bool]()
    holding = Holding(None, lambda: looks.append(True))
    holding.requests = 10**12
    assert holding.has_room(10**9)
    holding.answered(10**12)
    assert not looks
    assert holding.who_goes([holder("a", 10**12, 1e6)]) == []


def test_small_requests_have_more_room() -> None:
    """A client that publishes little is served while others fill what there is."""
    holding = Holding(100_000_000, lambda: None)
    holding.requests = 40_000_001
    assert [holding.has_room(1000), holding.refused] == [True, False]
    assert [holding.has_room(100_000), holding.refused] == [False, True]
    holding.requests = 72_000_001
    assert not holding.has_room(1000)


def test_who_turns_over_what_it_holds_is_not_idle() -> None:
    """However slowly; the time begins anew with each time that as much was done as is held."""
    turnover = Turnover(100.0)
    assert turnover.idle(0, 0, 101.0) == 0.0
    assert turnover.idle(50, 0, 102.0) == 1.0
    assert turnover.idle(50, 49, 110.0) == 9.0
    assert turnover.idle(50, 50, 111.0) == 0.0
    assert turnover.idle(50, 99, 112.0) == 1.0
    assert turnover.idle(0, 99, 113.0) == 0.0


@given(
    st.lists(st.tuples(st.integers(0, 100), st.floats(0, 100)), max_size=20),
    st.integers(0, 500),
)
def test_what_is_left_is_within_the_limit(held: list[tuple[int, float]], limit: int) -> None:
    """Whatever they hold; and with the last of those who go it would not be."""
    holders = [Holder(number, stuck, stuck, idle) for number, (stuck, idle) in enumerate(held)]
    total = sum(each.stuck for each in holders)
    gone = Holding(limit, lambda: None).who_goes(holders)
    left = total - sum(each.stuck for each in gone)
    assert left <= limit
    assert not gone or left + gone[-1].stuck > limit


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


@pytest.mark.parametrize("path", [UPLOAD, DUPLEX])
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


@pytest.mark.parametrize("gzipped", [False, True])
async def test_requests_that_wait_for_others_are_bounded(gzipped: bool) -> None:
    """Further large ones are refused, small ones are not, and when those are answered there is room again."""
    steps = Steps()

    async def wait(request: messages_pb2.SimpleRequest, call: ServerCall) -> Message:
        await steps.watched(steps.open.wait() if len(request.payload.body) > 1000 else asyncio.sleep(0))
        return messages_pb2.SimpleResponse()

    body = messages_pb2.SimpleRequest(payload=messages_pb2.Payload(body=bytes(MB))).SerializeToString()
    message = prefixed(gzip.compress(body), 1) if gzipped else prefixed(body)
    extra = [(b"grpc-encoding", b"gzip")] if gzipped else []
    options = server_options(max_held=15 * MB)
    async with serving(options, unary_call=wait) as running, await running.peer() as peer:
        streams = []
        for _ in range(10):
            streams.append(peer.request(UNARY, None, end=False, extra=extra))
            await peer.upload(streams[-1], message, end=True)
        await peer.until(lambda: sum(peer.responses[stream].ended for stream in streams) == 5)
        refused = [stream for stream in streams if peer.responses[stream].ended]
        for stream in refused:
            assert peer.responses[stream].status == StatusCode.RESOURCE_EXHAUSTED
        await asyncio.sleep(0.1)  # some looks at what is held
        assert (await peer.call(UNARY, simple(b"small"))).status == 0
        steps.open.set()
        for stream in set(streams) - set(refused):
            assert (await peer.response(stream)).status == 0
        assert running.server.holding.requests == 0
        assert (await peer.call(UNARY, simple(b"x" * 900))).status == 0


async def _upload_most(peer: Peer, path: str) -> None:
    """Begin a message of a megabyte, and leave out its last byte."""
    with suppress(ConnectionError):
        await peer.upload(peer.request(path, None, end=False), simple(bytes(MB))[:-1])


async def test_an_honest_client_that_holds_most_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others have held less for longer, and read nothing of it: they are closed first."""
    monkeypatch.setattr(holding, "STALE", 0.7)
    options = server_options(max_held=20 * MB)
    async with serving(options, unary_call=large) as running, AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(await running.peer(settings={INITIAL_WINDOW_SIZE: 0}))
            for _ in range(12)
        ]
        for peer in others:
            peer.request(UNARY, simple(response_size=MB))
            await peer.pong()
        await asyncio.sleep(0.9)
        honest = await stack.enter_async_context(await running.peer(settings={INITIAL_WINDOW_SIZE: 0}))
        streams = [honest.request(UNARY, simple(response_size=MB)) for _ in range(10)]
        await honest.pong()
        await eventually(lambda: running.server.connection_limiter.refused["held"] > 0)
        await honest.pong()
        assert not honest.ended
        honest.send(settings({INITIAL_WINDOW_SIZE: 2 * MB}) + window_update(0, 20 * MB))
        for stream in streams:
            assert (await honest.response(stream)).status == 0
        assert 0 < running.server.connection_limiter.refused["held"] < 12


async def test_watches_of_the_health_service_count() -> None:
    """Each of them keeps some kilobytes for as long as its client likes."""
    server = Server([HealthService()], server_options(max_held=MB))
    address = await server.listen("127.0.0.1", 0)
    async with AsyncExitStack() as stack:
        stack.callback(server.close)
        for _ in range(10):
            peer = await stack.enter_async_context(await Peer.connect(address))
            for _ in range(20):
                peer.request("/grpc.health.v1.Health/Watch")
            await peer.pong()
        await eventually(lambda: 0 < server.connections <= 6)
        assert server.connection_limiter.refused["held"] == 10 - server.connections
