"""Writing to streams of a real server: what is stored and refused, and when the server goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.nats.waiting import eventually, wire_of
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer, running_nats
from windshift.nats import (
    Backoff,
    JetStreamError,
    MessageTooLarge,
    NoStream,
    Outcome,
    OutcomeUnknown,
    StorageFull,
    TooManyInFlight,
    Unavailable,
)
from windshift.nats import headers as h
from windshift.nats.jetstream import codes
from windshift.nats.jetstream import writes as writes_module
from windshift.nats.jetstream.acks import PubAck
from windshift.nats.jetstream.writes import Write, WriteOptions, Writes

Unique = Callable[[], str]

CURIOUS = WriteOptions(doubt_after=timedelta(milliseconds=10))
"""Looks soon whether there is any use in waiting."""

HASTY = WriteOptions(
    doubt_after=timedelta(minutes=1),
    attempt_timeout=timedelta(milliseconds=50),
    backoff=Backoff(timedelta(milliseconds=5), timedelta(milliseconds=10)),
)
"""Sends again after a moment, and wonders about nothing."""


def writes_on(broker: Broker, options: WriteOptions | None = None) -> Writes:
    """Make what writes on a connection."""
    return Writes(broker.requests, broker.api, options)


def message(
    subject: str,
    body: bytes = b"body",
    seconds: float = 30,
    *,
    key: bytes = b"",
    condition: tuple[tuple[bytes, bytes], ...] = (),
) -> Write:
    """Make a write; with a key the server knows it again."""
    lines = ((h.MESSAGE_ID, key), *condition) if key else condition
    return Write(subject.encode(), body, h.block(lines), in_seconds(seconds), bool(key))


async def bodies(broker: Broker, stream: str) -> list[bytes]:
    """Read all that a stream has."""
    found, query = list[bytes](), {"seq": 1, "next_by_subj": ">"}
    while (stored := await broker.api.message(stream, query, in_seconds(20))) is not None:
        found.append(stored.body)
        query["seq"] = stored.sequence + 1
    return found


async def update(broker: Broker, stream: str, **changes: Any) -> None:
    """Change the configuration of a stream."""
    config = (await broker.api.stream_info(stream, in_seconds(20)))["config"]
    await broker.api.update_stream(config | changes, in_seconds(20))


async def has_stored(broker: Broker, stream: str, last: int) -> None:
    """Wait until the stream's last sequence is this one."""
    async with asyncio.timeout(20):
        while (await broker.api.stream_info(stream, in_seconds(20)))["state"]["last_seq"] < last:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.005)


# --- What the server says ---------------------------------------------------------------------------------


async def test_written_once(broker: Broker, unique: Unique) -> None:
    """A write says where the message is stored; a repeat with the same key says so, and stores nothing."""
    stream, writes = await broker.stream(unique()), writes_on(broker)
    assert await writes.write(message(f"{stream}.a", b"1")) == PubAck(stream, 1)
    assert await writes.write(message(f"{stream}.a", b"2", key=b"k")) == PubAck(stream, 2)
    assert await writes.write(message(f"{stream}.b", b"3", key=b"k")) == PubAck(stream, 2, duplicate=True)
    assert await bodies(broker, stream) == [b"1", b"2"]
    assert (writes.in_flight, writes.waiting) == (0, 0)


async def test_many_at_once(broker: Broker, unique: Unique) -> None:
    """More writes than may be under way all succeed, and are stored in their order."""
    stream = await broker.stream(unique())
    writes = writes_on(broker, WriteOptions(max_in_flight=16))
    sent = [b"%d" % number for number in range(2_000)]
    acks = await asyncio.gather(*(writes.write(message(f"{stream}.a", body)) for body in sent))
    assert [ack.sequence for ack in acks] == list(range(1, 2_001))
    assert await broker.messages(stream) == 2_000
    assert (writes.in_flight, writes.waiting) == (0, 0)


