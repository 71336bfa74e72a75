"""Random frames, whole, mutated and cut, against a connection without a socket."""

from __future__ import annotations

import asyncio
import os
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import uvloop
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import RpcError, Server, ServerCall, Service, StatusCode

from . import frames as f
from .fakes import connected
from .serving import DOWNLOAD, DUPLEX, SERVICE, UNARY, UPLOAD, ask, output, piece, server_options, simple

EXAMPLES = int(os.environ.get("WINDSHIFT_TEST_FUZZ", "80"))
"""Sequences that each test tries. When nobody asks for a number they are the same at every run."""

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="WINDSHIFT_TEST_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)

# -- handlers that do something of everything ---------------------------------------------------------------


@dataclass
class Watch:
    """Handlers that are counted.

    Attributes:
        running: handlers that began and did not end.
        cancels: the most CancelledErrors that one handler saw.
        finished: how often each call was reported as ended.
        unexpected: exceptions that nobody should have seen.
    """

    running: int = 0
    cancels: int = 0
    finished: Counter[int] = field(default_factory=Counter)
    unexpected: list[object] = field(default_factory=list)

    async def watched(self, work: Awaitable[Message | None]) -> Message | None:
        """Run a handler."""
        self.running += 1
        cancels = 0
        try:
            return await work
        except asyncio.CancelledError:
            cancels += 1
            try:
                await turns(6)
            except asyncio.CancelledError:
                cancels += 1
            raise
        finally:
            self.running -= 1
            self.cancels = max(self.cancels, cancels)

    async def unary_call(self, request: messages_pb2.SimpleRequest, call: ServerCall) -> Message | None:
        return await self.watched(self._unary(request, call))

    async def _unary(self, request: messages_pb2.SimpleRequest, call: ServerCall) -> Message:
        list(call.metadata)
        if request.response_status.code:
            raise RpcError(StatusCode.ABORTED, request.response_status.message)
        await turns(6)
        return messages_pb2.SimpleResponse(payload=request.payload)

    async def streaming_input_call(self, call: ServerCall) -> Message | None:
        return await self.watched(self._upload(call))

    async def _upload(self, call: ServerCall) -> Message:
        while await call.receive() is not None:
            pass
        return messages_pb2.StreamingInputCallResponse()

    async def streaming_output_call(self, request: Message, call: ServerCall) -> None:
        await self.watched(self._download(call))

    async def _download(self, call: ServerCall) -> None:
        for size in (0, 1, 70_000, 200_000):
            call.send(output(size))
            await call.ready()

    async def full_duplex_call(self, call: ServerCall) -> None:
        await self.watched(self._duplex(call))

    async def _duplex(self, call: ServerCall) -> None:
        call.on_drain = lambda: call.abort(RpcError(StatusCode.UNAVAILABLE, "drained"))
        while requests := await call.receive_many():
            for request in requests:
                call.send(messages_pb2.StreamingOutputCallResponse(payload=request.payload))
            await call.ready()


# -- what a peer may do -------------------------------------------------------------------------------------

Step = bytes | str
Move = tuple[Any, ...]

paths = st.sampled_from([UNARY, UPLOAD, DOWNLOAD, DUPLEX, "/no/Method"])
good_bodies = st.sampled_from([simple(), simple(b"x" * 50), piece(b"y"), ask(b"z") * 3, ask(bytes(9000))])
bodies = st.one_of(
    good_bodies,
    good_bodies,
    st.sampled_from([b"", b"\0\0\0", b"\0\xff\xff\xff\xff", b"\xff\0\0\0\0", b"\1\0\0\0\1x", bytes(10)]),
    st.just(simple(bytes(17_000))[:16_000]),
    st.binary(max_size=40),
)
extra = st.sampled_from(
    [
        (b"grpc-timeout", b"0n"),
        (b"grpc-timeout", b"1m"),
        (b"grpc-timeout", b"5S"),
        (b"grpc-timeout", b"x"),
        (b"grpc-encoding", b"gzip"),
        (b"grpc-encoding", b"br"),
        (b"x-bin", b"!"),
        (b"content-length", b"5"),
    ]
)
nothing: list[tuple[bytes, bytes]] = []
extras = st.one_of(st.just(nothing), st.just(nothing), st.lists(extra, max_size=2))
which = st.integers(0, 5)
fitting = [(UNARY, simple(b"x")), (UPLOAD, piece(b"x")), (DOWNLOAD, bytes(5)), (DUPLEX, ask(b"x"))]
lawful = st.one_of(
    st.builds(lambda fit, end: ("open", fit[0], [], fit[1], end), st.sampled_from(fitting), st.booleans()),
    st.builds(lambda fit: ("open", fit[0], [], fit[1], True), st.sampled_from(fitting)),
    st.tuples(st.just("open"), paths, extras, bodies, st.booleans()),
    st.tuples(st.just("data"), which, good_bodies, st.booleans()),
    st.tuples(st.just("data"), which, bodies, st.booleans()),
    st.tuples(st.just("trailers"), which),
    st.tuples(st.just("reset"), which, st.sampled_from([0, 7, 8])),
    st.tuples(st.just("window"), which, st.sampled_from([1, 1000, 1 << 20])),
    st.builds(f.window_update, st.just(0), st.sampled_from([1, 1000, 1 << 20])),
    st.builds(lambda window: f.settings({4: window}), st.sampled_from([0, 100, 65_535, 1 << 20])),
    st.just(f.ping()),
    st.just(f.ping(b"draining", ack=True)),
)
act = st.sampled_from(
    ["turn", "turn", "turn", "turn", "pause", "resume", "tick", "late tick", "drain", "eof"]
)
anywhere = st.sampled_from([0, 1, 3, 2, 999])
odd_frames = st.builds(f.frame, st.integers(0, 20), st.integers(0, 255), anywhere, st.binary(max_size=30))
unlawful = st.one_of(
    odd_frames,
    st.builds(f.data, anywhere, bodies),
    st.builds(f.window_update, st.sampled_from([0, 1, 3]), st.sampled_from([0, 0x7FFF_FFFF])),
    st.builds(f.headers, st.sampled_from([1, 3]), st.just([(b"x", b"y")])),
    st.builds(lambda value: f.settings({4: value, 5: value}), st.sampled_from([0, 1 << 31])),
    st.builds(f.goaway, st.sampled_from([0, 999]), st.integers(0, 13)),
)
mutations = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=2)


