"""Key-value buckets of a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.support.broker import Broker, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import (
    JetStreamError,
    MessageTooLarge,
    NoBucket,
    OutcomeUnknown,
    StorageFull,
    Superseded,
    Unavailable,
)
from windshift.nats import headers as h
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import JsonObject
from windshift.nats.jetstream.kv import NEVER_WRITTEN, Buckets, Put
from windshift.nats.jetstream.writes import WriteOptions, Writes

Unique = Callable[[], str]


def buckets_on(broker: Broker, options: WriteOptions | None = None) -> Buckets:
    """Make what reads and writes buckets on a connection."""
    return Buckets(broker.api, Writes(broker.requests, broker.api, options))


async def made(broker: Broker, name: str, options: WriteOptions | None = None) -> Buckets:
    """Make a bucket."""
    buckets = buckets_on(broker, options)
    await buckets.ensure(name, in_seconds(20))
    return buckets


async def update(broker: Broker, bucket: str, **changes: object) -> None:
    """Change the configuration of a bucket's stream."""
    config = (await broker.api.stream_info(f"KV_{bucket}", in_seconds(20)))["config"]
    await broker.api.update_stream(config | changes, in_seconds(20))


async def test_values(broker: Broker, unique: Unique) -> None:
    """A value that was written is read, with its sequence and its time; any bytes and any key will do."""
    bucket = unique()
    buckets = await made(broker, bucket)
    assert await buckets.read(bucket, "a", in_seconds(20)) == NEVER_WRITTEN
    begun = time.time()
    for number, (key, value) in enumerate(
        (("a", b"1"), ("a", b""), ("b/c.d=_-E", b"\x00\xff" * 1000), ("b", bytes(500_000))), 1
    ):
        assert await buckets.put(bucket, Put(key, value), in_seconds(20)) == number
        record = await buckets.read(bucket, key, in_seconds(20))
        assert (record.sequence, record.value) == (number, value)
        assert begun - 1 <= record.time.seconds <= time.time() + 1


async def test_conditions(broker: Broker, unique: Unique) -> None:
    """A write with a condition is made if the key's last message is that one, and superseded otherwise."""
    bucket = unique()
    buckets = await made(broker, bucket)
    first = await buckets.put(bucket, Put("a", b"1", 0), in_seconds(20))
    with pytest.raises(Superseded):
        await buckets.put(bucket, Put("a", b"2", 0), in_seconds(20))
    await buckets.put(bucket, Put("b", b""), in_seconds(20))
    second = await buckets.put(bucket, Put("a", b"2", first), in_seconds(20))
    with pytest.raises(Superseded):
        await buckets.put(bucket, Put("a", b"3", first), in_seconds(20))
    with pytest.raises(Superseded):
        await buckets.put(bucket, Put("a", None, first), in_seconds(20))
    assert (await buckets.read(bucket, "a", in_seconds(20))).value == b"2"
    await buckets.put(bucket, Put("a", None, second), in_seconds(20))
    assert (await buckets.read(bucket, "a", in_seconds(20))).value is None


async def test_deleted_keys(broker: Broker, unique: Unique) -> None:
    """A deleted key is a marker with a sequence, which a write that creates it anew must expect."""
    bucket = unique()
    buckets = await made(broker, bucket)
    await buckets.put(bucket, Put("a", b"1"), in_seconds(20))
    await buckets.put(bucket, Put("a", None), in_seconds(20))
    await buckets.put(bucket, Put("never", None), in_seconds(20))
    marker = await buckets.read(bucket, "a", in_seconds(20))
    assert (marker.sequence, marker.value) == (2, None)
    assert (await buckets.read(bucket, "never", in_seconds(20))).value is None
    with pytest.raises(Superseded):
        await buckets.put(bucket, Put("a", b"2", 0), in_seconds(20))
    await buckets.put(bucket, Put("a", b"2", marker.sequence), in_seconds(20))
    assert (await buckets.read(bucket, "a", in_seconds(20))).value == b"2"


