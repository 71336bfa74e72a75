"""Consuming while the broker is away, restarted, or as good as dead."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from tests.server.events.consuming import Consuming, Worker, consume_all, make_consumer, prepare
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.domain.errors import BrokerUnavailable
from windshift.server.events.consuming.pending_acks import CommandKind

Unique = Callable[[], str]


@pytest.fixture
async def consuming(own_broker: Broker, unique: Unique) -> Consuming:
    """Prepare a stream with a consumer that outlive a restart; an ack that is lost may be repeated soon."""
    return (await prepare(own_broker, unique(), storage="file")).quick(confirm_timeout=timedelta(seconds=1))


async def test_calls_go_on_after_a_restart(own_nats_server: NatsServer, consuming: Consuming) -> None:
    """Clients notice nothing: what they hold stays theirs, and new events arrive."""
    await consuming.publish(2)
    async with consuming.worker(window=5) as worker:
        await worker.events(2)
        own_nats_server.stop()
        own_nats_server.start()
        await acknowledge(worker, 1)
        await consuming.nats.connection.wait_ready(in_seconds(30))
        await consuming.publish(3)
        assert [event.id for event in await worker.events(3)] == [3, 4, 5]
        await acknowledge(worker, 2)
        await consuming.settled({"num_ack_pending": 3, "num_redelivered": 0})


async def test_calls_go_on_after_a_crash(own_nats_server: NatsServer, consuming: Consuming) -> None:
    """The broker may have forgotten its last deliveries; they come again, and nothing is skipped."""
    await consuming.publish(2)
    async with consuming.worker(window=5) as worker:
        await worker.events(2)
        own_nats_server.kill()
        own_nats_server.start()
        await acknowledge(worker, 1)
        await acknowledge(worker, 2)
        await consuming.nats.connection.wait_ready(in_seconds(30))
        await consuming.publish(3)
        seen: set[int] = set()
        while not seen >= {3, 4, 5}:
            seen |= {event.id for event in await worker.events(1)}
        assert seen <= {1, 2, 3, 4, 5}


async def acknowledge(worker: Worker, seq: int) -> None:
    """Acknowledge until it is confirmed; only failures that may be tried again may come before."""
    while True:
        worker.ack(seq)
        told = await worker.told()
        if told == (CommandKind.ACK, [seq], [], []):
            return
        assert told == (CommandKind.ACK, [], [], [seq])


async def test_confirmed_acks_outlive_a_crash(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """An event whose ack was confirmed is not delivered again, though a crashed broker forgets some acks."""
    consuming = await prepare(own_broker, "acked", ack_wait=1.5, storage="file")
    async with consuming.worker(window=1000) as worker:
        for crash in range(1, 6):
            await consuming.publish(300)
            ids = [event.id for event in await worker.events(300)]
            assert ids == [*range(300 * crash - 299, 300 * crash + 1)]
            worker.ack(*ids)
            assert await worker.told() == (CommandKind.ACK, ids, [], [])
            lost = asyncio.Event()
            own_broker.connection.on_lost.append(lost.set)
            own_nats_server.kill()
            await lost.wait()
            own_broker.connection.on_lost.remove(lost.set)
            own_nats_server.start()
            await own_broker.connection.wait_ready(in_seconds(30))
        await consuming.settled({"num_ack_pending": 0, "num_pending": 0})
        assert worker.deliveries.empty()


async def test_ids_that_a_broker_assigns_again(
    own_nats_server: NatsServer, own_broker: Broker, tmp_path: Path
) -> None:
    """A broker that loses power loses its last events, acknowledged or not; those that get their ids come."""
    consuming = await prepare(own_broker, "again", storage="file")
    await consuming.publish(2)
    async with consuming.worker(window=10) as worker:
        await worker.events(2)
        await acknowledge(worker, 1)
        await acknowledge(worker, 2)
        await consuming.settled({"num_ack_pending": 0})
        own_nats_server.stop()
        await own_broker.lost()
        shutil.copytree(own_nats_server.store, tmp_path / "before")
        own_nats_server.start()
        await own_broker.connection.wait_ready(in_seconds(30))
        await consuming.publish(3)
        assert [event.id for event in await worker.events(3)] == [3, 4, 5]
        await acknowledge(worker, 3)
        await acknowledge(worker, 4)
        own_nats_server.kill()
        await own_broker.lost()
        shutil.rmtree(own_nats_server.store)
        shutil.copytree(tmp_path / "before", own_nats_server.store)
        own_nats_server.start()
        await own_broker.connection.wait_ready(in_seconds(30))
        for seq in (3, 4, 5):
            await consuming.publish(1, b"new")
            event = await worker.event()
            assert (event.id, event.attempt, event.data) == (seq, 1, b"new")
            await acknowledge(worker, seq)


async def test_without_a_broker_acks_fail_for_now(own_nats_server: NatsServer, consuming: Consuming) -> None:
    """They fail when the time that the broker has to answer is over, and can be tried again later."""
    await consuming.publish(3)
    async with consuming.worker() as worker:
        await worker.events(3)
        own_nats_server.kill()
        worker.ack(1)
        worker.ping(2)
        worker.reject(3)
        assert [await worker.told() for _ in range(3)] == [
            (CommandKind.ACK, [], [], [1]),
            (CommandKind.PING, [], [], [2]),
            (CommandKind.REJECT, [], [], [3]),
        ]
        assert not worker.call.done()
        own_nats_server.start()
        for seq in (1, 2, 3):
            await acknowledge(worker, seq)


async def test_a_broker_that_does_not_answer_makes_acks_fail_for_now(
    own_nats_server: NatsServer, consuming: Consuming
) -> None:
    """Also with the connection up; a later try succeeds, and the first one's answer does no harm."""
    await consuming.publish(2)
    async with consuming.quick(confirm_timeout=timedelta(seconds=1.5)).worker() as worker:
        await worker.events(2)
        own_nats_server.freeze()
        worker.ack(1)
        assert await worker.told() == (CommandKind.ACK, [], [], [1])
        own_nats_server.thaw()
        worker.ack(1, 2)
        assert await worker.told() == (CommandKind.ACK, [1, 2], [], [])
        await consuming.settled({"num_ack_pending": 0, "num_redelivered": 0})