class Writer:
    """Turns moves into frames that obey HTTP/2, so that they get further than to its first check."""

    def __init__(self) -> None:
        self._next = 1
        self._begun: list[int] = []
        self._open: list[int] = []

    def frames(self, move: Move) -> bytes:
        """Return the frames of one move; none when there is no stream to make it on."""
        match move:
            case ("open", path, extra, body, end):
                return self._begin(path, extra, body, end)
            case ("data" | "trailers", number, *_) if self._open:
                return self._go_on(move, self._open[number % len(self._open)])
            case ("window" | "reset", number, value) if self._begun:
                return self._steer(move[0], self._begun[-1 - number % len(self._begun)], value)
        return b""

    def _begin(self, path: str, extra: list[tuple[bytes, bytes]], body: bytes, end: bool) -> bytes:
        stream_id = self._next
        self._next += 2
        self._begun.append(stream_id)
        if not end:
            self._open.append(stream_id)
        head = f.headers(stream_id, f.request_fields(path, extra), end=end and not body)
        return head + (f.data(stream_id, body, end=end) if body else b"")

    def _go_on(self, move: Move, stream_id: int) -> bytes:
        if move[0] == "trailers" or move[3]:
            self._open.remove(stream_id)
        if move[0] == "trailers":
            return f.headers(stream_id, [(b"x", b"y")], end=True)
        return f.data(stream_id, move[2], end=move[3])

    def _steer(self, what: str, stream_id: int, value: int) -> bytes:
        if what == "window":
            return f.window_update(stream_id, value)
        self._begun.remove(stream_id)
        if stream_id in self._open:
            self._open.remove(stream_id)
        return f.rst_stream(stream_id, value)


def written(moves: Sequence[Move | Step]) -> list[Step]:
    """Turn moves into frames, and leave the rest as it is."""
    writer = Writer()
    return [writer.frames(move) if isinstance(move, tuple) else move for move in moves]


def mutated(data: bytes, changes: list[tuple[float, int]]) -> bytes:
    """Change single bytes."""
    changed = bytearray(data)
    for where, value in changes:
        changed[min(int(where * len(changed)), len(changed) - 1)] = value
    return bytes(changed)


# -- the driver ---------------------------------------------------------------------------------------------


class Driver:
    """A server connection, its peer and the time."""

    def __init__(self, watch: Watch) -> None:
        self._loop = asyncio.get_running_loop()
        kept: list[ServerCall] = []  # so that no id is used twice

        def note(call: ServerCall, code: StatusCode) -> None:
            watch.finished[id(call)] += 1
            kept.append(call)

        options = server_options(
            max_message_size=20_000,
            tick_interval=3600,
            discard_timeout=5,
            drain_ping_timeout=0.001,
            on_call_finished=note,
        )
        self.server = Server([Service(SERVICE, watch)], options)
        self.connection, self.transport = connected(self.server)

    async def run(self, script: list[Step], *, begin: bool) -> None:
        """Do what the script says, then lose the connection."""
        if begin:
            self.transport.deliver(f.PREFACE + f.settings())
        for step in script:
            if isinstance(step, bytes):
                self.transport.deliver(step)
            else:
                await self._act(step)
        await turns()
        self.transport.lose()
        await turns()

    async def _act(self, what: str) -> None:
        now = self._loop.time()
        actions: dict[str, Callable[[], Any]] = {
            "pause": self.connection.http2.pause_writing,
            "resume": self.connection.http2.resume_writing,
            "tick": lambda: self.connection.tick(now),
            "late tick": lambda: self.connection.tick(now + 100),
            "drain": self.connection.drain,
            "eof": self._end,
            "turn": lambda: None,
        }
        actions[what]()
        await turns(2)

    def _end(self) -> None:
        if not self.connection.http2.eof_received():
            self.transport.close()