@pytest.mark.parametrize(
    ("name", "value", "is_marker"),
    [
        (b"KV-Operation", b"DEL", True),
        (b"KV-Operation", b"PURGE", True),
        (b"Nats-Marker-Reason", b"MaxAge", True),
        (b"Nats-Marker-Reason", b"", True),
        (b"KV-Operation", b"PUT", False),
        (b"KV-Operation", b"", False),
        (b"kv-operation", b"DEL", False),
        (b"Other", b"DEL", False),
    ],
)
async def test_markers(broker: Broker, unique: Unique, name: bytes, value: bytes, *, is_marker: bool) -> None:
    """What other clients and the server mark as deleted has no value; any other header changes nothing."""
    bucket = unique()
    buckets = await made(broker, bucket)
    subject = f"$KV.{bucket}.a".encode()
    await broker.requests.request(subject, b"v", h.block(((name, value),)), in_seconds(20))
    record = await buckets.read(bucket, "a", in_seconds(20))
    assert (record.sequence, record.value) == (1, None if is_marker else b"v")


@pytest.mark.parametrize(
    ("header", "ttl"),
    [
        (b"60", 60),
        (b"60s", 60),
        (b"1m0s", 60),
        (b"1h0m1.999s", 3601),
        (b"never", None),
        (b"00", None),
    ],
)
async def test_times_to_live(broker: Broker, unique: Unique, header: bytes, ttl: int | None) -> None:
    """When a value expires is known, however another client wrote it."""
    bucket = unique()
    buckets = await made(broker, bucket)
    subject = f"$KV.{bucket}.a".encode()
    await broker.requests.request(subject, b"v", h.block(((h.TTL, header),)), in_seconds(20))
    record = await buckets.read(bucket, "a", in_seconds(20))
    assert (record.sequence, record.value, record.ttl) == (1, b"v", ttl)


async def test_a_value_that_expires(broker: Broker, unique: Unique) -> None:
    """Where the server removes values in time and leaves markers, those are read as such."""
    bucket = unique()
    buckets = await made(broker, bucket)
    second = 1_000_000_000
    times = {"max_age": second, "duplicate_window": second, "subject_delete_marker_ttl": 60 * second}
    await update(broker, bucket, **times)
    await buckets.put(bucket, Put("a", b"1"), in_seconds(20))
    async with asyncio.timeout(30):
        while (record := await buckets.read(bucket, "a", in_seconds(20))).value is not None:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.05)
    assert record.sequence == 2


async def test_a_bucket_that_is_there(broker: Broker, unique: Unique) -> None:
    """It is left as it is, with another configuration too."""
    bucket = unique()
    buckets = await made(broker, bucket)
    await buckets.put(bucket, Put("a", b"1"), in_seconds(20))
    await update(broker, bucket, description="ours", max_bytes=1_000_000)
    await buckets.ensure(bucket, in_seconds(20))
    info = await broker.api.stream_info(f"KV_{bucket}", in_seconds(20))
    assert (info["config"]["description"], info["config"]["max_bytes"]) == ("ours", 1_000_000)
    assert (await buckets.read(bucket, "a", in_seconds(20))).value == b"1"


async def test_a_bucket_that_is_there_while_nothing_can_be_stored(broker: Broker, unique: Unique) -> None:
    """It is left as it is; no other is made."""
    bucket = unique()
    buckets = await made(broker, bucket)
    broker.api.refusal = "its disk is full"
    await buckets.ensure(bucket, in_seconds(20))
    with pytest.raises(StorageFull):
        await buckets.ensure(unique(), in_seconds(20))


