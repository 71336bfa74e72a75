"""Outstanding replays on a real broker: one pointer for each, and gone when it is settled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from tests.server.events.keeping import Keeper, forget_all, keep
from tests.server.events.management import eventually
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.domain.errors import BrokerUnavailable
from windshift.server.events.dead_letters.model import DeadLetterId
from windshift.server.events.dead_letters.replay_queue import STREAM, read_pointer
from windshift.server.events.deliveries import read_delivery
from windshift.server.events.model import StreamSeq
from windshift.server.events.notes import REPLAY

Unique = Callable[[], str]

TIMEOUT = timedelta(seconds=30)


@pytest.fixture
async def keeper(broker: Broker) -> Keeper:
    """Keep replays on the shared broker, where there are none yet."""
    await forget_all(broker)
    return await keep(broker)


def dead_letter_id(stream: str, consumer: str = "c", seq: int = 1) -> DeadLetterId:
    """Name a dead letter."""
    return DeadLetterId(stream, consumer, StreamSeq(seq), 1_795_532_049_123_456_789)


async def test_a_pointer_comes_to_its_consumer(keeper: Keeper, unique: Unique) -> None:
    """The consumer is handed which dead letter is replayed, and for which time; an ack ends it."""
    one, replays = dead_letter_id(unique()), keeper.replays
    assert await replays.add(one, 3, in_seconds(5))
    name = await replays.ensure_consumer(one.stream, one.consumer, TIMEOUT, in_seconds(5))
    message = await keeper.next(STREAM, name)
    assert read_pointer(read_delivery(message)) == (one, 3)
    assert await replays.outstanding(one.stream, one.consumer, in_seconds(5)) == {one}
    await keeper.settle(message)
    await eventually(lambda: replays.outstanding(one.stream, one.consumer, in_seconds(5)), frozenset())
    assert await replays.add(one, 4, in_seconds(5))


async def test_many_replays_at_once(keeper: Keeper, unique: Unique) -> None:
    """Of many replays of one dead letter one is outstanding; exactly one caller began it."""
    one = dead_letter_id(unique())
    begun = await asyncio.gather(*(keeper.replays.add(one, 1, in_seconds(10)) for _ in range(100)))
    assert begun.count(True) == 1
    assert await keeper.broker.messages(STREAM) == 1
    assert await keeper.replays.outstanding("", "", in_seconds(5)) == {one}


async def test_outstanding_ones_of_some(keeper: Keeper, unique: Unique) -> None:
    """What is outstanding is told of one consumer, of a stream, or of all."""
    stream, other = unique(), unique()
    ids = [
        dead_letter_id(stream),
        dead_letter_id(stream, seq=2),
        dead_letter_id(stream, "d"),
        dead_letter_id(other),
    ]
    assert await keeper.replays.outstanding("", "", in_seconds(5)) == frozenset()
    for each in ids:
        await keeper.replays.add(each, 1, in_seconds(5))
    ask = keeper.replays.outstanding
    assert await ask(stream, "c", in_seconds(5)) == set(ids[:2])
    assert await ask(stream, "", in_seconds(5)) == set(ids[:3])
    assert await ask("", "", in_seconds(5)) == set(ids)
    with pytest.raises(ValueError):
        await ask("*", "c", in_seconds(5))


async def test_only_its_own_pointers(keeper: Keeper, unique: Unique) -> None:
    """A consumer gets the pointers of its own dead letters and of no other consumer's."""
    stream = unique()
    ids = [dead_letter_id(stream, consumer) for consumer in ("c", "cc", "d")]
    for each in ids:
        await keeper.replays.add(each, 1, in_seconds(5))
    for each in ids:
        name = await keeper.replays.ensure_consumer(stream, each.consumer, TIMEOUT, in_seconds(5))
        message = await keeper.next(STREAM, name)
        assert read_pointer(read_delivery(message)) == (each, 1)
        await keeper.settle(message)


