"""Servers that are killed, stopped, frozen and started again, under everything that may be under way."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sized
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from tests.nats.waiting import eventually, serving, wire_of
from tests.support.broker import QUICK, Broker, connect, in_seconds
from tests.support.cluster import running_cluster
from tests.support.nats_server import NatsServer
from windshift.nats import (
    Connection,
    JetStreamError,
    Message,
    NatsError,
    NoReply,
    NotConnected,
    Outcome,
    OutcomeUnknown,
    Unavailable,
    parse_servers,
)
from windshift.nats import headers as h
from windshift.nats.jetstream.pulling import ACK, Arrival, PullEnded, Puller, PullOptions, split_ack_subject
from windshift.nats.jetstream.writes import Write, Writes

WAKEFUL = replace(
    QUICK, ping_interval=timedelta(milliseconds=130), connect_timeout=timedelta(milliseconds=500)
)
"""Notices soon that a server is frozen, or that it waits for a processor."""
BRIEF = replace(QUICK, linger=timedelta(milliseconds=500))
"""Does not listen long to a server that it has left."""

FATES = ["killed", "stopped", "frozen"]


@pytest.fixture
async def wakeful(own_nats_server: NatsServer, fate: str) -> AsyncIterator[Broker]:
    """Connect to the test's own server, so that its fate is noticed soon."""
    async with connect(own_nats_server.url, WAKEFUL if fate == "frozen" else QUICK) as broker:
        yield broker


async def befall(fate: str, server: NatsServer, broker: Broker) -> None:
    """Let something happen to a server, and return when the connection is there again."""
    lost = broker.connection.reconnects
    match fate:
        case "killed":
            server.kill()
        case "stopped":
            server.stop()
        case _:
            server.freeze()
    await broker.lost()
    if fate == "frozen":
        server.thaw()
    else:
        server.start()
    await eventually(lambda: broker.connection.reconnects > lost)
    await broker.connection.wait_ready(in_seconds(30))


def more_than(some: Sized, count: int) -> bool:
    """Tell whether there are more than so many."""
    return len(some) > count


# --- One server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", FATES)
async def test_all_subscriptions_come_back(wakeful: Broker, own_nats_server: NatsServer, fate: str) -> None:
    """However many there are, after each time every one gets its messages, once, and no other ones."""
    connection, got = wakeful.connection, Counter[bytes]()

    def count(message: Message) -> None:
        got[message.subject] += 1

    subscriptions = [connection.subscribe(b"news.%d" % number, count) for number in range(300)]
    for turn in range(3):
        await befall(fate, own_nats_server, wakeful)
        got.clear()
        for number in range(300):
            connection.publish(b"news.%d" % number)
        await wire_of(wakeful).ping()
        assert got == {b"news.%d" % number: 1 for number in range(turn, 300)}
        subscriptions[turn].unsubscribe()


@pytest.mark.parametrize("fate", FATES)
async def test_requests_under_way_are_told(wakeful: Broker, own_nats_server: NatsServer, fate: str) -> None:
    """Each request that waits is told once that the connection ended; later ones are answered."""
    connection, outcomes = wakeful.connection, list[Outcome]()
    connection.subscribe(b"silence", lambda _: None)
    connection.subscribe(b"echo", lambda asked: connection.publish(asked.reply, asked.body))
    for _ in range(500):
        wakeful.requests.send(b"silence", b"", b"", outcomes.append, in_seconds(600))
    await wire_of(wakeful).ping()
    await befall(fate, own_nats_server, wakeful)
    assert outcomes == [NoReply.DISCONNECTED] * 500
    assert len(wakeful.requests) == 0
    assert await wakeful.requests.request(b"echo", b"?", b"", in_seconds(20)) == b"?"