async def test_a_bucket_that_is_deleted_when_it_was_found(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made anew."""
    bucket, buckets, look = unique(), buckets_on(broker), broker.api.stream_info
    await broker.stream(f"KV_{bucket}", f"$KV.{bucket}.>", storage="file")

    async def deleted(stream: str, deadline: float) -> JsonObject:
        monkeypatch.undo()
        found = await look(stream, deadline)
        await buckets.delete(bucket, deadline)
        return found

    monkeypatch.setattr(broker.api, "stream_info", deleted)
    await buckets.ensure(bucket, in_seconds(20))
    assert (await buckets.info(bucket, in_seconds(20))).keeps_ttl


async def test_a_bucket_that_another_makes_and_deletes(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was there when it was to be made, and is gone then, is made anew."""
    bucket, buckets, create = unique(), buckets_on(broker), broker.api.create_stream

    async def overtaken(config: JsonObject, deadline: float) -> None:
        monkeypatch.undo()
        await create(config | {"description": "theirs"}, deadline)
        try:
            await create(config, deadline)
        finally:
            await buckets.delete(bucket, deadline)

    monkeypatch.setattr(broker.api, "create_stream", overtaken)
    await buckets.ensure(bucket, in_seconds(20))
    info = await broker.api.stream_info(f"KV_{bucket}", in_seconds(20))
    assert "description" not in info["config"]


async def test_no_bucket(broker: Broker, unique: Unique) -> None:
    """Without the bucket everything says so, at once."""
    bucket, buckets, begun = unique(), buckets_on(broker), time.monotonic()
    for attempt in (
        buckets.read(bucket, "a", in_seconds(60)),
        buckets.put(bucket, Put("a", b""), in_seconds(60)),
        buckets.put(bucket, Put("a", b"", 0), in_seconds(60)),
        buckets.put(bucket, Put("a", None), in_seconds(60)),
    ):
        with pytest.raises(NoBucket) as caught:
            await attempt
        assert caught.value.bucket == bucket
    assert time.monotonic() - begun < 20


async def test_too_large_a_value(broker: Broker, unique: Unique) -> None:
    """The limit is the bucket's where it has one, otherwise the server's."""
    bucket = unique()
    buckets = await made(broker, bucket)
    with pytest.raises(MessageTooLarge) as caught:
        await buckets.put(bucket, Put("a", bytes(broker.connection.max_payload + 1)), in_seconds(20))
    assert caught.value.limit == broker.connection.max_payload
    await update(broker, bucket, max_msg_size=100)
    with pytest.raises(MessageTooLarge) as caught:
        await buckets.put(bucket, Put("a", bytes(101)), in_seconds(20))
    assert caught.value.limit == 100
    await buckets.put(bucket, Put("a", bytes(100)), in_seconds(20))


async def test_a_full_bucket(broker: Broker, unique: Unique) -> None:
    """A bucket without room takes no other key."""
    bucket = unique()
    buckets = await made(broker, bucket)
    await update(broker, bucket, max_msgs=1)
    await buckets.put(bucket, Put("a", b"1"), in_seconds(20))
    with pytest.raises(JetStreamError) as caught:
        await buckets.put(bucket, Put("b", b"1"), in_seconds(20))
    assert codes.is_full(caught.value)


async def test_a_bucket_that_does_not_answer(broker: Broker, unique: Unique) -> None:
    """A bucket that confirms nothing is told of long before the deadline."""
    bucket = unique()
    buckets = await made(broker, bucket, WriteOptions(doubt_after=timedelta(milliseconds=10)))
    await update(broker, bucket, no_ack=True)
    begun = time.monotonic()
    with pytest.raises(OutcomeUnknown, match="no_ack"):
        await buckets.put(bucket, Put("a", b""), in_seconds(60))
    assert time.monotonic() - begun < 20


async def test_the_server_is_away(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """What was not done and what may have been is told apart; a value that was written stays."""
    buckets = await made(own_broker, "b")
    await buckets.put("b", Put("a", b"1"), in_seconds(20))
    own_nats_server.freeze()
    attempts = (
        buckets.read("b", "a", in_seconds(0.5)),
        buckets.ensure("c", in_seconds(0.5)),
        buckets.put("b", Put("a", b"2"), in_seconds(0.5)),
        buckets.put("b", Put("a", None), in_seconds(0.5)),
    )
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert all(isinstance(each, Unavailable) for each in outcomes[:2])
    assert [type(each) for each in outcomes[2:]] == [OutcomeUnknown] * 2
    own_nats_server.thaw()
    assert (await buckets.read("b", "a", in_seconds(20))).sequence >= 1
    last = await buckets.put("b", Put("a", b"3"), in_seconds(20))
    own_nats_server.kill()
    await own_broker.lost()
    for attempt in (
        buckets.read("b", "a", in_seconds(0.1)),
        buckets.put("b", Put("a", b"4"), in_seconds(0.1)),
        buckets.put("b", Put("a", None), in_seconds(0.1)),
        buckets.ensure("c", in_seconds(0.1)),
    ):
        with pytest.raises(Unavailable):
            await attempt
    reading = asyncio.create_task(buckets.read("b", "a", in_seconds(30)))
    own_nats_server.start()
    record = await reading
    assert (record.sequence, record.value) == (last, b"3")
