"""The same scenario through nats-py and through our library, on one server: both must see the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import nats
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.errors import APIError, KeyNotFoundError, KeyWrongLastSequenceError, NoStreamResponseError

from tests.support.broker import QUICK, Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import JetStreamError, Message, NoReply, NoStream, Superseded
from windshift.nats import headers as h
from windshift.nats.jetstream.kv import Buckets, Put
from windshift.nats.jetstream.pulling import ACK, Arrival, Puller, PullOptions, nak, split_ack_subject
from windshift.nats.jetstream.writes import Write, Writes

Unique = Callable[[], str]
Headers = Mapping[str, str]


class Seen(NamedTuple):
    """A message, as far as both libraries show it."""

    subject: str
    reply: str
    headers: dict[str, str]
    body: bytes


class Delivered(NamedTuple):
    """A delivery, as far as both libraries show it."""

    message: Seen
    attempt: int
    sequence: int
    pending: int


class Side(Protocol):
    """What both can do, in the words of neither."""

    async def subscribe(self, subject: str) -> asyncio.Queue[Seen]:
        """Hear messages from now on."""

    async def answer(self, subject: str) -> None:
        """Answer each message with its own body, from now on."""

    async def publish(self, subject: str, body: bytes, headers: Headers, reply: str) -> None:
        """Send a message."""

    async def request(self, subject: str, body: bytes, headers: Headers) -> bytes | None:
        """Ask; None = nobody listens."""

    async def store(self, subject: str, body: bytes, headers: Headers) -> tuple[object, ...]:
        """Write to a stream; return what became of it."""

    async def pull(self, stream: str, consumer: str, count: int, acknowledgement: bytes) -> list[Delivered]:
        """Take so many messages of a consumer, and settle each so."""

    async def read(self, stream: str, sequence: int) -> Seen:
        """Read a stored message."""

    async def put(self, bucket: str, key: str, value: bytes, expected: int | None) -> int | None:
        """Write a value; None = superseded."""

    async def get(self, bucket: str, key: str) -> tuple[bytes, int] | None:
        """Read a value and its revision."""

    async def delete(self, bucket: str, key: str) -> None:
        """Delete a key."""


class Theirs:
    """nats-py."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.stream = client.jetstream()

    async def subscribe(self, subject: str) -> asyncio.Queue[Seen]:
        seen = asyncio.Queue[Seen]()

        async def keep(message: Msg) -> None:
            seen.put_nowait(_seen_by_them(message))

        await self.client.subscribe(subject, cb=keep)
        await self.flush()
        return seen

    async def flush(self) -> None:
        await self.client.flush()  # its first ping may overtake what was sent just now
        await self.client.flush()

    async def answer(self, subject: str) -> None:
        async def echo(message: Msg) -> None:
            await message.respond(message.data)

        await self.client.subscribe(subject, cb=echo)
        await self.flush()

    async def publish(self, subject: str, body: bytes, headers: Headers, reply: str) -> None:
        await self.client.publish(subject, body, reply, dict(headers) or None)

    async def request(self, subject: str, body: bytes, headers: Headers) -> bytes | None:
        try:
            return bytes((await self.client.request(subject, body, 20, headers=dict(headers) or None)).data)
        except NoRespondersError:
            return None

    async def store(self, subject: str, body: bytes, headers: Headers) -> tuple[object, ...]:
        try:
            ack = await self.stream.publish(subject, body, headers=dict(headers) or None)
        except APIError as error:
            return error.err_code, error.code, error.description
        except NoStreamResponseError:
            return ("no stream",)
        return ack.stream, ack.seq, bool(ack.duplicate)

    async def pull(self, stream: str, consumer: str, count: int, acknowledgement: bytes) -> list[Delivered]:
        subscription = await self.stream.pull_subscribe_bind(consumer, stream)
        delivered = list[Delivered]()
        while len(delivered) < count:
            for message in await subscription.fetch(count - len(delivered), 20):
                told = message.metadata
                seen = _seen_by_them(message)
                delivered.append(
                    Delivered(seen, told.num_delivered or 0, told.sequence.stream, told.num_pending)
                )
                await self.client.publish(message.reply, acknowledgement)
        await subscription.unsubscribe()
        await self.flush()
        return delivered

    async def read(self, stream: str, sequence: int) -> Seen:
        stored = await self.stream.get_msg(stream, sequence, direct=True)
        names = ("Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp")
        headers = {name: value for name, value in (stored.headers or {}).items() if name not in names}
        return Seen(stored.subject or "", "", headers, stored.data or b"")

    async def put(self, bucket: str, key: str, value: bytes, expected: int | None) -> int | None:
        store = await self.stream.key_value(bucket)
        try:
            if expected is None:
                return await store.put(key, value)
            return await store.update(key, value, expected)
        except KeyWrongLastSequenceError:
            return None

    async def get(self, bucket: str, key: str) -> tuple[bytes, int] | None:
        store = await self.stream.key_value(bucket)
        try:
            entry = await store.get(key)
        except KeyNotFoundError:
            return None
        assert entry.revision is not None
        return entry.value or b"", entry.revision

    async def delete(self, bucket: str, key: str) -> None:
        await (await self.stream.key_value(bucket)).delete(key)