async def turns(count: int = 12) -> None:
    """Let the event loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def survive(script: list[Step], *, begin: bool, caught: list[dict[str, Any]]) -> None:
    """Run a script; nothing may be left and nothing may have been raised."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))
    tasks = asyncio.all_tasks()
    watch = Watch()
    driver = Driver(watch)
    await driver.run(script, begin=begin)
    assert caught == []
    assert driver.connection._calls == {}
    assert driver.connection._unended == {}
    assert driver.connection.http2._senders == {}
    assert driver.server.connections == 0
    assert not driver.server._sockets
    assert asyncio.all_tasks() <= tasks
    assert watch.running == 0
    assert watch.cancels <= 1
    assert set(watch.finished.values()) <= {1}
    assert driver.connection.http2.over


def check(script: list[Step], *, begin: bool = True) -> None:
    """Run a script in an event loop of its own."""
    caught: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(survive(script, begin=begin, caught=caught))
    assert caught == []


calls = st.lists(st.one_of(lawful, lawful, act), min_size=5, max_size=30)
breaches = st.lists(st.one_of(unlawful, unlawful, lawful, act), min_size=1, max_size=9)


@fuzz
@given(calls)
def test_any_calls_in_any_order_leave_nothing(moves: list[Move | Step]) -> None:
    """No exception, no call, no task, no second cancel, whatever a lawful peer does and whenever."""
    check(written(moves))


@fuzz
@given(calls, breaches)
def test_any_breach_behind_any_calls_leaves_nothing(
    moves: list[Move | Step], behind: list[Move | Step]
) -> None:
    """The same when the peer then breaks the rules."""
    check(written([*moves, *behind]))


@fuzz
@given(st.lists(lawful, min_size=5, max_size=20), mutations, st.lists(st.integers(0, 2000), max_size=8))
def test_mutated_bytes_in_any_chunks_leave_nothing(
    moves: list[Move | Step], changes: list[tuple[float, int]], cuts: list[int]
) -> None:
    """The bytes of a connection from its preface on, a few of them wrong, cut anywhere."""
    frames = [frame for frame in written(moves) if isinstance(frame, bytes)]
    stream = mutated(f.PREFACE + f.settings() + b"".join(frames), changes)
    script: list[Step] = []
    for chunk in f.chunked(stream, cuts):
        script += [chunk, "turn"]
    check(script, begin=False)


@fuzz
@given(st.binary(max_size=200), st.booleans())
def test_noise_leaves_nothing(noise: bytes, begin: bool) -> None:
    """Bytes that never were frames."""
    check([noise, "turn", noise], begin=begin)


honest_bodies = st.sampled_from([b"", simple(), piece(b"x"), ask(b"x"), b"\0\0\0", b"\xff" * 20])
HONEST = st.lists(st.tuples(paths, honest_bodies, extras), min_size=1, max_size=5)


@fuzz
@given(HONEST, st.lists(st.integers(0, 3000), max_size=5))
def test_every_request_of_an_honest_peer_is_answered(
    honest: list[tuple[str, bytes, list[tuple[bytes, bytes]]]], cuts: list[int]
) -> None:
    """Each stream ends with a status or a reset, and bad input is never UNKNOWN."""
    answers = Answers()
    stream = f.PREFACE + f.settings({0x4: 1 << 30}) + f.window_update(0, 1 << 30)
    for stream_id, (path, body, extra) in zip(range(1, 99, 2), honest, strict=False):
        stream += f.headers(stream_id, f.request_fields(path, extra)) + f.data(stream_id, body, end=True)
    chunks = f.chunked(stream, cuts)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(answers.collect(chunks, len(honest)))
    for response in answers.responses.values():
        assert response.reset is not None or response.status != StatusCode.UNKNOWN


@dataclass
class Answers:
    """What came on each stream."""

    responses: dict[int, f.Response] = field(default_factory=dict)

    async def collect(self, chunks: list[bytes], amount: int) -> None:
        """Deliver the chunks and read what was written until every stream is over."""
        driver = Driver(Watch())
        peer = f.Peer(asyncio.StreamReader(), SimpleNamespace(write=lambda _: None))  # type: ignore[arg-type]
        for chunk in chunks:
            driver.transport.deliver(chunk)
            await turns(3)
        async with asyncio.timeout(f.WAIT):
            while sum(response.over for response in peer.responses.values()) < amount:
                read_into(peer, driver.transport.written)
                await asyncio.sleep(0)
        self.responses = peer.responses
        driver.transport.lose()
        await turns()


def read_into(peer: f.Peer, written: bytearray) -> None:
    """Take whole frames off the front."""
    while len(written) >= 9 and len(written) >= 9 + (size := int.from_bytes(written[:3], "big")):
        kind, flags, stream_id = struct.unpack_from(">BBI", written, 3)
        peer._note(f.Frame(kind, flags, stream_id, bytes(written[9 : 9 + size])))
        del written[: 9 + size]
