"""Publishes that may be stored though their answer is missing: what may be said of them, and what not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.server.events.test_publish import event, publisher
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import Backoff, JetStreamError
from windshift.nats.errors import StorageFull
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.acks import PubAck
from windshift.nats.jetstream.kv import Buckets
from windshift.nats.jetstream.writes import Write, WriteOptions, Writes
from windshift.server.domain.errors import EventTooLarge, OutcomeUnknown, UnboundSubject, WrongLastId
from windshift.server.events.atomic import AtomicPublisher
from windshift.server.events.model import PublishReceipt
from windshift.server.events.publish import Publisher
from windshift.server.events.targets import Targets
from windshift.server.state.stores import Stores

Unique = Callable[[], str]

HASTY = WriteOptions(
    doubt_after=timedelta(minutes=1),
    attempt_timeout=timedelta(milliseconds=50),
    backoff=Backoff(timedelta(milliseconds=5), timedelta(milliseconds=10)),
)
"""Sends again after a moment, and wonders about nothing."""

CURIOUS = WriteOptions(doubt_after=timedelta(milliseconds=10))


async def update(broker: Broker, stream: str, **changes: Any) -> None:
    """Change the configuration of a stream."""
    config = (await broker.api.stream_info(stream, in_seconds(30)))["config"]
    await broker.api.call(f"STREAM.UPDATE.{stream}", config | changes, in_seconds(30))


async def stored_unheard(broker: Broker, stream: str, **more: Any) -> asyncio.Task[PublishReceipt]:
    """Begin to publish with a key to a stream that does not answer; return once the event is stored."""
    request = event(f"{stream}.a", idempotency_key="k", **more)
    publishing = asyncio.create_task(publisher(broker, HASTY).publish(request, in_seconds(20)))
    await has_stored(broker, stream, 1)
    return publishing


async def has_stored(broker: Broker, stream: str, last: int) -> None:
    """Wait until the stream's last id is this one."""
    async with asyncio.timeout(20):
        while (await broker.api.stream_info(stream, in_seconds(30)))["state"]["last_seq"] < last:  # noqa: ASYNC110 - only the broker knows
            await asyncio.sleep(0.005)


async def test_refused_after_an_attempt_without_answer(broker: Broker, unique: Unique) -> None:
    """That a later attempt is refused does not mean that an earlier one was not stored."""
    stream = await broker.stream(unique(), no_ack=True)
    publishing = await stored_unheard(broker, stream)
    await update(broker, stream, no_ack=False, max_msg_size=1)
    with pytest.raises(OutcomeUnknown):
        await publishing


async def test_stream_deleted_after_an_attempt_without_answer(broker: Broker, unique: Unique) -> None:
    """That no stream takes the subject any more does not mean that none had taken the event."""
    stream = await broker.stream(unique(), no_ack=True)
    publishing = await stored_unheard(broker, stream)
    await broker.api.call(f"STREAM.DELETE.{stream}", None, in_seconds(30))
    with pytest.raises(OutcomeUnknown):
        await publishing


async def test_key_known_after_an_attempt_without_answer(broker: Broker, unique: Unique) -> None:
    """An earlier attempt that was stored gives its id, though its event is gone and the condition fails."""
    stream = await broker.stream(unique(), no_ack=True)
    publishing = await stored_unheard(broker, stream, expected_last_id=0)
    await broker.api.call(f"STREAM.PURGE.{stream}", None, in_seconds(30))
    await update(broker, stream, no_ack=False)
    assert await publishing == (1, True)


async def test_nothing_known_after_an_attempt_without_answer(broker: Broker, unique: Unique) -> None:
    """With event and key gone nobody can say whether the condition failed for our own event."""
    window = timedelta(milliseconds=100)
    stream = await broker.stream(
        unique(), no_ack=True, max_msgs_per_subject=1, duplicate_window=int(window.total_seconds() * 1e9)
    )
    publishing = await stored_unheard(broker, stream, expected_last_id=0)
    broker.connection.publish(f"{stream}.a".encode(), b"another event of the subject")
    await has_stored(broker, stream, 2)
    await asyncio.sleep(5 * window.total_seconds())
    await update(broker, stream, no_ack=False)
    with pytest.raises(OutcomeUnknown):
        await publishing