async def test_conditions(broker: Broker, unique: Unique) -> None:
    """A condition that does not hold is the server's refusal, with the actual sequence."""
    stream, writes = await broker.stream(unique()), writes_on(broker)
    await writes.write(message(f"{stream}.a", condition=((h.EXPECTED_LAST_SEQUENCE, b"0"),)))
    for name in (h.EXPECTED_LAST_SEQUENCE, h.EXPECTED_LAST_SUBJECT_SEQUENCE):
        with pytest.raises(JetStreamError) as caught:
            await writes.write(message(f"{stream}.a", condition=((name, b"7"),)))
        assert caught.value.err_code == codes.WRONG_LAST_SEQUENCE
        assert codes.actual_last_sequence(caught.value) == 1
        assert not caught.value.in_doubt
    await writes.write(message(f"{stream}.b", condition=((h.EXPECTED_LAST_SUBJECT_SEQUENCE, b"0"),)))
    with pytest.raises(JetStreamError) as caught:
        await writes.write(message(f"{stream}.a", condition=((b"Nats-Expected-Stream", b"other"),)))
    assert caught.value.err_code == codes.OTHER_STREAM


async def test_streams_that_take_no_more(broker: Broker, unique: Unique) -> None:
    """A stream that is full or sealed refuses; one that takes smaller messages, too."""
    stream, writes = (
        await broker.stream(unique(), max_msgs=1, discard="new", max_msg_size=100),
        writes_on(broker),
    )
    with pytest.raises(JetStreamError) as caught:
        await writes.write(message(f"{stream}.a", bytes(101)))
    assert (caught.value.err_code, caught.value.stream) == (codes.MESSAGE_TOO_LARGE, stream)
    await writes.write(message(f"{stream}.a"))
    with pytest.raises(JetStreamError) as caught:
        await writes.write(message(f"{stream}.a"))
    assert codes.is_full(caught.value)
    await update(broker, stream, sealed=True)
    with pytest.raises(JetStreamError) as caught:
        await writes.write(message(f"{stream}.a"))
    assert codes.is_full(caught.value)


async def test_too_large(broker: Broker, unique: Unique) -> None:
    """What the server would end the connection over is refused at once, headers included."""
    stream, writes = await broker.stream(unique()), writes_on(broker)
    limit = broker.connection.max_payload
    with pytest.raises(MessageTooLarge) as caught:
        await writes.write(message(f"{stream}.a", bytes(limit), key=b"k"))
    assert caught.value.limit == limit
    await writes.write(message(f"{stream}.a", bytes(limit)))
    assert broker.connection.reconnects == 0
    assert writes.in_flight == 0


@pytest.mark.parametrize("key", [b"", b"k"])
async def test_no_stream(broker: Broker, unique: Unique, key: bytes) -> None:
    """A subject that no stream takes is refused for certain and at once, though somebody else listens."""
    subject, begun = unique(), time.monotonic()
    with pytest.raises(NoStream) as caught:
        await writes_on(broker).write(message(subject, seconds=60, key=key))
    assert caught.value.subject == subject
    broker.connection.subscribe(subject.encode(), lambda _: None)
    with pytest.raises(NoStream):
        await writes_on(broker, CURIOUS).write(message(subject, seconds=60, key=key))
    assert time.monotonic() - begun < 20


async def test_a_stream_that_comes_late(broker: Broker, unique: Unique) -> None:
    """A subject is looked up anew each time that there is no stream for it."""
    name, writes = unique(), writes_on(broker)
    with pytest.raises(NoStream):
        await writes.write(message(f"{name}.a"))
    await broker.stream(name)
    assert await writes.write(message(f"{name}.a")) == PubAck(name, 1)


@pytest.mark.parametrize("key", [b"", b"k"])
async def test_a_stream_that_does_not_answer(broker: Broker, unique: Unique, key: bytes) -> None:
    """A write to a stream that confirms nothing ends long before its deadline, and says why."""
    stream, writes = await broker.stream(unique(), no_ack=True), writes_on(broker, CURIOUS)
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(OutcomeUnknown, match="no_ack"):
            await writes.write(message(f"{stream}.a", seconds=60, key=key))
    assert time.monotonic() - begun < 20
    assert writes.in_flight == 0
    await update(broker, stream, no_ack=False)
    assert (await writes_on(broker, CURIOUS).write(message(f"{stream}.a"))).sequence > 0


async def test_somebody_else_answers(broker: Broker, unique: Unique) -> None:
    """Words that are none of JetStream's say nothing about the write."""
    subject = unique()
    broker.connection.subscribe(
        subject.encode(), lambda asked: broker.connection.publish(asked.reply, b"thank you")
    )
    with pytest.raises(OutcomeUnknown, match="something other than a stream answered"):
        await writes_on(broker).write(message(subject))


# --- Doubt ------------------------------------------------------------------------------------------------


