"""Publishing, streams, consumers and events, as a client sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self

import pytest

import windshift as ws
from windshift.protos import state, test

SetResponse = state.SetResponse
StringValue = test.StringValue


def text(value: str) -> StringValue:
    """Return a message."""
    return StringValue(value=value)


async def test_keys_make_a_publish_idempotent(client: ws.Client) -> None:
    """Events with the same key are stored once; a key is made for those that have none."""
    await client.streams.ensure("a", subjects=["a.>"])
    batch = [ws.Publish("a.x", text(key), key=key) for key in "xyz"]
    for duplicate in (False, True):
        receipts = await client.publish_many(batch, in_flight=1)
        assert receipts == [ws.PublishReceipt(number, duplicate) for number in (1, 2, 3)]
    assert (await client.publish("a.x", text("x"))).id == 4
    event = (await client.stream("a").events.get(4)).event
    assert event.key is not None
    assert len(event.key) == 16
    await client.publish("a.x", text("x"), key=None)
    assert (await client.stream("a").events.get(5)).event.key is None


async def test_publish_tells_what_is_wrong(client: ws.Client) -> None:
    """Errors have attributes."""
    await client.streams.ensure("a", subjects=["a.>"])
    with pytest.raises(ws.UnboundSubject) as unbound:
        await client.publish("nowhere.x", text(""))
    assert unbound.value.subject.endswith("nowhere.x")
    with pytest.raises(ws.WrongLastId) as wrong:
        await client.publish("a.x", text(""), expected_last_id=1)
    assert (wrong.value.expected, wrong.value.actual) == (1, 0)
    with pytest.raises(ws.InvalidField) as invalid:
        await client.publish("a..x", text(""))
    assert invalid.value.field == "subject"
    with pytest.raises(TypeError, match=r"Protobuf message, .* not str"):
        await client.publish("a.x", "text")
    with pytest.raises(TypeError, match="without a subject"):
        await client.publish_many([text("")])


async def test_publish_many_stops_at_the_first_error_and_tells_all(client: ws.Client) -> None:
    """What was stored, what failed, and what was not tried can be told apart."""
    await client.streams.ensure("a", subjects=["a.>"])

    async def messages() -> AsyncIterator[StringValue | ws.Publish]:
        yield text("1")
        yield ws.Publish("nowhere.x", text("2"))
        raise AssertionError("nobody asks for more")

    with pytest.raises(ws.PublishManyError) as caught:
        await client.publish_many(messages(), subject="a.x", in_flight=1)
    first, second = caught.value.results
    assert first == ws.PublishReceipt(1)
    assert isinstance(second, ws.UnboundSubject)


async def test_publish_atomic_stores_all_or_none(client: ws.Client) -> None:
    """Events of a batch follow each other; an error says which of them it is about, and nothing is stored."""
    stream = await client.streams.ensure("a", subjects=["a.>"])
    batch = [ws.Publish("a.y", text("1"), key="1", expected_last_id=0), *(text(each) for each in "23")]
    with pytest.raises(TypeError, match="without a subject"):
        await client.publish_atomic(batch)
    receipts = await client.publish_atomic(batch, subject="a.x")
    assert receipts == [ws.PublishReceipt(number) for number in (1, 2, 3)]
    with pytest.raises(ws.DuplicateEvent) as duplicate:
        await client.publish_atomic([text("4"), ws.Publish("a.x", text("1"), key="1")], subject="a.x")
    assert (duplicate.value.index, duplicate.value.id) == (1, 1)
    with pytest.raises(ws.WrongLastId) as wrong:
        await client.publish_atomic(
            [text("4"), ws.Publish("a.x", text("5"), expected_last_id=9)], subject="a.x"
        )
    assert (wrong.value.index, wrong.value.expected) == (1, 9)
    assert await client.publish_atomic([]) == []
    assert (await stream.info()).events == 3


async def test_a_batch_without_an_end(client: ws.Client) -> None:
    """No more is taken than shows that it is too large; the error says the limit, and nothing is stored."""
    stream = await client.streams.ensure("a", subjects=["a.>"])
    for most in (1_000, 1_001, 10_000):
        left = iter(range(most))
        batch = (text(str(number)) for number in left)
        if most == 1_000:
            assert len(await client.publish_atomic(batch, subject="a.x")) == most
            continue
        with pytest.raises(ws.InvalidField, match=r"at most 1,000 events.*none was stored") as refused:
            await client.publish_atomic(batch, subject="a.x")
        assert refused.value.field == "events"
        assert len(list(left)) == most - 1_001
    assert (await stream.info()).events == 1_000


async def test_publish_atomic_is_repeated_where_each_event_has_a_key(client: ws.Client) -> None:
    """A repeat of a whole batch is answered as the batch was, with the ids of then."""
    await client.streams.ensure("a", subjects=["a.>"])
    batch = [ws.Publish("a.x", text(key), key=key) for key in "xyz"]
    for duplicate in (False, True):
        receipts = await client.publish_atomic(batch)
        assert receipts == [ws.PublishReceipt(number, duplicate) for number in (1, 2, 3)]


async def test_a_publisher_waits_for_all_and_raises_what_failed(client: ws.Client) -> None:
    """Futures have receipts; the end of the block raises every failure."""
    await client.streams.ensure("a", subjects=["a.>"])
    async with client.publisher(in_flight=4) as out:
        futures = [await out.send("a.x", text(str(number))) for number in range(50)]
    assert sorted(future.result().id for future in futures) == list(range(1, 51))
    with pytest.raises(ExceptionGroup) as caught:
        async with client.publisher() as out:
            failing = await out.send("nowhere.x", text(""))
    assert isinstance(caught.value.exceptions[0], ws.UnboundSubject)
    assert failing.exception() is caught.value.exceptions[0]


async def test_a_stream_is_what_its_spec_says(client: ws.Client) -> None:
    """A spec comes back as it was sent; names and subjects are without the namespace."""
    spec = ws.StreamSpec(
        subjects=("a.>",),
        max_age=timedelta(days=1),
        max_events=100,
        discard="new",
        deduplication_window=timedelta(seconds=5),
        max_event_size=1000,
    )
    stream = await client.streams.ensure("a", spec)
    info = await stream.info()
    assert info.spec.subjects == spec.subjects
    assert (info.spec.max_age, info.spec.max_events, info.spec.discard) == (timedelta(days=1), 100, "new")
    assert (info.spec.deduplication_window, info.spec.max_event_size) == (timedelta(seconds=5), 1000)
    assert (info.name, info.events, info.last_id, info.first_time) == ("a", 0, 0, None)
    assert (await client.streams.get("a")).spec == info.spec


async def test_streams_are_found_by_their_own_names(server: str, unique: Callable[[], str]) -> None:
    """What is looked for is in the name or in a subject, as the client calls them: not in its namespace."""
    async with ws.connect(server, namespace=f"{unique()}_dev") as client:
        await client.streams.ensure("orders", subjects=["orders.>"])
        await client.streams.ensure("mails", subjects=["mails.DEVeloped"])

        async def found(find: str) -> list[str]:
            return [info.name async for info in client.streams.list(find)]

        assert await found("dev") == ["mails"]
        assert await found("ORD") == ["orders"]
        assert await found("-") == await found("dev-o") == []
        assert await found("") == ["mails", "orders"]


async def test_streams_are_listed_copied_purged_and_deleted(client: ws.Client) -> None:
    """A mirror has what its origin has; a purge removes what it says; a deleted stream is gone."""
    stream = await client.streams.ensure("a", subjects=["a.>"])
    await client.publish_many([text(str(number)) for number in range(5)], subject="a.x", in_flight=1)
    await client.publish("a.y", text("y"))
    await client.streams.ensure("copy", mirror=ws.Source("a", subjects=["a.y"]))
    assert [info.name async for info in client.streams.list()] == ["a", "copy"]
    mirror = (await client.streams.get("copy")).spec.mirror
    assert mirror is not None
    assert (mirror.name, mirror.subjects) == ("a", ("a.y",))
    assert [pair async for pair in stream.subjects()] == [("a.x", 5), ("a.y", 1)]
    assert await stream.purge("a.x", keep=2, dry_run=True) == 3
    assert await stream.purge("a.x", keep=2) == 3
    assert await stream.purge() == 3
    await client.streams.delete("copy")
    with pytest.raises(ws.WrongLastId):
        await stream.delete(expected_last_id=1)
    await stream.delete(expected_last_id=6)
    with pytest.raises(ws.StreamNotFound):
        await stream.info()
    with pytest.raises(ws.StreamNotFound):
        await stream.delete()


async def test_consumers(client: ws.Client) -> None:
    """A consumer is ensured, described, listed, paused and deleted."""
    stream = await client.streams.ensure("a", subjects=["a.>"])
    await client.publish("a.x", text(""))
    policy = ws.RetryPolicy(max_attempts=3, initial=0.2, maximum=timedelta(minutes=1), dead_letters=False)
    consumer = await stream.consumers.ensure(
        "w", subjects=["a.*"], start=ws.START, timeout=timedelta(seconds=7), retry=policy
    )
    info = await consumer.info()
    assert (info.stream, info.name, info.subjects, info.pending) == ("a", "w", ("a.*",), 1)
    assert (info.timeout, info.retry.max_attempts) == (timedelta(seconds=7), 3)
    assert (info.retry.initial, info.retry.dead_letters) == (timedelta(seconds=0.2), False)
    until = await consumer.pause(60)
    assert datetime.now(UTC) < until
    (listed,) = [info async for info in stream.consumers.list()]
    assert listed.paused_until == until
    await consumer.resume()
    with pytest.raises(ValueError, match="too long"):
        await consumer.pause(float("inf"))
    sought = await consumer.seek(ws.END)
    assert (sought.next_id, sought.was, sought.pending) == (2, 1, 0)
    assert (await consumer.seek(ws.from_id(sought.was), dry_run=True)).pending == 1
    assert (await consumer.info()).pending == 0
    late = await stream.consumers.ensure(None, start=ws.from_id(2))
    assert not (await late.info()).durable
    with pytest.raises(ws.SeekNotPossible):
        await late.seek(ws.START)
    await stream.consumers.delete("w")
    with pytest.raises(ws.ConsumerNotFound):
        await stream.consumers.get("w")


async def test_a_pause_that_is_over(client: ws.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is over here is not asked for; one that is over by the server's clock is no pause."""
    stream = await client.streams.ensure("a", subjects=["a.>"])
    consumer = await stream.consumers.ensure("w")
    until = await consumer.pause(3600)
    for over in (0, -1, timedelta(0), datetime(2020, 1, 1, tzinfo=UTC)):
        with pytest.raises(ValueError, match="ahead"):
            await consumer.pause(over)
    with pytest.raises(ValueError, match="time zone"):
        await consumer.pause(datetime(2020, 1, 1))  # noqa: DTZ001
    assert [info.paused_until async for info in stream.consumers.list()] == [until]

    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) - timedelta(days=1)

    monkeypatch.setattr("windshift.sdk.consumers.datetime", Behind)
    with pytest.raises(ws.WindshiftError, match=r"'w' is not paused.*is the clock of this machine right"):
        await consumer.pause(300)


