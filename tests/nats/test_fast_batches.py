"""Batches of fast ingest on a real server: what is stored of them, and what is known of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.nats.test_violations import limited
from tests.nats.test_writes import bodies, message, update, writes_on
from tests.support.broker import Broker, connect
from tests.support.nats_server import NatsServer
from windshift.nats import Forbidden, JetStreamError, MessageTooLarge, OutcomeUnknown
from windshift.nats import headers as h
from windshift.nats.jetstream.acks import PubAck
from windshift.nats.jetstream.bursts import FastBatch
from windshift.nats.jetstream.writes import Sent, Write, WriteOptions, Writes
from windshift.nats.requests import NoReply

Unique = Callable[[], str]


async def ingest(
    writes: Writes, stream: str, messages: Sequence[Write]
) -> tuple[Sent, Sequence[PubAck | None]]:
    """Send a batch, and wait for what is said of its messages."""
    steady = asyncio.Event()
    steady.set()
    sent = await writes.send_all(messages, steady, stream)
    return sent, list(await writes.answered(sent))


async def stream_for(broker: Broker, name: str, **config: Any) -> str:
    """Create a stream that takes batches."""
    return await broker.stream(name, allow_batched=True, **config)


def numbered(stream: str, count: int, **options: Any) -> list[Write]:
    """Make messages whose bodies are their places."""
    return [message(f"{stream}.a", b"%d" % place, **options) for place in range(count)]


@pytest.mark.parametrize("count", [1, 2, 499, 500, 501, 2000])
async def test_all_are_stored(broker: Broker, unique: Unique, count: int) -> None:
    """They are stored in their order, and the acknowledgements have no sequences."""
    stream = await stream_for(broker, unique())
    messages = numbered(stream, count)
    _, acks = await ingest(writes_on(broker), stream, messages)
    assert acks == [PubAck(stream, 0)] * count
    assert await bodies(broker, stream) == [write.body for write in messages]


async def test_batches_of_several_publishers(broker: Broker, nats_server: NatsServer, unique: Unique) -> None:
    """What others send at the same time is not mixed up with it."""
    stream = await stream_for(broker, unique())
    async with connect(nats_server.url) as other:
        several = [writes_on(broker), writes_on(broker), writes_on(other)]
        found = await asyncio.gather(
            *(ingest(writes, stream, numbered(stream, 100)) for writes in several for _ in range(5))
        )
    assert all(acks == [PubAck(stream, 0)] * 100 for _, acks in found)
    assert await broker.messages(stream) == 1500


async def test_what_was_stored_before(broker: Broker, unique: Unique) -> None:
    """It counts as stored, wherever it is in the batch."""
    stream = await stream_for(broker, unique())
    await broker.publish(f"{stream}.a", b"x", {"Nats-Msg-Id": "known"})
    for places in ((0,), (1,), (3,), (0, 1, 2, 3)):
        messages = numbered(stream, 4)
        for place in places:
            messages[place] = message(f"{stream}.a", b"x", key=b"known")
        before = await broker.messages(stream)
        _, acks = await ingest(writes_on(broker), stream, messages)
        assert acks == [PubAck(stream, 0)] * 4
        assert await broker.messages(stream) == before + 4 - len(places)


NEVER = ((h.EXPECTED_LAST_SEQUENCE, b"77"),)


@pytest.mark.parametrize("place", [0, 1, 5, 9])
async def test_a_refusal_ends_it(broker: Broker, unique: Unique, place: int) -> None:
    """What is before it is stored. The rest is not, and is to be sent again."""
    stream = await stream_for(broker, unique())
    messages = numbered(stream, 10)
    messages[place] = message(f"{stream}.a", condition=NEVER)
    writes = writes_on(broker)
    sent, acks = await ingest(writes, stream, messages)
    assert acks == [PubAck(stream, 0)] * place + [None] * (10 - place)
    assert writes.untaken(sent) | {0} >= {*range(place + 1, 10)}
    for missing in {*range(10)} - {*range(place)} - writes.untaken(sent):
        with pytest.raises(JetStreamError):
            await writes.conclude(sent, missing)
    assert await bodies(broker, stream) == [b"%d" % number for number in range(place)]


@pytest.mark.parametrize("place", [0, 1, 9])
async def test_a_message_too_large_for_the_stream(broker: Broker, unique: Unique, place: int) -> None:
    """It has its own refusal; those behind it are to be sent again."""
    stream = await stream_for(broker, unique(), max_msg_size=100)
    messages = numbered(stream, 10)
    messages[place] = message(f"{stream}.a", bytes(200))
    writes = writes_on(broker)
    sent, acks = await ingest(writes, stream, messages)
    assert acks == [PubAck(stream, 0)] * place + [None] * (10 - place)
    assert sorted(writes.untaken(sent)) == [*range(place + 1, 10)]
    with pytest.raises(JetStreamError, match="10054"):
        await writes.conclude(sent, place)


async def test_a_message_too_large_for_the_server(broker: Broker, unique: Unique) -> None:
    """It is not sent, and the others are."""
    stream = await stream_for(broker, unique())
    messages = numbered(stream, 4)
    messages[0] = messages[2] = message(f"{stream}.a", bytes(broker.connection.max_payload + 1))
    writes = writes_on(broker)
    sent, acks = await ingest(writes, stream, messages)
    assert acks == [None, PubAck(stream, 0), None, PubAck(stream, 0)]
    for place in (0, 2):
        with pytest.raises(MessageTooLarge):
            await writes.conclude(sent, place)
    assert await bodies(broker, stream) == [b"1", b"3"]
    sent, acks = await ingest(writes, stream, [messages[0]])
    assert acks == [None]


async def test_a_full_stream(broker: Broker, unique: Unique) -> None:
    """What had room is stored."""
    stream = await stream_for(broker, unique(), max_msgs=3, discard="new")
    writes = writes_on(broker)
    for expected in (3, 0):
        sent, acks = await ingest(writes, stream, numbered(stream, 6))
        assert acks == [PubAck(stream, 0)] * expected + [None] * (6 - expected)
        assert await bodies(broker, stream) == [b"0", b"1", b"2"]
        assert writes.untaken(sent) >= {*range(expected + 1, 6)}


async def test_nobody_takes_batches(broker: Broker, unique: Unique) -> None:
    """A stream without the setting, or none at all: nothing is stored, and all is to be sent again."""
    writes = writes_on(broker)
    for name in (await broker.stream(unique()), unique()):
        sent, acks = await ingest(writes, name, numbered(name, 10))
        assert acks == [None] * 10
        assert sorted(writes.untaken(sent)) == [*range(10)]


async def test_a_subject_of_another_stream(broker: Broker, unique: Unique) -> None:
    """It ends the batch, and is stored by neither."""
    stream, other = await stream_for(broker, unique()), await stream_for(broker, unique())
    messages = [*numbered(stream, 3), *numbered(other, 1), *numbered(stream, 3)]
    writes = writes_on(broker)
    sent, acks = await ingest(writes, stream, messages)
    assert acks == [PubAck(stream, 0)] * 3 + [None] * 4
    assert sorted(writes.untaken(sent)) == [3, 4, 5, 6]
    assert (await broker.messages(stream), await broker.messages(other)) == (3, 0)


async def test_the_setting_is_taken_away(broker: Broker, unique: Unique) -> None:
    """Batches that come after it are refused as a whole; those before it are whole."""
    stream = await stream_for(broker, unique())
    writes = writes_on(broker)
    taking = [asyncio.ensure_future(ingest(writes, stream, numbered(stream, 200))) for _ in range(10)]
    await update(broker, stream, allow_batched=False)
    stored = 0
    for sent, acks in await asyncio.gather(*taking):
        known = [place for place, ack in enumerate(acks) if ack is not None]
        assert known == [*range(len(known))]
        stored += len(known)
        assert writes.untaken(sent).isdisjoint(known)
    assert stored <= await broker.messages(stream)


@pytest.mark.parametrize("keyed", [False, True])
async def test_the_server_dies(own_broker: Broker, own_nats_server: NatsServer, *, keyed: bool) -> None:
    """What it has not acknowledged is in doubt; with keys it is sent again, and stored once."""
    stream = await stream_for(own_broker, "s", storage="file")
    writes = writes_on(own_broker)
    messages = [message("s.a", b"%d" % place, key=b"%d" % place if keyed else b"") for place in range(20)]
    own_nats_server.freeze()
    taking = asyncio.ensure_future(ingest(writes, stream, messages))
    while not writes.in_flight:  # noqa: ASYNC110 - it tells nobody when it has sent
        await asyncio.sleep(0.005)
    own_nats_server.kill()
    own_nats_server.start()
    sent, acks = await taking
    assert acks == [None] * 20
    assert not writes.untaken(sent)
    for place in range(20):
        if keyed:
            assert (await writes.conclude(sent, place)).stream == stream
        else:
            with pytest.raises(OutcomeUnknown):
                await writes.conclude(sent, place)
    assert await own_broker.messages(stream) == (20 if keyed else 0)


@pytest.mark.parametrize("ingested", [False, True])
async def test_sent_again(own_broker: Broker, own_nats_server: NatsServer, *, ingested: bool) -> None:
    """What the first attempt did stays in doubt when the second one is refused."""
    stream = await stream_for(own_broker, "s", storage="file")
    writes = writes_on(own_broker)
    steady = asyncio.Event()
    steady.set()
    own_nats_server.freeze()
    messages = [message("s.a", key=b"0"), message("s.a"), message("s.a", key=b"2")]
    sent = await writes.send_all(messages, steady, stream if ingested else "")
    own_nats_server.kill()
    assert await writes.answered(sent) == [None] * 3
    assert writes.repeatable(sent) == {0, 2}
    own_nats_server.start()
    await update(own_broker, stream, max_msg_size=1)
    again = await writes.send_again(sent, [0, 2], steady)
    assert await writes.answered(again) == [None] * 2
    with pytest.raises(JetStreamError) as caught:
        await writes.conclude(again, 1)
    assert caught.value.in_doubt
    assert await own_broker.messages(stream) == 0


async def test_others_wait_for_those_that_wait(broker: Broker, unique: Unique) -> None:
    """What is sent again needs nothing of what is sent for the first time: that is settled after it."""
    name, quiet, steady = unique(), unique(), asyncio.Event()
    steady.set()
    writes = writes_on(broker, WriteOptions(max_in_flight=8))
    sent = await writes.send_all(numbered(name, 2), steady)
    assert await writes.answered(sent) == [None, None]
    assert writes.repeatable(sent) == {0, 1}
    listening = broker.connection.subscribe(f"{quiet}.a".encode(), lambda _: None)
    held = [await writes.send_all(numbered(quiet, 2), steady) for _ in range(4)]
    waiting = asyncio.ensure_future(writes.send_all(numbered(quiet, 2), steady))
    while not writes.waiting:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    await broker.stream(name)
    async with asyncio.timeout(20):
        again = await writes.send_again(sent, [0, 1], steady)
    assert list(await writes.answered(again)) == [PubAck(name, 1), PubAck(name, 2)]
    for each in held:
        writes.abandon_all(each)
    writes.abandon_all(await waiting)
    assert writes.in_flight == 0
    listening.unsubscribe()


async def test_cancelled(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """Who does not wait any more gives back what was taken."""
    stream = await stream_for(own_broker, "s")
    writes = writes_on(own_broker)
    own_nats_server.freeze()
    taking = asyncio.ensure_future(ingest(writes, stream, numbered(stream, 20)))
    while not writes.in_flight:  # noqa: ASYNC110 - it tells nobody when it has sent
        await asyncio.sleep(0.005)
    taking.cancel()
    await asyncio.wait((taking,))
    assert writes.in_flight == 0
    own_nats_server.thaw()
    assert (await ingest(writes, stream, numbered(stream, 20)))[1] == [PubAck(stream, 0)] * 20


async def test_a_forbidden_subject(tmp_path: Path) -> None:
    """What the server's user may not publish ends the batch, and is refused."""
    async with limited(tmp_path, '{allow: ["$JS.API.>", "s.a"]}') as (_, broker):
        stream = await stream_for(broker, "s")
        writes = writes_on(broker)
        messages = numbered(stream, 4)
        messages[2] = message("s.b")
        sent, acks = await ingest(writes, stream, messages)
        assert acks == [PubAck(stream, 0)] * 2 + [None] * 2
        with pytest.raises(Forbidden):
            await writes.conclude(sent, 2)
        assert sorted(writes.untaken(sent)) == [3]
        sent, acks = await ingest(writes, stream, [message("s.b"), *numbered(stream, 1)])
        assert acks == [None] * 2
        assert await broker.messages(stream) == 2


