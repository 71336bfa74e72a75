"""Ends of events on a real nats-server: two servers hold one event, and one of them decides how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from tests.faults.proxy import Proxy, running_proxy
from tests.server.events.consuming import AT_ONCE, PATIENT, Consuming, Worker, make_consumer
from tests.server.events.keeping import Keeper, keep
from tests.support.broker import connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.events.consuming.commands import Action, Reject
from windshift.server.events.consuming.flow import STUCK
from windshift.server.events.consuming.interfaces import ConsumeOptions
from windshift.server.events.consuming.peers import Peers
from windshift.server.events.consuming.pending_acks import CommandKind
from windshift.server.events.consuming.shared import Shared
from windshift.server.events.dead_letters.model import DeadLetterId
from windshift.server.events.model import StreamSeq
from windshift.server.events.retries import METADATA_KEY, RetryPolicy, policy_metadata

Unique = Callable[[], str]

ONCE, TWICE, OFTEN = (
    RetryPolicy(most, timedelta(milliseconds=1), timedelta(milliseconds=50), dead_letters=True)
    for most in (1, 2, 5)
)


@dataclass(frozen=True, slots=True)
class Server:
    """What one server has of its own."""

    keeper: Keeper
    shared: Shared

    def on(self, consuming: Consuming) -> Consuming:
        """Consume by way of this server."""
        return replace(consuming, nats=self.keeper.broker, shared=self.shared, options=ConsumeOptions())


@asynccontextmanager
async def server(url: str) -> AsyncIterator[Server]:
    """Run one, as far as events need it."""
    async with connect(url) as broker:
        keeper = await keep(broker)
        yield Server(keeper, keeper.shared())


@dataclass(frozen=True, slots=True)
class Pair:
    """Two servers; the way of the first one to NATS may be stalled."""

    way: Proxy
    far: Server
    near: Server

    async def stream(self, name: str) -> str:
        """Make a stream."""
        return await self.near.keeper.broker.stream(name, storage="file")

    async def consumer(self, stream: str, name: str, policy: RetryPolicy, timeout: float) -> Consuming:
        """Make a consumer; a call of it is not attached to a server yet."""
        metadata = {METADATA_KEY: policy_metadata(policy)}
        await make_consumer(self.near.keeper.broker, stream, name, timeout, metadata=metadata)
        return Consuming(self.near.keeper.broker, stream, name)

    async def letters(self, consuming: Consuming) -> set[int]:
        """Return the ids of events that are dead letters."""
        store, found = self.near.keeper.store, set()
        ended = await store.recall(consuming.stream, consuming.consumer, in_seconds(30))
        for seq, stored_ns in ended.items():
            id_ = DeadLetterId(consuming.stream, consuming.consumer, seq, stored_ns)
            if await store.get(id_, in_seconds(30)) is not None:
                found.add(int(seq))
        return found


@pytest.fixture
async def pair(own_nats_server: NatsServer) -> AsyncIterator[Pair]:
    """Run two servers on one nats-server."""
    async with (
        running_proxy("127.0.0.1", own_nats_server.port) as way,
        server(f"nats://{way.address}") as far,
        server(own_nats_server.url) as near,
    ):
        yield Pair(way, far, near)


def reject(worker: Worker, seq: int, action: Action = Action.UNSPECIFIED) -> None:
    """Reject an event."""
    worker.say(Reject([StreamSeq(seq)], False, None, action=action))


async def delivered(consuming: Consuming, count: int) -> None:
    """Wait until the broker has sent so many events."""
    async with asyncio.timeout(30):
        while (await consuming.info())["num_ack_pending"] < count:  # noqa: ASYNC110 - it lies in the broker
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_acknowledged", [True, False], ids=["acknowledged", "given up on"])
async def test_a_delivery_that_was_held_up(pair: Pair, unique: Unique, is_acknowledged: bool) -> None:
    """Its holder says something else than the next one has said: it is invalid."""
    stream = await pair.stream(unique())
    consuming = await pair.consumer(stream, "c", TWICE, 2.5)
    near = pair.near.on(consuming)
    async with pair.far.on(consuming).worker(window=1) as far:
        await near.settled({"num_waiting": 1})
        pair.way.stall()
        await near.publish()
        await delivered(near, 1)
        await asyncio.sleep(1.25)
        pair.way.flow()
        async with near.worker() as other:
            assert (await far.event()).attempt == 1
            assert (await other.event()).attempt == 2
            if is_acknowledged:
                other.ack(1)
                assert await other.told() == (CommandKind.ACK, [1], [], [])
                reject(far, 1, Action.DEAD_LETTER)
                assert await far.told() == (CommandKind.REJECT, [], [1], [])
            else:
                reject(other, 1)
                assert await other.told() == (CommandKind.REJECT, [1], [], [])
                far.ack(1)
                assert await far.told() == (CommandKind.ACK, [], [1], [])
            assert await pair.letters(consuming) == (set() if is_acknowledged else {1})


async def test_acks_that_a_frozen_broker_takes_too_late(
    own_nats_server: NatsServer, pair: Pair, unique: Unique
) -> None:
    """Each event ends acknowledged or as a dead letter, and who acknowledged it is told which."""
    consuming = await pair.consumer(await pair.stream(unique()), "c", ONCE, 1.5)
    total = 40
    async with pair.far.on(consuming).worker() as far, pair.near.on(consuming).worker() as near:
        await pair.near.on(consuming).publish(total)
        held: list[tuple[Worker, int]] = []
        async with asyncio.timeout(30):
            while len(held) < total:
                for worker in (far, near):
                    while not worker.deliveries.empty():
                        held.append((worker, int((await worker.event()).id)))
                await asyncio.sleep(0.01)
        own_nats_server.freeze()
        for worker, seq in held:
            worker.ack(seq)
        await asyncio.sleep(2.0)
        own_nats_server.thaw()
        told = [await worker.told() for worker, _ in held]
        confirmed = {seq for _, ids, _, _ in told for seq in ids}
        invalid = {seq for _, _, ids, _ in told for seq in ids}
        await consuming.settled({"num_ack_pending": 0, "num_pending": 0})
        assert confirmed | invalid == set(range(1, total + 1))
        assert await pair.letters(consuming) == invalid


@pytest.mark.parametrize("policy", [OFTEN, RetryPolicy()], ids=["dead letters", "none"])
@pytest.mark.parametrize("is_floor_stuck", [True, False], ids=["an older one is held", "all are settled"])
async def test_a_delivery_that_is_late(
    pair: Pair, unique: Unique, policy: RetryPolicy, is_floor_stuck: bool
) -> None:
    """It is not handed out when another server has got the event settled in the meantime."""
    consuming = await pair.consumer(await pair.stream(unique()), "c", policy, 1.5)
    near = pair.near.on(consuming)
    if is_floor_stuck:
        await near.publish()
        async with near.worker() as worker:
            await worker.event()
            worker.reject(1, delay=600)
            await worker.told()
    async with pair.far.on(consuming).worker(window=1) as far:
        await near.settled({"num_waiting": 1})
        pair.way.stall()
        await near.publish()
        await delivered(near, 1 + is_floor_stuck)
        async with near.worker() as other:
            event = await other.event()
            assert event.attempt == 2
            other.ack(event.id)
            assert await other.told() == (CommandKind.ACK, [event.id], [], [])
        pair.way.flow()
        await far.nothing(0.5)


async def test_a_note_that_comes_behind_the_answer(
    own_nats_server: NatsServer, pair: Pair, unique: Unique
) -> None:
    """The broker is asked on a connection of its own: what others had said before is waited for."""
    consuming = await pair.consumer(await pair.stream(unique()), "c", RetryPolicy(), 1.5)
    near = pair.near.on(consuming)
    await near.publish()
    async with near.worker() as worker:  # not all that was delivered is settled
        await worker.event()
        worker.reject(1, delay=600)
        await worker.told()
    async with connect(own_nats_server.url) as reads:
        apart = copy(pair.far.shared)
        apart.api = reads.api
        async with replace(pair.far.on(consuming), shared=apart).worker(window=1) as far:
            await near.settled({"num_waiting": 1})
            pair.way.stall()
            await near.publish()
            await delivered(near, 2)
            async with near.worker() as other:
                event = await other.event()
                other.ack(event.id)
                assert await other.told() == (CommandKind.ACK, [event.id], [], [])
            pair.way.flow()  # the delivery, but not the note behind it
            pair.way.stall()
            await far.nothing(0.5)
            pair.way.flow()
            await far.nothing(0.5)


async def test_a_restart_of_the_broker(own_nats_server: NatsServer, pair: Pair, unique: Unique) -> None:
    """It delivers again what is held; an ack of that is decided, and a reject of it is invalid."""
    consuming = await pair.consumer(await pair.stream(unique()), "c", OFTEN, 10.0)
    near = pair.near.on(consuming)
    async with near.worker() as worker:
        await near.publish(2)
        await worker.events(2)
        own_nats_server.stop()
        await pair.near.keeper.broker.lost()
        own_nats_server.start()
        await pair.near.keeper.broker.connection.wait_ready(in_seconds(30))
        worker.ack(1)
        reject(worker, 2, Action.DEAD_LETTER)
        assert await worker.told() == (CommandKind.ACK, [1], [], [])
        assert await worker.told() == (CommandKind.REJECT, [], [2], [])
        ended = await pair.near.keeper.store.recall(consuming.stream, "c", in_seconds(30))
        assert set(ended) == {1}
        assert await pair.letters(consuming) == set()


async def test_an_ack_while_there_is_no_connection(
    pair: Pair, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent and confirmed once the consumer was seen, however long it takes to read the dead letters."""
    began, may_end = asyncio.Event(), asyncio.Event()

    async def recall(*_: object) -> dict[StreamSeq, int]:
        began.set()
        await may_end.wait()
        return {}

    consuming = await pair.consumer(await pair.stream(unique()), "c", OFTEN, 60.0)
    far = pair.far.on(consuming).quick(confirm_timeout=timedelta(seconds=40), pull=PATIENT)
    async with far.worker() as worker:
        await pair.near.on(consuming).publish()
        await worker.event()
        monkeypatch.setattr(pair.far.shared, "recall", recall)
        pair.way.accepts = False
        pair.way.cut()
        await pair.far.keeper.broker.lost()
        worker.ack(1)
        await asyncio.sleep(2 * STUCK)  # so that no timer of the last delivery has the call take a turn
        pair.way.accepts = True
        await asyncio.wait_for(began.wait(), 30)
        assert await worker.told(within=AT_ONCE) == (CommandKind.ACK, [1], [], [])
        may_end.set()


async def test_a_loss_while_others_are_waited_for(
    own_nats_server: NatsServer, pair: Pair, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No dead letter is made of a delivery that the broker may have forgotten meanwhile."""
    began, heard = asyncio.Event(), asyncio.Event()

    async def wait(_: Peers) -> None:
        began.set()
        await heard.wait()

    monkeypatch.setattr(Peers, "heard", wait)
    consuming = await pair.consumer(await pair.stream(unique()), "c", OFTEN, 10.0)
    near = pair.near.on(consuming)
    async with near.worker() as worker:
        await near.publish()
        await worker.event()
        reject(worker, 1, Action.DEAD_LETTER)
        await began.wait()
        own_nats_server.stop()
        await pair.near.keeper.broker.lost()
        own_nats_server.start()
        await pair.near.keeper.broker.connection.wait_ready(in_seconds(30))
        heard.set()
        assert await worker.told() == (CommandKind.REJECT, [], [], [1])
        assert await pair.letters(consuming) == set()
