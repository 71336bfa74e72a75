"""Many events: which go by fast ingest, and what becomes of several portions when the broker is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.nats.test_writes import bodies
from tests.support.broker import Broker, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import Message
from windshift.nats.jetstream.writes import WriteOptions, Writes
from windshift.server.domain.errors import BrokerUnavailable
from windshift.server.events.model import PublishRequest, Results
from windshift.server.events.pipeline import Feed, Pipeline
from windshift.server.events.publish import Publisher
from windshift.server.events.targets import Target, Targets

Unique = Callable[[], str]


class Replicated(Targets):
    """Says of every stream that several servers have copies of it."""

    async def of(self, subject: str, deadline: float) -> Target:
        """Look it up."""
        return (await super().of(subject, deadline))._replace(is_replicated=True)


async def publish(
    broker: Broker, targets: Targets, *requests: PublishRequest, without_ids: bool = True
) -> list[int | Exception]:
    """Publish events that are at hand together; return the id of each, or why it has none."""
    writes = Writes(broker.requests, broker.api)
    outcomes: list[int | Exception] = []

    async def feed() -> Feed:
        yield requests, in_seconds(20)

    async def take(some: Results) -> None:
        outcomes.extend(some.errors.get(place, each) for place, each in enumerate(some.ids, some.first))

    pipeline = Pipeline(Publisher(broker.api, writes), writes, targets)
    await pipeline.publish(feed(), take, without_ids=without_ids)
    return outcomes


def event(subject: str, key: str = "") -> PublishRequest:
    """Make an event."""
    return PublishRequest(subject, "type.googleapis.com/a.B", b"", idempotency_key=key)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("kind", [Targets, Replicated])
async def test_keys(broker: Broker, unique: Unique, kind: type[Targets], *, keyed: bool) -> None:
    """Of streams with several replicas events with keys do not."""
    name = await broker.stream(unique(), allow_batched=True)
    requests = [event(f"{name}.a"), event(f"{name}.a", "k" if keyed else "")]
    outcomes = await publish(broker, kind(broker.api), *requests)
    assert (outcomes == [0, 0]) == (not keyed or kind is Targets)
    assert await broker.messages(name) == 2


@pytest.mark.parametrize(
    ("config", "without_ids"),
    [({"allow_batched": True}, False), ({}, True), ({"allow_batched": True, "no_ack": True}, True)],
)
async def test_neither(
    broker: Broker, unique: Unique, config: dict[str, object], *, without_ids: bool
) -> None:
    """Nor do those of streams that do not allow it, or do not answer, or of calls that ask for ids."""
    name = await broker.stream(unique(), **config)
    outcomes = await publish(broker, Targets(broker.api), event(f"{name}.a"), without_ids=without_ids)
    assert outcomes != [0]


class Silent(Targets):
    """Is not answered."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.api)
        self.waited: list[float] = []

    async def of(self, subject: str, deadline: float) -> Target:
        """Wait for as long as the caller likes."""
        self.waited.append(deadline - in_seconds(0))
        raise BrokerUnavailable


async def test_a_stream_that_cannot_be_looked_up(broker: Broker, unique: Unique) -> None:
    """Events wait for a second at most, and those that come soon after on their call for nothing at all."""
    name, silent = await broker.stream(unique(), allow_batched=True), Silent(broker)
    writes = Writes(broker.requests, broker.api)
    pipeline = Pipeline(Publisher(broker.api, writes), writes, silent)
    ids: list[int] = []

    async def feed() -> Feed:
        for _ in range(3):
            yield [event(f"{name}.a")], in_seconds(600)

    async def take(some: Results) -> None:
        ids.extend(some.ids)

    for _ in range(2):
        await pipeline.publish(feed(), take, without_ids=True)
    assert ids == [1, 2, 3, 4, 5, 6]
    assert len(silent.waited) == 2
    assert max(silent.waited) <= 1


# --- Several portions under way ---------------------------------------------------------------------------


class Client:
    """Publishes events with one call, and reads results when it likes."""

    def __init__(self, broker: Broker, writes: Writes) -> None:
        self.sends: asyncio.Queue[PublishRequest | None] = asyncio.Queue()
        self.reads = asyncio.Event()
        pipeline = Pipeline(Publisher(broker.api, writes), writes, Targets(broker.api))
        self.publishing = asyncio.ensure_future(pipeline.publish(self._feed(), self._take))

    async def _feed(self) -> Feed:
        while (request := await self.sends.get()) is not None:
            yield [request, request._replace(idempotency_key=f"{request.idempotency_key}2")], in_seconds(60)

    async def _take(self, some: Results) -> None:
        assert not some.errors
        await self.reads.wait()


async def under_way(writes: Writes) -> None:
    """Wait until something was sent."""
    async with asyncio.timeout(30):
        while not writes.in_flight:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)


