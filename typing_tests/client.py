"""What type checkers see of the client library: checked, never run."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Any, assert_type

from google.protobuf.message import Message

import windshift as ws
from windshift.protos import test


@dataclasses.dataclass
class Order:
    """A class that a codec takes."""

    order_id: str


async def asynchronous() -> None:
    """Give everything that a program touches its type, and payloads theirs."""
    assert_type(ws.connect(), ws.Client)
    async with ws.connect(codecs=[ws.codecs.Dataclasses()], token=lambda: ws.Token("t")) as client:
        assert_type(client, ws.Client)
        stream = await client.streams.ensure("a", subjects=["a.>"])
        assert_type(stream, ws.Stream)
        assert_type(await client.publish("a.x", test.StringValue()), ws.PublishReceipt)
        assert_type(await client.publish_many([Order("1")], subject="a.x"), list[ws.PublishReceipt])
        consumer = await stream.consumers.ensure("c", start=ws.START)
        assert_type(consumer, ws.Consumer)
        async with consumer.subscribe(types=[Order]) as deliveries:
            assert_type(deliveries, AsyncIterator[ws.Delivery[Order]])
            async for delivery in deliveries:
                async with delivery as entered:
                    assert_type(entered, ws.Delivery[Order])
                assert_type(delivery.event, ws.Event[Order])
                assert_type(delivery.event.data.order_id, str)
                assert_type(delivery.event.decode(test.StringValue), test.StringValue)
        async with consumer.subscribe() as anything:
            assert_type(anything, AsyncIterator[ws.Delivery[Any]])
        store = await client.stores.ensure("s", Order)
        assert_type(store, ws.Store[Order])
        assert_type(client.store("s"), ws.Store[Message])
        assert_type(await store.get("k"), ws.Entry[Order] | None)
        assert_type(await store.modify("k", lambda order: Order(order.order_id + "!")), ws.Entry[Order])
        async for letter in client.dead_letters.list(type=Order):
            assert_type(letter, ws.DeadLetter)
        try:
            await client.publish("a.x", Order("1"), expected_last_id=1)
        except ws.WrongLastId as error:
            assert_type(error.actual, int | None)


def synchronous() -> None:
    """Give the same without `await`."""
    assert_type(ws.sync.connect(), ws.sync.Client)
    assert_type(ws.sync.shared(), ws.sync.Client)
    with ws.sync.connect("a:1", tls=ws.Tls(ca="ca.pem")) as client:
        stream = client.streams.ensure("a", subjects=["a.>"])
        assert_type(stream, ws.sync.Stream)
        assert_type(client.publish("a.x", test.StringValue()), ws.PublishReceipt)
        assert_type(client.publish_many((Order(key) for key in "xy"), subject="a.x"), list[ws.PublishReceipt])
        with client.publisher() as out:
            assert_type(out.send("a.x", Order("1")), Future[ws.PublishReceipt])
        consumer = stream.consumers.ensure("c")
        assert_type(consumer, ws.sync.Consumer)
        with consumer.subscribe(types=[Order]) as deliveries:
            assert_type(deliveries, Iterator[ws.sync.Delivery[Order]])
            for delivery in deliveries:
                with delivery:
                    assert_type(delivery.event.data, Order)
                assert_type(delivery.ack(), None)

        def handle(delivery: ws.sync.Delivery[Order]) -> None:
            assert_type(delivery.event.data, Order)

        consumer.run(handle, types=[Order])
        with consumer.running(handle):
            consumer.idle()
        store = client.stores.ensure("s", Order)
        assert_type(store, ws.sync.Store[Order])
        assert_type(store.get("k"), ws.Entry[Order] | None)
        assert_type(stream.events.read(), Iterator[ws.StoredEvent])
        assert_type(stream.subjects(), Iterator[tuple[str, int]])
