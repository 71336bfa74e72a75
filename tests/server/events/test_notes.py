"""Notes between servers: heard by whom they concern, lost without harm."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.events.notes import CONSUMER, DEAD, ELECTED, REPLAY, Notes


class Ear:
    """Counts what it hears."""

    def __init__(self) -> None:
        self.heard = 0

    def __call__(self) -> None:
        self.heard += 1


@pytest.fixture
async def notes(broker: Broker) -> Notes:
    """Hear notes by way of the shared broker."""
    return await started(broker)


@pytest.fixture
async def other(nats_server: NatsServer) -> AsyncIterator[tuple[Broker, Notes]]:
    """Send and hear notes as another server does."""
    async with connect(nats_server.url) as broker:
        yield broker, await started(broker)


async def started(broker: Broker) -> Notes:
    """Hear notes from now on."""
    notes = Notes(broker.connection)
    notes.start()
    await broker.requests.round_trip(in_seconds(30))
    return notes


async def settled(*brokers: Broker) -> None:
    """Wait until what was sent has arrived: a round trip after each other."""
    for broker in (*brokers, *brokers):
        await broker.requests.round_trip(in_seconds(30))


async def test_another_leader(broker: Broker, notes: Notes) -> None:
    """JetStream says so in an advisory, which is heard like a note."""
    here, elsewhere = Ear(), Ear()
    notes.listen(ELECTED, "s", "c", here)
    notes.listen(ELECTED, "s", "d", elsewhere)
    broker.connection.publish(b"$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.s.c", b"{}")
    await settled(broker)
    assert (here.heard, elsewhere.heard) == (1, 0)


async def test_all_servers_hear(broker: Broker, notes: Notes, other: tuple[Broker, Notes]) -> None:
    """A note is heard by listeners of all servers, that of the sender included."""
    here, there = Ear(), Ear()
    notes.listen(DEAD, "s", "c", here)
    other[1].listen(DEAD, "s", "c", there)
    notes.send(DEAD, "s", "c")
    await settled(broker, other[0])
    assert (here.heard, there.heard) == (1, 1)


async def test_only_whom_it_concerns(broker: Broker, notes: Notes) -> None:
    """Kind, stream and consumer must be those that were asked for; empty is any."""
    topics = [("s", "c"), ("s", ""), ("", "c"), ("", ""), ("s", "d"), ("t", "c"), ("t", "")]
    ears = {topic: Ear() for topic in topics}
    for (stream, consumer), ear in ears.items():
        notes.listen(REPLAY, stream, consumer, ear)
        notes.listen(CONSUMER, stream, consumer, ear)
    notes.send(REPLAY, "s", "c")
    notes.send(DEAD, "s", "c")
    await settled(broker)
    assert [topic for topic in topics if ears[topic].heard] == topics[:4]
    assert {ear.heard for ear in ears.values()} == {0, 1}


async def test_listening_ends(broker: Broker, notes: Notes) -> None:
    """Who stopped listening hears nothing, others go on; stopping twice is fine, and nothing is kept."""
    one, two = Ear(), Ear()
    stops = [notes.listen(DEAD, "s", "c", ear) for ear in (one, two)]
    stops[0]()
    stops[0]()
    notes.send(DEAD, "s", "c")
    await settled(broker)
    assert (one.heard, two.heard) == (0, 1)
    stops[1]()
    assert not notes._listeners


async def test_a_listener_that_fails(broker: Broker, notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the others hear the note all the same, also where one of them stops meanwhile."""
    after = Ear()

    def fail() -> None:
        stop()
        raise RuntimeError

    stop = notes.listen(DEAD, "s", "c", fail)
    notes.listen(DEAD, "s", "c", after)
    notes.send(DEAD, "s", "c")
    notes.send(DEAD, "s", "c")
    await settled(broker)
    assert after.heard == 2
    assert caplog.text.count("a listener to notes failed") == 1


async def test_after_a_reconnect(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """Without a connection a note is dropped, and nobody is bothered; afterwards notes are heard again."""
    notes, ear = await started(own_broker), Ear()
    notes.listen(DEAD, "s", "c", ear)
    own_nats_server.kill()
    await own_broker.lost()
    notes.send(DEAD, "s", "c")
    own_nats_server.start()
    await own_broker.connection.wait_ready(in_seconds(20))
    notes.send(DEAD, "s", "c")
    await settled(own_broker)
    assert ear.heard == 1


async def test_strange_notes(broker: Broker, notes: Notes) -> None:
    """What is no note of ours is ignored."""
    ear = Ear()
    notes.listen(DEAD, "", "", ear)
    for subject in (b"_WS.note.later.s.c", b"_WS.note.dead.s", b"_WS.note.dead.s.c.d"):
        broker.connection.publish(subject, b"body")
    await settled(broker)
    assert ear.heard == 0