async def stored_unheard(broker: Broker, stream: str) -> asyncio.Task[PubAck]:
    """Begin to write with a key to a stream that does not answer; return once the message is stored."""
    writing = asyncio.create_task(writes_on(broker, HASTY).write(message(f"{stream}.a", key=b"k")))
    await has_stored(broker, stream, 1)
    return writing


async def test_stored_after_an_attempt_without_answer(broker: Broker, unique: Unique) -> None:
    """An earlier attempt that was stored is found by its key."""
    stream = await broker.stream(unique(), no_ack=True)
    writing = await stored_unheard(broker, stream)
    await update(broker, stream, no_ack=False)
    assert await writing == PubAck(stream, 1, duplicate=True)
    assert await broker.messages(stream) == 1


async def test_refused_after_an_attempt_without_answer(broker: Broker, unique: Unique) -> None:
    """That a later attempt is refused does not mean that an earlier one was not stored: that is told."""
    stream = await broker.stream(unique(), no_ack=True)
    writing = await stored_unheard(broker, stream)
    await update(broker, stream, no_ack=False, max_msg_size=1)
    with pytest.raises(JetStreamError) as caught:
        await writing
    assert caught.value.in_doubt


async def test_deleted_after_an_attempt_without_answer(broker: Broker, unique: Unique) -> None:
    """That no stream takes the subject any more does not mean that none had taken the message."""
    stream = await broker.stream(unique(), no_ack=True)
    writing = await stored_unheard(broker, stream)
    await broker.api.call(f"STREAM.DELETE.{stream}", None, in_seconds(20))
    with pytest.raises(OutcomeUnknown):
        await writing


async def test_a_disk_that_hangs_after_an_attempt_without_answer(broker: Broker, unique: Unique) -> None:
    """Nothing more is sent, which does not mean that what was sent is not stored."""
    stream = await broker.stream(unique(), no_ack=True)
    writing = await stored_unheard(broker, stream)
    broker.api.refusal = "its disk does not answer"
    with pytest.raises(OutcomeUnknown):
        await writing
    with pytest.raises(StorageFull):
        await writes_on(broker).write(message(f"{stream}.a", key=b"another"))


@pytest.mark.parametrize("key", [b"", b"k"])
async def test_the_server_takes_less_than_before(tmp_path: Path, key: bytes) -> None:
    """A server that ends the connection over a message that it took before does so once and not again."""
    config = tmp_path / "config"
    config.write_text("max_payload: 100KB")
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(server.url) as broker:
            await broker.stream("S")
            config.write_text("max_payload: 1KB")
            server.reload()
            writes = writes_on(broker)
            with pytest.raises(OutcomeUnknown):
                await writes.write(message("S.a", bytes(2_000), key=key))
            await broker.connection.wait_ready(in_seconds(20))
            with pytest.raises(MessageTooLarge):
                await writes.write(message("S.a", bytes(2_000), key=key))
            assert broker.connection.reconnects == 1
            assert await writes.write(message("S.a")) == PubAck("S", 1)


# --- Bounds -----------------------------------------------------------------------------------------------