def _seen_by_them(message: Msg) -> Seen:
    return Seen(message.subject, message.reply, dict(message.headers or {}), bytes(message.data))


class Ours:
    """windshift.nats."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.writes = Writes(broker.requests, broker.api)
        self.buckets = Buckets(broker.api, self.writes)

    async def subscribe(self, subject: str) -> asyncio.Queue[Seen]:
        seen = asyncio.Queue[Seen]()
        self.broker.connection.subscribe(subject.encode(), lambda got: seen.put_nowait(_seen_by_us(got)))
        await self.flush()
        return seen

    async def flush(self) -> None:
        wire = self.broker.connection._wire
        assert wire is not None
        await wire.ping()

    async def answer(self, subject: str) -> None:
        connection = self.broker.connection
        connection.subscribe(subject.encode(), lambda asked: connection.publish(asked.reply, asked.body))
        await self.flush()

    async def publish(self, subject: str, body: bytes, headers: Headers, reply: str) -> None:
        self.broker.connection.publish(subject.encode(), body, _block(headers), reply.encode())

    async def request(self, subject: str, body: bytes, headers: Headers) -> bytes | None:
        asked = self.broker.requests.request(subject.encode(), body, _block(headers), in_seconds(20))
        outcome = await asked
        return None if outcome is NoReply.NO_RESPONDERS else _body(outcome)

    async def store(self, subject: str, body: bytes, headers: Headers) -> tuple[object, ...]:
        try:
            ack = await self.writes.write(Write(subject.encode(), body, _block(headers), in_seconds(20)))
        except JetStreamError as error:
            return error.err_code, error.code, error.description
        except NoStream:
            return ("no stream",)
        return ack.stream, ack.sequence, ack.duplicate

    async def pull(self, stream: str, consumer: str, count: int, acknowledgement: bytes) -> list[Delivered]:
        arrivals = asyncio.Queue[Arrival]()
        puller = Puller(self.broker.connection, stream, consumer, PullOptions(), arrivals.put_nowait)
        assert puller.open()
        assert puller.pull(count)
        delivered = list[Delivered]()
        while len(delivered) < count:
            arrival = await arrivals.get()
            assert isinstance(arrival, Message)
            attempt, sequence, _, _, pending = map(int, split_ack_subject(arrival.reply))
            delivered.append(Delivered(_seen_by_us(arrival), attempt, sequence, pending))
            puller.tell(arrival.reply, acknowledgement)
        await puller.close()
        return delivered

    async def read(self, stream: str, sequence: int) -> Seen:
        stored = await self.broker.api.message(stream, {"seq": sequence}, in_seconds(20))
        assert stored is not None
        headers = {name.decode(): value.decode() for name, value in stored.headers}
        return Seen(stored.subject, "", headers, stored.body)

    async def put(self, bucket: str, key: str, value: bytes, expected: int | None) -> int | None:
        try:
            return await self.buckets.put(bucket, Put(key, value, expected), in_seconds(20))
        except Superseded:
            return None

    async def get(self, bucket: str, key: str) -> tuple[bytes, int] | None:
        record = await self.buckets.read(bucket, key, in_seconds(20))
        return None if record.value is None else (record.value, record.sequence)

    async def delete(self, bucket: str, key: str) -> None:
        await self.buckets.put(bucket, Put(key, None), in_seconds(20))


def _block(headers: Headers) -> bytes:
    return h.block([(name.encode(), value.encode()) for name, value in headers.items()])


def _body(outcome: bytes | NoReply) -> bytes:
    assert isinstance(outcome, bytes)
    return outcome


def _seen_by_us(message: Message) -> Seen:
    headers = {name.decode(): value.decode() for name, value in h.split(message.headers)}
    return Seen(message.subject.decode(), message.reply.decode(), headers, message.body)


Sides = Mapping[str, Side]


async def open_sides(stack: AsyncExitStack, url: str) -> Sides:
    """Connect both to a server."""
    client = await nats.connect(url, max_outstanding_pings=100)
    stack.push_async_callback(client.close)
    broker = await stack.enter_async_context(connect(url, replace(QUICK, inbox_prefix="_INBOX")))
    return {"theirs": Theirs(client), "ours": Ours(broker)}


@pytest.fixture
async def sides(nats_server: NatsServer) -> AsyncIterator[Sides]:
    """Connect both to the shared server."""
    async with AsyncExitStack() as stack:
        yield await open_sides(stack, nats_server.url)


def ours(sides: Sides) -> Ours:
    """Return ours, of which more is known."""
    side = sides["ours"]
    assert isinstance(side, Ours)
    return side


def theirs(sides: Sides) -> Theirs:
    """Return theirs, of which more is known."""
    side = sides["theirs"]
    assert isinstance(side, Theirs)
    return side


async def within(awaitable: Awaitable[Any], seconds: float = 20) -> Any:
    """Wait for something that must come."""
    async with asyncio.timeout(seconds):
        return await awaitable


# --- Messages ---------------------------------------------------------------------------------------------

MESSAGES = [
    Seen("a", "", {}, b""),
    Seen("a.b", "reply.to", {}, b"body"),
    Seen("a", "", {"Name": "value"}, b"body"),
    Seen("a", "r", {"Name": "value"}, b""),
    Seen("a", "", {"Empty": "", "Other": "x", "name": "1", "Name": "2"}, b"body"),
    Seen("a", "", {"Colons": "a: b:c", "Spaces": "a  b", "Quotes": '"a" \\b'}, b"body"),
    Seen("a", "", {"Text": "schön 東京 \U0001f600"}, "schön".encode()),
    Seen("schön.東京.\U0001f600", "antwört", {}, b"body"),
    Seen("a", "", {}, b"\r\n\r\nMSG x 1 2\r\n-ERR\r\n\x00\xff"),
    Seen("a", "", {}, bytes(range(256)) * 3_000),
    Seen("a", "", {f"Name-{number}": "x" * 200 for number in range(150)}, b"x" * 200_000),
]
"""Messages, with subjects that are to be prefixed."""


@pytest.mark.parametrize("sender", ["ours", "theirs"])
async def test_messages(sides: Sides, unique: Unique, sender: str) -> None:
    """Both hear of a message the same, and exactly what was sent, whoever sent it."""
    prefix = unique()
    heard = [await side.subscribe(f"{prefix}.>") for side in sides.values()]
    for message in MESSAGES:
        sent = message._replace(subject=f"{prefix}.{message.subject}")
        await sides[sender].publish(sent.subject, sent.body, sent.headers, sent.reply)
        assert [await within(each.get()) for each in heard] == [sent] * 2


async def test_several_values_of_one_name(sides: Sides, unique: Unique) -> None:
    """Only ours can send them. Theirs shows the last, which is what a dict of our lines has, too."""
    subject = unique()
    raw, seen = list[bytes](), await sides["theirs"].subscribe(subject)
    ours(sides).broker.connection.subscribe(subject.encode(), lambda message: raw.append(message.headers))
    await ours(sides).flush()
    lines = ((b"A", b"1"), (b"B", b""), (b"A", b"2"), (b"a", b"3"), (b"A", b""), (b"B", b"x"))
    ours(sides).broker.connection.publish(subject.encode(), b"", h.block(lines))
    assert (await within(seen.get())).headers == {"A": "", "B": "x", "a": "3"}
    await ours(sides).flush()
    assert h.split(raw[0]) == lines


async def test_order_between_them(sides: Sides, unique: Unique) -> None:
    """Thousands of messages arrive at both in the order in which they were sent."""
    subject = unique()
    for sender in sides.values():
        heard = [await side.subscribe(subject) for side in sides.values()]
        for number in range(3_000):
            await sender.publish(subject, b"%d" % number, {}, "")
        for each in heard:
            bodies = [(await within(each.get())).body for _ in range(3_000)]
            assert bodies == [b"%d" % number for number in range(3_000)]


@pytest.mark.parametrize("asks", ["ours", "theirs"])
@pytest.mark.parametrize("answers", ["ours", "theirs"])
async def test_requests(sides: Sides, unique: Unique, asks: str, answers: str) -> None:
    """Either answers the other."""
    subject = unique()
    assert await sides[asks].request(subject, b"", {}) is None
    assert await sides[asks].request(subject, b"", {"A": "b"}) is None
    await sides[answers].answer(subject)
    for body in (b"", b"?", bytes(500_000)):
        assert await sides[asks].request(subject, body, {}) == body
    bodies = [b"%d" % number for number in range(200)]
    asked = (sides[asks].request(subject, body, {"A": "b"}) for body in bodies)
    assert await within(asyncio.gather(*asked)) == bodies


# --- Streams ----------------------------------------------------------------------------------------------

STORED: list[tuple[str, dict[str, str]]] = [
    ("a", {}),
    ("a", {"Nats-Msg-Id": "k", "Own": "x"}),
    ("b", {"Nats-Msg-Id": "k"}),
    ("a", {"Nats-Expected-Last-Sequence": "2"}),
    ("a", {"Nats-Expected-Last-Sequence": "2"}),
    ("a", {"Nats-Expected-Last-Subject-Sequence": "1"}),
    ("c", {"Nats-Expected-Last-Subject-Sequence": "0"}),
    ("a", {"Nats-Expected-Last-Msg-Id": "other"}),
    ("a", {"Nats-Expected-Stream": "other"}),
    ("a", {"Nats-Expected-Last-Sequence": "none"}),
    ("a", {"Nats-Rollup": "sub"}),
    ("a", {"Nats-Rollup": "nonsense"}),
    ("a", {"Nats-TTL": "1h"}),
    ("a", {"Nats-Msg-Id": "k2", "Nats-Expected-Last-Msg-Id": ""}),
]
"""What is written to a stream, one after the other."""


async def test_writes(sides: Sides, unique: Unique) -> None:
    """Both are told the same of the same writes: where, that it was a repeat, or why not."""
    outcomes: list[list[tuple[object, ...]]] = []
    for side in sides.values():
        stream = await ours(sides).broker.stream(unique(), max_msg_size=100)
        told = [await side.store(f"{stream}.{subject}", b"body", headers) for subject, headers in STORED]
        told.append(await side.store(f"{stream}.a", bytes(101), {}))
        told.append(await side.store(unique(), b"", {}))
        outcomes.append([tuple("S" if each == stream else each for each in outcome) for outcome in told])
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][:3] == [("S", 1, False), ("S", 2, False), ("S", 2, True)]
    assert outcomes[0][-1] == ("no stream",)


async def test_stored_messages(sides: Sides, unique: Unique) -> None:
    """Both read back the same of a stream, whoever wrote it."""
    for side in sides.values():
        stream = await ours(sides).broker.stream(unique(), allow_direct=True)
        for number, message in enumerate(MESSAGES, 1):
            stored = message._replace(subject=f"{stream}.{message.subject}", reply="")
            assert await side.store(stored.subject, stored.body, stored.headers) == (stream, number, False)
            assert [await each.read(stream, number) for each in sides.values()] == [stored] * 2


async def test_streams_and_consumers(sides: Sides, unique: Unique) -> None:
    """A stream and a consumer are the same, whoever made them."""
    made: list[tuple[object, object]] = []
    api, stream = ours(sides).broker.api, theirs(sides).stream
    for by_us in (True, False):
        name = unique()
        if by_us:
            await api.create_stream({"name": name, "subjects": [f"{name}.>"], "max_msgs": 7}, in_seconds(20))
            config = {"durable_name": "c", "ack_policy": "explicit", "max_deliver": 3}
            await api.create_consumer(name, "c", config, in_seconds(20))
        else:
            await stream.add_stream(StreamConfig(name=name, subjects=[f"{name}.>"], max_msgs=7))
            await stream.add_consumer(name, ConsumerConfig(durable_name="c", max_deliver=3))
        info = await api.stream_info(name, in_seconds(20))
        consumer = await api.consumer(name, "c", in_seconds(20))
        assert consumer is not None
        assert (await stream.stream_info(name)).config.name == name
        assert (await stream.consumer_info(name, "c")).config.max_deliver == 3
        told = {**info["config"], "name": "", "subjects": ""}
        made.append((told, consumer.config))
    assert made[0] == made[1]


async def test_pulling(sides: Sides, unique: Unique) -> None:
    """Both are given the same messages of a consumer, each with which delivery it is, also once more."""
    given: list[list[Delivered]] = []
    for side in sides.values():
        stream = await ours(sides).broker.stream(unique())
        config = {"durable_name": "c", "ack_policy": "explicit"}
        await ours(sides).broker.api.create_consumer(stream, "c", config, in_seconds(20))
        for number in range(10):
            assert len(await side.store(f"{stream}.a", b"%d" % number, {"N": f"{number}"})) == 3
        await has_come_to(ours(sides), stream, settled_to=0, pending=10)
        delivered = await within(side.pull(stream, "c", 4, ACK))
        delivered += await within(side.pull(stream, "c", 1, nak(0)))
        last = await within(side.pull(stream, "c", 6, ACK))
        # When exactly the one comes again that was handed back, only the server knows.
        delivered += sorted((each._replace(pending=0) for each in last), key=lambda each: each.sequence)
        given.append([each._replace(message=_without_names(each.message, stream)) for each in delivered])
        await has_come_to(ours(sides), stream, settled_to=10, pending=0)
    assert given[0] == given[1]
    assert [each.sequence for each in given[0]] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10]
    assert [each.attempt for each in given[0]] == [1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1]


async def has_come_to(side: Ours, stream: str, settled_to: int, pending: int) -> None:
    """Wait until a consumer has come so far, and has no delivery that is not settled."""
    async with asyncio.timeout(20):
        while True:
            state = await side.broker.api.consumer(stream, "c", in_seconds(20))
            assert state is not None
            if (state.settled_to, state.pending, state.unsettled) == (settled_to, pending, 0):
                return
            await asyncio.sleep(0.005)


def _without_names(message: Seen, stream: str) -> Seen:
    return message._replace(subject=message.subject.removeprefix(stream), reply="")


# --- Buckets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", ["ours", "theirs"])
async def test_buckets(sides: Sides, unique: Unique, maker: str) -> None:
    """Each reads what the other has written, deleted, or was kept from writing."""
    bucket = unique()
    if maker == "ours":
        await ours(sides).buckets.ensure(bucket, in_seconds(20))
    else:
        await theirs(sides).stream.create_key_value(bucket=bucket)
        await ours(sides).buckets.ensure(bucket, in_seconds(20))
    for number, (writer, other) in enumerate((("ours", "theirs"), ("theirs", "ours")), 1):
        key = f"key/{number}.x=_-"
        both = (sides[writer], sides[other])
        assert [await each.get(bucket, key) for each in both] == [None, None]
        first = await sides[writer].put(bucket, key, b"\x00one", 0)
        assert first is not None
        assert [await each.get(bucket, key) for each in both] == [(b"\x00one", first)] * 2
        assert await sides[other].put(bucket, key, b"two", 0) is None
        second = await sides[other].put(bucket, key, b"two", first)
        assert second == first + 1
        assert await sides[writer].put(bucket, key, b"three", first) is None
        third = await sides[writer].put(bucket, key, b"", None)
        assert [await each.get(bucket, key) for each in both] == [(b"", third)] * 2
        await sides[writer].delete(bucket, key)
        assert [await each.get(bucket, key) for each in both] == [None, None]
        marker = await ours(sides).buckets.read(bucket, key, in_seconds(20))
        assert await sides[other].put(bucket, key, b"anew", marker.sequence) == marker.sequence + 1
        store = await theirs(sides).stream.key_value(bucket)
        await store.purge(key)
        assert [await each.get(bucket, key) for each in both] == [None, None]
        assert (await store.create(key, b"again")) == marker.sequence + 3
        assert [await each.get(bucket, key) for each in both] == [(b"again", marker.sequence + 3)] * 2
    assert sorted(await (await theirs(sides).stream.key_value(bucket)).keys()) == [
        "key/1.x=_-",
        "key/2.x=_-",
    ]


async def test_made_alike(sides: Sides, unique: Unique) -> None:
    """A bucket is the same stream, whoever made it, but for the ends of messages, and transactions."""
    configs: list[dict[str, object]] = []
    for by_us in (True, False):
        bucket = unique()
        if by_us:
            await ours(sides).buckets.ensure(bucket, in_seconds(20))
        else:
            await theirs(sides).stream.create_key_value(bucket=bucket, direct=True)
        info = await ours(sides).broker.api.stream_info(f"KV_{bucket}", in_seconds(20))
        config = {**info["config"], "name": "", "subjects": ""}
        for key in ("allow_msg_ttl", "subject_delete_marker_ttl", "allow_atomic"):
            config.pop(key, None)
        config.pop("metadata", None)  # which level of the API it needs
        configs.append(config)
    assert configs[0] == configs[1]


# --- Anything ---------------------------------------------------------------------------------------------


def _is_visible(text: str) -> bool:
    """Tell whether neither library, nor the server, takes a part of a text for space or an end."""
    return not any(each.isspace() or "\x1c" <= each <= "\x1f" for each in text)


letters = st.characters(exclude_categories=["Cs"], exclude_characters=".*>\x00")
tokens = st.text(letters, min_size=1, max_size=20).filter(_is_visible)
subjects = st.lists(tokens, min_size=1, max_size=5).map(".".join)
names = st.text(
    "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20
).filter(lambda name: name.lower() not in ("status", "description"))  # theirs keeps a server's words there
values = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"]), max_size=50)
messages = st.builds(
    Seen,
    subjects,
    st.one_of(st.just(""), subjects),
    st.dictionaries(names, values, max_size=6),
    st.one_of(st.binary(max_size=200), st.binary(min_size=1000, max_size=70_000)),
)

anything = settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


class Running:
    """Both sides in a loop of their own, for tests that are no coroutines."""

    def __init__(self, runner: asyncio.Runner, sides: Sides) -> None:
        self.runner = runner
        self.sides = sides


@pytest.fixture
def running(nats_server: NatsServer) -> Iterator[Running]:
    """Connect both to the shared server."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()
        try:
            yield Running(runner, runner.run(open_sides(stack, nats_server.url)))
        finally:
            runner.run(stack.aclose())