class Writers:
    """Writers that go on whatever happens, and what they were told.

    Attributes:
        told: by body.
    """

    def __init__(self, broker: Broker) -> None:
        self._writes = Writes(broker.requests, broker.api)
        self._tasks: list[asyncio.Task[None]] = []
        self._going = True
        self.told: dict[bytes, int | NatsError] = {}

    def start(self, count: int, *, keyed: bool) -> None:
        self._tasks += [asyncio.create_task(self._write(b"%d" % number, keyed)) for number in range(count)]

    async def stop(self) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)

    async def _write(self, name: bytes, keyed: bool) -> None:
        number = 0
        while self._going:
            number += 1
            body = b"%b-%b-%d" % (b"keyed" if keyed else b"plain", name, number)
            block = h.block(((h.MESSAGE_ID, body),)) if keyed else b""
            try:
                ack = await self._writes.write(Write(b"S.a", body, block, in_seconds(30), keyed))
            except (OutcomeUnknown, Unavailable) as error:
                self.told[body] = error
            else:
                self.told[body] = ack.sequence
            await asyncio.sleep(0)


async def stored(broker: Broker) -> dict[int, bytes]:
    """Read all that the stream has."""
    found, query = dict[int, bytes](), {"seq": 1, "next_by_subj": ">"}
    while (message := await broker.api.message("S", query, in_seconds(30))) is not None:
        found[message.sequence] = message.body
        query["seq"] = message.sequence + 1
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fate", FATES)
async def test_writes_all_the_time(wakeful: Broker, own_nats_server: NatsServer, fate: str) -> None:
    """Keyed writes succeed and are stored once; the others too, or their outcome is unknown."""
    await wakeful.stream("S", storage="file")
    writers = Writers(wakeful)
    writers.start(8, keyed=True)
    writers.start(8, keyed=False)
    for turn in range(1, 5):
        await eventually(partial(more_than, writers.told, 100 * turn))
        await befall(fate, own_nats_server, wakeful)
    await writers.stop()
    found = await stored(wakeful)
    assert max(Counter(found.values()).values()) == 1
    places = {body: sequence for sequence, body in found.items()}
    for body, outcome in writers.told.items():
        if isinstance(outcome, int):
            assert places[body] == outcome
        else:
            assert isinstance(outcome, OutcomeUnknown), (body, outcome)
            assert body.startswith(b"plain")
    assert set(places) <= set(writers.told)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fate", FATES)
async def test_pulls_all_the_time(wakeful: Broker, own_nats_server: NatsServer, fate: str) -> None:
    """Every message arrives, and is settled in the end, with an inbox opened anew after each time."""
    await wakeful.stream("S", storage="file")
    config = {"durable_name": "c", "ack_policy": "explicit", "ack_wait": 1_000_000_000, "max_ack_pending": 50}
    await wakeful.api.create_consumer("S", "c", config, in_seconds(20))
    seen, inbox = Counter[int](), 0
    options = PullOptions(expires=1.0, heartbeat=0.2)

    def take(arrival: Arrival) -> None:
        if isinstance(arrival, Message):
            seen[int(split_ack_subject(arrival.reply)[1])] += 1
            puller.tell(arrival.reply, ACK)
            puller.pull(1)
        elif isinstance(arrival, PullEnded):
            puller.pull(arrival.left)

    def begin() -> None:
        nonlocal inbox
        assert puller.open()
        assert puller.pull(20)
        inbox += 1

    puller = Puller(wakeful.connection, "S", "c", options, take)
    wakeful.connection.on_connected.append(begin)
    begin()
    writers = Writers(wakeful)
    writers.start(4, keyed=True)
    for turn in range(1, 4):
        await eventually(partial(more_than, seen, 30 * turn))
        await befall(fate, own_nats_server, wakeful)
    await writers.stop()
    last = max(outcome for outcome in writers.told.values() if isinstance(outcome, int))
    await eventually(lambda: len(seen) == last)
    await settled(wakeful, last)
    await puller.close()
    assert set(seen) == set(range(1, last + 1))
    assert inbox == 4


async def settled(broker: Broker, last: int) -> None:
    """Wait until the consumer has everything settled up to this sequence."""
    async with asyncio.timeout(30):
        while True:
            state = await broker.api.consumer("S", "c", in_seconds(30))
            assert state is not None
            if state.settled_to == last:
                return
            await asyncio.sleep(0.02)