async def test_the_consumer_of_pointers(keeper: Keeper, unique: Unique) -> None:
    """It is made once, by any number of servers; a new timeout is taken over; long names are fine."""
    stream, consumer = unique().ljust(255, "s"), "c" * 255
    names = await asyncio.gather(
        *(keeper.replays.ensure_consumer(stream, consumer, TIMEOUT, in_seconds(20)) for _ in range(20))
    )
    assert len(set(names)) == 1
    assert len(names[0]) <= 255
    assert await keeper.replays.ensure_consumer(stream, consumer, 2 * TIMEOUT, in_seconds(5)) == names[0]
    info = await keeper.broker.api.call(f"CONSUMER.INFO.{STREAM}.{names[0]}", None, in_seconds(5))
    assert info["config"]["ack_wait"] == 60 * 10**9
    assert info["config"]["max_deliver"] == -1
    await keeper.replays.add(dead_letter_id(stream, consumer), 1, in_seconds(5))
    assert read_pointer(read_delivery(await keeper.next(STREAM, names[0])))[1] == 1


async def test_different_timeouts_at_once(keeper: Keeper, unique: Unique) -> None:
    """Servers that ask for different timeouts at the same time all get the consumer."""
    stream = unique()
    timeouts = [timedelta(seconds=n + 1) for n in range(10)]
    names = await asyncio.gather(
        *(keeper.replays.ensure_consumer(stream, "c", timeout, in_seconds(20)) for timeout in timeouts)
    )
    assert len(set(names)) == 1


async def test_no_pointers(keeper: Keeper) -> None:
    """What is no pointer is told apart."""
    one = dead_letter_id("s")
    await keeper.replays.add(one, 1, in_seconds(5))
    name = await keeper.replays.ensure_consumer("s", "c", TIMEOUT, in_seconds(5))
    delivery = read_delivery(await keeper.next(STREAM, name))
    for broken in (
        delivery._replace(subject="a.b"),
        delivery._replace(subject="_WS.replay.s.c.1"),
        delivery._replace(data=b""),
        delivery._replace(data=b"x"),
    ):
        with pytest.raises(ValueError):
            read_pointer(broken)


async def test_whom_it_concerns_is_told(keeper: Keeper, unique: Unique) -> None:
    """Each call to replay is announced, also where the replay is outstanding already."""
    heard: list[int] = []
    one = dead_letter_id(unique())
    keeper.notes.listen(REPLAY, one.stream, one.consumer, lambda: heard.append(1))
    for _ in range(2):
        await keeper.replays.add(one, 1, in_seconds(5))
    await keeper.broker.requests.round_trip(in_seconds(5))
    assert len(heard) == 2


async def test_the_broker_is_away(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """Without a broker a replay fails by its deadline; pointers survive the broker's end."""
    keeper = await keep(own_broker)
    one = dead_letter_id("s")
    await keeper.replays.add(one, 1, in_seconds(5))
    own_nats_server.kill()
    await own_broker.lost()
    with pytest.raises(BrokerUnavailable):
        await keeper.replays.add(one, 1, in_seconds(0.3))
    own_nats_server.start()
    assert not await keeper.replays.add(one, 1, in_seconds(20))
    assert await keeper.replays.outstanding("s", "c", in_seconds(5)) == {one}


@pytest.mark.timeout(120)
async def test_on_a_cluster(cluster: list[NatsServer], unique: Unique) -> None:
    """By way of all members of a cluster one caller begins a replay, and its consumer works."""
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(connect(server.url)) for server in cluster]
        await brokers[0].api.call("INFO", None, in_seconds(60))
        await forget_all(brokers[0])
        keepers = [await keep(broker, default_replicas=3) for broker in brokers]
        one = dead_letter_id(unique())
        for count in range(1, 6):
            again = one._replace(seq=StreamSeq(count))
            begun = await asyncio.gather(
                *(keepers[n % 3].replays.add(again, count, in_seconds(30)) for n in range(12))
            )
            assert begun.count(True) == 1
        names = await asyncio.gather(
            *(
                keepers[n % 3].replays.ensure_consumer(one.stream, "c", TIMEOUT, in_seconds(30))
                for n in range(6)
            )
        )
        for count in range(1, 6):
            message = await keepers[count % 3].next(STREAM, names[0])
            assert read_pointer(read_delivery(message))[1] == count
            await keepers[0].settle(message)
        ask = keepers[1].replays.outstanding
        await eventually(lambda: ask(one.stream, "c", in_seconds(20)), frozenset())