async def test_events_are_read_without_a_consumer(client: ws.Client) -> None:
    """By id, by time, the last of a subject; forwards, backwards, by type; and deleted."""
    stream = await client.streams.ensure("a", subjects=["a.>"])
    when = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    await client.publish("a.x", text("1"), time=when)
    await client.publish_many([SetResponse(revision=number) for number in (2, 3)], subject="a.y", in_flight=1)
    events = stream.events
    first = (await events.get(1)).event
    assert (first.id, first.subject, first.time, first.attempt) == (1, "a.x", when, 0)
    assert first.data == text("1")
    assert (await events.get(last_of="a.y")).event.id == 3
    assert (await events.get(at=datetime(2020, 1, 1, tzinfo=UTC))).event.id == 1
    assert (await events.get(1, subject="a.y")).event.id == 2
    assert [each.event.id async for each in events.read()] == [1, 2, 3]
    assert [each.event.id async for each in events.read(backwards=True, limit=2)] == [3, 2]
    assert [each.event.id async for each in events.read(types=[SetResponse], start=ws.from_id(3))] == [3]
    await events.delete(2)
    with pytest.raises(ws.EventNotFound):
        await events.get(2)
    with pytest.raises(ValueError, match="exactly one"):
        await events.get()


async def test_a_tail_shows_what_is_there_and_what_comes(client: ws.Client) -> None:
    """A tail from the start says when it has caught up, and goes on."""
    stream = await client.streams.ensure("a", subjects=["a.>"])
    await client.publish("a.x", text("1"))
    seen: list[object] = []
    async for item in stream.events.tail(start=ws.START):
        if isinstance(item, ws.CaughtUp):
            await client.publish("a.x", text("2"))
            continue
        assert isinstance(item, ws.StoredEvent)
        seen.append(item.event.data)
        if len(seen) == 2:
            break
    assert seen == [text("1"), text("2")]
    with pytest.raises(ws.StreamNotFound):
        async for _ in client.stream("none").events.tail():
            pass