async def test_a_server_that_was_frozen_for_a_moment(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """It is not left for that: nothing is lost, and what was sent meanwhile arrives."""
    connection, got = own_broker.connection, list[bytes]()
    connection.subscribe(b"news", lambda message: got.append(message.body))
    connection.subscribe(b"echo", lambda asked: connection.publish(asked.reply, asked.body))
    await wire_of(own_broker).ping()
    own_nats_server.freeze()
    for number in range(100):
        connection.publish(b"news", b"%d" % number)
    asked = asyncio.create_task(own_broker.requests.request(b"echo", b"?", b"", in_seconds(20)))
    await asyncio.sleep(0.3)
    own_nats_server.thaw()
    assert await asked == b"?"
    assert got == [b"%d" % number for number in range(100)]
    assert connection.reconnects == 0


async def test_a_server_with_other_data(
    own_broker: Broker, own_nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A server that has lost its streams says so to who writes, and is no reason to wait."""
    await own_broker.stream("S")
    writes = Writes(own_broker.requests, own_broker.api)
    await writes.write(Write(b"S.a", b"", b"", in_seconds(20)))
    await befall("killed", own_nats_server, own_broker)
    with pytest.raises(NatsError, match=r"S\.a"):
        await writes.write(Write(b"S.a", b"", b"", in_seconds(60)))
    with pytest.raises(JetStreamError):
        await own_broker.api.stream_info("S", in_seconds(60))


@pytest.mark.timeout(240)
async def test_many_restarts(
    own_broker: Broker, own_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """They leave no task, no file descriptor and no memory behind."""
    caplog.set_level(logging.CRITICAL, "windshift")  # what was logged would be kept
    connection = own_broker.connection
    for number in range(20):
        connection.subscribe(b"news.%d" % number, lambda _: None)
    connection.subscribe(b"silence", lambda _: None)
    marks: list[tuple[int, int, int]] = []
    deadline = in_seconds(600)  # one for all: a place to wait in is kept until then
    for turn in range(50):
        outcomes = list[Outcome]()
        for _ in range(20):
            own_broker.requests.send(b"silence", b"", b"", outcomes.append, deadline)
        inbox = connection.subscribe_once(lambda _: None)
        assert inbox is not None
        own_nats_server.kill()
        await own_broker.lost()
        assert outcomes == [NoReply.DISCONNECTED] * 20
        own_nats_server.start()
        await connection.wait_ready(in_seconds(30))
        assert await own_broker.requests.round_trip(deadline)
        if turn in (10, 49):
            gc.collect()
            ours = sum(type(each).__module__.startswith("windshift.nats") for each in gc.get_objects())
            marks.append((len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")), ours))  # noqa: PTH208 - counted only
    (tasks, files, objects), (tasks_now, files_now, objects_now) = marks
    assert tasks_now == tasks == 2
    assert files_now <= files
    assert objects_now - objects < 39  # not one object per restart
    assert connection.reconnects == 50


# --- Several servers --------------------------------------------------------------------------------------


@pytest.fixture
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NatsServer]]:
    """Give a test a cluster of three whose servers it may kill."""
    with running_cluster(lambda: tmp_path_factory.mktemp("own")) as servers:
        yield servers


@asynccontextmanager
async def connected_to(server: NatsServer) -> AsyncIterator[Broker]:
    """Connect to one server of a cluster, and learn of the others."""
    async with connect(server.url, BRIEF) as broker:
        await eventually(lambda: len(wire_of(broker).info.connect_urls) == 3)
        yield broker


async def gone_over(broker: Broker, dying: NatsServer) -> None:
    """Kill the server that a connection is to, and return when it is to another one."""
    before = broker.connection.reconnects
    dying.kill()
    await eventually(lambda: broker.connection.reconnects > before)
    await broker.connection.wait_ready(in_seconds(30))


@pytest.mark.timeout(120)
async def test_servers_that_nobody_named(own_cluster: list[NatsServer]) -> None:
    """Who knows one server of a cluster gets to the others when that dies, and back."""
    first, second, third = own_cluster
    async with connected_to(first) as broker:
        connection, got = broker.connection, asyncio.Queue[bytes]()
        connection.subscribe(b"news", lambda message: got.put_nowait(message.body))
        await gone_over(broker, first)
        now = serving(broker, second, third)
        await gone_over(broker, now)
        last = serving(broker, *({second, third} - {now}))
        connection.publish(b"news", b"by the last one")
        assert await got.get() == b"by the last one"
        first.start()
        await gone_over(broker, last)
        assert serving(broker, first) is first
        connection.publish(b"news", b"by the first one")
        assert await got.get() == b"by the first one"


@pytest.mark.timeout(120)
async def test_hand_over_without_loss(own_cluster: list[NatsServer]) -> None:
    """When a server is about to stop every request is answered, and no message is missed."""
    first, second, _ = own_cluster
    async with connected_to(first) as broker, connect(second.url, BRIEF) as other:
        connection, told, got = broker.connection, list[str](), set[int]()
        connection.on_lost.append(lambda: told.append("lost"))
        connection.on_replaced.append(lambda: told.append("replaced"))
        connection.subscribe(b"news", lambda message: got.add(int(message.body)))
        other.connection.subscribe(b"echo", lambda asked: other.connection.publish(asked.reply, asked.body))
        async with asyncio.timeout(30):  # until the servers know of it
            while not got or await broker.requests.request(b"echo", b"", b"", in_seconds(5)) != b"":
                other.connection.publish(b"news", b"0")
                await asyncio.sleep(0.01)
        stopping = asyncio.Event()
        news = 0

        async def ask() -> list[Outcome]:
            outcomes = list[Outcome]()
            while not stopping.is_set():
                outcomes.append(await broker.requests.request(b"echo", b"?", b"", in_seconds(20)))
            return outcomes

        async def tell() -> None:
            nonlocal news
            while not stopping.is_set():
                news += 1
                other.connection.publish(b"news", b"%d" % news)
                await asyncio.sleep(0.001)

        asking = [asyncio.create_task(ask()) for _ in range(10)]
        telling = asyncio.create_task(tell())
        await asyncio.sleep(0.1)
        first.enter_lame_duck_mode()
        await eventually(lambda: bool(told))
        await asyncio.sleep(2 * BRIEF.linger.total_seconds())  # until it was left for good
        stopping.set()
        await telling
        outcomes = [outcome for each in await asyncio.gather(*asking) for outcome in each]
        assert len(outcomes) > 100
        assert set(outcomes) == {b"?"}
        assert told == ["replaced"]
        assert serving(broker, *own_cluster) is not first
        await eventually(lambda: got >= set(range(1, news + 1)))
    await eventually(lambda: len(asyncio.all_tasks()) == 1)


@pytest.mark.timeout(120)
async def test_servers_that_stop_one_after_the_other(own_cluster: list[NatsServer]) -> None:
    """A rolling restart in good order is no outage: there is a connection all the time."""
    async with connected_to(own_cluster[0]) as broker:
        connection, told = broker.connection, list[str]()
        connection.on_lost.append(lambda: told.append("lost"))
        connection.on_replaced.append(lambda: told.append("replaced"))
        for turn in range(1, 4):
            leaving = serving(broker, *own_cluster)
            leaving.enter_lame_duck_mode()
            await eventually(partial(more_than, told, turn - 1))
            assert connection.connected
            await eventually(lambda: len(connection._left) == 0)  # until then it is listened to
            leaving.kill()
            leaving.start()
            await eventually(lambda: len(wire_of(broker).info.connect_urls) == 3)
        assert told == ["replaced"] * 3


async def test_a_start_that_is_given_up(own_nats_server: NatsServer) -> None:
    """A connection that was closed before it was there does nothing later."""
    own_nats_server.freeze()
    connection = Connection(replace(WAKEFUL, servers=parse_servers(own_nats_server.url)))
    connecting = asyncio.create_task(connection.connect())
    await asyncio.sleep(0.1)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await connection.close()
    own_nats_server.thaw()
    with pytest.raises(NotConnected):
        connection.publish(b"x")
    assert len(asyncio.all_tasks()) == 1
