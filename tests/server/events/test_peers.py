"""What servers tell each other of events that are settled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import permutations
from struct import pack, unpack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.events.test_consume_protocol import snapshot
from tests.support.broker import connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.events.consuming.calls import Calls
from windshift.server.events.consuming.peers import Peers, read_settled, write_settled
from windshift.server.events.consuming.redelivery import ANY_TIME, Settled, SettledByConsumer
from windshift.server.events.deliveries import DeliveryName
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.notes import Notes

CONSUMER = ConsumerKey("S", "c")
CREATED = "2026-11-24T00:00:00.5Z"
STORED_NS = 1_700_000_000_000_000_000
IDS = st.integers(1, 2**63 - 1).map(StreamSeq)


@asynccontextmanager
async def peer(url: str, created: str = CREATED, *holding: Any) -> AsyncIterator[tuple[Peers, Settled]]:
    """Run a server that has calls of the consumer."""
    async with connect(url) as broker:
        notes, known = Notes(broker.connection), SettledByConsumer()
        notes.start()
        calls = Calls()
        for each in holding:
            calls.attach(CONSUMER, each, snapshot())
        peers = Peers(notes, known, calls)
        peers.start()
        await broker.requests.round_trip(in_seconds(30))
        yield peers, known.attach(CONSUMER, created, 0.0)


async def knows(settled: Settled, seq: int) -> None:
    """Wait until an event is known to be settled."""
    async with asyncio.timeout(30):
        while not settled.has(StreamSeq(seq)):  # noqa: ASYNC110 - a note makes it so
            await asyncio.sleep(0.01)


@given(st.text("0123456789-:.TZ"), st.dictionaries(IDS, st.integers(0, 2**64 - 1)))
def test_events_arrive_as_they_are(created: str, events: dict[StreamSeq, int]) -> None:
    """Together with when the consumer was made."""
    assert read_settled(write_settled(created, events)) == (created, events)


@given(st.lists(IDS, unique=True))
def test_a_note_of_an_older_server(seqs: list[StreamSeq]) -> None:
    """It has ids only: when these events were stored is not known."""
    body = CREATED.encode() + b"\n" + pack(f">{len(seqs)}Q", *seqs)
    assert read_settled(body) == (CREATED, dict.fromkeys(seqs, ANY_TIME))


def test_a_note_to_an_older_server() -> None:
    """It finds the ids, among numbers that are the id of no event, and what it makes of that is read."""
    events = {StreamSeq(7): STORED_NS, StreamSeq(8): STORED_NS + 1}
    run, _, packed = write_settled(CREATED, events).partition(b"\n")
    ids = set(unpack(f">{len(packed) // 8}Q", packed))
    assert {seq for seq in ids if seq < STORED_NS} == {7, 8}
    for some in permutations(ids):
        _, read = read_settled(run + b"\n" + pack(f">{len(some)}Q", *some))
        assert {read[StreamSeq(7)], read[StreamSeq(8)]} == {ANY_TIME}


def test_notes_are_read_as_they_were_written() -> None:
    """With any number of events, none included."""
    for count in range(4):
        events = {StreamSeq(7 + number): STORED_NS - number for number in range(count)}
        assert read_settled(write_settled(CREATED, events)) == (CREATED, events)


async def test_a_settled_event(nats_server: NatsServer) -> None:
    """Other servers know of it, those that know another consumer of the name do not."""
    async with (
        peer(nats_server.url) as (teller, _),
        peer(nats_server.url) as (_, settled),
        peer(nats_server.url, "another") as (_, another),
    ):
        teller.tell_settled(CONSUMER, CREATED, {StreamSeq(7): STORED_NS})
        await knows(settled, 7)
        teller.tell_settled(CONSUMER, "another", {StreamSeq(8): STORED_NS})
        await knows(another, 8)
        assert not another.has(StreamSeq(7))
        assert settled.lately(StreamSeq(7), STORED_NS)
        assert not settled.lately(StreamSeq(7), STORED_NS + 1)


async def test_what_a_broker_may_have_forgotten(nats_server: NatsServer) -> None:
    """It is told once, when the broker is back, and remembered whatever is settled afterwards."""
    async with peer(nats_server.url) as (teller, own), peer(nats_server.url) as (_, settled):
        own.add(StreamSeq(1), STORED_NS, 0.0)
        own.lose({StreamSeq(2): STORED_NS})
        teller.connected()
        await knows(settled, 1)
        assert not settled.has(StreamSeq(2))
        assert not own.forgettable
        for number in range(30):
            settled.add(StreamSeq(100 + number), STORED_NS, float(number))
        now = asyncio.get_running_loop().time()
        assert settled.knows(StreamSeq(1), STORED_NS, now)
        assert not settled.knows(StreamSeq(1), STORED_NS + 1, now)


async def test_what_a_server_that_stops_knows(nats_server: NatsServer) -> None:
    """Those who stay know it as well, and tell it when they stop."""
    async with peer(nats_server.url) as (teller, own), peer(nats_server.url) as (_, settled):
        own.hear({StreamSeq(1): STORED_NS}, asyncio.get_running_loop().time())
        teller.leave()
        await knows(settled, 1)
        assert settled.doubted


async def test_what_an_older_server_settled_before_a_loss(nats_server: NatsServer) -> None:
    """It is known by its id, whenever it was stored."""
    async with connect(nats_server.url) as broker, peer(nats_server.url) as (_, settled):
        body = CREATED.encode() + b"\n" + pack(">2Q", 1, 2)
        broker.connection.publish(b"_WS.note.forgettable.S.c", body)
        await knows(settled, 2)
        assert settled.knows(StreamSeq(1), STORED_NS, asyncio.get_running_loop().time())


async def test_waiting_for_others() -> None:
    """It ends some time after a reconnect, and at once when there was none."""
    peers = Peers(None, SettledByConsumer(), Calls())  # type: ignore[arg-type]  # nothing is told
    loop = asyncio.get_running_loop()
    await peers.heard()
    peers.connected()
    began = loop.time()
    await peers.heard(0.2)
    assert loop.time() >= began + 0.2
    await peers.heard(0.2)


@pytest.mark.parametrize("body", [b"", b"x", b"2026\n123", b"2026\n" + pack(">2Q", 2**64 - 1, 1)])
async def test_notes_that_nobody_wrote(nats_server: NatsServer, body: bytes) -> None:
    """They are logged, and change nothing."""
    async with connect(nats_server.url) as broker, peer(nats_server.url) as (teller, settled):
        broker.connection.publish(b"_WS.note.settled.S.c", body)
        teller.tell_settled(CONSUMER, CREATED, {StreamSeq(9): STORED_NS})
        await knows(settled, 9)


class Holding:
    """A call that objects to some events, in a run of the consumer."""

    def __init__(self, run_name: str, *kept: int) -> None:
        self.run_name = run_name
        self._kept = set(kept)
        self.asked: list[tuple[int, list[DeliveryName]]] = []
        self.lost: asyncio.Queue[tuple[int, list[StreamSeq]]] = asyncio.Queue()

    def taken(self, number: int, deliveries: Iterable[DeliveryName]) -> list[StreamSeq]:
        """Keep what this keeps."""
        self.asked.append((number, list(deliveries)))
        return [each.seq for each in self.asked[-1][1] if each.seq in self._kept]

    def objected(self, number: int, seqs: Iterable[StreamSeq]) -> None:
        """Take what others keep."""
        self.lost.put_nowait((number, sorted(seqs)))


async def test_deliveries_change_hands(nats_server: NatsServer) -> None:
    """Calls in the same run are asked, on all servers; they and the memory of settled events may object."""
    run = f"{CREATED} 17"  # it was moved
    wants, keeps, elsewhere = Holding(run), Holding(run, 2), Holding(CREATED, 3)
    names = [DeliveryName(StreamSeq(seq), 2**64 - seq, seq) for seq in (1, 2, 3, 4, 2**64 - 1)]
    async with (
        peer(nats_server.url, CREATED, wants) as (asker, _),
        peer(nats_server.url, run, keeps, elsewhere) as (_, settled),
    ):
        settled.add(StreamSeq(4), STORED_NS, 0.0)
        asker.tell_taken(CONSUMER, run, 9, names)
        async with asyncio.timeout(30):
            assert await wants.lost.get() == (9, [2, 4])
        assert keeps.asked == wants.asked == [(9, names)]
        assert elsewhere.asked == []