async def test_a_tail_gives_what_came_together(client: ws.Client) -> None:
    """`tail_many` has what `tail` has, in its order, in lists of which none is empty."""
    stream = await client.streams.ensure("a", subjects=["a.>"])
    await client.publish_many([text(str(number)) for number in range(300)], subject="a.x", in_flight=1)
    ids: list[int] = []
    lists = 0
    async for items in stream.events.tail_many(start=ws.START):
        lists += 1
        assert items
        ids += [item.event.id for item in items if isinstance(item, ws.StoredEvent)]
        if any(isinstance(item, ws.CaughtUp) for item in items):
            break
    assert ids == list(range(1, 301))
    assert lists < 300


async def test_what_is_no_text(client: ws.Client) -> None:
    """Names, subjects and keys of another type are told as such, before anything is sent."""
    three: Any = 3
    store = await client.stores.ensure("s")
    for attempt, what in (
        (lambda: client.publish(three, text("")), "a subject is a text, not 3"),
        (lambda: client.publish("a.x", text(""), key=three), "a key is a text, not 3"),
        (lambda: client.streams.ensure(three, subjects=["a.>"]), "a name is a text, not 3"),
        (lambda: client.streams.ensure("a", subjects=[three]), "a subject is a text, not 3"),
        (lambda: store.get(three), "a key is a text, not 3"),
        (lambda: store.set(three, text("")), "a key is a text, not 3"),
        (lambda: store.transact({three: text("")}), "a key is a text, not 3"),
    ):
        with pytest.raises(TypeError, match=what):
            await attempt()