async def test_overtaken_after_an_attempt_without_answer(broker: Broker, unique: Unique) -> None:
    """Where another event stands in the only place of ours, ours was not stored: that is certain."""
    stream = await broker.stream(unique(), no_ack=True, duplicate_window=100_000_000)
    broker.connection.publish(f"{stream}.a".encode(), b"the only place")
    await has_stored(broker, stream, 1)
    request = event(f"{stream}.a", idempotency_key="k", expected_last_id=0)
    publishing = asyncio.create_task(publisher(broker, HASTY).publish(request, in_seconds(20)))
    await asyncio.sleep(0.2)  # some attempts, which nobody answers
    await update(broker, stream, no_ack=False)
    with pytest.raises(WrongLastId):
        await publishing


@pytest.mark.parametrize("replaced_by", ["a newer one", "a deletion", "a purge"])
async def test_repeat_when_the_first_event_is_gone(broker: Broker, unique: Unique, replaced_by: str) -> None:
    """The repeat of a conditional publish gives the id of the first, though its event is gone."""
    stream, publish = await broker.stream(unique(), max_msgs_per_subject=1), publisher(broker).publish
    conditional = event(f"{stream}.a", expected_last_id=0, idempotency_key="k")
    assert await publish(conditional, in_seconds(30)) == (1, False)
    match replaced_by:
        case "a newer one":
            await publish(event(f"{stream}.a"), in_seconds(30))
        case "a deletion":
            await broker.api.call(f"STREAM.MSG.DELETE.{stream}", {"seq": 1}, in_seconds(30))
        case _:
            await broker.api.call(f"STREAM.PURGE.{stream}", None, in_seconds(30))
    kept = await broker.messages(stream)
    assert await publish(conditional, in_seconds(30)) == (1, True)
    assert await publish(conditional._replace(expected_last_id=7), in_seconds(30)) == (1, True)
    with pytest.raises(WrongLastId):
        await publish(conditional._replace(idempotency_key="other"), in_seconds(30))
    assert await broker.messages(stream) == kept


async def test_repeats_at_once(broker: Broker, unique: Unique) -> None:
    """A hundred repeats of one conditional publish at once get the id of the one that is stored."""
    stream, publish = await broker.stream(unique()), publisher(broker).publish
    for last in range(3):
        conditional = event(f"{stream}.a", expected_last_id=last, idempotency_key=f"k{last}")
        receipts = await asyncio.gather(*(publish(conditional, in_seconds(30)) for _ in range(100)))
        assert {seq for seq, _ in receipts} == {last + 1}
        assert sum(not duplicate for _, duplicate in receipts) == 1
    assert await broker.messages(stream) == 3


async def test_repeat_after_the_window(broker: Broker, unique: Unique) -> None:
    """After the window the first event still tells; without it the condition counts, and nothing is stored.

    A new publish with the key is then possible.
    """
    stream = await broker.stream(unique(), duplicate_window=100_000_000)
    publish = publisher(broker).publish
    conditional = event(f"{stream}.a", expected_last_id=0, idempotency_key="k")
    assert await publish(conditional, in_seconds(30)) == (1, False)
    await asyncio.sleep(0.6)
    assert await publish(conditional, in_seconds(30)) == (1, True)
    await broker.api.call(f"STREAM.MSG.DELETE.{stream}", {"seq": 1}, in_seconds(30))
    with pytest.raises(WrongLastId):
        await publish(conditional, in_seconds(30))
    assert await publish(conditional._replace(expected_last_id=1), in_seconds(30)) == (2, False)
    assert await broker.messages(stream) == 1


@pytest.mark.parametrize("key", ["", "k"])
async def test_a_stream_that_does_not_answer(broker: Broker, unique: Unique, key: str) -> None:
    """A publish to a stream that confirms nothing ends long before its deadline, and says why."""
    stream = await broker.stream(unique(), no_ack=True)
    for _ in range(2):
        with pytest.raises(OutcomeUnknown, match="no_ack"):
            await publisher(broker, CURIOUS).publish(
                event(f"{stream}.a", idempotency_key=key), in_seconds(60)
            )
    await update(broker, stream, no_ack=False)
    _, duplicate = await publisher(broker, CURIOUS).publish(event(f"{stream}.a"), in_seconds(60))
    assert not duplicate