async def test_too_many_in_flight(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """While as many are under way as may be, so many wait, and the next is refused at once."""
    await own_broker.stream("S")
    writes = writes_on(own_broker, WriteOptions(max_in_flight=2, max_waiting=3))
    own_nats_server.freeze()
    writing = [asyncio.create_task(writes.write(message("S.a", b"%d" % number))) for number in range(5)]
    await eventually(lambda: (writes.in_flight, writes.waiting) == (2, 3))
    with pytest.raises(TooManyInFlight):
        await writes.write(message("S.a", seconds=60))
    writing[1].cancel()
    writing[4].cancel()
    await asyncio.wait(writing[1:2] + writing[4:])
    await eventually(lambda: (writes.in_flight, writes.waiting) == (2, 1))
    own_nats_server.thaw()
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert [isinstance(each, PubAck) for each in outcomes] == [True, False, True, True, False]
    assert (writes.in_flight, writes.waiting) == (0, 0)
    assert await bodies(own_broker, "S") == [
        b"0",
        b"1",
        b"2",
        b"3",
    ]  # what was sent before it was cancelled is there


async def test_no_turn_in_time(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """A write whose turn did not come until its deadline was not sent."""
    await own_broker.stream("S")
    writes = writes_on(own_broker, WriteOptions(max_in_flight=1))
    own_nats_server.freeze()
    first = asyncio.create_task(writes.write(message("S.a", b"first")))
    await eventually(lambda: writes.in_flight == 1)
    with pytest.raises(TooManyInFlight):
        await writes.write(message("S.a", b"second", seconds=0.1))
    own_nats_server.thaw()
    await first
    assert await bodies(own_broker, "S") == [b"first"]


async def test_cancelled_writes(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """Writes whose callers went away leave nothing behind."""
    await own_broker.stream("S")
    writes = writes_on(own_broker, CURIOUS)
    own_nats_server.freeze()
    writing = [asyncio.create_task(writes.write(message("S.a", key=b"k"))) for _ in range(5)]
    await eventually(lambda: writes.in_flight == 5)
    await asyncio.sleep(0.1)  # they wonder by now
    for task in writing:
        task.cancel()
    await asyncio.wait(writing)
    assert all(task.cancelled() for task in writing)
    assert writes.in_flight == 0
    own_nats_server.thaw()
    await eventually(lambda: len(own_broker.requests) == 0)
    assert await writes.write(message("S.a", key=b"k")) == PubAck("S", 1, duplicate=True)


async def test_small_writes_do_not_wait_for_large_ones(broker: Broker, unique: Unique) -> None:
    """Large ones, and many at once, have slots of their own, and wait for each other."""
    stream, silent = await broker.stream(unique()), unique()
    broker.connection.subscribe(silent.encode(), lambda _: None)
    options = WriteOptions(max_in_flight=4, doubt_after=timedelta(minutes=1))
    writes = writes_on(broker, options)
    large = [asyncio.create_task(writes.write(message(silent, bytes(40_000)))) for _ in range(3)]
    await eventually(lambda: (writes.in_flight, writes.waiting) == (3, 2))
    assert await writes.write(message(f"{stream}.a")) == PubAck(stream, 1)
    for task in large:
        task.cancel()
    await asyncio.wait(large)
    assert (writes.in_flight, writes.waiting) == (0, 0)
    assert await writes.write(message(f"{stream}.a", bytes(100_000))) == PubAck(stream, 2)


async def test_large_writes_have_a_connection_of_their_own(
    broker: Broker, unique: Unique, nats_server: NatsServer
) -> None:
    """What is sent for itself, large, comes behind nothing small, and nothing small behind it."""
    stream = await broker.stream(unique())
    async with connect(nats_server.url) as another:
        writes = Writes(broker.requests, broker.api, None, another.requests)
        for size, requests in ((100, broker.requests), (40_000, another.requests)):
            answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            attempt = writes.begin(message(f"{stream}.a", bytes(size)), answer.set_result)
            assert (len(broker.requests), len(another.requests)) == (
                int(requests is broker.requests),
                int(requests is another.requests),
            )
            assert writes.stored(attempt, await answer) is not None
        writes.abandon(writes.begin(message(f"{stream}.a", bytes(40_000)), lambda _: None))
        assert (len(another.requests), writes.in_flight) == (0, 0)
        assert await writes.write(message(f"{stream}.a", bytes(40_000))) == PubAck(stream, 4)
        await another.connection.close()
        with pytest.raises(Unavailable):
            await writes.write(message(f"{stream}.a", bytes(40_000), seconds=0.2))
        assert await writes.write(message(f"{stream}.a")) == PubAck(stream, 5)


async def test_one_asker_has_a_quarter_of_the_slots_for_large_writes(broker: Broker, unique: Unique) -> None:
    """More of its own wait for each other, whatever their size; those of others do not."""
    silent = unique()
    broker.connection.subscribe(silent.encode(), lambda _: None)
    writes = writes_on(broker, WriteOptions(max_in_flight=16, doubt_after=timedelta(minutes=1)))
    asked = [message(silent, bytes(40_000))._replace(asker=asker) for asker in "aaab"]
    writing = [asyncio.create_task(writes.write(each)) for each in asked]
    await eventually(lambda: (writes.in_flight, writes.waiting) == (6, 2))
    for task in writing:
        task.cancel()
    await asyncio.wait(writing)
    assert (writes.in_flight, writes.waiting) == (0, 0)


@pytest.mark.parametrize(("asker", "is_shared"), [("a", True), ("a", False), ("", True)])
async def test_who_stores_much_rests_while_others_are_about(
    monkeypatch: pytest.MonkeyPatch, broker: Broker, unique: Unique, asker: str, *, is_shared: bool
) -> None:
    """The next large write waits; small ones and those of others do not, nor do the server's own."""
    monkeypatch.setattr(writes_module, "RATE", 1)
    stream, writes = await broker.stream(unique()), writes_on(broker, WriteOptions(max_in_flight=16))
    writes.is_shared = lambda: is_shared
    large = message(f"{stream}.a", bytes(60_000))
    await writes.write(large._replace(asker=asker))
    assert writes.in_flight == 0
    again = asyncio.create_task(writes.write(large._replace(asker=asker)))
    await writes.write(message(f"{stream}.a")._replace(asker=asker))
    await writes.write(large._replace(asker="b"))
    if asker and is_shared:
        assert (again.done(), writes.waiting) == (False, 1)
        again.cancel()
        await asyncio.wait((again,))
    else:
        await again


async def test_one_slot(broker: Broker, unique: Unique) -> None:
    """Where there is only one, a large write takes it as a small one does, and gives it back."""
    stream, writes = await broker.stream(unique()), writes_on(broker, WriteOptions(max_in_flight=1))
    for size in (1, 100_000, 100_000, 1):
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        attempt = writes.begin(message(f"{stream}.a", bytes(size)), answer.set_result)
        assert writes.in_flight == 1
        assert writes.stored(attempt, await answer) is not None
        assert writes.in_flight == 0


# --- Patience ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"", b"k"])
async def test_without_a_connection(own_broker: Broker, own_nats_server: NatsServer, key: bytes) -> None:
    """A write waits for the connection, and goes through when it is back; otherwise it was not stored."""
    await own_broker.stream("S", storage="file")
    writes = writes_on(own_broker)
    own_nats_server.kill()
    await own_broker.lost()
    with pytest.raises(Unavailable):
        await writes.write(message("S.a", seconds=0.1, key=key))
    writing = asyncio.create_task(writes.write(message("S.a", key=key)))
    await asyncio.sleep(0.1)
    own_nats_server.start()
    assert await writing == PubAck("S", 1)


async def test_time_that_is_over(broker: Broker, unique: Unique) -> None:
    """A write whose deadline has passed is not sent, so it is certain that nothing is stored."""
    stream, writes = await broker.stream(unique()), writes_on(broker)
    late = message(f"{stream}.a", seconds=0)
    with pytest.raises(Unavailable):
        writes.begin(late, lambda _: None)
    with pytest.raises(Unavailable):
        await writes.write(late)
    assert (await writes.write(message(f"{stream}.a"))).sequence == 1
    assert (writes.in_flight, writes.waiting) == (0, 0)


@pytest.mark.parametrize("key", [b"", b"k"])
async def test_no_answer_in_time(own_broker: Broker, own_nats_server: NatsServer, key: bytes) -> None:
    """At its deadline a write that was sent and not answered may be stored or not."""
    await own_broker.stream("S")
    writes = writes_on(own_broker)
    own_nats_server.freeze()
    begun = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        await writes.write(message("S.a", seconds=0.3, key=key))
    assert time.monotonic() - begun < 10
    own_nats_server.thaw()
    await has_stored(own_broker, "S", 1)


async def test_a_connection_that_ends_under_a_write(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """What was sent is in doubt at once without a key; with one it is sent again, and stored once."""
    await own_broker.stream("S", storage="file")
    writes = writes_on(own_broker)
    own_nats_server.freeze()
    plain = asyncio.create_task(writes.write(message("S.a", b"plain", seconds=60)))
    keyed = asyncio.create_task(writes.write(message("S.a", b"keyed", seconds=60, key=b"k")))
    await eventually(lambda: writes.in_flight == 2)
    await asyncio.sleep(0)
    own_nats_server.kill()
    with pytest.raises(OutcomeUnknown):
        async with asyncio.timeout(20):
            await plain
    assert not keyed.done()
    own_nats_server.start()
    ack = await keyed
    stored = await bodies(own_broker, "S")
    assert stored.count(b"keyed") == 1
    assert stored.index(b"keyed") == ack.sequence - 1


async def test_a_socket_that_was_aborted_below(own_broker: Broker) -> None:
    """A write on a socket that is gone lets others run before anybody is told; then it is stored once."""
    await own_broker.stream("S")
    transport = wire_of(own_broker)._transport
    assert transport is not None
    transport.abort()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(others())
    async with asyncio.timeout(20):
        await writes_on(own_broker).write(message("S.a", b"keyed", key=b"k"))
    counting.cancel()
    assert turns > 1
    assert own_broker.connection.reconnects == 1
    assert await bodies(own_broker, "S") == [b"keyed"]