async def test_large_batches_are_cut(broker: Broker) -> None:
    """By bytes, and by what headers take: some 1,000 messages at most."""

    def cut(most: int, *sizes: int) -> list[int]:
        writes = writes_on(broker, WriteOptions(max_in_flight=most))
        return [part.stop - part.start for part in writes.batches(sizes)]

    assert cut(256, *[0] * 2500) == [1024, 1024, 452]
    assert cut(256, 10**6, 10, 10**6) == [1, 1, 1]
    assert cut(1, *[0] * 65) == [64, 1]


# --- Without a server -------------------------------------------------------------------------------------


def end_of(number: int) -> bytes:
    """Return the end of the subject of a reply to the message of this number."""
    return b"500.fail.%d.1.$FI" % number


def batch_of(count: int) -> FastBatch:
    """Make a batch that was sent."""
    batch = FastBatch(b"t", [b"s.a"] * count, asyncio.get_running_loop(), "s")
    batch.frames([Write(b"s.a", b"", b"NATS/1.0\r\n\r\n", 0)] * count, b"inbox.t", 1000)
    return batch


STORED = PubAck("s", 0)
UNKNOWN = (
    b'{"error":{"code":400,"err_code":10208,"description":"batch publish ID unknown"},"stream":"s","seq":0}'
)
FAILED = (
    b'{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"s","seq":0}'
)


