"""What servers tell each other of events that are settled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.broker import connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.events.consuming.handover import DeliveryName, Holder
from windshift.server.events.consuming.peers import Peers, read_settled, write_settled
from windshift.server.events.consuming.redelivery import Settled, SettledByConsumer
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.notes import Notes

CONSUMER = ConsumerKey("S", "c")
CREATED = "2026-11-24T00:00:00.5Z"


@asynccontextmanager
async def peer(url: str, created: str = CREATED, *calls: Holder) -> AsyncIterator[tuple[Peers, Settled]]:
    """Run a server that has calls of the consumer."""
    async with connect(url) as broker:
        notes, known = Notes(broker.connection), SettledByConsumer()
        notes.start()
        peers = Peers(notes, known, lambda _: calls)
        peers.start()
        await broker.requests.round_trip(in_seconds(30))
        yield peers, known.attach(CONSUMER, created, 0.0)


async def knows(settled: Settled, seq: int) -> None:
    """Wait until an event is known to be settled."""
    async with asyncio.timeout(30):
        while not settled.lately(StreamSeq(seq)):  # noqa: ASYNC110 - a note makes it so
            await asyncio.sleep(0.01)


@given(st.text("0123456789-:.TZ"), st.lists(st.integers(1, 2**64 - 1).map(StreamSeq)))
def test_ids_arrive_as_they_are(created: str, seqs: list[StreamSeq]) -> None:
    """Together with when the consumer was made."""
    assert read_settled(write_settled(created, seqs)) == (created, seqs)


async def test_a_settled_event(nats_server: NatsServer) -> None:
    """Other servers know of it, those that know another consumer of the name do not."""
    async with (
        peer(nats_server.url) as (teller, _),
        peer(nats_server.url) as (_, settled),
        peer(nats_server.url, "another") as (_, another),
    ):
        teller.tell_settled(CONSUMER, CREATED, [StreamSeq(7)])
        await knows(settled, 7)
        teller.tell_settled(CONSUMER, "another", [StreamSeq(8)])
        await knows(another, 8)
        assert not another.lately(StreamSeq(7))


async def test_what_a_broker_may_have_forgotten(nats_server: NatsServer) -> None:
    """It is told once, when the broker is back, and remembered whatever is settled afterwards."""
    async with peer(nats_server.url) as (teller, own), peer(nats_server.url) as (_, settled):
        own.add(StreamSeq(1), 0.0)
        own.lose([StreamSeq(2)])
        teller.connected()
        await knows(settled, 1)
        assert not settled.lately(StreamSeq(2))
        assert not own.forgettable
        for now in range(30):
            settled.add(StreamSeq(100 + now), float(now))
        assert settled.knows(StreamSeq(1), asyncio.get_running_loop().time())


async def test_waiting_for_others() -> None:
    """It ends some time after a reconnect, and at once when there was none."""
    peers = Peers(None, SettledByConsumer(), lambda _: ())  # type: ignore[arg-type]  # nothing is told
    loop = asyncio.get_running_loop()
    await peers.heard()
    peers.connected()
    began = loop.time()
    await peers.heard(0.2)
    assert loop.time() >= began + 0.2
    await peers.heard(0.2)


@pytest.mark.parametrize("body", [b"", b"x", b"2026\n123"])
async def test_notes_that_nobody_wrote(nats_server: NatsServer, body: bytes) -> None:
    """They are logged, and change nothing."""
    async with connect(nats_server.url) as broker, peer(nats_server.url) as (teller, settled):
        broker.connection.publish(b"_WS.note.settled.S.c", body)
        teller.tell_settled(CONSUMER, CREATED, [StreamSeq(9)])
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
    names = [DeliveryName(StreamSeq(seq), 1, seq) for seq in (1, 2, 3, 4)]
    async with (
        peer(nats_server.url, CREATED, wants) as (asker, _),
        peer(nats_server.url, run, keeps, elsewhere) as (_, settled),
    ):
        settled.add(StreamSeq(4), 0.0)
        asker.tell_taken(CONSUMER, run, 9, names)
        async with asyncio.timeout(30):
            assert await wants.lost.get() == (9, [2, 4])
        assert keeps.asked == wants.asked == [(9, names)]
        assert elsewhere.asked == []