async def test_why_an_event_is_not_delivered(client: ws.Client) -> None:
    """How it stands at each consumer, in words; that it was removed, or is yet to come."""
    orders = await client.streams.ensure("a", subjects=["a.>"], max_age=3600)
    await orders.consumers.ensure("c", start=ws.START)
    await orders.consumers.ensure("late")
    await client.publish("a.x", text("1"))
    told = await orders.events.explain(1)
    assert (told.presence, told.subject, told.removals, told.missing) == ("held", "a.x", (), ())
    assert told.stored == (await orders.events.get(1)).stored
    assert [(each.name, each.state, each.hindrances) for each in told.consumers] == [
        ("c", "pending", ("no_subscriber",)),
        ("late", "pending", ("no_subscriber",)),
    ]
    assert await orders.events.explain(1, consumer="c") == told._replace(consumers=told.consumers[:1])
    async with orders.consumer("c").subscribe() as deliveries:
        await anext(aiter(deliveries))
        (at,) = (await orders.events.explain(1, consumer="c")).consumers
        (holder,) = at.holders
        assert (at.state, at.attempts, holder.attempt) == ("held", 1, 1)
        assert holder.until > datetime.now(UTC)
    await orders.events.delete(1)
    removed = await orders.events.explain(1)
    assert (removed.presence, removed.stored) == ("removed", None)
    assert removed.removals == ("by_hand", "max_age")
    assert (await orders.events.explain(7)).presence == "not_yet"
    with pytest.raises(ws.ConsumerNotFound):
        await orders.events.explain(1, consumer="absent")