@pytest.mark.parametrize(
    ("replies", "answers"),
    [
        ([(1, b'{"type":"ack","seq":0,"msgs":500}')], [None] * 4),
        ([(2, b'{"type":"ack","seq":2,"msgs":1}')], [STORED, STORED, None, None]),
        ([(5, b'{"stream":"s","seq":9,"batch":"t","count":4}')], [STORED] * 4),
        (
            [
                (2, b'{"type":"err","seq":2,"error":{"err_code":10071}}'),
                (2, b'{"stream":"s","seq":1,"batch":"t","count":1}'),
                (3, UNKNOWN),
            ],
            [STORED, *[NoReply.NOT_TAKEN] * 3],
        ),
        # A message that could not be written does not end the batch, which counts it all the same.
        (
            [(2, FAILED), (5, b'{"stream":"s","seq":9,"batch":"t","count":4}')],
            [STORED, FAILED, STORED, STORED],
        ),
        # A new leader knows nothing of the batch: the first message may have been stored by the old one.
        ([(n, UNKNOWN) for n in (2, 3, 4, 5)], [NoReply.TIMED_OUT, *[NoReply.NOT_TAKEN] * 3]),
        # So may be what has no answer when the end is refused.
        ([(3, b'{"type":"ack","seq":2,"msgs":2}'), (5, UNKNOWN)], [STORED, STORED, *[NoReply.TIMED_OUT] * 2]),
        ([(n, None) for n in (1, 2, 3, 4, 5)], [NoReply.NOT_TAKEN] * 4),
    ],
)
async def test_answers(replies: list[tuple[int, bytes | None]], answers: list[object]) -> None:
    """What the replies say of each message."""
    batch = batch_of(4)
    for number, body in replies:
        batch.take(end_of(number), body or NoReply.NO_RESPONDERS)
    assert batch.answers == answers
    assert batch.done.done() == (None not in answers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'{"type":"ack"}',
        b'{"count":"x"}',
        b'{"error":7}',
        b'{"type":"ack","seq":[]}',
    ],
)
async def test_lies(body: bytes) -> None:
    """What no stream says is not taken for an acknowledgement."""
    batch = batch_of(2)
    for number in (1, 2, 3):
        batch.take(end_of(number), body)
    assert STORED not in batch.answers