async def test_a_store_that_does_not_answer(broker: Broker, unique: Unique) -> None:
    """The same holds for a store."""
    store = unique()
    writes = Writes(broker.requests, broker.api, CURIOUS)
    stores = Stores(Buckets(broker.api, writes))
    await stores.ensure(store, in_seconds(30))
    await update(broker, f"KV_{store}", no_ack=True)
    with pytest.raises(OutcomeUnknown, match="no_ack"):
        await stores.set(store, "a", b"", in_seconds(60))


async def test_ensuring_a_store_unheard(
    own_nats_server: NatsServer, own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store whose making was asked for and not answered may exist."""
    writes = Writes(own_broker.requests, own_broker.api)
    buckets = Buckets(own_broker.api, writes)

    async def not_there(_bucket: str, _deadline: float) -> bool:
        own_nats_server.freeze()
        return False

    monkeypatch.setattr(buckets, "allow_batches", not_there)
    with pytest.raises(OutcomeUnknown):
        await Stores(buckets).ensure("s", in_seconds(0.5))
    own_nats_server.thaw()


@pytest.mark.parametrize("key", ["", "k"])
async def test_broker_takes_less_than_before(tmp_path: Path, key: str) -> None:
    """A broker that ends the connection over an event that it took before does so once and not again."""
    config = tmp_path / "config"
    config.write_text("max_payload: 1MB")
    server = NatsServer(tmp_path, "--config", str(config))
    server.start()
    try:
        async with connect(server.url) as broker:
            await broker.stream("S")
            config.write_text("max_payload: 64KB")
            server.reload()
            publish = publisher(broker).publish
            with pytest.raises(OutcomeUnknown):
                await publish(event("S.a", bytes(100_000), idempotency_key=key), in_seconds(20))
            await broker.connection.wait_ready(in_seconds(30))
            with pytest.raises(EventTooLarge):
                await publish(event("S.a", bytes(100_000), idempotency_key=key), in_seconds(20))
            assert broker.connection.reconnects == 1
            assert await publish(event("S.a"), in_seconds(30)) == (1, False)
    finally:
        server.kill()


async def test_unbound_is_certain_at_once(broker: Broker, unique: Unique) -> None:
    """A subject that no stream takes is refused for certain, key or not."""
    for key in ("", "k"):
        with pytest.raises(UnboundSubject):
            await publisher(broker).publish(event(unique(), idempotency_key=key), in_seconds(30))


async def test_nobody_can_tell_whether_there_is_a_stream(tmp_path: Path) -> None:
    """While who knows the streams is away, publishes are tried again all the same: the stream may be back."""
    config = tmp_path / "config"
    config.write_text(
        "authorization { users: ["
        '{user: a, password: a, permissions: {publish: {deny: ["$JS.API.STREAM.NAMES"]}}}] }'
    )
    server = NatsServer(tmp_path, "--config", str(config))
    server.start()
    options = WriteOptions(lookup_timeout=timedelta(minutes=1))
    try:
        async with connect(f"nats://a:a@127.0.0.1:{server.port}") as broker:
            publishing = asyncio.create_task(publisher(broker, options).publish(event("S.a"), in_seconds(30)))
            await asyncio.sleep(0.1)
            await broker.stream("S")
            assert await publishing == (1, False)
    finally:
        server.kill()


async def test_a_batch_that_finds_no_room_after_an_attempt_in_doubt(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a later attempt was not stored does not mean that the first one was not."""
    stream = await broker.stream(unique(), allow_atomic=True)
    writes = Writes(broker.requests, broker.api)
    real, attempts = writes.write, 0

    async def write(request: Write) -> PubAck:
        nonlocal attempts
        if not request.before:
            return await real(request)  # it asks for what is known of a key
        attempts += 1
        if attempts > 1:
            raise StorageFull("full")
        refusal = JetStreamError(codes.DUPLICATE_IN_BATCH, 400, "duplicate", stream)
        refusal.in_doubt = True
        raise refusal

    monkeypatch.setattr(writes, "write", write)
    publishing = AtomicPublisher(Publisher(broker.api, writes), broker.api, writes, Targets(broker.api))
    events = [event(f"{stream}.a", idempotency_key=key) for key in "ab"]
    with pytest.raises(OutcomeUnknown):
        await publishing.publish(events, in_seconds(20))
    assert attempts == 2