def test_any_messages(running: Running, unique: Unique) -> None:
    """Whatever is sent by either is heard by both, exactly."""
    prefix = unique()

    async def subscribed() -> list[asyncio.Queue[Seen]]:
        return [await side.subscribe(f"{prefix}.>") for side in running.sides.values()]

    heard = running.runner.run(subscribed())

    async def go(message: Seen, sender: str) -> None:
        sent = message._replace(subject=f"{prefix}.{message.subject}")
        await running.sides[sender].publish(sent.subject, sent.body, sent.headers, sent.reply)
        assert [await within(each.get()) for each in heard] == [sent] * 2

    @anything
    @given(messages, st.sampled_from(["ours", "theirs"]))
    def check(message: Seen, sender: str) -> None:
        running.runner.run(go(message, sender))

    check()


def test_anything_in_a_stream(running: Running, unique: Unique) -> None:
    """Whatever is stored by either is read by both, exactly."""
    sides = running.sides
    stream = running.runner.run(ours(sides).broker.stream(unique(), allow_direct=True))

    async def go(message: Seen, writer: str) -> None:
        subject = f"{stream}.{message.subject}"
        name, number, _ = await sides[writer].store(subject, message.body, message.headers)
        assert name == stream
        assert isinstance(number, int)
        stored = message._replace(subject=subject, reply="")
        assert [await each.read(stream, number) for each in sides.values()] == [stored] * 2

    @anything
    @given(messages, st.sampled_from(["ours", "theirs"]))
    def check(message: Seen, writer: str) -> None:
        running.runner.run(go(message, writer))

    check()


def test_any_values_in_a_bucket(running: Running, unique: Unique) -> None:
    """Whatever is done to a bucket by either, both read the same from it."""
    sides, bucket = running.sides, unique()

    async def ensure() -> None:
        await ours(sides).buckets.ensure(bucket, in_seconds(20))

    running.runner.run(ensure())
    keys = st.sampled_from(["a", "b.c", "D/e=f_g-"])
    steps = st.tuples(st.sampled_from(["ours", "theirs"]), keys, st.one_of(st.none(), st.binary(max_size=50)))

    async def go(moves: list[tuple[str, str, bytes | None]]) -> None:
        for by, key, value in moves:
            if value is None:
                await sides[by].delete(bucket, key)
            else:
                written = await sides[by].put(bucket, key, value, None)
                assert [await side.get(bucket, key) for side in sides.values()] == [(value, written)] * 2
                continue
            assert [await side.get(bucket, key) for side in sides.values()] == [None] * 2

    @anything
    @given(st.lists(steps, min_size=1, max_size=8))
    def check(moves: list[tuple[str, str, bytes | None]]) -> None:
        running.runner.run(go(moves))

    check()