async def test_order_while_results_are_not_read(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """Nothing overtakes what has to be sent again, also while the client reads none of its results."""
    await own_broker.stream("s", storage="file")
    writes = Writes(own_broker.requests, own_broker.api)
    client = Client(own_broker, writes)
    client.sends.put_nowait(event("s.a", "1")._replace(body=b"1"))
    async with asyncio.timeout(30):
        while await own_broker.messages("s") < 2:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.005)
    own_nats_server.freeze()
    client.sends.put_nowait(event("s.a", "2")._replace(body=b"2"))
    await under_way(writes)
    own_nats_server.kill()
    await own_broker.lost()
    own_nats_server.start()
    await own_broker.connection.wait_ready(in_seconds(30))
    client.sends.put_nowait(event("s.a", "3")._replace(body=b"3"))
    for _ in range(10):
        await own_broker.messages("s")
    client.reads.set()
    client.sends.put_nowait(None)
    await asyncio.wait_for(client.publishing, 60)
    assert await bodies(own_broker, "s") == [b"1", b"1", b"2", b"2", b"3", b"3"]


@pytest.mark.parametrize("name", ["s", "error"])
async def test_results_that_are_not_read_hold_up_nobody(own_broker: Broker, name: str) -> None:
    """What is stored has no slots any more, whether or not its results are read."""
    await own_broker.stream(name)
    writes = Writes(own_broker.requests, own_broker.api, WriteOptions(max_in_flight=8))
    idle, busy = Client(own_broker, writes), Client(own_broker, writes)
    for number in range(8):
        idle.sends.put_nowait(event(f"{name}.a", f"{number}"))
    async with asyncio.timeout(30):
        while await own_broker.messages(name) < 16:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.005)
    busy.sends.put_nowait(event(f"{name}.a", "busy"))
    busy.sends.put_nowait(None)
    busy.reads.set()
    await asyncio.wait_for(busy.publishing, 30)
    idle.sends.put_nowait(None)
    idle.reads.set()
    await asyncio.wait_for(idle.publishing, 30)
    assert (writes.in_flight, writes.waiting) == (0, 0)


async def test_results_that_are_not_read_of_what_has_no_answer(broker: Broker, unique: Unique) -> None:
    """It has slots until its time is over, whether or not the client reads."""
    name, quiet, sent = await broker.stream(unique()), unique(), asyncio.Event()
    options = WriteOptions(max_in_flight=8, attempt_timeout=timedelta(milliseconds=100))
    writes = Writes(broker.requests, broker.api, options)
    listening = broker.connection.subscribe(f"{quiet}.a".encode(), lambda _: sent.set())
    client = Client(broker, writes)
    client.sends.put_nowait(event(f"{name}.a", "1"))
    client.sends.put_nowait(event(f"{quiet}.a", "2"))
    async with asyncio.timeout(30):
        await sent.wait()
        while writes.in_flight:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)
    client.publishing.cancel()
    await asyncio.wait((client.publishing,))
    listening.unsubscribe()


async def test_order_of_what_waits_for_slots(broker: Broker, unique: Unique) -> None:
    """It does not overtake what gives them back because of trouble."""
    nobody, somebody, happened = unique(), unique(), list[str]()
    minute = timedelta(minutes=1)
    options = WriteOptions(max_in_flight=8, doubt_after=minute, attempt_timeout=minute)
    writes = Writes(broker.requests, broker.api, options)
    others = Client(broker, writes)

    def answer(message: Message) -> None:
        if b"others" not in message.body:
            happened.append("second")
            broker.connection.publish(message.reply, b'{"stream":"s","seq":1}')

    async def feed() -> Feed:
        yield [event(f"{nobody}.a")] * 2 + [event(f"{somebody}.a")] * 2, in_seconds(60)

    async def take(some: Results) -> None:
        happened.append("refused" if some.errors else "taken")

    listening = broker.connection.subscribe(f"{somebody}.a".encode(), answer)
    for number in range(3):
        others.sends.put_nowait(event(f"{somebody}.a", f"{number}")._replace(body=b"others"))
    async with asyncio.timeout(30):
        while writes.in_flight < 6:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
    pipeline = Pipeline(Publisher(broker.api, writes), writes, Targets(broker.api))
    await asyncio.wait_for(pipeline.publish(feed(), take), 60)
    assert happened == ["refused", "second", "second", "taken"]
    others.publishing.cancel()
    await asyncio.wait((others.publishing,))
    assert (writes.in_flight, writes.waiting) == (0, 0)
    listening.unsubscribe()


async def test_portions_that_wait_when_the_broker_dies(
    own_broker: Broker, own_nats_server: NatsServer
) -> None:
    """They and those under way are all stored once it is back, long before their deadline, in their order."""
    await own_broker.stream("s", storage="file")
    writes = Writes(own_broker.requests, own_broker.api)
    pipeline = Pipeline(Publisher(own_broker.api, writes), writes, Targets(own_broker.api))
    ids: list[int] = []

    async def feed() -> Feed:
        for some in range(8):  # of 256 slots five portions have 236, and the sixth wants 64
            count = 100 if some else 36
            yield [event("s.a", f"{some}-{number}") for number in range(count)], in_seconds(600)

    async def take(some: Results) -> None:
        assert not some.errors
        ids.extend(some.ids)

    own_nats_server.freeze()
    publishing = asyncio.ensure_future(pipeline.publish(feed(), take))
    while not writes.waiting:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.005)
    own_nats_server.kill()
    own_nats_server.start()
    await asyncio.wait_for(publishing, 60)
    assert ids == list(range(1, 737))
    assert (writes.in_flight, writes.waiting) == (0, 0)
