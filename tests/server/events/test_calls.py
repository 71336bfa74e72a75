"""The consume calls of a process: what they share, and who is told what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from tests.nats.waiting import eventually
from tests.server.events.consuming import prepare, share
from tests.server.events.test_consume_protocol import PLAIN, snapshot
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.events.consuming.calls import Calls
from windshift.server.events.consuming.consumer_state import ConsumerSnapshot
from windshift.server.events.deliveries import DeliveryName
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.notes import CONSUMER, DEAD, ELECTED, REPLAY, Notes
from windshift.server.events.runs import Run

KEY = ConsumerKey("S", "c")


class Listening:
    """A call that remembers what it was told."""

    run_name = ""
    is_busy = False

    def __init__(self) -> None:
        self.told: list[str] = []

    def noted(self, kind: str) -> None:
        self.told.append(kind)

    def lost(self) -> None:
        self.told.append("lost")

    def connected(self, *, is_same: bool) -> None:
        self.told.append("connected again" if is_same else "connected elsewhere")

    def replaced(self) -> None:
        self.told.append("replaced")

    def hold_still(self, run: Run, until: float) -> None:
        raise NotImplementedError

    def taken(self, number: int, deliveries: Iterable[DeliveryName]) -> list[StreamSeq]:
        raise NotImplementedError

    def objected(self, number: int, seqs: Iterable[StreamSeq]) -> None:
        raise NotImplementedError


def found(unsettled: int = 0, **config: object) -> ConsumerSnapshot:
    """Describe a consumer, with a configuration of its own."""
    some = snapshot(PLAIN)
    return replace(some, info=replace(some.info, config=config, unsettled=unsettled))


def test_one_configuration_for_all() -> None:
    """What was found later has the configuration of the first, and its own progress; until that changes."""
    calls, first, second = Calls(), Listening(), Listening()
    known = found(metadata={"a": "b"})
    assert calls.share(KEY, known) is known
    calls.attach(KEY, first, known)
    again = calls.share(KEY, found(7, metadata={"a": "b"}))
    assert again.info.config is known.info.config
    assert again.info.unsettled == 7
    calls.attach(KEY, second, again)
    changed = found(metadata={"a": "c"})
    assert calls.share(KEY, changed) is changed
    assert calls.share(KEY, found(metadata={"a": "c"})).info.config is changed.info.config
    for call in (first, second):
        calls.detach(KEY, call)
    another = found(metadata={"a": "c"})
    assert calls.share(KEY, another) is another
    assert calls.of(KEY) == []


async def test_calls_of_one_consumer(broker: Broker, unique: Callable[[], str]) -> None:
    """They have one configuration in memory, also after each has looked at the consumer again."""
    consuming = await prepare(broker, unique())
    consuming = replace(consuming, shared=share(broker))
    async with consuming.worker() as first, consuming.worker() as second:
        attachments = [worker.consume_call._attachment for worker in (first, second)]
        for attachment in filter(None, attachments):
            await attachment._runner._look_up()
        protocols = [attachment.protocol for attachment in filter(None, attachments)]
        assert len({id(protocol.state.found.info.config) for protocol in protocols}) == 1
        assert len(protocols) == 2


async def test_who_is_told(broker: Broker) -> None:
    """Of a note: the calls of that consumer; of the connection: all, as long as they are attached."""
    notes, calls = Notes(broker.connection), Calls()
    connection = broker.connection
    before = [list(hooks) for hooks in (connection.on_lost, connection.on_connected, connection.on_replaced)]
    calls.follow(connection, notes)
    notes.start()
    await broker.requests.round_trip(in_seconds(30))
    here, elsewhere = Listening(), Listening()
    calls.attach(KEY, here, found())
    calls.attach(ConsumerKey("S", "d"), elsewhere, found())
    for kind in (CONSUMER, REPLAY, DEAD):
        notes.send(kind, *KEY)
    broker.connection.publish(b"$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.S.c", b"{}")
    await broker.requests.round_trip(in_seconds(30))
    assert (here.told, elsewhere.told) == ([CONSUMER, REPLAY, ELECTED], [])
    for hooks, old in zip(
        (connection.on_lost, connection.on_connected, connection.on_replaced), before, strict=True
    ):
        (hook,) = (each for each in hooks if each not in old)
        hook()
        hooks.remove(hook)
    assert elsewhere.told == here.told[3:] == ["lost", "connected again", "replaced"]


async def test_another_process_of_the_broker(own_nats_server: NatsServer) -> None:
    """Calls are told when the nats-server that a connection is to was started anew: it may have forgotten."""
    async with connect(own_nats_server.url) as broker:
        calls, call = Calls(), Listening()
        calls.follow(broker.connection, Notes(broker.connection))
        calls.attach(KEY, call, found())
        own_nats_server.kill()
        own_nats_server.start()
        await eventually(lambda: len(call.told) == 2)
        assert call.told == ["lost", "connected elsewhere"]