async def test_requests_that_were_lost_are_sent_again_and_the_window_holds(
    own_nats_server: NatsServer, consuming: Consuming
) -> None:
    """A broker that was silent for a while is asked anew; what it was asked before counts no more."""
    async with consuming.worker(window=4) as worker:
        await consuming.settled({"num_waiting": 1})
        own_nats_server.freeze()
        await asyncio.sleep(consuming.options.pull.silence + 0.2)
        own_nats_server.thaw()
        await consuming.publish(20)
        await worker.events(4)
        await worker.nothing()
        assert await consuming.pending() <= 4
        for seq in range(1, 5):
            worker.ack(seq)
        assert [event.id for event in await worker.events(4)] == [5, 6, 7, 8]


async def test_a_call_may_begin_while_the_broker_is_coming_back(
    own_nats_server: NatsServer, consuming: Consuming
) -> None:
    """Looking up the consumer waits for the connection, for a while."""
    own_nats_server.kill()
    early = consuming.open()
    early.subscribe(consuming.stream, consuming.consumer)
    await asyncio.sleep(0.2)
    own_nats_server.start()
    async with asyncio.timeout(30):
        await early.attached.wait()
    await consuming.publish()
    await early.event()
    await early.vanish()


async def test_without_a_broker_a_call_fails(own_nats_server: NatsServer, consuming: Consuming) -> None:
    """It is told to try again."""
    own_nats_server.kill()
    worker = consuming.quick(lookup_timeout=timedelta(seconds=2)).open()
    worker.subscribe(consuming.stream, consuming.consumer)
    assert isinstance(await worker.outcome(), BrokerUnavailable)


async def test_a_call_that_ends_without_a_broker_ends_soon(
    own_nats_server: NatsServer, consuming: Consuming
) -> None:
    """What it held comes again after its timeout; nobody waits for a broker that is gone."""
    await consuming.publish()
    async with consuming.worker() as worker:
        await worker.event()
        own_nats_server.kill()
        worker.say(None)
        assert await worker.outcome() is None


@pytest.mark.timeout(120)
async def test_everything_is_settled_through_restarts(
    own_nats_server: NatsServer, own_broker: Broker, unique: Unique
) -> None:
    """Nothing is lost, and nothing that was confirmed comes again."""
    consuming = await prepare(own_broker, unique(), ack_wait=5.0, storage="file")
    total = 10_000
    for _ in range(total // 1000):
        await consuming.publish(1000)

    async def trouble() -> None:
        for _ in range(3):
            await asyncio.sleep(0.15)
            await asyncio.to_thread(own_nats_server.stop)
            await asyncio.to_thread(own_nats_server.start)
            await asyncio.sleep(0.15)
            own_nats_server.freeze()
            await asyncio.sleep(0.6)
            own_nats_server.thaw()

    async with connect(own_nats_server.url) as elsewhere:
        consumings = [consuming, consuming.on(elsewhere), consuming, consuming.on(elsewhere)]
        tally = await consume_all(consumings, total, trouble())
        assert tally.confirmed.keys() | tally.in_doubt == set(range(1, total + 1))
        assert tally.repeated == set()


@pytest.mark.timeout(120)
async def test_everything_is_settled_through_changes_of_leaders(
    cluster: list[NatsServer], unique: Unique
) -> None:
    """In a cluster, by way of all servers, and with a new leader of the consumer now and then."""
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(connect(server.url)) for server in cluster]
        await brokers[0].api.call("INFO", None, in_seconds(60))
        stream, total = unique(), 6000
        await brokers[0].stream(stream, storage="file", num_replicas=3)
        await make_consumer(brokers[0], stream, "c", 5.0)
        consuming = Consuming(brokers[0], stream, "c")
        for _ in range(total // 500):
            await consuming.publish(500)

        async def trouble() -> None:
            for number in range(4):
                await asyncio.sleep(0.1)
                await brokers[number % 3].api.call(
                    f"CONSUMER.LEADER.STEPDOWN.{stream}.c", None, in_seconds(30)
                )

        tally = await consume_all([consuming.on(broker) for broker in brokers], total, trouble())
        assert tally.confirmed.keys() | tally.in_doubt == set(range(1, total + 1))
        assert tally.repeated == set()
